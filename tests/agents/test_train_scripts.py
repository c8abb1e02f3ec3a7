"""Sweeps, logs and the search for settings, started as a user starts them."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import optuna
import pytest

from agents.config import LoggerConfig
from agents.progress import Shown
from agents.sinks import open_sinks
from agents.training import train
from agents.tuning import TuneConfig, tune, with_keys
from pecgym.errors import SpecError
from tests.agents.runs import SMALL, configured, finish, small, start

TINY = [*SMALL, "agent.total_timesteps=400", "evaluation.every=400", "hours=[0]"]


def test_a_sweep_in_parallel_processes_gives_every_job_a_folder(tmp_path: Path) -> None:
    arguments = ["-m", *TINY, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "logger=tensorboard"]
    ended = finish(start(*arguments, cwd=tmp_path))
    assert ended.returncode == 0, ended.stderr
    folders = sorted((tmp_path / "results" / "train").iterdir())
    assert [folder.name.split(",")[0] for folder in folders] == ["llama_steady-s0", "llama_steady-s1"]
    for folder in folders:
        assert json.loads((folder / "summary.json").read_text())["steps"] == 400
        assert list(folder.glob("tensorboard/events.out.tfevents.*"))
    curves = [(folder / "curve.csv").read_text() for folder in folders]
    assert curves[0] != curves[1]


def test_tensorboard_gets_the_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(small(*TINY, "logger=tensorboard"), tmp_path, shown=Shown(quiet=True))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    with (tmp_path / "curve.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert [event.step for event in events.Scalars("train/value_loss")] == [200, 400]
    for event, row in zip(events.Scalars("train/value_loss"), curve, strict=True):
        assert event.value == pytest.approx(float(row["value_loss"]), rel=1e-6)
    assert [event.step for event in events.Scalars("evaluation/score")] == [0, 400]


def test_a_finished_run_is_shown_beside_other_baselines_without_training(tmp_path: Path) -> None:
    first = train(small(*TINY), tmp_path, shown=Shown(quiet=True))
    again = train(small(*TINY, "evaluation.baselines=[fifo]"), tmp_path, shown=Shown(quiet=True))
    assert (first["baselines"], list(again["baselines"])) == ({}, ["fifo"])
    assert {**again, "baselines": {}} == first


def test_a_missing_logger_is_one_line_or_an_error_as_asked(tmp_path: Path) -> None:
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    sinks, remark = open_sinks(LoggerConfig("wandb", required=False), tmp_path, {}, 0)
    assert sinks == []
    assert "wandb" in remark
    assert "\n" not in remark
    with pytest.raises(SpecError, match="logger=none"):
        open_sinks(LoggerConfig("wandb"), tmp_path, {}, 0)


def test_wandb_writes_a_run_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    train(small(*TINY, "logger=wandb_offline"), tmp_path / "run", shown=Shown(quiet=True))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


def test_a_search_goes_on_and_its_best_settings_train(tmp_path: Path) -> None:
    values = configured(*TINY, "tune.trials=1", name="tune")
    assert isinstance(values, TuneConfig)
    values.tune.space = {key: values.tune.space[key] for key in ("agent.learning_rate", "agent.hidden")}
    tune(values, tmp_path)
    values.tune.trials = 2
    study = tune(values, tmp_path)
    trials = study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert trials[0].params != trials[1].params
    folders = [Path(trial.user_attrs["folder"]) for trial in trials]
    scores = [json.loads((folder / "summary.json").read_text())["best_score"] for folder in folders]
    assert [trial.value for trial in trials] == scores

    others = [key for key in TINY if not key.startswith("agent")]
    ended = finish(start("--config-dir", str(tmp_path), *others, "agent=best", "out=best", cwd=tmp_path))
    assert ended.returncode == 0, ended.stderr
    best = json.loads((tmp_path / "best" / "summary.json").read_text())
    assert best["best_score"] == min(scores)

    values.tune.space["agent.hidden"].choices = [8, 32]
    with pytest.raises(SpecError, match="other keys"):
        tune(values, tmp_path)


def test_a_search_refuses_a_key_that_does_not_exist() -> None:
    values = configured(*TINY, name="tune")
    with pytest.raises(SpecError, match="lr"):
        with_keys(values, {"agent.lr": 0.1})
    with pytest.raises(SpecError, match=r"agent.learning_rate"):
        with_keys(values, {"agent.learning_rate": 7.0})


def test_a_trial_that_is_interrupted_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = configured(*TINY, "tune.trials=1", name="tune")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("agents.tuning.train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(values, tmp_path)
    tried = []
    monkeypatch.setattr("agents.tuning.train", lambda values, *_: tried.append(values) or {"best_score": 0.5})
    study = tune(values, tmp_path)
    assert [trial.state for trial in study.trials] == [optuna.trial.TrialState.FAIL, optuna.trial.TrialState.COMPLETE]
    assert study.trials[1].params == study.trials[0].params
    assert tried[0].agent.learning_rate == study.trials[0].params["agent.learning_rate"]
