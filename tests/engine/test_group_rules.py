"""Each rule of long requests on an example small enough to be worked by hand, in the world of group_world.py."""

from __future__ import annotations

from typing import Any

import pytest

from pecgym.engine.state import (
    CLOSED,
    DECODE,
    DECODE_ROLE,
    GENERAL,
    GROUP_GATHERING,
    NONE,
    OPEN,
    POOL,
    SLICE_COLOCATED,
    SLICE_LONG_DECODE,
    SLICE_LONG_PREFILL,
    SLICE_PREFILL,
)
from pecgym.errors import EngineError
from pecgym.policies.view import group, placement
from tests.engine.group_world import FAST, LONG, PS, SHORT, Request, by_row, make, serve

# -- a long alone ---------------------------------------------------------------------------------------------------


def test_a_long_alone() -> None:
    """30 tokens: 1800; then 110 + 4 * 30 and 110 + 4 * 31."""
    log = serve([(0, 30, 3, LONG)])
    assert (log.start_ps[0], log.first_token_ps[0], log.finish_ps[0]) == (0, 1800, 1800 + 230 + 234)
    assert serve([(0, 30, 1, LONG)]).finish_ps[0] == 1800
    assert serve([(0, 30, 1, LONG)], rules={"sp_strategy": "ring"}).finish_ps[0] == 3600


@pytest.mark.parametrize(
    ("replicas", "per_node", "first_token", "finish"),
    [
        (2, 2, 900, 900 + (110 + 60 + 7) + (110 + 62 + 7)),
        (2, 1, 990, 990 + (110 + 60 + 14) + (110 + 62 + 14)),
        (3, 3, 600, 600 + (110 + 30 + 7) + (110 + 31 + 7)),
    ],
)
def test_a_long_on_several_replicas(replicas: int, per_node: int, first_token: int, finish: int) -> None:
    log = serve([(0, 30, 3, LONG)], replicas=replicas, per_node=per_node, rules={"sp_degree": replicas})
    assert (log.first_token_ps[0], log.finish_ps[0], log.sp_degree[0]) == (first_token, finish, replicas)


def test_a_decode_is_one_event_and_takes_what_its_steps_take_one_by_one() -> None:
    """Three points in time: the arrival, the end of the prefill, the end. Every member does all 199 iterations."""
    simulator = make([(0, 30, 200, LONG)], replicas=3, rules={"sp_degree": 3})
    points = 0
    while simulator.step():
        points += 1
    assert points == 3
    assert by_row(simulator).finish_ps[0] == 600 + sum(110 + (30 + i) * 1 + 7 for i in range(199))
    assert simulator.state.replicas.iterations.tolist() == [199] * 3


def test_a_prompt_between_two_knots_is_interpolated_and_rounded_down() -> None:
    """On three nodes the knots at 30 and 40 tokens are 720 and 960: 37 tokens take 720 + 240 * 7 / 10."""
    log = serve([(0, 37, 1, LONG)], replicas=3, per_node=1, rules={"sp_degree": 3})
    assert log.first_token_ps[0] == 720 + 168
    # On one: 1800 + 600 * 3 / 10; on three of one node 600 + 200 * 1 / 10.
    assert serve([(0, 33, 1, LONG)]).first_token_ps[0] == 1980
    assert serve([(0, 31, 1, LONG)], replicas=3, rules={"sp_degree": 3}).first_token_ps[0] == 620


# -- preemption of a prefill ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrival", "stop"),
    [(1, 600), (599, 600), (600, 600), (601, 1200), (700, 1200), (1200, 1200)],
)
def test_a_prefill_stops_at_the_end_of_the_running_operator(arrival: int, stop: int) -> None:
    """Operators end at 600, 1200 and 1800. After the switch, prompt and decode of the short take 150 + 110."""
    log = serve([(0, 30, 1, LONG), (arrival, 5, 2, SHORT)])
    assert log.start_ps[1] == stop + 10
    assert log.finish_ps[1] == stop + 270
    assert log.first_token_ps[0] == 1800 + 270
    assert log.preemptions.tolist() == [1, 0]


