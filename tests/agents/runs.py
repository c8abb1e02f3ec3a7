"""Small training runs for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from agents.options import TrainConfig, register_schemas
from agents.tuning import TuneConfig
from tests.conftest import REPOSITORY

SMALL = [
    "agent=quick",
    "agent.hidden=8",
    "agent.imitation.steps=400",
    "agent.total_timesteps=2000",
    "agent.n_envs=4",
    "agent.n_steps=50",
    "agent.batch_size=100",
    "evaluation.every=600",
    "evaluation.windows=1",
    "evaluation.baselines=[]",
    "save_every=400",
    "episode.requests=40",
    "hours=[0,1]",
    "workload.duration_s=600",
    "logger=none",
]
"""Two seconds of training."""
WALL_CLOCK = ("seconds", "steps_per_s", "env_share")
"""Columns of the curve in which equal runs differ."""


def configured(*overrides: str, name: str = "train") -> Any:
    """The configuration of a training run, as scripts/train.py gets it. Raises what its values raise."""
    register_schemas(TuneConfig if name == "tune" else TrainConfig)
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return OmegaConf.to_object(compose(name, list(overrides)))


def small(*overrides: str) -> TrainConfig:
    found = configured(*SMALL, *overrides)
    assert isinstance(found, TrainConfig)
    return found


def start(*arguments: str, cwd: Path, script: str = "train.py") -> subprocess.Popen[str]:
    """A script as a user starts it, from a folder of its own."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "scripts" / script), *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Waits for its end."""
    out, error = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a curve, comparable: NaN is not equal to itself."""
    return [{key: repr(value) for key, value in row.items() if key not in WALL_CLOCK} for row in rows]
