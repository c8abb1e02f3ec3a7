"""The cluster's clock: events in order of (time, phase, index), decisions of a policy, and the loop around them.

One point in time has five phases: iterations end and KV pushes arrive, requests arrive, the decode pool may change,
decisions are taken, batches start. So a policy sees every completion and arrival of that time, and a request placed at
a boundary joins the batch that starts there.
"""

from __future__ import annotations

from collections.abc import Callable

from pecgym.engine.arrivals import arrive, end_prediction, has_room, next_arrival_ps, next_prediction_ps
from pecgym.engine.batch import compose, end_run
from pecgym.engine.batch_decisions import take_answer
from pecgym.engine.compiled import glue, rule, separate_rule
from pecgym.engine.groups import end_group_event, go_on, mark_check, mark_ready, newcomer_beside_long, start_long
from pecgym.engine.integrals import elapse
from pecgym.engine.iteration import cut_run
from pecgym.engine.links import end_push, next_push_ps
from pecgym.engine.ordering import changes_with_time, reorder
from pecgym.engine.queues import queue_pop
from pecgym.engine.residents import enqueue_in_order, note_load
from pecgym.engine.roles import change_pool
from pecgym.engine.state import (
    ASK,
    ASK_MEMBERS,
    BAD_ACTION,
    CLOSED,
    DECISION,
    DONE,
    HORIZON_PS,
    IDLE,
    NEED_ROWS,
    NEED_SPACE,
    NEVER_PS,
    NONE,
    ORDER_FCFS,
    PAUSED,
    PHASE_ARRIVE,
    PHASE_DISPATCH,
    PHASE_END,
    PHASE_NEXT,
    PHASE_POOL,
    PHASE_START,
    PLACE_SHORT,
    POOL,
    RESERVED,
    RUNNING,
    SERVING,
    SET_POOL,
    START_LONG,
    TOO_LATE,
    WAIT,
    State,
)
from pecgym.engine.tournament import update_key

INDEX_BITS = 20  # of a replica in an action
STRATEGY_BITS = 4
_INDEX_MASK = (1 << INDEX_BITS) - 1
_STRATEGY_MASK = (1 << STRATEGY_BITS) - 1


@rule
def _newcomer(state: State, r: int, slot: int, preempt: bool) -> None:
    """A request has joined the queue of replica r: an idle one starts it now, a busy one at its next boundary.

    Behind others in first-come order a newcomer changes nothing before a boundary that is an event anyway (where who
    joins is asked outside, every boundary at which it could be asked about is one).
    """
    replica = state.replicas[r]
    if replica.status == SERVING:
        newcomer_beside_long(state, r, preempt)
    elif replica.status != RUNNING:
        mark_ready(state, r)
    elif replica.queue == slot or state.settings[0].queue_order != ORDER_FCFS:
        asked = state.settings[0].ask_batches == ASK_MEMBERS  # also while nobody is known who could join
        cut_run(state, r, NONE if asked else slot)


@separate_rule
def place(state: State, action: int) -> bool:
    """The first short goes where the action says (view.placement); False if nothing may be placed there."""
    cluster = state.cluster[0]
    r = action & _INDEX_MASK
    decode = ((action >> INDEX_BITS) & _INDEX_MASK) - 1
    if action < 0 or action >> (2 * INDEX_BITS + 1) != 0 or r >= len(state.replicas) or decode >= len(state.replicas):
        return False
    replica = state.replicas[r]
    if replica.place_class == POOL or replica.place_class == RESERVED or replica.place_class == CLOSED:
        return False
    if decode != NONE and state.replicas[decode].place_class != POOL:
        return False
    slot = cluster.queue
    request = state.requests[slot]
    cluster.queue = queue_pop(state.requests, slot)
    cluster.n_queued -= 1
    request.replica = r
    request.placed_ps = cluster.now_ps
    if decode != NONE:
        request.decode_replica = decode
        state.replicas[decode].incoming += 1
        note_load(state, decode)
    replica.n_requests += 1
    replica.queued_tokens += request.prompt_tokens
    request.promoted_steps = 0
    enqueue_in_order(state, r, slot)
    note_load(state, r)
    request.preempts = (action >> (2 * INDEX_BITS)) & 1
    _newcomer(state, r, slot, request.preempts == 1)
    return True


