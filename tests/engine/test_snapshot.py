"""Snapshots, driving by hand, waiting, and workloads that are streamed in parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pecgym import WAIT
from pecgym.engine import EngineSettings, Simulator
from pecgym.errors import EngineError
from pecgym.policies import load_policy
from pecgym.policies.dispatch import to_least_loaded
from pecgym.workload import Trace
from tests.engine.cases import Case, cases, make_profile

PROFILE = make_profile(g_ps=(20_000, 60_000), decode_base_ps=3000, decode_kv_ps=11, kv_capacity_tokens=2000)


def assert_same_rows(log: Any, other: Any) -> None:
    assert len(log) == len(other)
    for name in log.dtype.names:
        np.testing.assert_array_equal(log[name], other[name], err_msg=name)


def random_trace(n: int, gap_ps: int = 50_000, seed: int = 5) -> Trace:
    stream = np.random.default_rng(seed)
    arrivals = np.cumsum(stream.integers(0, 2 * gap_ps, n)) * 1e-12
    return Trace(arrivals, stream.integers(1, 200, n), stream.integers(1, 60, n))


def by_hand(n_replicas: int, trace: Trace, **engine: Any) -> Simulator:
    simulator = Simulator(n_replicas, PROFILE, EngineSettings(**engine))
    simulator.load_trace(trace)
    return simulator


def drive(simulator: Simulator, choose: Callable[[Any], int]) -> Any:
    while (decision := simulator.next_decision()) is not None:
        simulator.apply(choose(decision))
    return simulator.finished().copy()


def shortest_queue(decision: Any) -> int:
    return int(np.argmin(decision.state.replicas.n_requests))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(max_requests=25), st.lists(st.integers(0, 100), min_size=1, max_size=3, unique=True))
def test_a_run_continues_bit_for_bit_from_any_point(case: Case, stops: list[int]) -> None:
    """The snapshots are taken on the way, then each is restored twice, in a wild order."""
    simulator = case.fast()
    snapshots = []
    for point in range(max(stops) + 1):
        if point in stops:
            snapshots.append(simulator.snapshot())
        simulator.step()
    simulator.run()
    expected = simulator.finished().copy()
    busy = simulator.state.replicas.busy_ps.copy()
    for snapshot in [*snapshots, *reversed(snapshots)]:
        simulator.restore(snapshot)
        simulator.run()
        assert_same_rows(simulator.finished(), expected)
        np.testing.assert_array_equal(simulator.state.replicas.busy_ps, busy)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 79), min_size=2, max_size=2), st.integers(0, 1000))
def test_a_run_continues_bit_for_bit_from_any_decision(at: set[int], seed: int) -> None:
    """Two snapshots with a decision due, restored in turn and answered differently, then as the first time."""
    choices = np.random.default_rng(seed).integers(0, 3, 80).tolist()
    simulator = by_hand(3, random_trace(80, seed=seed), eviction="swap", swap_gb_per_s=math.inf, kv_capacity_tokens=400)
    snapshots = {}
    for i, choice in enumerate(choices):
        assert simulator.next_decision() is not None
        if i in at:
            snapshots[i] = simulator.snapshot()
        simulator.apply(choice)
    assert simulator.next_decision() is None
    expected = simulator.finished().copy()

    def continued(i: int, answers: list[int]) -> Any:
        simulator.restore(snapshots[i])
        for answer in answers:
            simulator.apply(answer)
            simulator.next_decision()
        return simulator.finished().copy()

    first, second = sorted(at)
    other = continued(first, [(choice + 1) % 3 for choice in choices[first:]])
    assert np.any(other.replica[np.argsort(other.row)] != expected.replica[np.argsort(expected.row)])
    for i in (second, first, second):
        assert_same_rows(continued(i, choices[i:]), expected)


def test_a_snapshot_of_one_simulator_continues_in_another() -> None:
    first, second = (by_hand(2, random_trace(60)) for _ in range(2))
    for _ in range(20):
        assert first.next_decision() is not None
        first.apply(1)
    second.restore(first.snapshot())
    assert second.now_s == first.now_s
    assert_same_rows(drive(first, shortest_queue), drive(second, shortest_queue))
    with pytest.raises(EngineError, match="another size"):
        by_hand(3, random_trace(60)).restore(first.snapshot())


def test_restoring_undoes_the_growth_of_the_request_table() -> None:
    """3000 requests at once do not fit in the table's first 1024 rows."""
    trace = Trace(np.repeat([0.0, 1e-6], [500, 2500]), np.full(3000, 20), np.arange(3000) % 7 + 1)
    policy = load_policy("jsq_requests")
    simulator = Simulator(2, PROFILE, EngineSettings(), choose=policy.choose, load=policy.load)
    simulator.load_trace(trace)
    simulator.run(until_s=5e-7)
    early, small = simulator.snapshot(), len(simulator.state.requests)
    assert simulator.run()
    expected, large = simulator.finished().copy(), len(simulator.state.requests)
    assert large >= 2500 > small
    for _ in range(2):
        simulator.restore(early)
        assert len(simulator.state.requests) == small
        assert simulator.run()
        assert_same_rows(simulator.finished(), expected)


