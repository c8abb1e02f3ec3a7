"""Sums over time against the log of requests, on random clusters with and without longs, closed loops too."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pecgym.engine import EngineSettings, Simulator
from pecgym.engine.state import LATE_S, MISSED, NONE, OPEN_LONGS_S, WAITING_S
from pecgym.policies.view import WAIT
from pecgym.units import seconds_to_ps
from pecgym.workload import Trace
from tests.engine.cases import Case, cases, make_profile
from tests.engine.long_cases import cases_with_longs

TARGETS_PS = st.sampled_from([0, 1, 7, 100, 1000, 10**6])


def watching(case: Case, tail_ps: int, slo_ps: int) -> Simulator:
    """The case's simulator, which compares shorts with the two targets."""
    simulator = case.fast()
    settings = simulator.state.settings[0]
    settings.watch, settings.tail_ps, settings.slo_ps = 1, tail_ps, slo_ps
    return simulator


def check(simulator: Simulator, tail_ps: int, slo_ps: int) -> None:
    """What the sums must be now, from the log and the requests that are in the system."""
    cluster, now_ps = simulator.state.cluster[0], int(simulator.state.cluster[0].now_ps)
    waits = opens = late = missed = waiting = n_late = 0
    done = {int(row.row) for row in simulator.finished()}
    for row in [*simulator.finished(), *simulator.unfinished()]:
        is_done, arrival = int(row.row) in done, int(row.arrival_ps)
        if (row.is_long if not is_done else simulator.state.trace[int(row.row)].is_long) == 1:
            opens += (int(row.finish_ps) if is_done else now_ps) - arrival
            continue
        started, answered = row.start_ps != NONE, row.first_token_ps != NONE
        wait = (int(row.start_ps) if started else now_ps) - arrival
        waits += wait
        late += max(wait - tail_ps, 0)
        missed += (int(row.first_token_ps) if answered else now_ps) - arrival > slo_ps
        waiting += not started
        n_late += not started and wait > tail_ps
    sums = simulator.state.sums
    assert sums[WAITING_S] == pytest.approx(waits * 1e-12, rel=1e-9, abs=1e-18)
    assert sums[OPEN_LONGS_S] == pytest.approx(opens * 1e-12, rel=1e-9, abs=1e-18)
    assert sums[LATE_S] == pytest.approx(late * 1e-12, rel=1e-9, abs=1e-18)
    assert sums[MISSED] == missed
    assert (cluster.n_unstarted, cluster.n_late) == (waiting, n_late)
    check_list(simulator)


def check_list(simulator: Simulator) -> None:
    """The shorts without a first token are linked both ways, in order of arrival."""
    cluster, requests = simulator.state.cluster[0], simulator.state.requests
    unanswered = [q for q in simulator.unfinished() if not q.is_long and q.first_token_ps == NONE]
    found, slot, previous = [], cluster.oldest, NONE
    while slot != NONE:
        assert requests[slot].older == previous
        found.append((int(requests[slot].arrival_ps), int(requests[slot].row)))
        slot, previous = requests[slot].newer, slot
    assert cluster.newest == previous
    assert sorted(found) == sorted((int(q.arrival_ps), int(q.row)) for q in unanswered)
    assert [arrival for arrival, _ in found] == sorted(arrival for arrival, _ in found)


def check_run(case: Case, tail_ps: int, slo_ps: int) -> None:
    simulator = watching(case, tail_ps, slo_ps)
    for _ in range(400):
        if not simulator.step():
            break
        check(simulator, tail_ps, slo_ps)
    simulator.run()
    check(simulator, tail_ps, slo_ps)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(max_requests=20), TARGETS_PS, TARGETS_PS)
def test_sums_are_those_of_the_log(case: Case, tail_ps: int, slo_ps: int) -> None:
    check_run(case, tail_ps, slo_ps)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=15), TARGETS_PS, TARGETS_PS)
def test_sums_are_those_of_the_log_with_longs(case: Case, tail_ps: int, slo_ps: int) -> None:
    check_run(case, tail_ps, slo_ps)


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(cases(), cases_with_longs()), TARGETS_PS, TARGETS_PS)
def test_sums_on_many_cases(case: Case, tail_ps: int, slo_ps: int) -> None:
    check_run(case, tail_ps, slo_ps)


def test_a_run_that_stops_between_events_counts_up_to_there() -> None:
    """Two shorts wait from 0 and 1 s on for a third at 3 s: at 2.5 s, one has been late for half a second."""
    simulator = Simulator(1, make_profile(), EngineSettings(), tail_s=2.0, slo_ttft_s=4.0)
    simulator.load_trace(Trace([0.0, 1.0, 3.0, 9.0], [5, 5, 5, 5], [1, 1, 1, 1], name="four"))
    while simulator.next_decision(2.5) is not None:
        simulator.apply(WAIT)
    assert simulator.state.cluster[0].now_ps == seconds_to_ps(2.5)
    assert simulator.state.sums.tolist() == pytest.approx([4.0, 0.0, 0.5, 0.0])
    while simulator.next_decision(5.5) is not None:
        simulator.apply(WAIT)
    assert simulator.state.sums.tolist() == pytest.approx([5.5 + 4.5 + 2.5, 0.0, 3.5 + 2.5 + 0.5, 2.0])
