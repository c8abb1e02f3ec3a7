"""What must hold after every point in time, recomputed from the request table alone, on random clusters."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings

from tests.engine.cases import Case, cases
from tests.engine.checker import Checker
from tests.engine.group_checker import GroupChecker
from tests.engine.long_cases import cases_with_longs


def check_every_point(checker: Checker, iterations_at_most: int) -> None:
    """Cases with more iterations (tiny token budgets under long prompts) say nothing that shorter ones do not."""
    rehearsal = checker.case.fast()
    rehearsal.run()
    assume(rehearsal.state.replicas.iterations.sum() <= iterations_at_most)
    while checker.simulator.step():
        checker.check()
    checker.check_end()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(max_requests=25))
def test_invariants_hold_after_every_point_in_time(case: Case) -> None:
    check_every_point(Checker(case), 300)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=15))
def test_invariants_hold_with_longs(case: Case) -> None:
    check_every_point(GroupChecker(case), 300)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_invariants_hold_on_many_cases(case: Case) -> None:
    check_every_point(Checker(case), 2000)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=60))
def test_invariants_hold_with_longs_on_many_cases(case: Case) -> None:
    check_every_point(GroupChecker(case), 4000)
