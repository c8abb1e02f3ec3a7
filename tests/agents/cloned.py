"""A small agent that places shorts as PecSched does, and decisions to ask agents about."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO

from agents.checkpoint import Form, save_agent
from agents.config import AgentConfig, ImitationConfig
from agents.copies import MixedVecEnv, training_copies
from agents.imitation import ImitationRound, clone
from agents.ppo import make_model

ID = "pecgym/Cluster-v0"
N = 8
SETTINGS: dict[str, Any] = {
    "workload": {"name": "azure2023_conv", "duration_s": 600.0, "long_context": "paper"},
    "scenario": {"name": "steady", "load": 0.8},
    "agent_controls": ["placement"],
    "episode": {"requests": 100, "split": "train"},
}
"""Eight replicas; with model="mistral-7b", 32."""
ALL_CONTROLS = ["placement", "preemption", "disaggregation", "start", "order", "sp_degree", "sp_strategy"]
FORM = Form("set", 16)
NOTES = {"run": "small-s0", "model": "llama-3.1-70b", "scenario": "steady", "score": 0.1}


def copies_of(split: str = "train", seed: int = 0, n: int = N, **settings: Any) -> MixedVecEnv:
    changed = {**SETTINGS, **settings}
    changed["episode"] = {**changed["episode"], "split": split}
    copies = training_copies(ID, {"one": changed}, n)
    copies.seed(seed)
    return copies


def learned(steps: int, seed: int = 0, **settings: Any) -> tuple[MaskablePPO, list[ImitationRound]]:
    """An agent after so many decisions of imitation."""
    imitation = ImitationConfig(steps=steps, epochs=4, learning_rate=3e-3)
    config = AgentConfig(hidden=FORM.hidden, n_envs=N, n_steps=100, batch_size=100, imitation=imitation)
    copies = copies_of(**settings)
    model = make_model(config, copies, 0.99, seed)
    copies.seed(seed)
    model._last_obs, model._last_episode_starts = copies.reset(), np.ones(N, bool)  # type: ignore[assignment]
    rounds: list[ImitationRound] = []
    clone(model, imitation, rounds.append)
    return model, rounds


@cache
def cloned() -> MaskablePPO:
    """One that agrees with PecSched; a few seconds."""
    return learned(8000)[0]


@cache
def cloned_in_all() -> MaskablePPO:
    """One that takes every decision."""
    return learned(2400, agent_controls=ALL_CONTROLS)[0]


def saved(path: Path, agent: MaskablePPO | None = None, **notes: Any) -> Path:
    """The file of cloned(), or of another that takes every decision."""
    controls = SETTINGS["agent_controls"] if agent is None else ALL_CONTROLS
    save_agent(path, agent or cloned(), FORM, SETTINGS | {"agent_controls": controls}, NOTES | notes)
    return path


Decisions = tuple[dict[str, Any], Any, Any]
"""Observations float32[N, ...] by name, masks bool[N, M], what the reference policy would do int64[N, components]."""


def decisions(n: int, agent: MaskablePPO | None = None, **settings: Any) -> Decisions:
    """At least n decisions of validation windows, in which the agent acts, or else valid actions at random."""
    copies, random = copies_of("validation", seed=1, **settings), np.random.default_rng(0)
    ends = np.cumsum(copies.action_space.nvec)[:-1]  # type: ignore[attr-defined]
    seen, rows = copies.reset(), []
    for _ in range(-(-n // N)):
        masks = np.stack(copies.env_method("action_masks"))
        rows.append((seen, masks, np.stack(copies.env_method("reference_action"))))
        if agent is None:
            keys = np.split(masks * random.random(masks.shape), ends, axis=1)
            actions = np.stack([key.argmax(axis=1) for key in keys], axis=1)
        else:
            actions, _ = agent.predict(seen, deterministic=True, action_masks=masks)
        seen, *_ = copies.step(actions)
    observations = {name: np.concatenate([each[0][name] for each in rows]) for name in seen}
    return observations, np.concatenate([each[1] for each in rows]), np.concatenate([each[2] for each in rows])
