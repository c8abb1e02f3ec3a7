"""Rows of bounds of real clusters: shipped profiles, engine presets and workloads."""

from __future__ import annotations

import pytest

import pecgym
from pecgym.analysis.distance import BOUND, distances
from pecgym.bounds import bound_row
from pecgym.engine.settings import engine_names
from pecgym.errors import SpecError
from pecgym.workload import ClosedLoop, Trace
from pecgym.workload.long_context import rewrite_paper

HARDWARE = {"llama-3.1-70b": "p4de_x1", "llama-3.1-70b-fp8": "p5e_x1", "mistral-7b": "a100_x1"}


def hour(first: int, n: int, speedup: float = 1.0) -> Trace:
    trace = pecgym.load_trace("azure2023_conv").slice(first, first + n)
    return trace.scale_rate(speedup)


def assert_none_beats(trace: Trace, policy: str, model: str, engine: str) -> dict[str, float]:
    """Every metric of a run against its bound; returns the ratios."""
    cluster = pecgym.make_cluster(model, HARDWARE[model], policy, trace, engine)
    bound = bound_row(cluster)
    assert bound["policy"] == BOUND
    found = {each["metric"]: each["ratio"] for each in distances([cluster.run().metrics()], [bound])}
    assert {"makespan_s", "gpu_hours", "cost_usd", "energy_kwh", "energy_per_output_token_j"} <= set(found)
    for metric, ratio in found.items():
        assert ratio <= 1 + 1e-9 if "throughput" in metric else ratio >= 1 - 1e-9, metric
    return found


@pytest.mark.parametrize("engine", engine_names())
@pytest.mark.parametrize("model", HARDWARE)
def test_no_engine_beats_its_bound_in_overload(model: str, engine: str) -> None:
    assert_none_beats(hour(1000, 300, speedup=50.0), "jsq_tokens", model, engine)


@pytest.mark.parametrize("policy", ["fifo", "reservation", "priority", "pecsched", "pecsched/Dis"])
def test_no_policy_beats_the_bound_with_longs(policy: str) -> None:
    trace = rewrite_paper(hour(1000, 200))
    assert trace.is_long.any()
    cluster = pecgym.make_cluster("llama-3.1-70b", "p4de_x4", policy, trace)
    for each in distances([cluster.run().metrics()], [bound_row(cluster)]):
        ratio, metric = each["ratio"], each["metric"]
        assert ratio <= 1 + 1e-9 if "throughput" in metric else ratio >= 1 - 1e-9, metric


def test_bounds_are_close_where_work_is_all() -> None:
    """A crowd keeps every replica full: what it takes is its work."""
    found = assert_none_beats(hour(0, 2000, speedup=1000.0), "jsq_tokens", "llama-3.1-70b", "vllm")
    assert found["makespan_s"] < 1.5
    assert found["energy_kwh"] < 1.5


def test_a_closed_loop_has_none() -> None:
    cluster = pecgym.make_cluster(workload=ClosedLoop(hour(0, 10), users=2))
    with pytest.raises(SpecError, match="closed loop"):
        bound_row(cluster)
