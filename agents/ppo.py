"""The algorithm: Maskable PPO of sb3-contrib as the configuration has it."""

from __future__ import annotations

from typing import Any

from sb3_contrib import MaskablePPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.buffer import TimedRolloutBuffer
from agents.config import AgentConfig
from agents.network import SetPolicy


def make_model(
    settings: AgentConfig, copies: VecEnv, discount_per_s: float, seed: int, device: str = "cpu"
) -> MaskablePPO:
    """An untrained agent for these copies; the seed is of its weights, its actions and the windows of the copies."""
    own_network = settings.network == "set"
    layers: dict[str, Any] = {"hidden": settings.hidden} if own_network else {"net_arch": [settings.hidden] * 2}
    decays = settings.learning_rate_decay == "linear"
    rate: Any = LinearSchedule(settings.learning_rate, 0.0, 1.0) if decays else settings.learning_rate
    model = MaskablePPO(
        SetPolicy if own_network else "MultiInputPolicy",
        copies,
        learning_rate=rate,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=settings.n_epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        target_kl=settings.target_kl,
        rollout_buffer_class=TimedRolloutBuffer,
        rollout_buffer_kwargs={"discount_per_s": discount_per_s, "trace_per_s": settings.trace_per_s},
        policy_kwargs=layers,
        seed=seed,
        device=device,
    )
    model.set_logger(Logger(None, []))  # what it records is read from there: agents.training
    return model