def test_growth_does_not_let_a_step_run_two_points_in_time() -> None:
    """1500 arrivals at 1 us do not fit in the table's first 1024 rows; the next point is 112 ps later."""
    trace = Trace(np.repeat([0.0, 1e-6, 2e-6], [10, 1500, 5]), np.full(1515, 1), np.ones(1515, np.int64))
    policy = load_policy("jsq_requests")
    simulator = Simulator(1, make_profile(g_ps=(7, 90)), EngineSettings(), choose=policy.choose, load=policy.load)
    simulator.load_trace(trace)
    times = []
    while simulator.step():
        times.append(int(simulator.state.cluster[0].now_ps))
    assert {0, 1_000_000, 2_000_000} <= set(times)


@pytest.mark.parametrize("name", ["jsq_requests", "round_robin"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_the_same_choices_by_hand_give_the_same_log(name: str, case: Case) -> None:
    policy = load_policy(name)

    def simulator(choose: Any) -> Simulator:
        made = Simulator(case.n_replicas, case.profile, case.settings, choose=choose, load=policy.load)
        if hasattr(case.workload, "lengths"):
            made.load_closed_loop(case.workload)
        else:
            made.load_trace(case.workload)
        return made

    compiled = simulator(policy.choose)
    assert compiled.run()
    asked = 0

    def choose(decision: Any) -> int:
        nonlocal asked
        asked += 1
        return shortest_queue(decision) if name == "jsq_requests" else (asked - 1) % case.n_replicas

    assert_same_rows(drive(simulator(None), choose), compiled.finished())


def test_a_decision_that_waits_is_asked_again_when_something_has_changed() -> None:
    """Arrivals at 0, 1 and 9 us; a request takes 20 ns x 3. Asked at every arrival and after every completion."""
    trace = Trace(np.array([0.0, 1e-6, 9e-6]), np.ones(3, np.int64), np.full(3, 3))
    simulator = by_hand(1, trace, batching="none")
    asked = []

    def choose(decision: Any) -> int:
        asked.append((round(decision.now_s * 1e9), decision.row))
        return WAIT if len(asked) in (1, 2) else 0

    log = drive(simulator, choose)
    # At 9 us the head is still row 0; then all three are placed, one after the other, at the same time.
    assert asked == [(0, 0), (1000, 0), (9000, 0), (9000, 1), (9000, 2)]
    assert log.placed_ps.tolist() == [9_000_000] * 3
    assert log.start_ps[0] == 9_000_000


def test_waiting_for_a_prefill_or_a_completion_is_answered_at_its_end() -> None:
    """Row 0 is placed, row 1 waits: asked again when row 0's prompt is done and when row 0 leaves."""
    trace = Trace(np.zeros(2), np.ones(2, np.int64), np.array([3, 1]))
    simulator = Simulator(1, make_profile(g_ps=(100, 100)), EngineSettings())
    simulator.load_trace(trace)
    asked = []

    def choose(decision: Any) -> int:
        asked.append((round(decision.now_s * 1e12), decision.row))
        return 0 if decision.row == 0 or decision.now_s >= 3e-10 else WAIT

    log = drive(simulator, choose)
    assert asked == [(0, 0), (0, 1), (100, 1), (300, 1)]
    assert log.finish_ps.tolist() == [300, 400]


def test_waiting_for_ever_ends_without_hanging() -> None:
    simulator = by_hand(2, random_trace(30))
    assert len(drive(simulator, lambda decision: WAIT)) == 0
    assert len(simulator.unfinished()) == 30
    assert simulator.next_decision() is None
    assert simulator.now_s == pytest.approx(random_trace(30).duration_s)


def test_actions_that_cannot_be_taken_are_refused() -> None:
    simulator = by_hand(2, random_trace(3))
    with pytest.raises(EngineError, match="no decision is due: call next_decision"):
        simulator.apply(0)
    assert simulator.next_decision() is not None
    for action in (2, -2, 99):
        with pytest.raises(EngineError, match=rf"action {action}: give a replica 0\.\.1, .* or WAIT"):
            simulator.apply(action)
    simulator.apply(1)
    with pytest.raises(EngineError, match="no decision is due"):
        simulator.apply(1)


def test_asking_twice_gives_the_same_decision() -> None:
    simulator = by_hand(2, random_trace(3))
    first, second = simulator.next_decision(), simulator.next_decision()
    assert first is not None
    assert second is not None
    assert (first.now_s, first.row, first.slot, first.input_tokens) == (
        second.now_s,
        second.row,
        second.slot,
        second.input_tokens,
    )


@pytest.mark.parametrize("chunk", [1, 37, 1000])
def test_a_streamed_workload_gives_the_same_rows(chunk: int) -> None:
    trace = random_trace(2500, gap_ps=20_000)
    policy = load_policy("jsq_tokens")

    def fresh() -> Simulator:
        return Simulator(3, PROFILE, EngineSettings(), choose=policy.choose, load=policy.load)

    whole = fresh()
    whole.load_trace(trace)
    assert whole.run()
    parts: list[Any] = []
    streamed = fresh()
    streamed.load_stream((trace.slice(i, i + chunk) for i in range(0, len(trace), chunk)), parts.append)
    assert streamed.run()
    streamed.drain()
    assert_same_rows(np.concatenate(parts).view(np.recarray), whole.finished())
    with pytest.raises(EngineError, match="streamed workload cannot be snapshotted"):
        streamed.snapshot()


def test_a_stream_longer_than_the_log_goes_to_the_sink_in_parts() -> None:
    trace = random_trace(150_000, gap_ps=1_000_000)
    policy = load_policy("jsq_tokens")
    simulator = Simulator(1, PROFILE, EngineSettings(), choose=policy.choose, load=policy.load)
    parts: list[Any] = []
    simulator.load_stream((trace.slice(i, i + 10_000) for i in range(0, len(trace), 10_000)), parts.append)
    assert simulator.run()
    simulator.drain()
    assert len(parts) > 1
    assert len(simulator.state.log) <= 1 << 17
    np.testing.assert_array_equal(np.sort(np.concatenate([part["row"] for part in parts])), np.arange(len(trace)))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(max_requests=25), st.integers(0, 40))
def test_a_twin_follows_and_both_go_on_alike(case: Case, points: int) -> None:
    simulator = case.fast()
    twin = simulator.twin()
    twin.run()
    for _ in range(points):
        simulator.step()
    twin.follow(simulator)
    twin.run()
    simulator.run()
    assert_same_rows(twin.finished(), simulator.finished())
    np.testing.assert_array_equal(twin.state.replicas.busy_ps, simulator.state.replicas.busy_ps)


def test_a_twin_follows_where_arrays_have_grown() -> None:
    """More requests at once than the request table had room for, first in the twin, then in the one that it follows."""
    simulator = by_hand(2, random_trace(3000, gap_ps=1), eviction="recompute")
    twin = simulator.twin(choose=to_least_loaded, start=None, pool=None)
    twin.run()
    assert len(twin.state.requests) > len(simulator.state.requests)
    for action in (0, 1, 1):
        decision = simulator.next_decision()
        assert decision is not None
        twin.follow(simulator)
        twin.apply(1 - action)
        assert twin.run()
        simulator.apply(action)
    drive(simulator, shortest_queue)
    twin.follow(simulator)
    assert_same_rows(twin.finished(), simulator.finished())


def test_a_twin_answers_by_a_function() -> None:
    simulator = by_hand(3, random_trace(5), eviction="recompute")
    decision = simulator.next_decision()
    assert decision is not None
    assert simulator.answer(to_least_loaded, decision.slot) == 0
    simulator.apply(0)
    decision = simulator.next_decision()
    assert decision is not None
    assert simulator.answer(to_least_loaded, decision.slot) == 1
