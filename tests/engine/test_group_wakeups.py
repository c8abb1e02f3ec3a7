"""Nobody is forgotten: who waits is looked at again when memory or replicas become free. Times in picoseconds."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from pecgym import Trace, make_cluster
from pecgym.engine import LongRules, Topology
from pecgym.errors import EngineError, SpecError
from pecgym.policies.view import OPEN, PREFILLING_LONG, WAIT, group, least_loaded_of, placement
from pecgym.workload import generate, rewrite_long
from tests.engine.group_world import FAST, LONG, PS, SHORT, make


def by_row(simulator):
    assert simulator.run()
    return {int(row.row): row for row in simulator.finished()}


def test_a_short_preempts_once_a_push_has_freed_memory_for_it() -> None:
    """The long (60 of 100 blocks, three operators of 1200) stops at 1200 for the first short, whose cache is on its way
    until 2210 + 5. Only then the second fits; the operator under way ends at 2710 and switching takes 10."""
    log = by_row(
        make(
            [(0, 60, 1, LONG), (100, 20, 5, SHORT), (1600, 30, 5, SHORT)],
            replicas=2,
            rules={"preemption": True, "decode_replicas": 1.0},
            replica_token_ps=50,
            kv_capacity_tokens=100,
        )
    )
    assert log[1].start_ps == 1210
    assert log[1].pushed_ps == 2215
    assert log[2].start_ps == 2720
    assert log[0].preemptions == 2
    assert log[0].first_token_ps == 2720 + 400 + 1200


def test_an_adaptive_pool_gives_replicas_back_to_a_long_that_waits_for_them() -> None:
    """The pool has grown to two of three replicas; when all shorts are served nothing else is due, and the long needs
    two general ones."""
    log = by_row(
        make(
            [(0, 2, 20, SHORT)] * 3 + [(4100, 30, 1, LONG)],
            policy="pecsched_adaptive_pool",
            replicas=3,
            rules={"decode_replicas": 1.0, "pool_interval_s": 4000 * PS, "sp_degree": 2},
            kv_capacity_tokens=60,
            max_batch_requests=1,
        )
    )
    assert len(log) == 4
    assert log[3].sp_degree == 2
    assert log[3].placed_ps % 4000 == 0


def test_a_pool_that_cannot_help_ends_the_run() -> None:
    """A long that nobody starts does not keep the clock going for ever."""
    simulator = make(
        [(0, 30, 1, LONG)],
        policy="pecsched_adaptive_pool",
        replicas=3,
        rules={"decode_replicas": 1.0, "pool_interval_s": 4000 * PS},
        functions={"start": never},
    )
    assert simulator.run()
    assert len(simulator.finished()) == 0
    assert simulator.now_s <= 8000 * PS


def never(state, slot):
    return -1


def test_without_colocation_a_short_of_the_last_operator_stops_the_decode_at_once() -> None:
    """The prefill's last operator (2400 to 3600) is not stopped; the decode is, before its first iteration."""
    log = by_row(make([(0, 60, 5, LONG), (2500, 20, 1, SHORT)], policy="pecsched/CoL"))
    assert log[1].start_ps == 3600 + 10
    assert log[0].preemptions == 1


def test_a_short_that_waits_is_asked_about_again_when_a_group_forms() -> None:
    """At 10 the second short is left waiting, the long gets a group on the busy replica, and the short is asked about
    again at once, not when something happens next."""
    simulator = make([(0, 20, 5, SHORT), (10, 20, 1, SHORT), (10, 60, 1, LONG)], policy=None)
    asked = []
    for answer in (0, WAIT, group(0, 1, FAST)):
        decision = simulator.next_decision()
        asked.append((decision.kind, decision.row, round(decision.now_s / PS)))
        simulator.apply(answer)
    again = simulator.next_decision()
    assert asked == [("place", 0, 0), ("place", 1, 10), ("start", 2, 10)]
    assert (again.kind, again.row, round(again.now_s / PS)) == ("place", 1, 10)


