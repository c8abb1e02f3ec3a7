"""Masked PPO of TorchRL learns to schedule: python examples/torchrl_ppo.py --total-timesteps 20000

TorchRL masks one discrete action by an entry of the observation: FlatActions and MaskInObservation.
Needs: pip install 'pecgym[torchrl]'
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, Compose, DTypeCastTransform, EnvBase, GymWrapper, RewardSum, TransformedEnv
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import pecgym  # noqa: F401  registers the ids
from pecgym.wrappers import FlatActions, MaskInObservation


def make(env_id: str, requests: int) -> EnvBase:
    """An environment whose random actions, too, are valid ones."""
    # Where shorts go and whether they preempt; a reward of -1 is 100 s of waiting.
    env = gym.make(
        env_id,
        agent_controls=("placement", "preemption"),
        episode={"requests": requests},
        reward={"delay": 0.01, "long": 0.0},
    )
    base = GymWrapper(MaskInObservation(FlatActions(env)), categorical_action_encoding=True)
    as_bool = DTypeCastTransform(torch.int8, torch.bool, in_keys=["action_mask"])
    return TransformedEnv(base, Compose(as_bool, ActionMask(), RewardSum()))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Mean returns of the episodes that ended in each batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--env-id", default="pecgym/Cluster-v0")
    parser.add_argument("--requests", type=int, default=200, help="requests of an episode")
    parser.add_argument("--total-timesteps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=2000, help="steps between two updates")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)

    torch.set_num_threads(1)  # networks this small only lose by more
    torch.manual_seed(args.seed)
    env = make(args.env_id, args.requests)
    env.set_seed(args.seed)
    n_features = env.observation_spec["observations"].shape[-1]
    n_actions = env.action_spec.space.n

    def network(n_outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(n_features, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n_outputs)
        )

    actor = ProbabilisticActor(
        TensorDictModule(network(n_actions), in_keys=["observations"], out_keys=["logits"]),
        in_keys={"logits": "logits", "mask": "action_mask"},
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observations"])
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.01)
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-3)
    collector = Collector(
        env,
        actor,
        frames_per_batch=args.batch_size,
        total_frames=args.total_timesteps,
        trust_policy=True,
        auto_register_policy_transforms=True,
    )
    returns = []
    for batch in collector:
        for _ in range(5):
            advantage(batch)
            for part in batch[torch.randperm(len(batch))].split(256):
                losses = loss_of(part)
                loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_of.parameters(), 0.5)
                optimizer.step()
        collector.update_policy_weights_()
        ended = batch["next", "episode_reward"][batch["next", "done"]]
        returns.append(float(ended.mean()))
        print(f"{len(returns) * args.batch_size:>7,} steps: mean return {returns[-1]:.2f} of {len(ended)} episodes")
    collector.shutdown()
    return returns


if __name__ == "__main__":
    main()