@pytest.mark.parametrize("arrival", [1201, 1500, 1799])
def test_the_last_operator_is_not_interrupted(arrival: int) -> None:
    log = serve([(0, 30, 1, LONG), (arrival, 5, 2, SHORT)])
    assert log.first_token_ps.tolist() == [1800, 1950]
    assert log.preemptions[0] == 0


def test_work_that_operators_do_not_divide_has_a_short_last_one() -> None:
    """31 tokens on three replicas: 620 in operators of 206, so the boundaries are 206, 412 and 618, and 2 remain."""
    rules = {"sp_degree": 3}
    log = serve([(0, 31, 1, LONG), (413, 5, 1, SHORT)], replicas=3, rules=rules)
    assert log.start_ps[1] == 628
    assert log.first_token_ps[0] == 628 + 150 + 2
    log = serve([(0, 31, 1, LONG), (619, 5, 1, SHORT)], replicas=3, rules=rules)
    assert log.preemptions[0] == 0


def test_nothing_is_computed_twice() -> None:
    """Stopped at 600 until 760, then, with 600 done, 40 after its resumption, at 1360 until 1520."""
    simulator = make([(0, 30, 1, LONG), (100, 5, 1, SHORT), (800, 5, 1, SHORT)], record=True)
    assert simulator.run()
    log = by_row(simulator)
    assert log.start_ps[1:].tolist() == [610, 1370]
    assert log.first_token_ps[0] == 1800 + 160 + 160
    assert log.preemptions[0] == 2
    line = simulator.timeline()
    assert list(zip(line.kind.tolist(), line.start_ps.tolist(), line.end_ps.tolist(), strict=True)) == [
        (SLICE_LONG_PREFILL, 0, 600),
        (SLICE_PREFILL, 610, 760),
        (SLICE_LONG_PREFILL, 760, 1360),
        (SLICE_PREFILL, 1370, 1520),
        (SLICE_LONG_PREFILL, 1520, 2120),
    ]
    assert line.row[line.kind == SLICE_LONG_PREFILL].tolist() == [0, 0, 0]


def test_switching_is_not_busy_time() -> None:
    """At 605 the replica switches: busy until 600 and again from 610."""
    simulator = make([(0, 30, 1, LONG), (100, 5, 1, SHORT)])
    for until, busy in ((300, 300), (600, 600), (605, 600), (610, 600), (700, 690), (760, 750), (800, 790)):
        simulator.run(until_s=until * PS)
        assert simulator.busy_ps().tolist() == [busy]
    assert simulator.run()
    assert simulator.state.replicas.busy_ps.tolist() == [1800 + 150]


def test_who_comes_while_the_long_is_stopped_does_not_stop_it_again() -> None:
    """At 1205 the kernels are being switched: both prompts run together from 1210, 200; one more joins at 1410."""
    log = serve([(0, 30, 1, LONG), (700, 5, 1, SHORT), (1205, 5, 1, SHORT), (1300, 5, 1, SHORT)])
    assert log.start_ps[1:].tolist() == [1210, 1210, 1410]
    assert log.first_token_ps[0] == 1560 + 600
    assert log.preemptions[0] == 1


def test_one_member_that_is_stopped_stops_the_group() -> None:
    """Operators of 300. The short runs on replica 0 from 310 to 460, replica 1 idles; both go on with 600."""
    simulator = make([(0, 30, 1, LONG), (100, 5, 1, SHORT)], replicas=2, rules={"sp_degree": 2})
    assert simulator.run()
    log = by_row(simulator)
    assert log.start_ps[1] == 310
    assert log.first_token_ps[0] == 900 + 160
    assert simulator.state.replicas.busy_ps.tolist() == [900 + 150, 900]


