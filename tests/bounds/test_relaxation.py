"""One machine that serves the shortest remaining work first, against a plain event loop and against other orders."""

from __future__ import annotations

import heapq
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pecgym.bounds.relaxation import least_end_ps, mean_flow_ps

JOBS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=30)


def columns(jobs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Arrivals, ascending, and works."""
    arrival, work = np.array(sorted(jobs), np.float64).T
    return arrival, work


def flows_by_ticks(arrival: np.ndarray, work: np.ndarray) -> float:
    """The mean flow by whole ticks of time, with Python's heap."""
    waiting: list[float] = []
    coming = list(zip(arrival, work, strict=True))
    total, now = 0.0, 0
    while coming or waiting:
        while coming and coming[0][0] <= now:
            heapq.heappush(waiting, coming.pop(0)[1])
        while waiting and waiting[0] == 0:
            heapq.heappop(waiting)
        total += len(waiting)
        if waiting:
            waiting[0] -= 1
        now += 1
    return total / len(arrival)


@settings(deadline=None)  # the first example compiles
@given(JOBS)
def test_same_as_tick_by_tick(jobs: list[tuple[int, int]]) -> None:
    arrival, work = columns(jobs)
    assert mean_flow_ps(arrival, work) == pytest.approx(flows_by_ticks(arrival, work), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=1, max_size=6))
def test_no_order_is_better(jobs: list[tuple[int, int]]) -> None:
    arrival, work = columns(jobs)
    best = mean_flow_ps(arrival, work)
    for order in permutations(range(len(jobs))):
        now, total = 0.0, 0.0
        for i in order:
            now = max(now, arrival[i]) + work[i]
            total += now - arrival[i]
        assert best <= total / len(jobs) + 1e-9
        assert least_end_ps(arrival, work) <= now + 1e-9


@given(JOBS)
def test_the_end_is_that_of_a_machine_that_never_idles_while_somebody_waits(jobs: list[tuple[int, int]]) -> None:
    arrival, work = columns(jobs)
    now = 0.0
    for come, takes in zip(arrival, work, strict=True):
        now = max(now, come) + takes
    assert least_end_ps(arrival, work) == pytest.approx(now)


def test_nobody_takes_no_time() -> None:
    assert mean_flow_ps(np.empty(0), np.empty(0)) == least_end_ps(np.empty(0), np.empty(0)) == 0
