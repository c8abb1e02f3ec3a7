"""Workloads with longs, rules and scenarios from configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, LongConfig, OrderConfig, ScenarioConfig, WorkloadConfig, evaluate
from pecgym.workload import rewrite_long

SMALL = WorkloadConfig(name="azure2023_code", duration_s=300.0)


def test_longs_are_those_of_the_rewrite_under_the_runs_seed() -> None:
    config = replace(SMALL, long_context="paper", long_low_tokens=120_000, long_percentile=90.0)
    trace = config.load(3)
    assert trace.equals(rewrite_long(SMALL.load(3), "paper", seed=3, low_tokens=120_000, percentile=90.0))
    assert trace.input_tokens[trace.is_long].min() >= 120_000
    assert not np.array_equal(trace.input_tokens, config.load(4).input_tokens)


def test_only_shorts_is_the_same_without_the_longs() -> None:
    config = replace(SMALL, long_context="rank")
    both, shorts = config.load(0), replace(config, only_shorts=True).load(0)
    assert 0 < both.is_long.sum() == len(both) - len(shorts)
    assert np.array_equal(shorts.arrival_s, both.arrival_s[~both.is_long])
    assert "without longs" in shorts.name


def test_a_window_has_the_longs_that_the_whole_has_there() -> None:
    whole = replace(SMALL, long_context="paper").load(0)
    part = replace(SMALL, long_context="paper", start_s=100.0, stop_s=200.0).load(0)
    assert np.array_equal(part.is_long, whole.is_long[(whole.arrival_s >= 100) & (whole.arrival_s < 200)])


def test_the_scenario_paper_brings_longs_unless_told_otherwise() -> None:
    paper = ScenarioConfig("paper", arrival_scale=0.5)
    assert paper.applied_to(SMALL).long_context == "paper"
    assert paper.applied_to(replace(SMALL, long_context="none")).long_context == "none"
    assert paper.applied_to(replace(SMALL, speedup=3.0)).speedup == 1.5
    assert ScenarioConfig().applied_to(SMALL).long_context == "none"
    assert paper.label() == "paper-x0.5"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SMALL, long_context="linear", long_percentile=90.0), "paper or rank"),
        (replace(SMALL, long_low_tokens=5), "not of none"),
        (replace(SMALL, long_context="other"), "choose one of"),
    ],
)
def test_options_that_would_be_ignored_are_refused(config: WorkloadConfig, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        config.check()


def test_rules_for_longs_reach_every_policy_and_the_runs_key() -> None:
    plan = EvaluationPlan(("fifo", "pecsched"), workload=SMALL, scenario=ScenarioConfig("paper"))
    changed = replace(plan, long=LongConfig(sp_degree="memory", switch_s=0.5))
    for before, after in zip(plan.jobs(), changed.jobs(), strict=True):
        rules = after.make().rules
        assert (rules.sp_degree, rules.switch_s) == ("memory", 0.5)
        assert rules.sp_strategy == before.make().rules.sp_strategy
        assert before.key() != after.key()
    assert replace(plan, long=LongConfig(sp_degree=3)).jobs()[0].make().rules.sp_degree == 3


def test_policies_that_read_predictions_are_evaluated_beside_their_bounds(tmp_path: Path) -> None:
    small = replace(SMALL, predictor="lognormal{sigma:0.5}")
    plan = EvaluationPlan(("spjf", "srpt"), workload=small)
    everywhere = replace(plan, order=OrderConfig(lengths="predicted"))
    assert [job.make().order.lengths for job in plan.jobs()] == ["predicted", "exact"]
    assert [job.make().order.lengths for job in everywhere.jobs()] == ["predicted", "predicted"]
    found = evaluate(everywhere, tmp_path, workers=1)
    assert [row["predictor"] for row in found.rows] == [small.predictor, small.predictor]
    assert [row["predictor"] for row in found.bounds] == [None]
    assert (tmp_path / "distances.csv").is_file()
