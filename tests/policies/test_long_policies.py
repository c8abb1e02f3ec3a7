"""Policies of longs and shorts, each against its rule, in the world of tests/engine/group_world.py."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pecgym import WAIT, Policy, make_cluster
from pecgym.engine import LongRules
from pecgym.engine.state import DECODE_ROLE, GENERAL, LONG_ROLE, NONE, OPEN, POOL
from pecgym.errors import EngineError, SpecError
from pecgym.policies import load_policy, view
from pecgym.policies.dispatch import to_least_loaded
from pecgym.workload import Trace
from tests.engine.group_world import FAST, LONG, PS, SHORT, Request, by_row, make, serve

# -- FIFO -----------------------------------------------------------------------------------------------------------


def test_fifo_lets_no_short_overtake_a_long() -> None:
    """The short of 0 ends at 370, the long, by ring attention, at 3970, and only then comes the short of 20."""
    requests: list[Request] = [(0, 5, 3, SHORT), (10, 30, 1, LONG), (20, 5, 1, SHORT)]
    log = serve(requests, policy="fifo", rules={"sp_strategy": "ring"})
    assert log.placed_ps.tolist() == [0, 10, 3970]
    assert log.start_ps.tolist() == [0, 370, 3970]


def test_fifo_does_not_skip_a_long_that_waits_for_replicas() -> None:
    """The first long has both replicas; behind the second, shorts wait although nobody computes for them."""
    requests: list[Request] = [(0, 30, 1, LONG), (10, 30, 1, LONG), (20, 5, 1, SHORT)]
    log = serve(requests, policy="fifo", replicas=2, rules={"sp_degree": 2})
    assert log.start_ps.tolist() == [0, 900, 1800]


def test_fifo_lets_no_long_overtake_a_short() -> None:
    """One at a time: the short of 5 is placed at 370 and runs until 520; the long starts after it."""
    requests: list[Request] = [(0, 5, 3, SHORT), (5, 5, 1, SHORT), (10, 30, 1, LONG)]
    log = serve(requests, policy="fifo", batching="none")
    assert log.placed_ps.tolist() == [0, 370, 370]
    assert log.start_ps.tolist() == [0, 370, 520]


# -- Reservation ----------------------------------------------------------------------------------------------------


def test_reservation_keeps_shorts_and_longs_apart() -> None:
    """Replica 2 is for longs: two of them follow one another there, and the shorts share the other two."""
    requests: list[Request] = [(0, 30, 1, LONG), (1, 30, 1, LONG), *[(2, 5, 9, SHORT)] * 4]
    simulator = make(requests, policy="reservation", replicas=3, rules={"reserved_replicas": 1.0})
    assert simulator.state.replicas.role.tolist() == [GENERAL, GENERAL, LONG_ROLE]
    assert simulator.run()
    log = by_row(simulator)
    assert log.replica.tolist() == [2, 2, 0, 1, 0, 1]
    assert log.start_ps[:2].tolist() == [0, 1800]
    assert log.preemptions.sum() == 0


def test_reservation_reserves_the_share_of_the_paper_unless_told_otherwise() -> None:
    policy = load_policy("reservation")
    assert LongRules.count_of_replicas(policy.rules_with(1).reserved_replicas, 32) == 7
    assert LongRules.count_of_replicas(policy.rules_with(4).reserved_replicas, 8) == 5
    with pytest.raises(SpecError, match=r"2 GPUs.*set long\.reserved_replicas"):
        policy.rules_with(2)
    assert load_policy("fifo").rules_with(2).reserved_replicas == 0


# -- Priority -------------------------------------------------------------------------------------------------------


def test_priority_starts_a_long_when_no_short_waits_and_a_replica_is_empty() -> None:
    """One at a time: the shorts of 0 and 20 go first, although the long came between them."""
    requests: list[Request] = [(0, 5, 3, SHORT), (10, 30, 1, LONG), (20, 5, 1, SHORT)]
    log = serve(requests, policy="priority", batching="none")
    assert log.start_ps.tolist() == [0, 520, 370]
    assert log.placed_ps[1] == 520


def test_priority_needs_all_replicas_of_the_group_to_be_empty_at_once() -> None:
    """Replica 0 is busy until 370, replica 1 until 480: neither is kept free for the long."""
    requests: list[Request] = [(0, 5, 3, SHORT), (0, 5, 4, SHORT), (10, 30, 1, LONG)]
    log = serve(requests, policy="priority", replicas=2, rules={"sp_degree": 2})
    assert log.placed_ps[2] == log.start_ps[2] == 480


def test_priority_preempts_nobody() -> None:
    log = serve([(0, 30, 1, LONG), (100, 5, 1, SHORT)], policy="priority")
    assert log.start_ps.tolist() == [0, 1800]


# -- PecSched's rule for shorts -------------------------------------------------------------------------------------

DECODING_AND_PREFILLING: list[Request] = [(0, 30, 20, LONG), (1000, 30, 1, LONG)]
"""Replica 0 prefills until 1800 and decodes; replica 1 prefills from 1000 to 2800."""


@pytest.mark.parametrize(
    ("arrival", "replica", "preemptions"),
    [
        (1100, 0, [1, 0]),  # (c) both prefill: the least loaded is stopped
        (1900, 0, [0, 0]),  # (b) beside the decode, although replica 1 is as little loaded
    ],
)
def test_pecsched_places_a_short(arrival: int, replica: int, preemptions: list[int]) -> None:
    requests: list[Request] = [*DECODING_AND_PREFILLING, (arrival, 5, 1, SHORT)]
    log = serve(requests, replicas=2, rules={"sp_degree": 1})
    assert log.replica[2] == replica
    assert log.preemptions[:2].tolist() == preemptions


def test_pecsched_prefers_a_replica_without_a_long() -> None:
    """(a): the long of 0 is on replica 0."""
    log = serve([(0, 30, 20, LONG), (500, 5, 1, SHORT), (1900, 5, 1, SHORT)], replicas=2, rules={"sp_degree": 1})
    assert log.replica[1:].tolist() == [1, 1]
    assert log.preemptions[0] == 0


def test_pecsched_stops_the_least_loaded_of_the_prefills() -> None:
    """Of two at 1500 the first stops replica 0 and the second replica 1, which is less loaded by then."""
    requests: list[Request] = [*DECODING_AND_PREFILLING, (1500, 5, 1, SHORT), (1500, 5, 1, SHORT)]
    log = serve(requests, replicas=2, rules={"sp_degree": 1})
    assert log.replica[2:].tolist() == [0, 1]
    assert log.preemptions[:2].tolist() == [0, 1], "replica 0 is in its last operator"
    requests[2:] = [(1100, 5, 1, SHORT), (1100, 5, 1, SHORT)]
    log = serve(requests, replicas=2, rules={"sp_degree": 1})
    assert log.preemptions[:2].tolist() == [1, 1]


def test_pecsched_runs_shorts_on_members_that_wait() -> None:
    """Replica 0 is busy until 150 + 29 * 110; a short on replica 1, which waits for it, starts at once."""
    requests: list[Request] = [(0, 5, 30, SHORT), (200, 30, 1, LONG), (300, 5, 1, SHORT)]
    log = serve(requests, replicas=2, rules={"sp_degree": 2})
    assert (log.replica[2], log.start_ps[2]) == (1, 300)
    assert log.start_ps[1] == 150 + 29 * 110


def test_a_short_decodes_on_the_least_loaded_decode_replica() -> None:
    """Those on their way count: replicas 2, 3, 2, 3 in turn."""
    log = serve([(0, 5, 2, SHORT)] * 4, replicas=4, rules={"decode_replicas": 2.0})
    assert log.decode_replica.tolist() == [2, 3, 2, 3]
    log = serve([(0, 5, 2, SHORT)] * 4, replicas=4)
    assert log.decode_replica.tolist() == [NONE] * 4


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("pecsched/PE", "preemption", False),
        ("pecsched/Dis", "decode_replicas", 0.0),
        ("pecsched/CoL", "colocation_tokens", 0),
        ("pecsched/FSP", "sp_strategy", "ring"),
        ("pecsched_shortest_long", "long_order", "shortest"),
        ("pecsched_fewest", "sp_degree", "memory"),
        ("pecsched_adaptive_pool", "pool_interval_s", 10.0),
    ],
)
def test_a_variant_of_pecsched_differs_in_one_rule(name: str, key: str, value: Any) -> None:
    base, variant = load_policy("pecsched"), load_policy(name)
    assert getattr(variant.rules, key) == value != getattr(base.rules, key)
    others = [f.name for f in fields(LongRules) if f.name != key]
    assert [getattr(variant.rules, k) for k in others] == [getattr(base.rules, k) for k in others]
    assert (variant.choose, variant.start, variant.load) == (base.choose, base.start, base.load)


def test_the_adaptive_pool_follows_the_decodes() -> None:
    """Four blocks each. At 300 a cache waits for replica 3: a second replica decodes. When one short decodes alone
    on one of two, less than half of the other one is in use, and it goes back."""
    simulator = make(
        [(0, 2, 3, SHORT), (0, 2, 3, SHORT), (0, 2, 3, SHORT), (3000, 1, 1, SHORT)],
        policy="pecsched_adaptive_pool",
        replicas=4,
        rules={"decode_replicas": 1.0, "pool_interval_s": 200 * PS},
        kv_capacity_tokens=4,
    )
    sizes = []
    for until in range(100, 3100, 200):
        simulator.run(until_s=until * PS)
        sizes.append(int(np.count_nonzero(simulator.state.replicas.role == DECODE_ROLE)))
    assert sizes[0] == 1
    assert max(sizes) >= 2
    assert sizes[-1] == 1, "nothing is decoded at the end"
    assert all(abs(b - a) <= 1 for a, b in pairwise(sizes))
    assert simulator.run()
    assert simulator.state.class_counts[POOL] == 1


# -- a user's own ---------------------------------------------------------------------------------------------------

N = 400
MIXED = Trace(
    np.arange(N) * 0.05,
    np.where(np.arange(N) % 40 == 7, 60_000 + np.arange(N) * 100, 1 + np.arange(N) * 37 % 2000),
    1 + np.arange(N) * 11 % 90,
    is_long=np.arange(N) % 40 == 7,
    name="mixed",
)
RULES = LongRules(sp_strategy="fast", sp_degree="memory")


class InPython:
    """Both decisions in Python, with the questions that compiled policies ask."""

    name = "in_python"
    rules = RULES

    def __init__(self) -> None:
        self.asked: dict[str, int] = {"place": 0, "start": 0}

    def act(self, decision: Any) -> int:
        assert decision.kind == "place"
        self.asked["place"] += 1
        return int(view.least_loaded(decision.state))

    def start_long(self, decision: Any) -> int:
        assert decision.kind == "start"
        self.asked["start"] += 1
        state = decision.state
        degree = view.degree_of_long(state, decision.slot, False)
        if not view.enough_for_long(state, degree, False):
            return WAIT
        return int(view.group(view.best_anchor(state, degree, False), degree, FAST))


class Questioner:
    """Asks everything at every decision, and compares with what the arrays say."""

    rules = LongRules(sp_strategy="fast", sp_degree=2, decode_replicas=2.0, backfill=True)

    def __init__(self) -> None:
        self.turn = 0
        self.seen: set[str] = set()

    def act(self, decision: Any) -> int:
        state, slot = decision.state, decision.slot
        replicas, n = state.replicas, len(state.replicas)
        by_class = {c: np.flatnonzero(replicas.place_class == c).tolist() for c in range(7)}
        tokens = replicas.queued_tokens.tolist()
        count = (replicas.n_requests + replicas.incoming).tolist()
        assert view.n_replicas(state) == n
        for c, members in by_class.items():
            assert view.count_of(state, c) == len(members)
            least = min(members, key=lambda r: (tokens[r], count[r], r), default=NONE)
            assert view.least_loaded_of(state, c) == least
        r = view.least_loaded(state)
        assert r == view.least_loaded_of(state, OPEN)
        for first in (0, n - 1):
            around = [(first + i) % n for i in range(n)]
            assert view.first_open_from(state, first) == next((a for a in around if a in by_class[OPEN]), NONE)
        for a in range(n):
            for b in range(n):
                less = (tokens[a], count[a]) < (tokens[b], count[b])
                assert less == (view.load_of(state, a) < view.load_of(state, b))
        waits, used, capacity = view.pool_fill(state)
        assert waits == any(replicas.n_waiting[q] > 0 for q in by_class[POOL])
        assert 0 <= used <= capacity * len(by_class[POOL])
        assert not view.can_start(state, by_class[POOL][0], slot), "it is not OPEN"
        idle = [q for q in by_class[OPEN] if count[q] == replicas.held_blocks[q] == 0]
        assert all(view.can_start(state, q, slot) for q in idle)
        longs = state.cluster[0].longs
        earlier = longs != NONE and state.requests[longs].sequence < state.requests[slot].sequence
        assert view.arrived_before(state, longs, slot) == earlier
        self.seen |= {"idle"} if idle else set()
        self.seen |= {"long waits"} if longs != NONE else set()
        self.seen |= {"no replica"} if r == WAIT else set()
        return int(view.placement(r, view.least_loaded_of(state, POOL), False)) if r != WAIT else WAIT

    def start_long(self, decision: Any) -> int:
        state, slot = decision.state, decision.slot
        free = np.count_nonzero(state.replicas.place_class == OPEN)
        tokens = state.requests[slot].input_tokens + state.requests[slot].output_tokens - 1
        capacity = state.settings[0].capacity_blocks * state.settings[0].block_tokens
        assert view.fewest_replicas(state, slot) == -(-tokens // capacity)
        assert view.degree_of_long(state, slot, False) == max(2, -(-tokens // capacity))
        for wanted in range(1, 9):
            assert view.enough_for_long(state, wanted, False) == (free >= wanted)
        self.seen.add("start")
        if free < 2:
            return WAIT
        return int(view.group(view.best_anchor(state, 2, False), 2, FAST))


def test_the_questions_of_compiled_policies_can_be_asked_from_python() -> None:
    own = Questioner()
    log = make_cluster(policy=own, workload=MIXED.slice(0, 150)).run()
    assert np.all(log.ps["finish"] > 0)
    assert own.seen >= {"idle", "start"}


class PlacesOnly:
    """Shorts in Python; longs start by the rule that all policies have."""

    rules = RULES

    def act(self, decision: Any) -> int:
        assert decision.kind == "place"
        return int(view.least_loaded_of(decision.state, OPEN))


def test_longs_in_python_equal_a_compiled_policy() -> None:
    compiled = Policy("compiled", to_least_loaded, load="queued_tokens", rules=RULES)
    expected = make_cluster(policy=compiled, workload=MIXED).run()
    assert expected.counts["sp_degree"].max() > 1 or expected.is_long.sum() == 10
    own = InPython()
    log = make_cluster(policy=own, workload=MIXED).run()
    assert log.digest() == expected.digest()
    assert own.asked["start"] >= 10
    assert own.asked["place"] >= 390
    assert make_cluster(policy=PlacesOnly, workload=MIXED).run().digest() == expected.digest()


def test_rules_of_a_policy_may_be_changed_from_outside() -> None:
    cluster = make_cluster(policy=InPython(), workload=MIXED, rules={"sp_strategy": "ring", "sp_degree": 2})
    assert (cluster.rules.sp_strategy, cluster.rules.sp_degree) == ("ring", 2)
    with pytest.raises(SpecError, match="unknown key degree"):
        make_cluster(policy="pecsched", workload=MIXED, rules={"degree": 2})


def test_a_pool_that_changes_needs_a_function_that_says_how() -> None:
    with pytest.raises(SpecError, match="pool_interval_s is set, but it has no function `pool`"):
        make_cluster(policy="pecsched", workload=MIXED, rules={"pool_interval_s": 1.0})


def nowhere_to_start(state, slot):
    """A group on replicas that do not exist."""
    return view.group(99, 1, 0)


def test_a_compiled_start_that_cannot_be_done_is_an_error() -> None:
    policy = Policy("nowhere", to_least_loaded, start=nowhere_to_start, load="queued_tokens", rules=RULES)
    with pytest.raises(EngineError, match=r"cannot be done.*as many free replicas as hold it"):
        make_cluster(policy=policy, workload=MIXED).run()


# -- the rules themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sp_strategy": "rings"}, "long.sp_strategy='rings': choose one of ring, ulysses, megatron, fast"),
        ({"sp_degree": 0}, "long.sp_degree=0: choose node, memory or a number above 0"),
        ({"sp_degree": "all"}, "long.sp_degree='all'"),
        ({"sp_degree": 2.0}, "long.sp_degree=2.0"),
        ({"long_order": "longest"}, "choose one of fcfs, shortest"),
        ({"colocation_tokens": -1}, "must be 0 or more"),
        ({"operators_per_layer": 0}, "must be 1 or more"),
        ({"switch_s": 0.0}, "must be above 0"),
        ({"push_visible_s": float("nan")}, "must be above 0"),
        ({"decode_replicas": 1.5}, "give a whole number, or a share below 1"),
        ({"reserved_replicas": -1.0}, "give a whole number, or a share below 1"),
        ({"decode_replicas": 1.0, "reserved_replicas": 1.0}, "cannot be combined"),
        ({"pool_interval_s": 5.0}, "none are set apart"),
    ],
)
def test_a_bad_rule_names_the_key_and_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        LongRules().with_changes(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("given", "of", "count"),
    [(0.0, 8, 0), (1.0, 8, 1), (3.0, 8, 3), (0.125, 8, 1), (0.125, 32, 4), (0.01, 8, 1), (0.99, 8, 7), (0.125, 2, 1)],
)
def test_a_count_of_replicas_is_a_number_or_a_share(given: float, of: int, count: int) -> None:
    assert LongRules.count_of_replicas(given, of) == count


def test_one_replica_at_least_is_left() -> None:
    with pytest.raises(SpecError, match="one at least must be left for shorts"):
        LongRules.count_of_replicas(8.0, 8)