def test_shorts_are_spread_over_the_members() -> None:
    """Two at 100: one on each, together from 310 to 460."""
    requests: list[Request] = [(0, 30, 1, LONG), (100, 5, 1, SHORT), (100, 5, 1, SHORT)]
    log = serve(requests, replicas=2, rules={"sp_degree": 2})
    assert log.replica[1:].tolist() == [0, 1]
    assert log.start_ps[1:].tolist() == [310, 310]
    assert log.first_token_ps[0] == 1060
    assert log.preemptions[0] == 1


def test_without_preemption_a_short_waits_for_the_prefill() -> None:
    log = serve([(0, 30, 1, LONG), (100, 5, 1, SHORT)], policy="pecsched/PE")
    assert log.start_ps[1] == 1800
    assert log.preemptions[0] == 0
    # With a decode to come, the short joins its first iteration.
    assert serve([(0, 30, 9, LONG), (100, 5, 1, SHORT)], policy="pecsched/PE").start_ps[1] == 1800


def test_a_long_is_not_stopped_for_a_short_that_would_not_fit_beside_it() -> None:
    """30 of 40 blocks are the long's: 10 fit, 11 do not."""
    log = serve([(0, 30, 1, LONG), (100, 10, 1, SHORT)], kv_capacity_tokens=40)
    assert (log.start_ps[1], log.preemptions[0]) == (610, 1)
    log = serve([(0, 30, 1, LONG), (100, 11, 1, SHORT)], kv_capacity_tokens=40)
    assert (log.start_ps[1], log.preemptions[0]) == (1800, 0)


@pytest.mark.parametrize("on", [0, 1])
def test_every_member_holds_its_share(on: int) -> None:
    """30 + 11 - 1 tokens on two replicas are 20 blocks on each of them: 20 more fit in 40, and 21 do not."""
    for tokens, held_back in ((20, False), (21, True)):
        simulator = make(
            [(0, 30, 11, LONG), (100, tokens, 1, SHORT)], policy=None, replicas=2, kv_capacity_tokens=40, record=True
        )
        answer(simulator, {1: placement(on, NONE, True)}, {0: group(0, 2, FAST)})
        log = by_row(simulator)
        # Without room it comes in when the long has left.
        assert log.start_ps[1] == (log.finish_ps[0] if held_back else 310)


# -- by hand --------------------------------------------------------------------------------------------------------


def answer(simulator: Any, places: dict[int, int], starts: dict[int, int], pool: int = 1) -> None:
    """Takes every decision: by row, or the number of decode replicas."""
    while (decision := simulator.next_decision()) is not None:
        answers = {"place": places, "start": starts, "pool": {NONE: pool}}[decision.kind]
        simulator.apply(answers[decision.row])


# -- gathering ------------------------------------------------------------------------------------------------------

BUSY_THEN_LONG: list[Request] = [(0, 5, 3, SHORT), (100, 30, 1, LONG)]
"""The short holds replica 0 until 370."""


def test_a_group_waits_for_its_last_member() -> None:
    simulator = make(BUSY_THEN_LONG, policy="fifo", replicas=2, rules={"sp_degree": 2})
    simulator.run(until_s=200 * PS)
    lead = simulator.state.replicas.lead
    assert lead.tolist() == [1, 1], "the anchor is the least loaded: nothing is queued on replica 1"
    assert simulator.state.groups[1].phase == GROUP_GATHERING
    assert simulator.run()
    log = by_row(simulator)
    assert (log.placed_ps[1], log.start_ps[1], log.first_token_ps[1]) == (100, 370, 1270)
    assert simulator.state.replicas.busy_ps.tolist() == [370 + 900, 900], "replica 1 idles until 370"


