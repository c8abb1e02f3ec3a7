"""Masked PPO in one file over the native vector environment: python examples/cleanrl_ppo.py --total-timesteps 100000

All copies step in one compiled call, every component of an action is drawn among its valid values, and what comes
later counts by the time that passes, not by the number of decisions (info["discount"]). Needs torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import NormalizeReward, RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Categorical

import pecgym  # noqa: F401  registers the ids
from pecgym.envs.config import DEFAULT_CONTROLS


class MaskedComponents:
    """The distribution of an action whose components are independent, each over its valid values."""

    def __init__(self, logits: Tensor, mask: Tensor, sizes: Sequence[int]) -> None:
        """logits: float[N, M], mask: bool[N, M], of all components, `sizes` values each, after one another."""
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        self._parts = [Categorical(logits=part) for part in logits.split(list(sizes), dim=1)]

    def sample(self) -> Tensor:
        """int[N, components]."""
        return torch.stack([part.sample() for part in self._parts], dim=1)

    def best(self) -> Tensor:
        """int[N, components]: the likeliest values."""
        return torch.stack([part.logits.argmax(dim=1) for part in self._parts], dim=1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """float[N]."""
        columns = actions.unbind(dim=1)
        return torch.stack([part.log_prob(column) for part, column in zip(self._parts, columns, strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        """float[N]. A component that is not read has one valid value, and adds nothing."""
        return torch.stack([part.entropy() for part in self._parts]).sum(0)


class Agent(nn.Module):
    """An actor and a critic of two hidden layers each."""

    def __init__(self, n_features: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.actor = _network(n_features, sum(sizes), 0.01)
        self.critic = _network(n_features, 1, 1.0)

    def act(self, observations: Tensor, mask: Tensor) -> MaskedComponents:
        """What to do, as a distribution."""
        return MaskedComponents(self.actor(observations), mask, self.sizes)

    def value(self, observations: Tensor) -> Tensor:
        """float[N]."""
        return self.critic(observations).squeeze(-1)


def _network(n_inputs: int, n_outputs: int, last_gain: float) -> nn.Sequential:
    layers = [nn.Linear(n_inputs, 64), nn.Linear(64, 64), nn.Linear(64, n_outputs)]
    for layer, gain in zip(layers, (2**0.5, 2**0.5, last_gain), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def flat(observation: dict[str, Any]) -> Tensor:
    """float[N, features], or float[features], of a Dict observation."""
    return torch.from_numpy(np.concatenate(list(observation.values()), axis=-1))


def valid(infos: dict[str, Any]) -> Tensor:
    """bool[N, M] of the infos of the copies."""
    return torch.from_numpy(infos["action_mask"].astype(bool))


def make(args: argparse.Namespace, n_envs: int) -> RecordEpisodeStatistics[Any, Any]:
    """Copies whose episodes are a few requests at random places of the trace."""
    return RecordEpisodeStatistics(
        gym.make_vec(
            args.env_id,
            n_envs,
            "vector_entry_point",
            autoreset_mode=AutoresetMode.SAME_STEP,
            episode={"requests": args.requests},
            agent_controls=args.controls,
            reward={"long": args.long_weight, "discount_per_s": args.discount_per_s},
        )
    )


def mean_return(args: argparse.Namespace, choose: Callable[[Any, dict[str, Any], Any], Any]) -> float:
    """Over the first episode of 16 copies, always the same ones; choose(observations, infos, copies) is the policy."""
    copies = make(args, 16)
    observations, infos = copies.reset(seed=10_000)
    returns = np.full(16, np.nan)
    while np.isnan(returns).any():
        observations, _, _, _, infos = copies.step(choose(observations, infos, copies.unwrapped))
        if "episode" in infos:
            first = infos["_episode"] & np.isnan(returns)
            returns[first] = infos["episode"]["r"][first]
    return float(returns.mean())


def last_values(agent: Agent, infos: dict[str, Any], truncated: Any) -> Any:
    """float[N]: what was still to come in episodes that were cut off; 0 for others."""
    values = np.zeros(len(truncated), np.float32)
    for i in np.flatnonzero(truncated):
        values[i] = agent.value(flat(infos["final_obs"][i])).item()
    return values


def main(arguments: Sequence[str] | None = None) -> tuple[float, float, float]:
    """Mean return over the same episodes of valid actions at random, the trained agent, and the reference policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--env-id", default="pecgym/Cluster-v0")
    parser.add_argument("--requests", type=int, default=200, help="requests of an episode")
    parser.add_argument("--controls", nargs="+", default=DEFAULT_CONTROLS, help="what the agent decides")
    parser.add_argument("--long-weight", type=float, default=0.1, help="of a second that a long is unfinished")
    parser.add_argument("--total-timesteps", type=int, default=100_000)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=128, help="steps of each copy between two updates")
    parser.add_argument("--update-epochs", type=int, default=4)
    parser.add_argument("--minibatches", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--discount-per-s", type=float, default=0.99, help="a reward one second later counts so much")
    parser.add_argument("--gae-lambda", type=float, default=0.95)
    parser.add_argument("--clip", type=float, default=0.2)
    parser.add_argument("--entropy-weight", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    torch.set_num_threads(1)  # networks this small only lose by more
    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed)
    recorded = make(args, args.num_envs)
    copies = NormalizeReward(recorded)
    agent = Agent(gym.spaces.flatdim(copies.single_observation_space), copies.single_action_space.nvec.tolist())
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)

    @torch.no_grad()
    def play(observations: Any, infos: dict[str, Any], _: Any) -> Any:
        return agent.act(flat(observations), valid(infos)).best().numpy()

    def roll_dice(_: Any, infos: dict[str, Any], __: Any) -> Any:
        mask = valid(infos)
        return MaskedComponents(torch.zeros(mask.shape), mask, agent.sizes).sample().numpy()

    def imitate(_: Any, __: Any, native: Any) -> Any:
        return np.stack([native.reference_action(i) for i in range(native.num_envs)])

    at_random, reference = mean_return(args, roll_dice), mean_return(args, imitate)
    observations, infos = copies.reset(seed=args.seed)
    steps = 0
    while steps < args.total_timesteps:
        kept: dict[str, list[Tensor]] = {name: [] for name in ("seen", "mask", "action", "log_prob", "value")}
        arrived: dict[str, list[Tensor]] = {name: [] for name in ("reward", "discount", "over", "rest")}
        for _ in range(args.num_steps):
            seen, mask = flat(observations), valid(infos)
            with torch.no_grad():
                policy = agent.act(seen, mask)
                action = policy.sample()
                row = (seen, mask, action, policy.log_prob(action), agent.value(seen))
            for name, part in zip(kept, row, strict=True):
                kept[name].append(part)
            observations, rewards, terminated, truncated, infos = copies.step(action.numpy())
            # A copy that ended has begun anew: what its last step took is in the info of that episode.
            over = terminated | truncated
            discount = infos["discount"]
            if over.any():
                discount = np.where(over, infos["final_info"]["discount"], discount)
            with torch.no_grad():
                rest = last_values(agent, infos, truncated)
            for name, array in zip(arrived, (rewards, discount, over, rest), strict=True):
                arrived[name].append(torch.from_numpy(array).float())
            steps += args.num_envs

        # Generalized advantage estimation, with the discount of the time that each step took.
        reward, discounts, ends, rests = (torch.stack(arrived[name]) for name in arrived)
        values = torch.stack(kept["value"])
        advantages = torch.zeros_like(values)
        with torch.no_grad():
            next_value, ahead = agent.value(flat(observations)), torch.zeros(args.num_envs)
        for t in reversed(range(args.num_steps)):
            goes_on = 1 - ends[t]
            delta = reward[t] + discounts[t] * (goes_on * next_value + rests[t]) - values[t]
            ahead = delta + discounts[t] * args.gae_lambda * goes_on * ahead
            advantages[t], next_value = ahead, values[t]

        seen, mask, action, log_prob, value = (torch.cat(parts) for parts in kept.values())
        advantage = advantages.flatten()
        targets = advantage + value
        for _ in range(args.update_epochs):
            for rows in np.array_split(random.permutation(len(targets)), args.minibatches):
                policy = agent.act(seen[rows], mask[rows])
                ratio = (policy.log_prob(action[rows]) - log_prob[rows]).exp()
                gain = (advantage[rows] - advantage[rows].mean()) / (advantage[rows].std() + 1e-8)
                surrogate = torch.minimum(ratio * gain, ratio.clamp(1 - args.clip, 1 + args.clip) * gain).mean()
                value_loss = (agent.value(seen[rows]) - targets[rows]).square().mean()
                loss = 0.5 * value_loss - surrogate - args.entropy_weight * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        if recorded.return_queue:
            print(f"{steps:>9,} steps: mean return of the latest episodes {np.mean(recorded.return_queue):10.1f}")

    trained = mean_return(args, play)
    print(f"mean return of 16 episodes: {at_random:.1f} at random, {trained:.1f} now; reference policy {reference:.1f}")
    return at_random, trained, reference


if __name__ == "__main__":
    main()
