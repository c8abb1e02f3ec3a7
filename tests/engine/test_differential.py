"""The compiled engine against its specification, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from pecgym.engine import Simulator
from tests.engine.cases import Case, cases
from tests.engine.long_cases import cases_with_longs
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