def test_a_short_that_waited_for_a_long_to_start_is_asked_about_at_once() -> None:
    """FIFO: the short is behind the long, which starts at 0 on replica 0; so the short starts at 0 on replica 1."""
    log = serve([(0, 30, 1, LONG), (0, 5, 1, SHORT)], policy="fifo", replicas=2, rules={"sp_degree": 1})
    assert log.placed_ps.tolist() == log.start_ps.tolist() == [0, 0]
    assert log.replica.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("backfill", "tokens", "start"),
    [
        # At 150 the one on replica 0 has one decode before it at least, 110: what takes no longer may run.
        (True, 1, 150),
        (True, 2, 1270),
        (False, 1, 1270),
    ],
)
def test_backfill_lets_a_short_run_where_it_delays_nobody(backfill: bool, tokens: int, start: int) -> None:
    requests: list[Request] = [(0, 5, 3, SHORT), (100, 30, 1, LONG), (150, tokens, 1, SHORT)]
    log = serve(requests, policy="fifo", replicas=2, rules={"sp_degree": 2, "backfill": backfill})
    assert log.start_ps[2] == start
    assert log.start_ps[1] == 370


# -- shorts beside a decode -----------------------------------------------------------------------------------------


def test_colocation_takes_as_many_prompt_tokens_as_the_cap_allows() -> None:
    """The long's first step ends at 2030, with 31 tokens of context. Then 10, 10 and 5 of the prompt beside it."""
    simulator = make(
        [(0, 30, 20, LONG), (1900, 25, 2, SHORT)], rules={"colocation_tokens": 10}, max_batch_tokens=100, record=True
    )
    assert simulator.run()
    log = by_row(simulator)
    ends = [2030]
    for tokens, context in ((11, 31), (11, 32), (6, 33), (2, 34)):
        ends.append(ends[-1] + 100 + 10 * tokens + 4 * context)
    assert log.start_ps[1] == 2030
    assert log.first_token_ps[1] == ends[3]
    assert log.finish_ps[1] == ends[4]
    assert log.preemptions[0] == 0
    line = simulator.timeline()
    colocated = line.end_ps[line.kind == SLICE_COLOCATED]
    assert colocated.tolist() == ends[1:]
    assert line.kind[-1] == SLICE_LONG_DECODE


def test_the_slowest_member_decides_how_long_a_step_takes() -> None:
    """Beside a prompt of 10 on replica 0: 100 + 10 * 11 + 62 + 7, although replica 1 has no short."""
    simulator = make([(0, 30, 3, LONG), (950, 10, 1, SHORT)], policy=None, replicas=2, rules={"colocation_tokens": 40})
    answer(simulator, {1: placement(0, NONE, False)}, {0: group(0, 2, FAST)})
    log = by_row(simulator)
    first_step = 900 + 110 + 60 + 7
    assert log.start_ps[1] == first_step
    assert log.finish_ps.tolist() == [first_step + 210 + 62 + 7] * 2


def test_without_colocation_a_short_stops_the_decode_after_its_iteration() -> None:
    """At 2030, until 2300; the long's second step, with 31 tokens of context, follows."""
    log = serve([(0, 30, 3, LONG), (1900, 5, 2, SHORT)], policy="pecsched/CoL")
    assert log.start_ps[1] == 2040
    assert log.finish_ps.tolist() == [2300 + 110 + 4 * 31, 2300]
    assert log.preemptions[0] == 1


def test_a_decode_is_not_stopped_in_vain() -> None:
    """The long holds 49 of 60 blocks; 12 do not fit beside it, so the short comes when it has ended."""
    log = serve([(0, 30, 20, LONG), (1900, 12, 1, SHORT)], policy="pecsched/CoL", kv_capacity_tokens=60)
    end = 1800 + sum(110 + 4 * (30 + i) for i in range(19))
    assert log.finish_ps[0] == log.start_ps[1] == end
    assert log.preemptions[0] == 0


