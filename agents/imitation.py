"""Behaviour cloning: the network learns what the environment's reference policy would do, and what that is worth.

The network itself acts in more and more of the copies, and the reference policy says what it would have done there
(DAgger, Ross et al. 2011): so the network sees its own mistakes. The values that it learns are of its own behaviour,
so that reinforcement learning can begin at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from agents.buffer import TimedRolloutBuffer
from agents.config import ImitationConfig
from agents.network import SetPolicy


@dataclass(frozen=True)
class ImitationRound:
    """What a rollout gave: decisions so far, the share of them on which network and reference policy agree, losses."""

    steps: int
    agreement: float
    policy_loss: float
    value_loss: float


def clone(model: MaskablePPO, config: ImitationConfig, report: Callable[[ImitationRound], None]) -> None:
    """Teaches the policy of `model` in its environment, in rollouts of the model's size.

    The environment's observations are normalised by the first rollout. report: called after every rollout.

    Raises EngineError if no action means what the reference policy would do.
    """
    policy, buffer = model.policy, model.rollout_buffer
    assert isinstance(policy, SetPolicy)
    assert isinstance(buffer, TimedRolloutBuffer)
    optimizer = torch.optim.Adam(policy.parameters(), config.learning_rate)
    size = buffer.buffer_size * buffer.n_envs
    rounds = -(-config.steps // size)
    for done in range(rounds):
        teachers = max(0.0, 1.0 - done / max(rounds * config.taught_share, 1e-9))
        labels = _collect(model, buffer, round(teachers * buffer.n_envs))
        if done == 0:
            policy.network.fit_norms({name: torch.from_numpy(seen) for name, seen in buffer.observations.items()})
        report(_learn(policy, model, labels, optimizer, config, (done + 1) * size))


def _collect(model: MaskablePPO, buffer: TimedRolloutBuffer, n_taught: int) -> Any:
    """Fills the buffer; in the first `n_taught` copies the reference policy acts. Returns its actions in all,
    int64[steps, copies, components]."""
    env, policy = model.get_env(), model.policy
    assert env is not None
    policy.set_training_mode(False)
    buffer.reset()
    labels = np.zeros((buffer.buffer_size, *buffer.actions.shape[1:]), np.int64)
    for step in range(buffer.buffer_size):
        masks = np.stack(env.env_method("action_masks"))
        labels[step] = env.env_method("reference_action")
        with torch.no_grad():
            seen = obs_as_tensor(model._last_obs, model.device)  # type: ignore[arg-type]
            drawn, values, log_probs = policy(seen, action_masks=masks)
        actions = drawn.cpu().numpy()
        actions[:n_taught] = labels[step, :n_taught]
        observations, rewards, dones, _ = env.step(actions)
        buffer.elapsed_s[step] = env.unwrapped.last_infos["elapsed_s"]  # type: ignore[attr-defined]
        starts = model._last_episode_starts
        buffer.add(model._last_obs, actions, rewards, starts, values, log_probs, action_masks=masks)
        model._last_obs, model._last_episode_starts = observations, dones  # type: ignore[assignment]
    with torch.no_grad():
        last = policy.predict_values(obs_as_tensor(model._last_obs, model.device))  # type: ignore[arg-type]
    buffer.compute_returns_and_advantage(last, model._last_episode_starts)
    return labels


def _learn(
    policy: SetPolicy,
    model: MaskablePPO,
    labels: Any,
    optimizer: torch.optim.Optimizer,
    config: ImitationConfig,
    steps: int,
) -> ImitationRound:
    """Some passes over a rollout."""
    buffer = model.rollout_buffer
    policy.set_training_mode(True)
    buffer.actions = labels.astype(np.float32)
    found = []
    for _ in range(config.epochs):
        for batch in buffer.get(model.batch_size):  # type: ignore[union-attr]
            distribution, values = policy.judge(batch.observations, batch.action_masks)
            log_probs = distribution.log_prob(batch.actions)
            even = distribution.even_log_prob()
            policy_loss = -((1 - config.smoothing) * log_probs + config.smoothing * even).mean()
            value_loss = nn.functional.mse_loss(values.flatten(), batch.returns)
            optimizer.zero_grad()
            (policy_loss + value_loss).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
            optimizer.step()
            with torch.no_grad():
                chosen = distribution.mode()
                same = (chosen == batch.actions.reshape(chosen.shape)).all(1).float().mean()
            found.append((same.item(), policy_loss.item(), value_loss.item()))
    return ImitationRound(steps, *np.mean(found, 0).tolist())