def onto_a_running_prefill(state, slot):
    """Where no long is, else in place of a prefill that runs, never in front of a long that gathers."""
    r = least_loaded_of(state, OPEN)
    if r != WAIT:
        return r
    r = least_loaded_of(state, PREFILLING_LONG)
    return WAIT if r == WAIT else placement(r, -1, True)


def test_a_policy_is_asked_again_when_a_long_begins() -> None:
    """The first short runs until 300 + 4 x 110 = 740, then the long begins, and only then the second short may go."""
    requests = [(0, 20, 5, SHORT), (50, 60, 1, LONG), (100, 20, 1, SHORT)]
    log = by_row(make(requests, functions={"choose": onto_a_running_prefill}))
    assert log[1].start_ps == 740
    assert log[2].placed_ps == 740
    assert log[2].start_ps == 750


def test_a_short_goes_where_a_long_is_suspended_already_rather_than_stop_another() -> None:
    """Two longs on two replicas each; the first short suspends the first, the second goes beside it."""
    requests = [(0, 60, 1, LONG), (0, 60, 1, LONG), (100, 20, 1, SHORT), (101, 20, 1, SHORT)]
    log = by_row(make(requests, replicas=4, per_node=2, rules={"sp_degree": 2}))
    assert log[2].replica // 2 == log[3].replica // 2
    assert sorted((log[0].preemptions, log[1].preemptions)) == [0, 1]


def test_priority_starts_no_group_on_a_replica_with_shorts() -> None:
    """Nodes of two; replica 1 has a short until 740, so of its node no group of two may be formed before that."""
    log = by_row(make([(0, 20, 5, SHORT), (1, 60, 1, LONG)], policy="priority", replicas=2, rules={"sp_degree": 2}))
    assert log[1].placed_ps == log[1].start_ps == 740


def mixed() -> Trace:
    return rewrite_long(generate("azure2023_conv", duration_s=150.0), "paper").scale_rate(0.05)


def test_copies_and_pickles_in_mid_run_go_on_by_themselves() -> None:
    cluster = make_cluster(policy="pecsched", workload=mixed())
    cluster.run(1000.0)
    finished = len(cluster.simulator.finished())
    twin, restored = copy.deepcopy(cluster), pickle.loads(pickle.dumps(cluster))
    digests = {twin.run().digest(), restored.run().digest()}
    assert len(cluster.simulator.finished()) == finished, "the original has not moved"
    assert digests == {cluster.run().digest()}


def test_a_stream_may_hold_longs() -> None:
    trace = mixed()
    whole = make_cluster(policy="pecsched", workload=trace).run()
    chunks = [trace.slice(i, min(i + 100, len(trace))) for i in range(0, len(trace), 100)]
    parts: list[np.ndarray] = []
    cluster = make_cluster(policy="pecsched", workload=trace.slice(0, 1))
    cluster.run_stream(iter(chunks), parts.append, longest_long_tokens=500_000)
    rows = np.concatenate(parts)
    finish = rows["finish_ps"][np.argsort(rows["row"])]
    np.testing.assert_array_equal(finish, whole.ps["finish"])


def test_a_run_that_comes_to_a_decision_of_others_says_so() -> None:
    with pytest.raises(EngineError, match=r"a decision \('place'\) is due"):
        make([(0, 20, 5, SHORT)], policy=None).run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colocation_tokens": 5.7}, "long.colocation_tokens=5.7: must be of type int"),
        ({"preemption": "no"}, "long.preemption='no': must be of type bool"),
        ({"decode_replicas": float("inf")}, "long.decode_replicas=inf"),
    ],
)
def test_rules_of_a_wrong_type_or_size_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LongRules().with_changes(**changes)
    with pytest.raises(SpecError, match="replicas_per_node=0: must be above 0"):
        Topology(0)


def test_what_ends_at_the_moment_of_a_decision_is_counted_once_as_busy() -> None:
    simulator = make([(0, 30, 3, LONG), (1800, 5, 1, SHORT)], policy=None, replicas=1)
    assert simulator.next_decision().kind == "start"
    simulator.apply(group(0, 1, FAST))
    assert simulator.next_decision().kind == "place"
    assert simulator.state.cluster[0].now_ps == 1800, "when the prefill of the long ends"
    assert simulator.busy_ps().tolist() == [1800]