def test_an_eviction_beside_a_decode_takes_its_time_once() -> None:
    """The long holds 49 of 56 blocks. The prompt of 7 takes the others from 2030 to 2334; its next token needs one
    more, so its 7 tokens go to host memory at 10 each. Sixteen steps later it comes back."""
    log = serve(
        [(0, 30, 20, LONG), (1900, 7, 3, SHORT)],
        rules={"colocation_tokens": 40},
        kv_capacity_tokens=56,
        eviction="swap",
        swap_gb_per_s=1e5,
    )
    first_token = 2030 + 180 + 4 * 31
    without_it = first_token + 110 + 4 * 32 + 70
    end = without_it + sum(110 + 4 * context for context in range(33, 49))
    assert log.first_token_ps[1] == first_token
    assert log.finish_ps.tolist() == [end, end + 70 + 110 + 110]
    assert log.evictions.tolist() == [0, 1]


# -- KV pushes ------------------------------------------------------------------------------------------------------

ONE_POOL: dict[str, Any] = {"rules": {"decode_replicas": 1.0}}
"""The last replica decodes."""


@pytest.mark.parametrize(("token_ps", "pushed"), [(0, 155), (10, 155), (30, 155), (31, 160), (100, 505)])
def test_a_push_overlaps_the_prefill(token_ps: int, pushed: int) -> None:
    """Prompt of 5 from 0 to 150; the push begins with it, and 5 remain visible at least. Then two decodes."""
    log = serve([(0, 5, 3, SHORT)], replicas=2, replica_token_ps=token_ps, **ONE_POOL)
    assert (log.first_token_ps[0], log.pushed_ps[0], log.finish_ps[0]) == (150, pushed, pushed + 220)
    assert (log.replica[0], log.decode_replica[0]) == (0, 1)


def test_a_push_begins_with_the_last_iteration_of_the_prompt() -> None:
    """3 tokens until 130, 2 until 250; all 5 go at 100 each from 130 on."""
    log = serve([(0, 5, 2, SHORT)], replicas=2, replica_token_ps=100, chunk_tokens=3, **ONE_POOL)
    assert log.pushed_ps[0] == 130 + 500 + 5


def test_a_link_carries_one_push_at_a_time() -> None:
    """From two replicas into one, and from one into one: 0 to 500, then 500 to 1000."""
    requests: list[Request] = [(0, 5, 2, SHORT), (0, 5, 2, SHORT)]
    log = serve(requests, replicas=3, replica_token_ps=100, **ONE_POOL)
    assert log.replica.tolist() == [0, 1]
    assert log.pushed_ps.tolist() == [505, 1005]
    log = serve(requests, replicas=2, replica_token_ps=100, **ONE_POOL)
    assert log.pushed_ps.tolist() == [505, 1005]


@pytest.mark.parametrize(
    ("per_node", "replica_ps", "node_ps", "pushed"),
    [
        (4, 100, 1, [505, 505]),  # in one node: from 0 to 2 and from 1 to 3, links of their own
        (2, 1, 100, [505, 1005]),  # between nodes both pushes leave node 0 and enter node 1
        (1, 1, 100, [505, 505]),  # every replica a node: links of their own
        (4, 1, 100, [155, 155]),
    ],
)
def test_pushes_inside_a_node_and_between_nodes(
    per_node: int, replica_ps: int, node_ps: int, pushed: list[int]
) -> None:
    log = serve(
        [(0, 5, 2, SHORT), (0, 5, 2, SHORT)],
        replicas=4,
        per_node=per_node,
        replica_token_ps=replica_ps,
        node_token_ps=node_ps,
        rules={"decode_replicas": 2.0},
    )
    assert log.decode_replica.tolist() == [2, 3]
    assert log.pushed_ps.tolist() == pushed


def test_who_is_done_after_the_first_token_is_not_pushed() -> None:
    simulator = make([(0, 5, 1, SHORT)], replicas=2, **ONE_POOL)
    assert simulator.run()
    log = by_row(simulator)
    assert (log.finish_ps[0], log.pushed_ps[0]) == (150, NONE)
    assert simulator.state.replicas.incoming.tolist() == [0, 0]


