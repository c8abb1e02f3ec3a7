"""Snapshots and decisions by hand where longs are served beside shorts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pecgym import WAIT
from pecgym.engine import Simulator
from pecgym.engine.state import (
    DECODING_LONG,
    GATHERING_LONG,
    NEVER_PS,
    NONE,
    OPEN,
    POOL,
    PREFILLING_LONG,
    SUSPENDED_LONG,
)
from pecgym.errors import EngineError
from pecgym.policies.view import group, placement
from pecgym.workload import Trace
from tests.engine.cases import Case
from tests.engine.group_world import FAST, LONG, PS, SHORT, Request, by_row, make, make_empty
from tests.engine.long_cases import cases_with_longs
from tests.engine.test_snapshot import assert_same_rows

# -- snapshots ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=25), st.lists(st.integers(0, 100), min_size=1, max_size=3, unique=True))
def test_a_run_with_longs_continues_bit_for_bit_from_any_point(case: Case, stops: list[int]) -> None:
    """The snapshots are taken on the way, each is restored twice, in a wild order; so is the timeline."""
    simulator = case.fast(record=True)
    snapshots = []
    for point in range(max(stops) + 1):
        if point in stops:
            snapshots.append(simulator.snapshot())
        simulator.step()
    simulator.run()
    expected, line = simulator.finished().copy(), simulator.timeline().copy()
    links, replicas = simulator.state.links.copy(), simulator.state.replicas.copy()
    for snapshot in [*snapshots, *reversed(snapshots)]:
        simulator.restore(snapshot)
        simulator.run()
        assert_same_rows(simulator.finished(), expected)
        assert_same_rows(simulator.timeline(), line)
        np.testing.assert_array_equal(simulator.state.links, links)
        np.testing.assert_array_equal(simulator.state.replicas, replicas)


@pytest.mark.parametrize("until", [300, 605, 700, 1300, 1900, 2100])
def test_a_snapshot_continues_in_another_simulator(until: int) -> None:
    """While the long prefills, stalls, is suspended, prefills again and decodes."""
    requests: list[Request] = [(0, 30, 20, LONG), (100, 5, 20, SHORT), (2000, 5, 2, SHORT)]
    first, second = (make(requests, policy="pecsched/CoL") for _ in range(2))
    first.run(until_s=until * PS)
    second.restore(first.snapshot())
    np.testing.assert_array_equal(first.busy_ps(), second.busy_ps())
    assert first.run()
    assert second.run()
    assert_same_rows(first.finished(), second.finished())


@pytest.mark.parametrize(
    "options",
    [
        {"rules": {"colocation_tokens": 7}},
        {"rules": {"switch_s": 11 * PS}},
        {"rules": {"long_order": "shortest"}},
        {"per_node": 1},
        {"node_token_ps": 3},
    ],
)
def test_a_snapshot_of_other_rules_or_links_is_refused(options: dict[str, Any]) -> None:
    requests: list[Request] = [(0, 30, 20, LONG)]
    snapshot = make(requests, replicas=2).snapshot()
    with pytest.raises(EngineError, match="with other settings or costs"):
        make(requests, replicas=2, **options).restore(snapshot)


def test_a_snapshot_of_other_group_costs_is_refused() -> None:
    first, second = make([(0, 30, 20, LONG)]), make([(0, 30, 20, LONG)])
    second.state.prefill_table_ps[0, 0, 3] += 1
    with pytest.raises(EngineError, match="with other settings or costs"):
        second.restore(first.snapshot())


def test_a_group_may_be_tried_out_and_taken_back() -> None:
    """One replica, two, three: the same long from the same moment, then the first answer again."""
    simulator = make([(0, 30, 1, LONG)], policy=None, replicas=3)
    assert simulator.next_decision() is not None
    due = simulator.snapshot()
    finishes = []
    for degree in (1, 2, 3, 1):
        simulator.restore(due)
        simulator.apply(group(0, degree, FAST))
        assert simulator.next_decision() is None
        finishes.append(int(by_row(simulator).finish_ps[0]))
    assert finishes == [1800, 900, 600, 1800]


# -- decisions from outside -----------------------------------------------------------------------------------------


def in_turn(state, slot):
    """A pool of one and of two replicas, in turn."""
    return 1 + (state.cluster[0].now_ps // 3000) % 2


def busy_trace(seed: int, n: int = 80) -> Trace:
    stream = np.random.default_rng(seed)
    is_long = stream.random(n) < 0.15
    inputs = np.where(is_long, stream.integers(50, 600, n), stream.integers(1, 40, n))
    arrivals = np.cumsum(stream.integers(0, 1200, n)) * PS
    return Trace(arrivals, inputs, stream.integers(1, 30, n), is_long=is_long, name="busy")


def busy_cluster(seed: int, policy: str | None, **functions: Any) -> Simulator:
    """Five replicas on one node with 400 blocks each, one or two of which decode."""
    simulator = make_empty(
        policy=policy,
        replicas=5,
        rules={"decode_replicas": 1.0, "sp_degree": "memory", "pool_interval_s": 3000 * PS},
        kv_capacity_tokens=400,
        functions=functions,
    )
    simulator.load_trace(busy_trace(seed))
    return simulator


def least_loaded(state: Any, place_class: int) -> int:
    loads = state.loads[place_class]
    return int(np.argmin(loads)) if loads.min() < NEVER_PS else NONE


def place_by_hand(decision: Any) -> int:
    """PecSched's rule for shorts, in plain Python over the state's arrays."""
    state = decision.state
    free, beside = least_loaded(state, OPEN), least_loaded(state, DECODING_LONG)
    decode = least_loaded(state, POOL)
    if free != NONE:
        return int(placement(free, decode, False))
    if beside != NONE:
        return int(placement(beside, decode, False))
    with_a_long = [(c, least_loaded(state, c)) for c in (GATHERING_LONG, SUSPENDED_LONG, PREFILLING_LONG)]
    waiting = [(state.loads[c, r], c, r) for c, r in with_a_long if r != NONE]
    if not waiting:
        return WAIT
    return int(placement(min(waiting)[2], decode, True))


def start_by_hand(decision: Any) -> int:
    """The fewest replicas that hold the long, the least loaded first, on a cluster of one node."""
    request = decision.state.requests[decision.slot]
    degree = -(-(request.input_tokens + request.output_tokens - 1) // 400)
    free = np.flatnonzero(decision.state.loads[OPEN] < NEVER_PS)
    if len(free) < degree:
        return WAIT
    return int(group(least_loaded(decision.state, OPEN), int(degree), FAST))


def answer_by_hand(decision: Any) -> int:
    request = decision.state.requests[decision.slot]
    if decision.kind == "place":
        assert request.is_long == 0
        return place_by_hand(decision)
    if decision.kind == "start":
        assert request.is_long == 1
        assert decision.input_tokens == request.input_tokens
        return start_by_hand(decision)
    now_ps = round(decision.now_s / PS)
    assert now_ps % 3000 == 0
    return 1 + now_ps // 3000 % 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("outside", [("place", "start", "pool"), ("place",), ("start",), ("pool",)])
def test_decisions_from_outside_equal_those_of_the_compiled_policy(seed: int, outside: tuple[str, ...]) -> None:
    """All of them, or one of the three kinds while the policy takes the others."""
    inside = busy_cluster(seed, "pecsched", pool=in_turn)
    assert inside.run()
    functions = {"pool": in_turn, **{{"place": "choose"}.get(kind, kind): None for kind in outside}}
    by_hand = busy_cluster(seed, "pecsched", **functions)
    kinds = set()
    while (decision := by_hand.next_decision()) is not None:
        kinds.add(decision.kind)
        by_hand.apply(answer_by_hand(decision))
    assert kinds == set(outside)
    log = inside.finished()
    assert len(log) == 80
    assert np.any(log.preemptions > 0)
    assert np.any(log.pushed_ps > 0)
    assert_same_rows(by_hand.finished(), log)


def test_shorts_are_placed_before_longs_are_started() -> None:
    """Both at once; WAIT for the long, so it is asked about again when the short's prompt is done and when it ends."""
    simulator = make([(0, 30, 1, LONG), (0, 5, 2, SHORT)], policy=None)
    asked = []
    while (decision := simulator.next_decision()) is not None:
        asked.append((decision.kind, round(decision.now_s / PS)))
        simulator.apply(0 if decision.kind == "place" else WAIT if len(asked) < 4 else group(0, 1, FAST))
    assert asked == [("place", 0), ("start", 0), ("start", 150), ("start", 260)]
    assert by_row(simulator).start_ps.tolist() == [260, 0]


def test_a_short_that_waits_does_not_hide_the_long_behind_it() -> None:
    simulator = make([(0, 5, 2, SHORT), (0, 30, 1, LONG)], policy=None)
    kinds = []
    for answer in (WAIT, group(0, 1, FAST), placement(0, NONE, True)):
        decision = simulator.next_decision()
        assert decision is not None
        kinds.append((decision.kind, decision.row))
        simulator.apply(answer)
    assert kinds == [("place", 0), ("start", 1), ("place", 0)], "the short is asked about again: a group has formed"
    assert simulator.next_decision() is None
