"""Evaluations say what the tables say of the same windows, and the score what its definition says."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.config import OF_SHORTS_AND_LONGS as MEASURES
from agents.config import EvaluationConfig
from agents.validation import Results, Validation, measured, score
from pecgym.errors import SpecError
from pecgym.workload import generate
from pecgym.workload.splits import split_rows

ID = "pecgym/Cluster-v0"
SETTINGS: dict[str, Any] = {
    "workload": {"name": "azure2023_conv", "duration_s": 600.0, "long_context": "paper"},
    "episode": {"requests": 60, "split": "train"},
}
EVALUATION = EvaluationConfig(windows=2, baselines=["pecsched"])


@pytest.fixture(scope="module")
def validation() -> Validation:
    return Validation(ID, {f"hour {hour}": {**SETTINGS, "workload_seed": hour} for hour in (0, 1)}, EVALUATION)


def rows_of(validation: Validation) -> list[int]:
    return [int(name.rpartition(" ")[2]) for name in validation.names]


def test_windows_are_spread_over_the_split_from_its_first_request_to_its_last(validation: Validation) -> None:
    expected = []
    for hour in (0, 1):
        low, high = split_rows(len(generate("azure2023_conv", hour, 600.0)), "validation")
        expected += [low, high - 60]
    assert rows_of(validation) == expected


def test_the_reference_reaches_what_it_reaches_in_single_environments(validation: Validation) -> None:
    for k, row in enumerate(rows_of(validation)):
        settings = {**SETTINGS, "episode": {"requests": 60, "split": "validation"}}
        env = gym.make(ID, workload_seed=k // 2, **settings)
        env.reset(seed=0, options={"first_request": row})
        own: Any = env.unwrapped
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(own.reference_action())
            total, over = total + float(reward), terminated or truncated
        metrics = own.log().metrics()
        assert validation.reference.returns[k] == pytest.approx(total)
        assert metrics["starved_fraction"] == 0
        for name in MEASURES:
            assert validation.reference.measures[name][k] == pytest.approx(metrics[name])
    assert validation.reference.unfinished.tolist() == [0, 0, 0, 0]


def test_a_policy_that_is_the_reference_scores_zero_and_a_bad_one_above(validation: Validation) -> None:
    assert validation.score(validation.baselines["pecsched"]) == pytest.approx(0.0, abs=1e-9)

    def serve_where_possible_last(_: Any, masks: Any) -> Any:
        parts = np.split(masks[:, ::-1], np.cumsum([4, 5, 8, 2, 2]), axis=1)[::-1]
        return np.stack([part.shape[1] - 1 - part.argmax(axis=1) for part in parts], axis=1)

    bad = validation.play(serve_where_possible_last)  # waits whenever it may
    assert validation.score(bad) > 0.5


def test_a_baseline_need_not_be_able_to_play_in_the_environment() -> None:
    settings = {**SETTINGS, "policy": "pecsched{decode_replicas:0}", "allow_wait": False}
    found = Validation(ID, {"all": settings}, EvaluationConfig(windows=2, baselines=["fifo"])).baselines["fifo"]
    assert found.unfinished.tolist() == [0, 0]
    assert np.isnan(found.returns).all()
    assert np.isfinite(np.stack([found.measures[name] for name in MEASURES])).all()


def test_a_baseline_that_cannot_be_is_refused_before_a_training() -> None:
    with pytest.raises(SpecError, match=r"evaluation\.baselines: fif: .* does not exist"):
        Validation(ID, {"all": SETTINGS}, EvaluationConfig(windows=2, baselines=["fif"]))


def test_what_is_not_served_counts_with_its_age() -> None:
    env = gym.make(ID, **{**SETTINGS, "episode": {"requests": 40, "drain_limit_s": 1.0}})
    env.reset(seed=3)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step([8, 0, 0, 0, 0, 0])
        over = terminated or truncated
    log = env.unwrapped.log()  # type: ignore[attr-defined]
    found = measured(log)
    assert found["unfinished"] == len(log) == 40
    ages = log.facts.end_s - log.seconds("arrival")[log.is_long]
    assert found["long_jct_mean_s"] == pytest.approx(ages.mean())


def results(delay: float, throughput: float, jct: float) -> Results:
    measures = dict(zip(MEASURES, (np.array([value]) for value in (delay, throughput, jct)), strict=True))
    return Results(measures, np.zeros(1), np.zeros(1, int))


def test_the_score_is_the_mean_logarithm_of_the_ratios() -> None:
    reference = results(1.9, 10.0, 100.0)
    assert score(reference, reference, 0.1) == 0.0
    assert score(results(0.9, 10.0, 100.0), reference, 0.1) == pytest.approx(np.log(0.5) / 3)
    assert score(results(1.9, 20.0, 100.0), reference, 0.1) == pytest.approx(np.log(0.5) / 3)
    assert score(results(1.9, 10.0, 50.0), reference, 0.1) == pytest.approx(np.log(0.5) / 3)
    without_longs = results(0.9, 10.0, np.nan)
    assert score(without_longs, results(1.9, 10.0, np.nan), 0.1) == pytest.approx(np.log(0.5) / 2)
    assert score(results(0.0, 10.0, 100.0), results(0.0, 10.0, 100.0), 0.1) == 0.0


def test_a_split_too_short_for_the_windows_is_refused() -> None:
    settings = {**SETTINGS, "episode": {"requests": 450, "split": "train"}}
    with pytest.raises(SpecError, match="validation"):
        Validation(ID, {"all": settings}, EvaluationConfig(windows=200))


def test_windows_of_seconds_lie_in_the_split() -> None:
    episode = {"requests": None, "duration_s": 20.0, "split": "train", "end": "cut"}
    of_seconds = Validation(ID, {"all": {**SETTINGS, "episode": episode}}, EVALUATION)
    assert len(of_seconds.names) == 2
    assert np.isfinite(of_seconds.reference.returns).all()
