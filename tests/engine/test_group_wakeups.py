"""Nobody is forgotten: who waits is looked at again when memory or replicas become free. Times in picoseconds."""

from __future__ import annotations

from tests.engine.group_world import LONG, PS, SHORT, make


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
