"""The cluster's clock: events in order of (time, phase, index), decisions of a policy, and the loop around them.

One point in time has four phases: iterations end, requests arrive, decisions are taken, batches start. So a policy
sees every completion and arrival of that time, and a request placed at a boundary joins the batch that starts there.
"""

from __future__ import annotations

from collections.abc import Callable

from pecgym.engine.arrivals import arrive, has_room, next_arrival_ps
from pecgym.engine.batch import compose, end_run
from pecgym.engine.compiled import glue, rule
from pecgym.engine.iteration import cut_run
from pecgym.engine.queues import queue_pop
from pecgym.engine.residents import enqueue, note_load, order_key
from pecgym.engine.state import (
    ASK,
    BAD_ACTION,
    DECISION,
    DONE,
    HORIZON_PS,
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
    PHASE_START,
    RUNNING,
    TOO_LATE,
    WAIT,
    State,
)
from pecgym.engine.tournament import update_key


@rule
def _mark_ready(state: State, r: int) -> None:
    """Replica r will compose a batch at the end of this point in time."""
    replica = state.replicas[r]
    if replica.in_ready == 0:
        cluster = state.cluster[0]
        replica.in_ready = 1
        state.ready[cluster.n_ready] = r
        cluster.n_ready += 1


@rule
def place(state: State, r: int) -> None:
    """The head of the global queue goes to replica r: an idle one starts it now, a busy one at its next boundary.

    Behind others in first-come order a newcomer changes nothing before a boundary that is an event anyway.
    """
    cluster = state.cluster[0]
    settings = state.settings[0]
    replica = state.replicas[r]
    slot = cluster.queue
    request = state.requests[slot]
    cluster.queue = queue_pop(state.requests, slot)
    cluster.n_queued -= 1
    request.replica = r
    request.placed_ps = cluster.now_ps
    replica.n_requests += 1
    replica.queued_tokens += request.prompt_tokens
    enqueue(state, r, slot, order_key(settings.queue_order, request, 0), request.sequence)
    note_load(state, r)
    if replica.status != RUNNING:
        _mark_ready(state, r)
    elif replica.n_waiting == 1 or settings.queue_order != ORDER_FCFS:
        cut_run(state, r)


@glue
def _end_runs(state: State) -> None:
    """Ends every run of iterations that is due now; those replicas will compose their next batch."""
    now_ps = state.cluster[0].now_ps
    while state.event_ps[state.event_tree[1]] == now_ps:
        r = state.event_tree[1]
        end_run(state, r)
        update_key(state.event_ps, state.event_tree, r, NEVER_PS)
        _mark_ready(state, r)


@glue
def _start_batches(state: State) -> None:
    cluster = state.cluster[0]
    for i in range(cluster.n_ready):
        r = state.ready[i]
        state.replicas[r].in_ready = 0
        compose(state, r)
    cluster.n_ready = 0


@rule
def _dispatch(state: State, choose: Callable[[State, int], int]) -> int:
    """Asks the policy about the head of the global queue until the queue is empty or the policy waits."""
    cluster = state.cluster[0]
    while cluster.changed == 1 and cluster.queue != NONE:
        action = cluster.action
        cluster.action = ASK
        if action == ASK:
            action = choose(state, cluster.queue)
        if action == ASK:
            return DECISION
        if action == WAIT:
            break
        if action < 0 or action >= len(state.replicas):
            return BAD_ACTION
        place(state, action)
    cluster.changed = 0
    return DONE


def run(state: State, choose: Callable[[State, int], int], until_ps: int, max_points: int) -> int:
    """Runs until nothing is left to happen, an outside decision is due, the next event is after `until_ps` (which then
    is the time), memory or trace rows are needed, or `max_points` points in time have passed; returns which (state.py).
    It can be called again at once after any of them.
    """
    cluster = state.cluster[0]
    while True:
        if cluster.phase == PHASE_NEXT:
            if max_points == 0:
                return PAUSED
            max_points -= 1
            event_ps = state.event_ps[state.event_tree[1]]
            arrival_ps = next_arrival_ps(state)
            if arrival_ps == NEVER_PS and cluster.more_rows == 1:
                return NEED_ROWS
            next_ps = min(event_ps, arrival_ps)
            if next_ps == NEVER_PS:
                return DONE
            if next_ps > HORIZON_PS:
                return TOO_LATE
            if next_ps > until_ps:
                cluster.now_ps = max(cluster.now_ps, until_ps)
                return PAUSED
            cluster.now_ps = next_ps
            cluster.phase = PHASE_END
        if cluster.phase == PHASE_END:
            _end_runs(state)
            cluster.phase = PHASE_ARRIVE
        if cluster.phase == PHASE_ARRIVE:
            while next_arrival_ps(state) == cluster.now_ps:
                if cluster.closed_loop == 0 and not has_room(state):
                    return NEED_SPACE
                arrive(state)
            if next_arrival_ps(state) == NEVER_PS and cluster.more_rows == 1:
                return NEED_ROWS
            cluster.phase = PHASE_DISPATCH
        if cluster.phase == PHASE_DISPATCH:
            outcome = _dispatch(state, choose)
            if outcome != DONE:
                return outcome
            cluster.phase = PHASE_START
        if cluster.phase == PHASE_START:
            _end_runs(state)
            _start_batches(state)
            cluster.phase = PHASE_NEXT
