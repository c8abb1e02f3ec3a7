"""`workload.predictor`: predictions in a run's workload."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pecgym.configs import WorkloadConfig
from pecgym.errors import SpecError, TraceError
from pecgym.evaluation.keys import workload_identity
from pecgym.experiment import Experiment
from pecgym.predictors import load_predictor, with_predictions
from pecgym.predictors.models import TraceModel
from pecgym.predictors.saved import save_predictor
from pecgym.predictors.training import train_predictor
from tests.predictors.workloads import learnable

SMALL = WorkloadConfig(name="azure2023_conv", duration_s=300.0, predictor="lognormal{sigma:1}")


def test_a_workload_has_the_predictions_of_its_seed() -> None:
    bare = replace(SMALL, predictor=None).load(4)
    assert bare.predicted_tokens is None
    assert SMALL.load(4).equals(with_predictions(bare, load_predictor("lognormal{sigma:1}"), 4))
    assert SMALL.load(4).predictor == "lognormal{sigma:1.0}"
    assert replace(SMALL, predictor="none").load(4).equals(bare)


@pytest.mark.parametrize("predictor", ["lognormal{sigma:1}", "ssjf_proxy", "azure2023_conv"])
def test_a_request_has_one_prediction_in_every_window_and_at_every_speed(predictor: str) -> None:
    whole = replace(SMALL, predictor=predictor).load(0)
    part = replace(SMALL, predictor=predictor, start_s=100.0, stop_s=200.0, speedup=3.0).load(0)
    rows = (whole.arrival_s >= 100) & (whole.arrival_s < 200)
    assert np.array_equal(part.predicted_tokens, whole.predicted_tokens[rows])  # type: ignore[index]
    assert np.array_equal(part.prediction_s, whole.prediction_s[rows])  # type: ignore[index]


def test_it_comes_after_the_rewrite_and_before_the_longs_are_left_out() -> None:
    config = replace(SMALL, predictor="azure2023_conv", long_context="paper")
    both, shorts = config.load(0), replace(config, only_shorts=True).load(0)
    assert both.is_long.any()
    assert np.array_equal(shorts.predicted_tokens, both.predicted_tokens[~both.is_long])  # type: ignore[index]


def test_a_bad_name_is_found_without_the_trace() -> None:
    with pytest.raises(SpecError, match="'bert' does not exist"):
        replace(SMALL, predictor="bert").check()


def test_a_trace_with_predictions_of_its_own(tmp_path: Path) -> None:
    SMALL.load(0).write_csv(tmp_path / "t.csv")
    config = WorkloadConfig(path=str(tmp_path / "t.csv"))
    assert np.array_equal(config.load(0).predicted_tokens, SMALL.load(0).predicted_tokens)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="predictions of its own"):
        replace(config, predictor="oracle").load(0)


def test_a_run_is_another_when_the_predictor_is_trained_again(tmp_path: Path) -> None:
    trained = train_predictor(TraceModel(iterations=3), learnable(200))
    experiment = Experiment(workload=replace(SMALL, predictor=str(tmp_path / "mine")))
    found = []
    for latency_s in (0.1, 0.2):
        save_predictor(tmp_path / "mine", trained, learnable(200), "x", "0" * 64, 0, latency_s, overwrite=True)
        found.append(workload_identity(experiment, 0))
    assert found[0] != found[1]
    staged = replace(
        experiment.workload, predictor=f"two_stage{{cheap:oracle,full:{tmp_path / 'mine'},threshold_tokens:9}}"
    )
    assert workload_identity(replace(experiment, workload=staged), 0)[-1] == found[1][-1]