def test_a_cache_waits_where_it_decodes_until_there_is_a_slot() -> None:
    """One slot: A decodes from 155 to 595; B's prompt ends at 300, its cache is there at 305 and waits."""
    log = serve([(0, 5, 5, SHORT), (0, 5, 2, SHORT)], replicas=2, max_batch_requests=1, **ONE_POOL)
    assert log.pushed_ps.tolist() == [155, 305]
    assert log.finish_ps.tolist() == [595, 595 + 110]


def test_a_cache_waits_where_it_decodes_until_there_is_memory() -> None:
    """A holds 8 + 1 blocks of 16 there, until 610: B's 7 and the one after it come then."""
    log = serve([(0, 8, 4, SHORT), (0, 7, 2, SHORT)], replicas=2, kv_capacity_tokens=16, **ONE_POOL)
    assert log.first_token_ps.tolist() == [250, 250]
    assert log.pushed_ps.tolist() == [255, 255]
    assert log.finish_ps.tolist() == [255 + 330, 255 + 330 + 110]


def test_a_cache_that_was_sent_earlier_and_comes_later_goes_first() -> None:
    """C decodes on replica 3 at 1005, 1115, ... B's cache is there at 2235 and does not fit; A's, sent before it over
    the slow link, comes at 2405, is before B, and fits: it joins C at 2435 for two decodes of both."""
    log = serve(
        [(0, 5, 25, SHORT), (2000, 2, 3, SHORT), (2000, 1, 1, SHORT), (2000, 13, 3, SHORT)],
        replicas=4,
        per_node=2,
        node_token_ps=200,
        kv_capacity_tokens=30,
        **ONE_POOL,
    )
    assert log.replica.tolist() == [0, 0, 1, 2]
    assert log.pushed_ps[[0, 1, 3]].tolist() == [1005, 2405, 2235]
    assert log.finish_ps[1] == 2435 + 2 * 120


def test_a_cache_on_its_way_holds_its_blocks_where_it_comes_from() -> None:
    """10 of 16 blocks until 1005: a prompt of 7 starts then, and one of 6 when the first prompt is done."""
    for tokens, start in ((6, 200), (7, 1005)):
        requests: list[Request] = [(0, 10, 2, SHORT), (100, tokens, 1, SHORT)]
        log = serve(requests, replicas=2, kv_capacity_tokens=16, replica_token_ps=100, **ONE_POOL)
        assert log.start_ps[1] == start


# -- where a long starts --------------------------------------------------------------------------------------------


def started_on(simulator: Any) -> list[int]:
    """Leads of the replicas once the decisions at time 0 are taken."""
    simulator.run(until_s=0.0)
    return simulator.state.replicas.lead.tolist()  # type: ignore[no-any-return]


def test_a_group_grows_over_its_own_node_first() -> None:
    """Four replicas on two nodes, anchor 2: replica 3, then the less loaded of the other node."""
    simulator = make([(0, 9, 1, SHORT), (0, 30, 1, LONG)], policy=None, replicas=4, per_node=2)
    simulator.next_decision()
    simulator.apply(0)
    simulator.next_decision()
    simulator.apply(group(2, 3, FAST))
    assert simulator.next_decision(until_s=0.0) is None
    assert simulator.state.replicas.lead.tolist() == [NONE, 2, 2, 2]


@pytest.mark.parametrize(
    ("tokens", "degree", "leads"),
    [
        ([9, 5, 8, 7], 1, [NONE, 1, NONE, NONE]),  # the least loaded
        ([9, 5, 8, 8], 2, [1, 1, NONE, NONE]),  # 14 against 16 on the two of a node
        ([9, 9, 8, 8], 2, [NONE, NONE, 2, 2]),
        ([8, 8, 8, 8], 2, [0, 0, NONE, NONE]),  # a tie goes to the first node
        ([9, 5, 8, 7], 3, [1, 1, NONE, 1]),  # no node has three: two of the first, and the less loaded of the other
    ],
)
def test_fewest_tokens_on_one_node_where_a_node_has_enough(tokens: list[int], degree: int, leads: list[int]) -> None:
    """Shorts go to replicas 0, 1, 2, 3 in turn: they are placed by fewest tokens, and all were empty."""
    requests: list[Request] = [(0, t, 1, SHORT) for t in tokens] + [(0, 30, 1, LONG)]
    simulator = make(requests, replicas=4, per_node=2, rules={"sp_degree": degree})
    assert started_on(simulator) == leads


