"""A run that is killed, or interrupted, goes on as if it had never stopped."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from agents.resume import load_state
from tests.agents.runs import SMALL, finish, start, without_clock


def wait_for(path: Path, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.005)


def assert_same_runs(first: Path, second: Path) -> None:
    """Curves, evaluations and weights are equal, bit for bit."""
    ours, theirs = load_state(first / "last.zip"), load_state(second / "last.zip")
    for part in ("curve", "evaluations"):
        assert without_clock(ours["own"][part]) == without_clock(theirs["own"][part])
    assert len(ours["own"]["curve"]) == 10
    assert ours["own"]["best"] == theirs["own"]["best"]
    assert all(torch.equal(of, theirs["policy"][name]) for name, of in ours["policy"].items())
    best = [torch.load(folder / "best.pt", weights_only=False) for folder in (first, second)]
    assert all(torch.equal(of, best[1]["weights"][name]) for name, of in best[0]["weights"].items())
    assert (first / "evaluations.csv").read_text() == (second / "evaluations.csv").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    ended = finish(start(*SMALL, "out=run", cwd=folder))
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


def test_a_killed_run_goes_on_with_the_same_curve_and_the_same_weights(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed = start(*SMALL, "out=run", cwd=tmp_path)
    wait_for(run / "last.zip")
    killed.send_signal(signal.SIGKILL)
    assert finish(killed).returncode == -signal.SIGKILL
    assert not (run / "summary.json").exists()
    assert load_state(run / "last.zip")["model"]["num_timesteps"] < 2000

    ended = finish(start(*SMALL, "out=run", cwd=tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert "goes on at step" in ended.stderr
    assert_same_runs(uninterrupted, run)


def test_an_interrupted_run_saves_says_how_to_go_on_and_does(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*SMALL, "save_every=1000000", "out=run"]  # nothing is saved but by the interruption
    interrupted = start(*arguments, cwd=tmp_path)
    wait_for(run / "curve.csv")
    interrupted.send_signal(signal.SIGINT)
    ended = finish(interrupted)
    assert ended.returncode == 130
    assert "the same command continues" in ended.stderr
    assert (run / "last.zip").exists()

    ended = finish(start(*arguments, cwd=tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert_same_runs(uninterrupted, run)


def test_a_finished_run_is_shown_again_and_another_configuration_is_refused(uninterrupted: Path) -> None:
    before = (uninterrupted / "last.zip").stat().st_mtime_ns
    again = finish(start(*SMALL, "out=run", cwd=uninterrupted.parent))
    assert again.returncode == 0
    assert "(reference)" in again.stdout
    assert (uninterrupted / "last.zip").stat().st_mtime_ns == before

    other = finish(start(*SMALL, "out=run", "agent.hidden=16", cwd=uninterrupted.parent))
    assert other.returncode == 2
    assert "agent.hidden: 8, now 16" in other.stderr
    assert "fresh=true" in other.stderr
