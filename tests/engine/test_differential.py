"""The compiled engine against its specification, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from pecgym import Trace
from pecgym.engine import EngineSettings, LongRules, Simulator, Topology
from tests.engine.cases import Case, cases, make_profile
from tests.engine.long_cases import cases_with_longs, make_group_costs
from tests.naive_engine import NaiveCluster

FIELDS = {
    "row": "row",
    "arrival_ps": "arrival",
    "placed_ps": "placed",
    "start_ps": "start",
    "first_token_ps": "first_token",
    "finish_ps": "finish",
    "replica": "replica",
    "evictions": "evictions",
    "recomputed_tokens": "recomputed",
    "decode_replica": "decode_replica",
    "pushed_ps": "pushed",
    "sp_degree": "degree",
    "preemptions": "preemptions",
}


def assert_same(case: Case) -> Any:
    """Runs both engines and compares every time of every request, and what each replica did."""
    fast, naive = case.fast(), case.naive()
    assert fast.run()
    naive.run()
    return assert_equal_results(case, fast, naive)


def assert_equal_results(case: Case, fast: Simulator, naive: NaiveCluster) -> Any:
    """Compares two engines that have served the case; returns the log, by row."""
    log = fast.finished()
    log = log[np.argsort(log.row)]
    expected = sorted(naive.done, key=lambda q: q.row)
    for ours, theirs in FIELDS.items():
        np.testing.assert_array_equal(log[ours], [getattr(q, theirs) for q in expected], err_msg=ours)
    np.testing.assert_array_equal(fast.state.replicas.busy_ps, [r.busy for r in naive.replicas], err_msg="busy")
    prefill_ps = [r.prefill_busy for r in naive.replicas]
    np.testing.assert_array_equal(fast.state.replicas.prefill_ps, prefill_ps, err_msg="with prompt tokens")
    np.testing.assert_array_equal(fast.state.replicas.iterations, [r.iterations for r in naive.replicas])
    held = [r.kv_token_ps * 1e-12 for r in naive.replicas]
    np.testing.assert_allclose(fast.state.kv_token_s, held, rtol=1e-9, atol=1e-15, err_msg="KV memory over time")
    workload = case.workload
    assert len(log) == len(getattr(workload, "lengths", workload))
    return log


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_same_as_the_specification(case: Case) -> None:
    assert_same(case)


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs())
def test_same_as_the_specification_with_longs(case: Case) -> None:
    assert_same(case)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=100))
def test_same_as_the_specification_with_longs_on_many_cases(case: Case) -> None:
    assert_same(case)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(max_requests=120))
def test_same_as_the_specification_on_many_cases(case: Case) -> None:
    assert_same(case)


def test_a_swap_beside_a_long_is_waited_for_once() -> None:
    """A prompt that was swapped out comes back beside the decode of a long, and gets no tokens there: the first
    iteration of that decode waits for it, not each of them."""
    trace = Trace(
        np.array([0, 4, 11, 21, 21, 33, 34, 45, 55]) * 1e-12,
        np.array([10, 10, 2, 4, 8, 7, 9, 10, 11]),
        np.array([22, 9, 3, 6, 7, 10, 10, 10, 4]),
        is_long=np.array([True, False, False, False, True, False, False, False, False]),
    )
    engine = EngineSettings(
        max_batch_requests=1,
        max_batch_tokens=4,
        chunk_tokens=1,
        eviction="swap",
        swap_gb_per_s=1e5,
        queue_order="shortest",
        preemptive=True,
        block_tokens=1,
        watermark=0.2,
        kv_capacity_tokens=60,
    )
    case = Case(
        n_replicas=2,
        profile=make_profile(g_tokens=(1, 8, 64), g_ps=(1, 1, 101)),
        settings=engine,
        policy="pecsched",
        workload=trace,
        random_state=0,
        rules=LongRules(
            preemption=False, colocation_tokens=0, decode_replicas=1.0, switch_s=2e-11, push_visible_s=1e-12
        ),
        topology=Topology(replicas_per_node=1, layers=1),
        group_costs=make_group_costs(7, np.tile([0, 9, 18], (4, 2, 1)), 0, 0),
    )
    assert_same(case)


def test_a_pushed_cache_behind_a_prompt_that_is_held_back_joins_at_the_next_iteration() -> None:
    """The evicted prompt in front of it has been admitted, and waits for its batch; the cache does not."""
    lengths = [17, 12, 15, 6, 8, 8, 7, 5, 5, 10, 5, 1, 4, 2]
    trace = Trace(
        np.array([0, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 6, 6, 7]) * 1e-12,
        np.ones(14, np.int64),
        np.array(lengths),
        is_long=np.array([True, False, True] + [False] * 11),
    )
    engine = EngineSettings(
        max_batch_requests=5,
        max_batch_tokens=20,
        group_order="decode_first",
        mixing=True,
        block_tokens=1,
        watermark=0.0,
        kv_capacity_tokens=20,
        batch_wait_iterations=2,
        batch_wait_ratio=0.3,
    )
    case = Case(
        n_replicas=2,
        profile=make_profile(g_tokens=(1, 8, 64), g_ps=(1, 1, 101)),
        settings=engine,
        policy="pecsched",
        workload=trace,
        random_state=0,
        rules=LongRules(colocation_tokens=0, decode_replicas=1.0, switch_s=1e-12, push_visible_s=1e-12),
        topology=Topology(replicas_per_node=1, layers=1),
        group_costs=make_group_costs(7, np.tile([0, 11], (4, 2, 1)), 0, 0),
    )
    assert_same(case)