def test_whole_nodes_where_free_else_the_fewest_that_hold_the_long() -> None:
    """Node 0 has two replicas, node 1 has one: the second long takes that alone, the third waits."""
    simulator = make([(0, 30, 1, LONG)] * 3, replicas=3, per_node=2, rules={"sp_degree": "node"})
    assert started_on(simulator) == [0, 0, 2]
    assert simulator.state.cluster[0].n_longs == 1
    # What needs two replicas takes two nodes' worth only if there are two whole nodes.
    large = make([(0, 70, 1, LONG)], replicas=3, per_node=1, rules={"sp_degree": "node"}, kv_capacity_tokens=40)
    assert started_on(large) == [0, 0, NONE]
    fewest = make([(0, 30, 1, LONG)], replicas=2, rules={"sp_degree": "memory"})
    assert started_on(fewest) == [0, NONE]


@pytest.mark.parametrize(("order", "starts"), [("fcfs", [0, 1800, 3600]), ("shortest", [0, 2400, 1800])])
def test_the_order_of_longs(order: str, starts: list[int]) -> None:
    log = serve(
        [(0, 30, 1, LONG), (1, 30, 1, LONG), (2, 10, 1, LONG)], rules={"long_order": order, "preemption": False}
    )
    assert log.start_ps.tolist() == starts


# -- roles ----------------------------------------------------------------------------------------------------------


def test_a_replica_drains_before_it_has_another_role() -> None:
    """At 100 a second decode replica is asked for: replica 0, which is one when its short has gone, at 155."""
    simulator = make(
        [(0, 5, 2, SHORT), (0, 5, 2, SHORT), (110, 5, 2, SHORT)],
        policy=None,
        replicas=3,
        rules={"decode_replicas": 1.0, "pool_interval_s": 100 * PS},
    )
    for r in (0, 1):
        decision = simulator.next_decision()
        assert (decision.kind, decision.row) == ("place", r)
        simulator.apply(placement(r, 2, False))
    decision = simulator.next_decision()
    assert (decision.kind, decision.row, decision.slot, round(decision.now_s / PS)) == ("pool", NONE, NONE, 100)
    simulator.apply(2)
    decision = simulator.next_decision()
    replicas = simulator.state.replicas
    assert (decision.kind, decision.row) == ("place", 2)
    assert replicas.place_class.tolist() == [CLOSED, OPEN, POOL]
    assert replicas.role.tolist() == [GENERAL, GENERAL, DECODE_ROLE]
    simulator.apply(placement(0, 2, False))
    with pytest.raises(EngineError, match="cannot be done"):
        simulator.next_decision()
    assert simulator.next_decision().row == 2, "it is asked again"
    simulator.apply(placement(1, 2, False))
    assert simulator.next_decision(until_s=154 * PS) is None
    assert simulator.state.replicas.role.tolist() == [GENERAL, GENERAL, DECODE_ROLE]
    assert simulator.next_decision(until_s=155 * PS) is None
    assert simulator.state.replicas.place_class.tolist() == [POOL, OPEN, POOL]


