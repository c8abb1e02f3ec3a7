"""Discounting by time: as stable-baselines3 does where no time passes, and as the definition says where it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer

from agents.buffer import TimedRolloutBuffer

OBSERVED = spaces.Dict({"cluster": spaces.Box(0, 1, (3,))})
ACTIONS = spaces.MultiDiscrete([3, 2])
STEPS, COPIES = 40, 3
ENDS = 0.1


def filled(kind: type[MaskableDictRolloutBuffer], seed: int = 0, **kwargs: Any) -> tuple[Any, Any, Any]:
    """A buffer with random content, the values after its last step, and which copies begin anew then."""
    random = np.random.default_rng(seed)
    buffer = kind(STEPS, OBSERVED, ACTIONS, **kwargs)
    for step in range(STEPS):
        buffer.add(
            {"cluster": random.random((COPIES, 3))},
            np.zeros((COPIES, 2)),
            random.normal(size=COPIES),
            random.random(COPIES) < (ENDS if step else 1.0),
            torch.tensor(random.normal(size=(COPIES, 1))),
            torch.zeros(COPIES),
            action_masks=np.ones((COPIES, 5), bool),
        )
    return buffer, torch.tensor(random.normal(size=(COPIES, 1))), random.random(COPIES) < 0.5


def by_hand(buffer: Any, last_values: Any, dones: Any, gamma: float, lam: float, per_s: float, trace: float) -> Any:
    """Advantages from their definition: a sum over what follows until the episode ends, float64[steps, copies]."""
    values = np.concatenate([buffer.values, last_values.numpy().T]).astype(float)
    over = np.concatenate([buffer.episode_starts[1:], dones[None]]).astype(bool)
    advantages = np.zeros((STEPS, COPIES))
    for copy in range(COPIES):
        for first in range(STEPS):
            weight = 1.0
            for step in range(first, STEPS):
                after = gamma * per_s ** buffer.elapsed_s[step, copy]
                ahead = 0.0 if over[step, copy] else after * values[step + 1, copy]
                advantages[first, copy] += weight * (buffer.rewards[step, copy] + ahead - values[step, copy])
                if over[step, copy]:
                    break
                weight *= after * lam * trace ** buffer.elapsed_s[step, copy]
    return advantages


@pytest.mark.parametrize("elapsed", [False, True])
def test_without_discounts_by_time_it_is_the_stock_buffer(elapsed: bool) -> None:
    settings: dict[str, Any] = {"gamma": 0.97, "gae_lambda": 0.9, "n_envs": COPIES}
    stock, last, dones = filled(MaskableDictRolloutBuffer, **settings)
    ours, *_ = filled(TimedRolloutBuffer, **settings)
    if elapsed:
        ours.elapsed_s[:] = np.random.default_rng(1).random(ours.elapsed_s.shape)
    for buffer in (stock, ours):
        buffer.compute_returns_and_advantage(last, dones)
    assert ours.advantages == pytest.approx(stock.advantages, abs=1e-5)
    assert ours.returns == pytest.approx(stock.returns, abs=1e-5)


def test_no_time_is_no_discount() -> None:
    settings: dict[str, Any] = {"gamma": 0.97, "gae_lambda": 0.9, "n_envs": COPIES}
    stock, last, dones = filled(MaskableDictRolloutBuffer, **settings)
    ours, *_ = filled(TimedRolloutBuffer, discount_per_s=0.5, trace_per_s=0.5, **settings)
    for buffer in (stock, ours):
        buffer.compute_returns_and_advantage(last, dones)
    assert ours.advantages == pytest.approx(stock.advantages, abs=1e-5)


def test_seconds_discount_as_the_definition_says() -> None:
    gamma, lam, per_s, trace = 0.99, 0.95, 0.8, 0.7
    ours, last, dones = filled(
        TimedRolloutBuffer, gamma=gamma, gae_lambda=lam, n_envs=COPIES, discount_per_s=per_s, trace_per_s=trace
    )
    random = np.random.default_rng(2)
    ours.elapsed_s[:] = random.exponential(1.0, ours.elapsed_s.shape) * (random.random(ours.elapsed_s.shape) < 0.5)
    ours.compute_returns_and_advantage(last, dones)
    expected = by_hand(ours, last, dones, gamma, lam, per_s, trace)
    assert ours.advantages == pytest.approx(expected, abs=1e-4)
    assert ours.returns == pytest.approx(expected + ours.values, abs=1e-4)


def test_three_steps_in_numbers() -> None:
    """Rewards -1, values 0, steps of 2, 0 and 1 s, half per second: -1, -1 - 1, and -1 - 2 / 4 from the end back; with
    8 after the end, -1 + 8 / 2 = 3, -1 + 3 = 2, -1 + 2 / 4."""
    buffer = TimedRolloutBuffer(3, OBSERVED, ACTIONS, gae_lambda=1.0, gamma=1.0, n_envs=1, discount_per_s=0.5)
    observed, nothing, masks = {"cluster": np.zeros((1, 3))}, np.zeros(1), np.ones((1, 5), bool)
    for seconds in (2.0, 0.0, 1.0):
        buffer.elapsed_s[buffer.pos] = seconds
        buffer.add(
            observed, np.zeros((1, 2)), nothing - 1, nothing, torch.zeros(1, 1), torch.zeros(1), action_masks=masks
        )
    buffer.compute_returns_and_advantage(torch.tensor([[8.0]]), np.array([True]))
    assert buffer.advantages.ravel().tolist() == [-1.5, -2.0, -1.0]
    buffer.compute_returns_and_advantage(torch.tensor([[8.0]]), np.array([False]))
    assert buffer.advantages.ravel().tolist() == [-0.5, 2.0, 3.0]


def test_a_reset_forgets_the_seconds() -> None:
    buffer, *_ = filled(TimedRolloutBuffer, n_envs=COPIES, discount_per_s=0.5)
    buffer.elapsed_s[:] = 3.0
    buffer.reset()
    assert not buffer.elapsed_s.any()
