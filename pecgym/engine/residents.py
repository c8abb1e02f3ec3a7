"""Who is resident on a replica: requests join, leave, wait and are evicted here, and every count is kept in step.

Decodes are a binary heap on the decode step at which they leave, so the next to finish is at its top.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.integrals import note_short_starts
from pecgym.engine.memory import (
    blocks_of,
    blocks_to_admit,
    history_bucket,
    steps_since_join,
    tokens_to_reserve,
    tokens_to_set_aside_again,
)
from pecgym.engine.ordering import depends_on_others, order_key, reorder
from pecgym.engine.queues import queue_pop, queue_push
from pecgym.engine.state import (
    EVICT_SWAP,
    LOAD_NONE,
    LOAD_QUEUED_TOKENS,
    NONE,
    ORDER_FCFS,
    SWAPPED,
    State,
)
from pecgym.engine.tournament import update_key


@rule
def note_load(state: State, r: int) -> None:
    """Keeps the load that the policy routes by: requests, or queued prompt tokens with ties by requests."""
    kind = state.settings[0].load
    if kind == LOAD_NONE:
        return
    replica = state.replicas[r]
    load = replica.n_requests + replica.incoming
    if kind == LOAD_QUEUED_TOKENS:
        load += replica.queued_tokens << 24
    c = replica.place_class
    update_key(state.loads[c], state.load_trees[c], r, load)


@rule
def enqueue(state: State, r: int, slot: int, key: int, sequence: int) -> None:
    """Puts a request into the waiting queue of replica r."""
    replica = state.replicas[r]
    request = state.requests[slot]
    request.waits_from_step = NONE
    request.waiting_blocks = blocks_to_admit(state, r, request)
    replica.waiting_blocks += request.waiting_blocks
    replica.n_waiting += 1
    replica.queue = queue_push(state.requests, replica.queue, slot, key, sequence)


@rule
def enqueue_in_order(state: State, r: int, slot: int) -> None:
    """Puts a request at its place in the order of the waiting queue of replica r."""
    order = state.settings[0].queue_order
    key = order_key(state, order, slot, 0)
    enqueue(state, r, slot, key, state.requests[slot].sequence)
    if depends_on_others(order):
        reorder_queue(state, r)


@rule
def reorder_queue(state: State, r: int) -> None:
    """The waiting queue of replica r in its order of this moment."""
    settings = state.settings[0]
    replica = state.replicas[r]
    replica.queue = reorder(
        state, replica.queue, settings.queue_order, replica.n_waiting, replica.iterations, settings.slots
    )


@rule
def dequeue(state: State, r: int) -> int:
    """Takes the first request out of the waiting queue of replica r."""
    slot = state.replicas[r].queue
    leave_queue(state, r, slot, queue_pop(state.requests, slot))
    return slot


@rule
def leave_queue(state: State, r: int, slot: int, rest: int) -> None:
    """A request was taken out of the waiting queue of replica r, whose root is now `rest`."""
    replica = state.replicas[r]
    replica.queue = rest
    replica.n_waiting -= 1
    replica.waiting_blocks -= state.requests[slot].waiting_blocks


@rule
def _decode_before(a: Any, b: Any) -> bool:
    return a.step < b.step or (a.step == b.step and a.slot < b.slot)


@rule
def _swap_decodes(heap: Any, i: int, j: int) -> None:
    step, slot = heap[i].step, heap[i].slot
    heap[i].step, heap[i].slot = heap[j].step, heap[j].slot
    heap[j].step, heap[j].slot = step, slot


@rule
def _sift_up(heap: Any, i: int) -> None:
    while i > 0:
        parent = (i - 1) >> 1
        if not _decode_before(heap[i], heap[parent]):
            return
        _swap_decodes(heap, i, parent)
        i = parent


@rule
def _sift_down(heap: Any, i: int, n: int) -> None:
    while True:
        child = 2 * i + 1
        if child >= n:
            return
        if child + 1 < n and _decode_before(heap[child + 1], heap[child]):
            child += 1
        if not _decode_before(heap[child], heap[i]):
            return
        _swap_decodes(heap, i, child)
        i = child


@rule
def join_decodes(state: State, r: int, slot: int) -> None:
    """A request whose prompt is computed joins the decodes of replica r, holding blocks for its computed tokens."""
    replica = state.replicas[r]
    request = state.requests[slot]
    request.decoding = 1
    request.join_step = replica.decode_steps
    heap = state.decodes[r]
    i = replica.n_decodes
    heap[i].step = replica.decode_steps + request.leave_tokens - request.emitted_tokens
    heap[i].slot = slot
    _sift_up(heap, i)
    replica.n_decodes += 1
    replica.kv_tokens += request.computed_tokens
    state.phases[r, (request.computed_tokens - replica.decode_steps) % state.settings[0].block_tokens] += 1


@rule
def leave_decodes(state: State, r: int, i: int) -> int:
    """Takes entry i of the heap of decodes out, makes its counters current and frees its blocks; returns its slot."""
    replica = state.replicas[r]
    heap = state.decodes[r]
    slot = heap[i].slot
    request = state.requests[slot]
    decoded = steps_since_join(replica, request)
    request.emitted_tokens += decoded
    request.computed_tokens += decoded
    request.promoted_steps = max(request.promoted_steps - decoded, 0)
    computed = request.computed_tokens
    request.join_step = replica.decode_steps
    last = replica.n_decodes - 1
    replica.n_decodes = last
    if i < last:
        _swap_decodes(heap, i, last)
        _sift_down(heap, i, last)
        _sift_up(heap, i)
    replica.kv_tokens -= computed
    replica.used_blocks -= blocks_of(state.settings[0], computed)
    state.phases[r, (computed - replica.decode_steps) % state.settings[0].block_tokens] -= 1
    return slot


@rule
def join_prefills(state: State, r: int, slot: int) -> None:
    """A request joins the incomplete prompts of replica r, holding blocks for its whole prompt."""
    replica = state.replicas[r]
    state.prefills[r, replica.n_prefills] = slot
    replica.n_prefills += 1
    replica.used_blocks += blocks_of(state.settings[0], state.requests[slot].prompt_tokens)


@rule
def leave_prefills(state: State, r: int, i: int) -> int:
    """Takes entry i out of the incomplete prompts and frees its blocks; returns its slot. The others stay in order."""
    replica = state.replicas[r]
    slot = state.prefills[r, i]
    replica.n_prefills -= 1
    for j in range(i, replica.n_prefills):
        state.prefills[r, j] = state.prefills[r, j + 1]
    replica.used_blocks -= blocks_of(state.settings[0], state.requests[slot].prompt_tokens)
    return slot


@rule
def reserve(state: State, r: int, slot: int, tokens: int) -> None:
    """Sets KV memory aside for a request that becomes resident."""
    replica = state.replicas[r]
    request = state.requests[slot]
    request.reserved_tokens = tokens
    replica.reserved_blocks += blocks_of(state.settings[0], tokens)
    replica.admissions += 1
    request.admission = replica.admissions


@rule
def admit(state: State, r: int, slot: int) -> None:
    """A request that waited at replica r becomes resident."""
    request = state.requests[slot]
    reserve(state, r, slot, tokens_to_reserve(state, r, request))
    request.leave_tokens = request.output_tokens
    join_prefills(state, r, slot)
    if state.settings[0].batch_wait_iterations == 0:
        begin(state, slot)


@rule
def begin(state: State, slot: int) -> None:
    """A short gets prompt tokens, or, as a rule, will in the iteration that is composed: it waits no longer."""
    request = state.requests[slot]
    if request.start_ps == NONE:
        request.start_ps = state.cluster[0].now_ps
        note_short_starts(state, slot)


@separate_rule
def resume(state: State, r: int) -> None:
    """The first waiting request of replica r, whose KV waits in host memory, becomes resident.

    What was swapped out is read back; what was pushed from another replica came on its way.
    """
    slot = dequeue(state, r)
    request = state.requests[slot]
    replica = state.replicas[r]
    if request.swapped == SWAPPED:
        replica.swapped_tokens += request.computed_tokens
    tokens = tokens_to_set_aside_again(state, r, request)
    request.swapped = 0
    reserve(state, r, slot, tokens)
    if request.decoding == 1:
        replica.used_blocks += blocks_of(state.settings[0], request.computed_tokens)
        join_decodes(state, r, slot)
    else:
        join_prefills(state, r, slot)


@separate_rule
def evict(state: State, r: int, i: int) -> None:
    """Evicts resident i of replica r.

    Recompute: its KV is lost and its output joins its prompt. Swap: its KV waits in host memory. Either way it goes
    to the front of the queue, or to its place in an order by length. Source: INFERMAX, "Unified scheduling".
    """
    settings = state.settings[0]
    cluster = state.cluster[0]
    replica = state.replicas[r]
    is_decode = i < replica.n_decodes
    slot = leave_decodes(state, r, i) if is_decode else leave_prefills(state, r, i - replica.n_decodes)
    request = state.requests[slot]
    replica.reserved_blocks -= blocks_of(settings, request.reserved_tokens)
    replica.evictions += 1
    request.evictions += 1
    if settings.eviction == EVICT_SWAP:
        request.swapped = SWAPPED
        replica.swapped_tokens += request.computed_tokens
    else:
        request.recomputed_tokens += request.computed_tokens
        if request.decoding != 0:
            request.prompt_tokens = request.input_tokens + request.emitted_tokens
            replica.queued_tokens += request.prompt_tokens
        else:
            replica.queued_tokens += request.computed_tokens
        request.computed_tokens = 0
        request.decoding = 0
        note_load(state, r)
    cluster.eviction_sequence += 1
    if settings.queue_order == ORDER_FCFS:
        enqueue(state, r, slot, -1, -cluster.eviction_sequence)
    else:
        enqueue_in_order(state, r, slot)
    request.waits_from_step = replica.iterations  # it does not run in the batch that is being composed


@rule
def leave(state: State, r: int, slot: int) -> None:
    """A short is done and leaves the batch of replica r."""
    replica = state.replicas[r]
    request = state.requests[slot]
    past = state.history[r, history_bucket(request.input_tokens)]
    past[0] += 1
    past[1] += request.input_tokens + request.output_tokens - 1
    replica.reserved_blocks -= blocks_of(state.settings[0], request.reserved_tokens)
    replica.n_requests -= 1
    note_load(state, r)
    log_finished(state, slot)


@separate_rule
def log_finished(state: State, slot: int) -> None:
    """A request is done: one row goes to the log, and its slot is free."""
    cluster = state.cluster[0]
    request = state.requests[slot]
    row = state.log[cluster.n_logged]
    row.row = request.row
    row.arrival_ps = request.arrival_ps
    row.placed_ps = request.placed_ps
    row.start_ps = request.start_ps
    row.first_token_ps = request.first_token_ps
    row.finish_ps = cluster.now_ps
    row.input_tokens = request.input_tokens
    row.output_tokens = request.output_tokens
    row.replica = request.replica
    row.evictions = request.evictions
    row.recomputed_tokens = request.recomputed_tokens
    row.decode_replica = request.decode_replica
    row.pushed_ps = request.pushed_ps
    row.sp_degree = request.sp_degree
    row.preemptions = request.preemptions
    cluster.n_logged += 1
    cluster.n_live -= 1
    cluster.n_open_longs -= request.is_long
    cluster.changed = 1
    state.free_slots[cluster.n_free] = slot
    cluster.n_free += 1
