"""Discounting by time: decisions are instants, and seconds or nothing pass between two of them.

stable-baselines3 discounts every step alike. Here the value of what comes after a step is discounted by the seconds
that the step lasted, and so is the trace of the advantages: a hundred shorts that are placed in one instant weaken
neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback


class TimedRolloutBuffer(MaskableDictRolloutBuffer):
    """A rollout buffer that knows how long each step lasted.

    gamma, gae_lambda: per decision, as ever. discount_per_s, trace_per_s: to the power of the seconds, besides.
    """

    def __init__(self, *args: Any, discount_per_s: float = 1.0, trace_per_s: float = 1.0, **kwargs: Any) -> None:
        self.discount_per_s, self.trace_per_s = discount_per_s, trace_per_s
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Empties the buffer."""
        super().reset()
        self.elapsed_s = np.zeros((self.buffer_size, self.n_envs))

    def compute_returns_and_advantage(self, last_values: Any, dones: Any) -> None:
        """Generalised advantages; last_values: of the states after the last step; dones: whether these begin anew."""
        values = np.concatenate([self.values, last_values.clone().cpu().numpy().reshape(1, -1)])
        goes_on = 1.0 - np.concatenate([self.episode_starts[1:], dones.astype(np.float32).reshape(1, -1)])
        discount = goes_on * self.gamma * self.discount_per_s**self.elapsed_s
        trace = discount * self.gae_lambda * self.trace_per_s**self.elapsed_s
        deltas = self.rewards + discount * values[1:] - values[:-1]
        running = np.zeros(self.n_envs)
        for step in reversed(range(self.buffer_size)):
            running = deltas[step] + trace[step] * running
            self.advantages[step] = running
        self.returns = self.advantages + self.values


class StepLengths(BaseCallback):
    """Writes into a TimedRolloutBuffer how long each step lasted, from `last_infos` of the copies."""

    def _on_step(self) -> bool:
        buffer = self.model.rollout_buffer  # type: ignore[attr-defined]
        buffer.elapsed_s[buffer.pos] = self.training_env.unwrapped.last_infos["elapsed_s"]  # type: ignore[attr-defined]
        return True
