"""Every id passes the checks of Gymnasium and of stable-baselines3 without a warning; observations keep in bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import pecgym
from tests.conftest import REPOSITORY
from tests.envs.worlds import make_vector, random_world, sample

SMALL: dict[str, Any] = {"episode": {"requests": 30}}


@pytest.mark.parametrize("env_id", pecgym.env_ids())
def test_gymnasium_has_nothing_to_say(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(env_id, **SMALL).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", pecgym.env_ids())
def test_stable_baselines3_has_nothing_to_say(env_id: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    env = gym.make(env_id, **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(env, warn=True)


@pytest.mark.parametrize("env_id", pecgym.env_ids())
def test_a_fresh_process_needs_no_import(env_id: str) -> None:
    """`gym.make("pecgym:...")` imports the package; twice registered is once."""
    code = (
        f"import gymnasium as gym\nenv = gym.make('pecgym:{env_id}', episode={{'requests': 5}})\nenv.reset(seed=0)\n"
        f"env = gym.make('pecgym:{env_id}')\nimport pecgym\nassert '{env_id}' in gym.registry\nprint(env.spec.id)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error::UserWarning"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [env_id]


@pytest.mark.parametrize("env_id", pecgym.env_ids())
def test_every_id_as_a_vector(env_id: str) -> None:
    env = gym.make_vec(env_id, num_envs=3, vectorization_mode="vector_entry_point", **SMALL)
    random = np.random.default_rng(0)
    _, infos = env.reset(seed=0)
    ends = 0
    for _ in range(200):
        actions = sample(infos["action_mask"], env.single_action_space.nvec, random)
        observations, _, terminated, truncated, infos = env.step(actions)
        assert observations in env.observation_space
        ends += np.count_nonzero(terminated | truncated)
    assert ends > 0


@pytest.mark.parametrize("seed", range(12))
def test_observations_keep_within_their_bounds(seed: int, tmp_path: Path) -> None:
    """Also after wild actions that no mask allows, under overload, at the end of an episode."""
    settings = random_world(tmp_path, 1200 + seed) | {"oracle_lengths": bool(seed % 2)}
    env, random = make_vector(8, **settings), np.random.default_rng(seed)
    env.action_space.seed(seed)
    _, infos = env.reset(seed=seed)
    for step in range(150):
        actions = sample(infos["action_mask"], env.single_action_space.nvec, random)
        if step % 3 == 0:
            actions = env.action_space.sample()
        observations, rewards, _, _, infos = env.step(actions)
        for name, part in observations.items():
            assert part.dtype == np.float32
            assert np.all((part >= 0) & (part <= 1)), name
        assert np.all(rewards <= 0)
        assert np.all(np.isfinite(rewards))
