"""Small training runs for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

SMALL = [
    "agent=quick",
    "agent.network=mlp",
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


def command(*arguments: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(REPOSITORY / "scripts" / script), *arguments]


def start(*arguments: str, cwd: Path, script: str = "train.py") -> subprocess.Popen[str]:
    """A script as a user starts it, from a folder of its own."""
    return subprocess.Popen(
        command(*arguments, script=script),
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