@rule
def _start(state: State, action: int) -> bool:
    """A waiting long starts as the action says (view.group); False if that cannot be."""
    degree = (action >> INDEX_BITS) & _INDEX_MASK
    strategy = (action >> (2 * INDEX_BITS)) & _STRATEGY_MASK
    index = action >> (2 * INDEX_BITS + STRATEGY_BITS)
    return action >= 0 and start_long(state, action & _INDEX_MASK, degree, strategy, index)


@glue
def _end_runs(state: State) -> None:
    """Ends every run of iterations that is due now; those replicas will compose their next batch."""
    now_ps = state.cluster[0].now_ps
    while state.event_ps[state.event_tree[1]] == now_ps:
        r = state.event_tree[1]
        update_key(state.event_ps, state.event_tree, r, NEVER_PS)
        if state.replicas[r].status == SERVING:
            end_group_event(state, r)
        else:
            end_run(state, r)
            mark_ready(state, r)


@separate_rule
def _end_pushes(state: State) -> None:
    """KV caches that arrive now wake where they decode, and where they came from if somebody waits for the memory."""
    while next_push_ps(state) == state.cluster[0].now_ps:
        slot = end_push(state)
        request = state.requests[slot]
        source = state.replicas[request.replica]
        if source.status != RUNNING and source.status != SERVING:
            mark_ready(state, request.replica)
        elif source.n_waiting > 0 and source.status == RUNNING:
            cut_run(state, request.replica, source.queue)
        elif source.n_waiting > 0:
            newcomer_beside_long(state, request.replica, state.requests[source.queue].preempts == 1)
        _newcomer(state, request.decode_replica, slot, False)


@glue
def _start_batches(state: State) -> int:
    """Replicas that are ready compose; then groups whose members stay free start their longs or go on with them.

    Returns DONE, DECISION or BAD_ACTION; called again, it goes on with the replica that it was at.
    """
    cluster = state.cluster[0]
    for i in range(cluster.composed, cluster.n_ready):
        r = state.ready[i]
        replica = state.replicas[r]
        replica.in_ready = 0
        if replica.status != SERVING:
            outcome = compose(state, r)
            if outcome != DONE:
                cluster.composed = i
                return outcome
            if replica.lead != NONE and replica.status == IDLE:
                mark_check(state, replica.lead)
    cluster.n_ready = 0
    cluster.composed = 0
    for i in range(cluster.n_check):
        go_on(state, state.check[i])
    cluster.n_check = 0
    return DONE


@separate_rule
def _reorder_global_queues(state: State) -> None:
    """The global queues in their order of this moment."""
    cluster = state.cluster[0]
    settings = state.settings[0]
    n = len(state.replicas)
    if cluster.queue != NONE and changes_with_time(settings.global_order):
        cluster.queue = reorder(
            state, cluster.queue, settings.global_order, cluster.n_queued, cluster.dispatches, n * settings.slots
        )
    if cluster.longs != NONE and changes_with_time(settings.long_order):
        cluster.longs = reorder(state, cluster.longs, settings.long_order, cluster.n_longs, cluster.dispatches, n)
        cluster.longs_version += 1


@rule
def _dispatch(state: State, choose: Callable[[State, int], int], start: Callable[[State, int], int]) -> int:
    """Asks the policy about the first short until it waits, then about the first long, and again if that has started;
    until the queues are empty or the policy waits."""
    cluster = state.cluster[0]
    settings = state.settings[0]
    moves = changes_with_time(settings.global_order) or changes_with_time(settings.long_order)
    while cluster.changed == 1:
        if moves:
            _reorder_global_queues(state)
        if cluster.queue != NONE and cluster.shorts_wait == 0:
            action = take_answer(state, PLACE_SHORT)
            if action == ASK:
                action = choose(state, cluster.queue)
            if action == ASK:
                return DECISION
            if action == WAIT:
                cluster.shorts_wait = 1
            elif not place(state, action):
                return BAD_ACTION
        elif cluster.longs != NONE:
            action = take_answer(state, START_LONG)
            if action == ASK:
                action = start(state, cluster.longs)
            if action == ASK:
                return DECISION
            if action == WAIT:
                break
            if not _start(state, action):
                return BAD_ACTION
            cluster.shorts_wait = 0
        else:
            break
    cluster.changed = 0
    cluster.shorts_wait = 0
    return DONE


