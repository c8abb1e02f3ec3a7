"""Random clusters, engines, cost models and workloads under every policy: none is better than a bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from pecgym.analysis import RequestLog, RunFacts
from pecgym.analysis.request_log import COUNT_COLUMNS, TIME_COLUMNS
from pecgym.bounds.row import metric_bounds
from pecgym.bounds.work import LeastWork, least_work
from pecgym.units import ps_to_seconds
from pecgym.workload import Trace
from tests.engine.cases import Case, cases
from tests.engine.long_cases import cases_with_longs

WITHOUT_SHRINKING = list(HealthCheck)
ROUNDING = 1e-9
MORE_IS_BETTER = "throughput"
LABELS = ("n_requests", "n_long")


def served(case: Case) -> RequestLog:
    """The log of a run of the case to its end."""
    simulator = case.fast()
    assert simulator.run()
    rows = simulator.finished()
    rows = rows[np.argsort(rows.row)]
    trace = case.workload
    assert isinstance(trace, Trace)
    facts = RunFacts(
        labels={"policy": case.policy},
        gpus=case.n_replicas,
        gpus_per_replica=1,
        end_s=simulator.now_s,
        busy_s=ps_to_seconds(simulator.busy_ps()),
        prefill_s=ps_to_seconds(simulator.prefill_ps()),
        idle_w=1.0,
        decode_w=2.0,
        prefill_w=3.0,
        price_per_gpu_hour_usd=1.0,
        wall_s=0.0,
    )
    return RequestLog(
        ps={event: rows[f"{event}_ps"].copy() for event in TIME_COLUMNS},
        counts={name: rows[name].copy() for name in COUNT_COLUMNS},
        is_long=trace.is_long[rows.row],
        facts=facts,
    )


def work_of(case: Case) -> LeastWork:
    """The least work of the case's requests."""
    trace, profile = case.workload, case.settings.with_overhead(case.profile)
    assert isinstance(trace, Trace)
    return least_work(trace, case.n_replicas, profile, case.settings, case.group_costs)


def check(case: Case) -> dict[str, Any]:
    """Every bound of the case against its run; returns the bounds."""
    trace = case.workload
    assert isinstance(trace, Trace)
    work, log = work_of(case), served(case)
    bounds, metrics = metric_bounds(trace, case.n_replicas, work), log.metrics()
    for key, bound in bounds.items():
        reached = metrics[key]
        if bound is None:
            assert reached is None or bounds["makespan_s"] == 0, key
        elif key in LABELS:
            assert reached == bound, key
        elif MORE_IS_BETTER in key:
            assert reached <= bound * (1 + ROUNDING), key
        else:
            assert reached >= bound * (1 - ROUNDING), key
    time_ps = {event: log.ps[event] - log.ps["arrival"] for event in ("first_token", "finish")}
    assert np.all(time_ps["first_token"] >= work.prefill_ps)
    assert np.all(time_ps["finish"] >= work.prefill_ps + work.decode_ps)
    assert log.facts.busy_s.sum() * 1e12 >= work.work_ps.sum() * (1 - ROUNDING)
    assert log.facts.prefill_s.sum() * 1e12 >= work.prefill_work_ps.sum() * (1 - ROUNDING)
    return bounds


@settings(max_examples=400, deadline=None, suppress_health_check=WITHOUT_SHRINKING)
@given(cases())
def test_of_shorts(case: Case) -> None:
    assume(isinstance(case.workload, Trace))
    check(case)


@settings(max_examples=600, deadline=None, suppress_health_check=WITHOUT_SHRINKING)
@given(cases_with_longs())
def test_of_shorts_and_longs(case: Case) -> None:
    assume(isinstance(case.workload, Trace))
    check(case)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=WITHOUT_SHRINKING)
@given(cases(max_requests=120))
def test_of_shorts_on_many_cases(case: Case) -> None:
    assume(isinstance(case.workload, Trace))
    check(case)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=WITHOUT_SHRINKING)
@given(cases_with_longs(max_requests=100))
def test_of_shorts_and_longs_on_many_cases(case: Case) -> None:
    assume(isinstance(case.workload, Trace))
    check(case)
