"""Offered load with long requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pecgym.cluster import make_cluster
from pecgym.costs import (
    STRATEGIES,
    GroupShape,
    group_costs,
    load_cluster,
    load_gpu,
    load_model,
    load_profile,
    prefill_s,
)
from pecgym.engine import load_engine
from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig
from pecgym.scenario import capacity_rps, long_work_s, scale_to_load, work_s
from pecgym.workload import Trace

MODEL, PROFILE = "llama-3.1-70b", "llama-3.1-70b-a100-80gb-tp4-vllm"
WORKLOAD = WorkloadConfig(name="azure2023_conv+azure2023_code", long_context="paper")


@pytest.fixture(scope="module")
def costs():
    return group_costs(
        load_model(MODEL), load_gpu("a100-80gb"), load_cluster("p4de_x4"), load_profile(PROFILE), 600_000
    )


def test_the_work_of_a_long_is_what_the_engine_takes_for_it_alone(costs) -> None:
    """One long on an empty cluster: degree x time, by the engine and by the closed form."""
    profile = load_profile(PROFILE)
    for tokens in (100_000, 300_000, 500_000):
        trace = Trace(np.zeros(1), np.array([tokens]), np.array([200]), is_long=np.array([True]))
        cluster = make_cluster(
            MODEL, policy="fifo", workload=trace, rules={"sp_degree": "memory", "sp_strategy": "fast"}
        )
        log = cluster.run()
        expected = int(log.counts["sp_degree"][0]) * log.metrics()["jct_mean_s"]
        capacity = profile.kv_capacity_tokens // profile.block_tokens * profile.block_tokens
        assert long_work_s(tokens, 200, costs, profile, capacity, 2) == pytest.approx(expected, rel=1e-6)


def test_the_cheapest_strategy_counts(costs) -> None:
    profile = load_profile(PROFILE)
    parts = [load_model(MODEL), load_gpu("a100-80gb"), load_cluster("p4de_x4"), profile]
    times = [float(prefill_s(np.array([409_600.0]), GroupShape(2, 1), name, *parts)[0]) for name in STRATEGIES]
    assert long_work_s(409_600, 1, costs, profile, 300_000, 2) == pytest.approx(2 * min(times), rel=1e-3)


def test_work_is_the_mean_over_shorts_and_longs(costs) -> None:
    profile, engine = load_profile(PROFILE), load_engine("vllm")
    trace = WorkloadConfig(name="azure2023_code", duration_s=60.0, long_context="paper").load(0)
    shorts = trace.take(~trace.is_long)
    capacity = profile.kv_capacity_tokens // profile.block_tokens * profile.block_tokens
    longs = sum(
        long_work_s(int(trace.input_tokens[i]), int(trace.output_tokens[i]), costs, profile, capacity, 2)
        for i in np.flatnonzero(trace.is_long)
    )
    expected = (len(shorts) / capacity_rps(shorts, profile, engine) + longs) / len(trace)
    assert work_s(trace, profile, engine, costs, 2) == pytest.approx(expected)
    scaled, factor = scale_to_load(trace, 0.5, 8, profile, engine, costs, 2)
    assert scaled.rate_rps * expected / 8 == pytest.approx(0.5)
    assert scaled.rate_rps == pytest.approx(factor * trace.rate_rps)
    with pytest.raises(SpecError, match="costs of groups"):
        work_s(trace, profile, engine)


def _backlog_s(policy: str, load: float, hours: int) -> float:
    """How long it takes to serve what is left when the last request of one hour after the other has come."""
    plan = EvaluationPlan((policy,), MODEL, workload=WORKLOAD, scenario=ScenarioConfig("steady", load))
    hour = plan.jobs()[0].make().trace
    later = [replace(hour, arrival_s=hour.arrival_s + i * hour.duration_s) for i in range(hours)]
    trace = Trace.concatenate(later)
    return make_cluster(MODEL, policy=policy, workload=trace).run().metrics()["makespan_s"] - trace.duration_s


def test_at_half_the_load_fifo_is_stable() -> None:
    assert _backlog_s("fifo", 0.5, 3) == pytest.approx(_backlog_s("fifo", 0.5, 1), rel=0.2)


@pytest.mark.parametrize("policy", ["fifo", "reservation", "priority", "pecsched", "pecsched/Dis", "pecsched_fewest"])
def test_above_capacity_queues_grow_under_every_policy(policy: str) -> None:
    one, three = (_backlog_s(policy, 1.2, hours) for hours in (1, 3))
    assert three > 2 * one