@rule
def _pool_may_help(state: State) -> bool:
    """Whether somebody waits, nothing else is due, and the next decision about the pool may change something for it."""
    cluster = state.cluster[0]
    return cluster.next_pool_ps != NEVER_PS and cluster.pool_changed == 1 and cluster.n_queued + cluster.n_longs > 0


@rule
def _decide_pool(state: State, pool: Callable[[State, int], int]) -> int:
    """At its times, asks the policy for the number of decode replicas."""
    cluster = state.cluster[0]
    if cluster.now_ps == cluster.next_pool_ps:
        wanted = take_answer(state, SET_POOL)
        if wanted == ASK:
            wanted = pool(state, NONE)
        if wanted == ASK:
            return DECISION
        change_pool(state, wanted)
        cluster.next_pool_ps += state.settings[0].pool_interval_ps
    return DONE


@glue
def run(
    state: State,
    choose: Callable[[State, int], int],
    start: Callable[[State, int], int],
    pool: Callable[[State, int], int],
    until_ps: int,
    max_points: int,
) -> int:
    """Runs until nothing is left to happen, an outside decision is due, the next event is after `until_ps` (which then
    is the time), memory or trace rows are needed, or `max_points` points in time have passed; returns which (state.py).
    It can be called again at once after any of them.
    """
    cluster = state.cluster[0]
    while True:
        if cluster.phase == PHASE_NEXT:
            if max_points == 0:
                return PAUSED
            if state.settings[0].record == 1 and len(state.slices) - cluster.n_slices < 2 * len(state.replicas):
                return NEED_SPACE
            event_ps = state.event_ps[state.event_tree[1]]
            arrival_ps = next_arrival_ps(state)
            if arrival_ps == NEVER_PS and cluster.more_rows == 1:
                return NEED_ROWS
            next_ps = min(event_ps, arrival_ps, next_push_ps(state), next_prediction_ps(state))
            if next_ps == NEVER_PS and not _pool_may_help(state):
                return DONE
            if next_ps <= cluster.next_pool_ps:
                cluster.pool_changed = 1
            next_ps = min(next_ps, cluster.next_pool_ps)
            if next_ps > HORIZON_PS:
                return TOO_LATE
            if next_ps > until_ps:
                elapse(state, max(cluster.now_ps, until_ps))
                return PAUSED
            max_points -= 1
            elapse(state, next_ps)
            cluster.phase = PHASE_END
        if cluster.phase == PHASE_END:
            _end_runs(state)
            _end_pushes(state)
            cluster.phase = PHASE_ARRIVE
        if cluster.phase == PHASE_ARRIVE:
            while next_arrival_ps(state) == cluster.now_ps:
                if cluster.closed_loop == 0 and not has_room(state):
                    return NEED_SPACE
                arrive(state)
            if next_arrival_ps(state) == NEVER_PS and cluster.more_rows == 1:
                return NEED_ROWS
            while next_prediction_ps(state) == cluster.now_ps:
                end_prediction(state)
            cluster.phase = PHASE_POOL
        if cluster.phase == PHASE_POOL:
            outcome = _decide_pool(state, pool)
            if outcome != DONE:
                return outcome
            cluster.dispatches += cluster.changed
            cluster.phase = PHASE_DISPATCH
        if cluster.phase == PHASE_DISPATCH:
            outcome = _dispatch(state, choose, start)
            if outcome != DONE:
                return outcome
            cluster.phase = PHASE_START
        if cluster.phase == PHASE_START:
            _end_runs(state)
            outcome = _start_batches(state)
            if outcome != DONE:
                return outcome
            # Where a long has begun its members are another class of replicas: the policy is asked again.
            cluster.dispatches += cluster.changed
            cluster.phase = PHASE_NEXT if cluster.changed == 0 else PHASE_DISPATCH
