"""Rows of the workload become requests: by the trace's clock, or by users who ask again once answered."""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.integrals import note_short_arrives
from pecgym.engine.ordering import order_key
from pecgym.engine.queues import queue_pop, queue_push
from pecgym.engine.state import NEVER_PS, NONE, State


@rule
def next_arrival_ps(state: State) -> int:
    """When the next request arrives; NEVER_PS if none is known."""
    cluster = state.cluster[0]
    if cluster.closed_loop == 1:
        return NEVER_PS if cluster.thinking == NONE else state.requests[cluster.thinking].arrival_ps
    return NEVER_PS if cluster.next_row >= cluster.n_rows else state.trace[cluster.next_row].arrival_ps


@rule
def has_room(state: State) -> bool:
    """Whether one more request may enter: a free slot, and a log row for everyone who is in."""
    cluster = state.cluster[0]
    return cluster.n_free > 0 and len(state.log) - cluster.n_logged > cluster.n_live


@rule
def take_row(state: State, arrival_ps: int) -> int:
    """Makes a request of the workload's next row; returns its slot."""
    cluster = state.cluster[0]
    row = state.trace[cluster.next_row]
    cluster.n_free -= 1
    cluster.n_live += 1
    slot = state.free_slots[cluster.n_free]
    request = state.requests[slot]
    request.row = cluster.row_offset + cluster.next_row
    request.arrival_ps = arrival_ps
    request.input_tokens = row.input_tokens
    request.output_tokens = row.output_tokens
    request.rank_tokens = row.rank_tokens
    request.tail_tokens = row.tail_tokens
    request.prediction_ps = row.prediction_ps
    request.waits_from_step = NONE
    request.promoted_steps = 0
    request.is_long = row.is_long
    request.placed_ps = NONE
    request.start_ps = NONE
    request.first_token_ps = NONE
    request.replica = NONE
    request.decode_replica = NONE
    request.pushed_ps = NONE
    request.sp_degree = 1
    request.preemptions = 0
    request.preempts = 0
    request.prompt_tokens = row.input_tokens
    request.computed_tokens = 0
    request.emitted_tokens = 0
    request.chunk_tokens = 0
    request.decoding = 0
    request.swapped = 0
    request.reserved_tokens = 0
    request.evictions = 0
    request.recomputed_tokens = 0
    cluster.next_row += 1
    return slot


@separate_rule
def next_user_request(state: State) -> None:
    """Closed loop: the user who was just answered thinks, then sends the workload's next row, if any is left."""
    cluster = state.cluster[0]
    if cluster.next_row < cluster.n_rows:
        slot = take_row(state, cluster.now_ps + cluster.think_ps)
        request = state.requests[slot]
        cluster.thinking = queue_push(state.requests, cluster.thinking, slot, request.arrival_ps, request.row)


@rule
def next_prediction_ps(state: State) -> int:
    """When the length of a request that has arrived is known next; NEVER_PS if none is being predicted."""
    first = state.cluster[0].predicting
    return NEVER_PS if first == NONE else state.requests[first].key


@rule
def arrive(state: State) -> None:
    """The next request arrives, and joins a global queue at once, or when its length has been predicted."""
    cluster = state.cluster[0]
    if cluster.closed_loop == 1:
        slot = cluster.thinking
        cluster.thinking = queue_pop(state.requests, slot)
    else:
        slot = take_row(state, state.trace[cluster.next_row].arrival_ps)
    cluster.sequence += 1
    request = state.requests[slot]
    request.sequence = cluster.sequence
    if request.is_long == 1:
        cluster.n_open_longs += 1
    else:
        note_short_arrives(state, slot)
    if request.prediction_ps > 0:
        due_ps = cluster.now_ps + request.prediction_ps
        cluster.predicting = queue_push(state.requests, cluster.predicting, slot, due_ps, request.sequence)
    else:
        _join_global_queue(state, slot)


@rule
def end_prediction(state: State) -> None:
    """The length of the request that comes next is known."""
    cluster = state.cluster[0]
    slot = cluster.predicting
    cluster.predicting = queue_pop(state.requests, slot)
    _join_global_queue(state, slot)


@rule
def _join_global_queue(state: State, slot: int) -> None:
    """A request waits in the global queue of its class, in the policy's order."""
    cluster = state.cluster[0]
    settings = state.settings[0]
    request = state.requests[slot]
    cluster.changed = 1
    if request.is_long == 1:
        key = order_key(state, settings.long_order, slot, 0)
        cluster.longs = queue_push(state.requests, cluster.longs, slot, key, request.sequence)
        cluster.n_longs += 1
        cluster.longs_version += 1
    else:
        key = order_key(state, settings.global_order, slot, 0)
        cluster.queue = queue_push(state.requests, cluster.queue, slot, key, request.sequence)
        cluster.n_queued += 1


@separate_rule
def first_user_requests(state: State, starts_ps: Any) -> None:
    """Closed loop: user u sends the workload's row u at starts_ps[u]. starts_ps: int64[users]."""
    cluster = state.cluster[0]
    for u in range(len(starts_ps)):
        slot = take_row(state, starts_ps[u])
        request = state.requests[slot]
        cluster.thinking = queue_push(state.requests, cluster.thinking, slot, request.arrival_ps, request.row)