def test_a_replica_that_drains_is_still_decoded_on_by_those_that_were_sent() -> None:
    """At 100 none is asked for: the empty replica 2 changes at once, and one stays, where the short is to decode."""
    simulator = make(
        [(0, 5, 4, SHORT)],
        policy=None,
        replicas=3,
        rules={"decode_replicas": 2.0, "pool_interval_s": 100 * PS},
    )
    assert simulator.next_decision().kind == "place"
    simulator.apply(placement(0, 1, False))
    assert simulator.next_decision().kind == "pool"
    simulator.apply(0)
    assert simulator.next_decision().kind == "pool"
    assert simulator.state.replicas.place_class.tolist() == [OPEN, POOL, OPEN]
    simulator.apply(1)
    answer(simulator, {}, {}, pool=1)
    log = by_row(simulator)
    assert (log.decode_replica[0], log.finish_ps[0]) == (1, 155 + 330)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "options", "message"),
    [
        ([(0, 99, 3, LONG)], {"replicas": 2, "kv_capacity_tokens": 40}, r"\(101 tokens\) needs 3 replicas, and 2 may"),
        (
            [(0, 70, 1, LONG)],
            {"replicas": 2, "kv_capacity_tokens": 40, "rules": {"decode_replicas": 1.0}},
            "needs 2 replicas, and 1 may serve longs",
        ),
        ([(0, 150, 1, LONG)], {"replicas": 5, "kv_capacity_tokens": 40}, r"needs 4.*at most 3 together"),
        ([(0, 30, 1, LONG)], {"replicas": 2, "rules": {"sp_degree": 3}}, r"needs 3.*lower long\.sp_degree"),
        ([(0, 601, 1, LONG)], {}, "longest prompt has 601 tokens, and the costs of groups reach to 600"),
        ([(0, 30, 1, LONG)], {"batching": "static"}, "static batches cannot serve"),
        (
            [(0, 30, 1, SHORT)],
            {"batching": "static", "replicas": 2, **ONE_POOL},
            "static batches are not disaggregated",
        ),
        ([(0, 50, 1, SHORT)], {"kv_capacity_tokens": 40}, "or mark them as long"),
    ],
)
def test_what_could_never_be_served_is_refused_with_the_remedy(
    requests: list[Request], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        make(requests, **options)


@pytest.mark.parametrize(
    ("places", "starts"),
    [
        (placement(2, NONE, False), None),  # on a decode replica
        (placement(0, 1, False), None),  # to decode on a general one
        (placement(0, 7, False), None),  # which does not exist
        (None, group(2, 1, FAST)),  # on a decode replica
        (None, group(0, 3, FAST)),  # more than there are
        (None, group(0, 1, FAST)),  # fewer than hold it
        (None, group(0, 0, FAST)),
        (None, group(0, 2, 4)),  # no such strategy
    ],
)
def test_an_answer_that_cannot_be_done_is_refused_and_asked_for_again(places: int | None, starts: int | None) -> None:
    request: Request = (0, 5, 2, SHORT) if starts is None else (0, 70, 1, LONG)
    simulator = make([request], policy=None, replicas=3, kv_capacity_tokens=40, **ONE_POOL)
    first = simulator.next_decision()
    simulator.apply(places if starts is None else starts)
    with pytest.raises(EngineError, match=r"the policy's answer at 0\.000 s cannot be done"):
        simulator.next_decision()
    again = simulator.next_decision()
    assert (again.kind, again.row, again.slot) == (first.kind, first.row, first.slot)
    simulator.apply(placement(0, 2, False) if starts is None else group(1, 2, FAST))
    assert simulator.next_decision() is None
    assert len(simulator.finished()) == 1


def test_a_group_that_serves_takes_no_second_long() -> None:
    simulator = make([(0, 30, 1, LONG), (5, 30, 1, LONG)], policy=None, replicas=2)
    simulator.next_decision()
    simulator.apply(group(0, 1, FAST))
    simulator.next_decision()
    simulator.apply(group(0, 1, FAST))
    with pytest.raises(EngineError, match="as many free replicas as hold it"):
        simulator.next_decision()
    assert simulator.state.groups[0].phase < DECODE
    simulator.next_decision()
    simulator.apply(group(1, 1, FAST))
    assert simulator.next_decision() is None
    assert by_row(simulator).start_ps.tolist() == [0, 5]
