"""What a replica runs next, and what happens when it has run: INFERMAX's unified scheduling, and static batches."""

from __future__ import annotations

from pecgym.engine.activity import note_work
from pecgym.engine.arrivals import next_user_request
from pecgym.engine.batch_decisions import admit_chosen, asks_who_joins, chosen_victim
from pecgym.engine.batch_waiting import begin_or_hold_back
from pecgym.engine.compiled import glue, rule, separate_rule
from pecgym.engine.integrals import note_short_answered
from pecgym.engine.iteration import advance_decodes, held_token_s, iteration_start_ps, run_ps, start_run
from pecgym.engine.links import push
from pecgym.engine.memory import (
    blocks_of,
    blocks_to_admit,
    fits,
    growth_blocks,
    held_tokens,
    is_seen,
    prompt_share,
    resident,
    share_on_joining,
    steps_since_join,
)
from pecgym.engine.ordering import changes_with_time, order_key
from pecgym.engine.planned_batches import ask_for_plan, decode_by_plan
from pecgym.engine.queues import queue_push, queue_unlink
from pecgym.engine.residents import (
    admit,
    dequeue,
    evict,
    join_decodes,
    leave,
    leave_decodes,
    note_load,
    reorder_queue,
    reserve,
    resume,
)
from pecgym.engine.roles import change_role_if_empty, no_longer_expected
from pecgym.engine.state import (
    ASK,
    ASK_MEMBERS,
    ASK_WHOLE,
    BAD_ACTION,
    DECISION,
    DECODE_FIRST,
    DONE,
    FIRST_GROUP,
    GATHERING,
    IDLE,
    NEVER_PS,
    NONE,
    NOT_COMPOSING,
    ORDER_BINS,
    ORDER_LTR,
    RESERVE_HISTORY,
    RESERVE_PEAK,
    SECOND_GROUP,
    SLICE_DECODE,
    SLICE_MIXED,
    SLICE_PREFILL,
    STATIC,
    VICTIM_FEWEST_COMPUTED,
    VICTIM_NEWEST,
    State,
)
from pecgym.engine.tournament import update_key


@glue
def compose(state: State, r: int) -> int:
    """At an iteration boundary of replica r: decides the next iteration and starts it, or leaves the replica idle.

    Returns DONE, or why it stops on the way: DECISION or BAD_ACTION. Then it is called again, and goes on.
    """
    outcome = DONE
    replica = state.replicas[r]
    if replica.n_requests == 0:
        _rest(state, r, IDLE, NEVER_PS)
    elif state.settings[0].batching == STATIC:
        _compose_static(state, r)
    else:
        outcome = _compose_continuous(state, r)
    return outcome


@rule
def _rest(state: State, r: int, status: int, until_ps: int) -> None:
    state.replicas[r].status = status
    update_key(state.event_ps, state.event_tree, r, until_ps)


@separate_rule
def _compose_continuous(state: State, r: int) -> int:
    """Starts the batch that the rules choose; none if those who wait do not fit beside a long."""
    replica = state.replicas[r]
    swapped_before = replica.swapped_tokens
    outcome, steady = choose_batch(state, r, 0)
    if outcome != DONE:
        return outcome
    if replica.with_prefills == 0 and replica.with_decodes == 0:
        _rest(state, r, IDLE, NEVER_PS)
    else:
        start_run(state, r, replica.swapped_tokens - swapped_before, steady)
    return DONE


@separate_rule
def choose_batch(state: State, r: int, colocated: int) -> tuple[int, bool]:
    """Displace, resume, then decodes and prefills in the order of groups; without mixing the first group runs alone.

    colocated: 1 beside the decode of a long, where all decodes and at most `colocation_tokens` prompt tokens run.
    Returns DONE and whether the batch is steady (start_run); or DECISION or BAD_ACTION: called again, it goes on where
    it was. Who gets what in it are `chunk_tokens`, `with_prefills` and `with_decodes`.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    if settings.ask_batches == ASK_WHOLE:
        return ask_for_plan(state, r), False
    mixing = settings.mixing == 1 or colocated == 1
    if replica.composing == NOT_COMPOSING:
        replica.composing = FIRST_GROUP
        replica.evictions_before = replica.evictions
        replica.with_decodes = 0
        replica.with_prefills = 0
        replica.holding_back = 0
        replica.left_tokens = 0
        replica.seen_ps = state.cluster[0].now_ps
        if colocated == 0:
            replica.seen_ps = _composed_ps(state, r)
        if replica.queue != NONE and changes_with_time(settings.queue_order):
            reorder_queue(state, r)
        if settings.preemptive == 1:
            _displace(state, r)
        while replica.queue != NONE and state.requests[replica.queue].swapped != 0 and fits(state, r, replica.queue, 1):
            resume(state, r)
    while replica.composing <= SECOND_GROUP:
        outcome = DONE
        if (replica.composing == FIRST_GROUP) == (settings.group_order == DECODE_FIRST):
            if mixing or replica.with_prefills == 0:
                outcome = _make_room_for_decodes(state, r)
        elif mixing or replica.with_decodes == 0:
            budget = settings.max_batch_tokens
            if mixing:
                budget -= replica.n_decodes
            outcome = _schedule_prefills(state, r, budget, colocated)
            if outcome == DONE and settings.batch_wait_iterations > 0:
                begin_or_hold_back(state, r, colocated)
        if outcome != DONE:
            return outcome, False
        replica.composing += 1
    replica.composing = NOT_COMPOSING
    steady = replica.evictions == replica.evictions_before
    if settings.preemptive == 1 and replica.queue != NONE and _fits_without_larger(state, r):
        steady = False  # the next boundary may displace somebody for it
    if replica.queue != NONE and not is_seen(state, replica.queue, replica.seen_ps):
        steady = False  # the next boundary knows of it
    if replica.queue != NONE and _order_may_matter(state, r):
        steady = False  # at the next boundary another may be the head
    if replica.holding_back == 1 and replica.queue != NONE:
        steady = False  # who is held back was the head; the next boundary looks at the one behind it
    if settings.ask_batches == ASK_MEMBERS and asks_who_joins(state, r):
        steady = False  # at the next boundary the answer may be another
    return DONE, steady


@rule
def _order_may_matter(state: State, r: int) -> bool:
    """Whether the order changes with time, and somebody could join the decodes of replica r, or steps are counted."""
    settings = state.settings[0]
    replica = state.replicas[r]
    has_slot = replica.n_decodes + replica.n_prefills < settings.slots
    return changes_with_time(settings.queue_order) and (has_slot or settings.queue_order == ORDER_LTR)


@rule
def _composed_ps(state: State, r: int) -> int:
    """When the batch that starts now was composed: with asynchronous scheduling as the iteration before it began,
    unless the replica stood idle or has nobody left."""
    replica = state.replicas[r]
    now_ps = state.cluster[0].now_ps
    ahead = state.settings[0].async_scheduling == 1 and replica.n_decodes + replica.n_prefills > 0
    if ahead and replica.last_ended_ps == now_ps:
        return replica.last_started_ps
    return now_ps


@rule
def _schedule_prefills(state: State, r: int, budget: int, colocated: int) -> int:
    """Gives prompt tokens, at most `budget`, to incomplete prompts and then to new requests; notes whether to any.

    Nobody overtakes the head of the queue: the first request that does not fit ends the admission, and so does one
    whose KV is in host memory; unless who joins is asked outside. Returns DONE, DECISION or BAD_ACTION.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    chunk_tokens = settings.chunk_tokens
    if colocated == 1:
        budget = min(budget, settings.colocation_tokens)
        chunk_tokens = budget
        if budget <= 0:
            return DONE
    left = budget
    for i in range(replica.n_prefills):
        request = state.requests[state.prefills[r, i]]
        request.chunk_tokens = prompt_share(
            chunk_tokens, request.prompt_tokens - request.computed_tokens, left, left == budget
        )
        left -= request.chunk_tokens
    if settings.ask_batches == ASK_MEMBERS:
        replica.with_prefills = left < budget
        return admit_chosen(state, r, left)
    while replica.queue != NONE and left > 0:
        share = share_on_joining(state, r, replica.queue, chunk_tokens, left, left == budget)
        if share == 0:
            break
        slot = dequeue(state, r)
        admit(state, r, slot)
        state.requests[slot].chunk_tokens = share
        left -= share
    replica.with_prefills = left < budget
    return DONE


@rule
def _make_room_for_decodes(state: State, r: int) -> int:
    """Evicts residents until every decode left can take one more token; prompts scheduled in this batch are safe.

    Returns DONE, DECISION or BAD_ACTION.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    while replica.used_blocks + growth_blocks(state, r, 1) > settings.capacity_blocks:
        i = _victim(state, r)
        if settings.ask_batches == ASK_MEMBERS:
            i = chosen_victim(state, r, i)
            if i == ASK:
                return DECISION
            if i == NONE:
                return BAD_ACTION
        evict(state, r, i)
    replica.with_decodes = replica.n_decodes > 0
    return DONE


@separate_rule
def _victim(state: State, r: int) -> int:
    """The resident, as its index, that the rule evicts: newest admitted (NRF), fewest (SRF) or most computed tokens;
    ties: the newest."""
    replica = state.replicas[r]
    rule_kind = state.settings[0].victim
    best = NONE
    best_rank = 0
    best_admission = 0
    for i in range(replica.n_decodes + replica.n_prefills):
        request = state.requests[resident(state, r, i)]
        if request.chunk_tokens > 0:
            continue
        computed = request.computed_tokens + steps_since_join(replica, request)
        if rule_kind == VICTIM_NEWEST:
            rank = 0
        elif rule_kind == VICTIM_FEWEST_COMPUTED:
            rank = -computed
        else:
            rank = computed
        if best == NONE or rank > best_rank or (rank == best_rank and request.admission > best_admission):
            best = i
            best_rank = rank
            best_admission = request.admission
    return best


@rule
def _stays(state: State, r: int, slot: int, key: int) -> bool:
    """Whether a resident of replica r keeps its place against somebody with this key: its own is not larger, or it has
    emitted more than `displace_share` of its length (TRAIL, arXiv:2410.01035).

    Where who starves is promoted, a prompt that was begun is finished: else two that start anew each time could
    displace each other for ever.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    request = state.requests[slot]
    if settings.queue_order == ORDER_LTR and request.decoding == 0:
        return True
    emitted_since = steps_since_join(replica, request)
    if order_key(state, settings.queue_order, slot, emitted_since) <= key:
        return True
    emitted = request.emitted_tokens + emitted_since
    return settings.displace_permille != NONE and 1000 * emitted > settings.displace_permille * request.rank_tokens


@separate_rule
def _fits_without_larger(state: State, r: int) -> bool:
    """Whether the head of the queue would fit if every resident that it may displace were gone; else none should go."""
    settings = state.settings[0]
    replica = state.replicas[r]
    head = state.requests[replica.queue]
    kept = 0
    used = replica.held_blocks
    reserved = replica.held_blocks
    either = replica.held_blocks
    for i in range(replica.n_decodes + replica.n_prefills):
        slot = resident(state, r, i)
        if not _stays(state, r, slot, head.key):
            continue
        request = state.requests[slot]
        held = held_tokens(replica, request, 1)
        kept += 1
        used += blocks_of(settings, held)
        reserved += blocks_of(settings, request.reserved_tokens)
        either += blocks_of(settings, max(held, request.reserved_tokens))
    if kept == 0 and replica.held_blocks == 0:
        return True
    if settings.reservation == RESERVE_PEAK:
        used = max(used, reserved)
    elif settings.reservation == RESERVE_HISTORY:
        used = either
    need = blocks_to_admit(state, r, head)
    return kept < settings.slots and used + need + settings.watermark_blocks <= settings.capacity_blocks


@separate_rule
def _displace(state: State, r: int) -> None:
    """Preemption by order: makes room for the head of the queue by evicting residents with larger keys, largest first.

    If that would not make enough room, nobody is evicted.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    if replica.queue == NONE or not _fits_without_larger(state, r):
        return
    while not fits(state, r, replica.queue, 1):
        worst = NONE
        head_key = state.requests[replica.queue].key
        worst_key = head_key
        worst_admission = 0
        for i in range(replica.n_decodes + replica.n_prefills):
            slot = resident(state, r, i)
            if _stays(state, r, slot, head_key):
                continue
            request = state.requests[slot]
            emitted_since = steps_since_join(replica, request)
            key = order_key(state, settings.queue_order, slot, emitted_since)
            if key > worst_key or (worst != NONE and key == worst_key and request.admission > worst_admission):
                worst = i
                worst_key = key
                worst_admission = request.admission
        evict(state, r, worst)


@separate_rule
def _compose_static(state: State, r: int) -> None:
    """Static batches: nobody joins a batch that runs; a new one starts when full (with bins: one of them) or after the
    timeout."""
    settings = state.settings[0]
    replica = state.replicas[r]
    now_ps = state.cluster[0].now_ps
    if replica.n_decodes == 0:
        if changes_with_time(settings.queue_order):
            reorder_queue(state, r)
        head = state.requests[replica.queue]
        if replica.gathering_until_ps == NEVER_PS:
            replica.gathering_until_ps = max(now_ps, _oldest_placed_ps(state, r) + settings.static_timeout_ps)
        is_full = replica.n_waiting >= settings.static_size
        if settings.queue_order == ORDER_BINS:
            is_full = head.key < 0
        if not is_full and now_ps < replica.gathering_until_ps:
            _rest(state, r, GATHERING, replica.gathering_until_ps)
            return
        replica.gathering_until_ps = NEVER_PS
        _form_static_batch(state, r)
    replica.with_decodes = replica.n_decodes > 0
    start_run(state, r, 0, True)


@rule
def _oldest_placed_ps(state: State, r: int) -> int:
    """When the first of those who wait at replica r was placed."""
    requests = state.requests
    replica = state.replicas[r]
    oldest_ps = NEVER_PS
    listed = queue_unlink(requests, replica.queue)
    replica.queue = NONE
    while listed != NONE:
        slot = listed
        listed = requests[slot].sibling
        oldest_ps = min(oldest_ps, requests[slot].placed_ps)
        replica.queue = queue_push(requests, replica.queue, slot, requests[slot].key, requests[slot].sequence)
    return oldest_ps


@separate_rule
def _form_static_batch(state: State, r: int) -> None:
    """Takes waiting requests in order, of one bin if there are bins, while the batch, padded to its longest output,
    fits memory and token budget."""
    settings = state.settings[0]
    replica = state.replicas[r]
    longest = 0
    prompts = 0
    inputs = 0
    first_key = state.requests[replica.queue].key
    while replica.queue != NONE and replica.n_prefills < settings.static_size:
        head = state.requests[replica.queue]
        if settings.queue_order == ORDER_BINS and head.key != first_key:
            break
        longest_then = max(longest, head.output_tokens)
        blocks = blocks_of(settings, head.input_tokens + longest_then - 1)
        for i in range(replica.n_prefills):
            member = state.requests[state.prefills[r, i]]
            blocks += blocks_of(settings, member.input_tokens + longest_then - 1)
        too_many = inputs + head.input_tokens > settings.max_batch_tokens
        if prompts > 0 and (blocks > settings.capacity_blocks or too_many):
            break
        longest = longest_then
        inputs += head.input_tokens
        prompts += 1
        admit(state, r, dequeue(state, r))
        head.chunk_tokens = head.input_tokens
    for i in range(replica.n_prefills):
        member = state.requests[state.prefills[r, i]]
        member.leave_tokens = longest
        replica.reserved_blocks -= blocks_of(settings, member.reserved_tokens)
        reserve(state, r, state.prefills[r, i], member.input_tokens + longest - 1)


@separate_rule
def end_run(state: State, r: int) -> None:
    """The run of iterations of replica r ends now."""
    replica = state.replicas[r]
    if replica.status == GATHERING:
        return
    replica.status = IDLE
    steps = replica.n_iterations
    replica.last_started_ps = iteration_start_ps(replica, steps)
    replica.last_ended_ps = state.cluster[0].now_ps
    kind = SLICE_PREFILL
    if replica.with_decodes == 1:
        kind = SLICE_MIXED if replica.with_prefills == 1 else SLICE_DECODE
    note_slice(state, r, kind, replica.started_ps, state.cluster[0].now_ps, NONE)
    note_work(replica, run_ps(replica, steps), replica.with_prefills)
    replica.iterations += steps
    state.kv_token_s[r] += held_token_s(state, r, steps)
    replica.held_back += steps * replica.holding_back
    end_batch(state, r, steps)


@rule
def note_slice(state: State, r: int, kind: int, start_ps: int, end_ps: int, row: int) -> None:
    """Keeps what replica r did in a part of its time, if the timeline is kept."""
    if state.settings[0].record == 1:
        cluster = state.cluster[0]
        entry = state.slices[cluster.n_slices]
        entry.replica = r
        entry.kind = kind
        entry.start_ps = start_ps
        entry.end_ps = end_ps
        entry.row = row
        cluster.n_slices += 1


@separate_rule
def end_batch(state: State, r: int, steps: int) -> None:
    """The batch of replica r has done `steps` iterations: decodes advance and leave, prompts advance and emit one."""
    replica = state.replicas[r]
    if replica.with_decodes == 1:
        advance_decodes(state, r, steps)
        while replica.n_decodes > 0 and state.decodes[r, 0].step == replica.decode_steps:
            _finish(state, r, leave_decodes(state, r, 0))
    _end_prefills(state, r)


@rule
def _end_prefills(state: State, r: int) -> None:
    """Prompts of the iteration that ended: each advances by its chunk; a complete one emits a token and decodes on."""
    replica = state.replicas[r]
    cluster = state.cluster[0]
    kept = 0
    members = replica.n_prefills
    for i in range(members):
        slot = state.prefills[r, i]
        request = state.requests[slot]
        chunk = request.chunk_tokens
        if chunk > 0:
            request.chunk_tokens = 0
            request.computed_tokens += chunk
            request.promoted_steps = max(request.promoted_steps - 1, 0)
            if request.decoding == 0:
                replica.queued_tokens -= chunk
            note_load(state, r)
            cluster.changed = 1
        if request.computed_tokens < request.prompt_tokens:
            state.prefills[r, kept] = slot
            kept += 1
            continue
        request.emitted_tokens += 1
        if request.first_token_ps == NONE:
            request.first_token_ps = cluster.now_ps
            note_short_answered(state, slot)
        if request.emitted_tokens == request.leave_tokens:
            replica.used_blocks -= blocks_of(state.settings[0], request.prompt_tokens)
            _finish(state, r, slot)
        elif state.settings[0].ask_batches == ASK_WHOLE:
            decode_by_plan(state, r, slot)
            state.prefills[r, kept] = slot
            kept += 1
        elif request.decode_replica == NONE or request.decode_replica == r:
            join_decodes(state, r, slot)
        else:
            push(state, r, slot)
    replica.n_prefills = kept


@separate_rule
def _finish(state: State, r: int, slot: int) -> None:
    """A short leaves the replica; in a closed loop its user begins to think about the next one."""
    elsewhere = state.requests[slot].decode_replica
    leave(state, r, slot)
    if elsewhere != NONE and elsewhere != r:
        no_longer_expected(state, slot)
    change_role_if_empty(state, r)
    if state.cluster[0].closed_loop == 1:
        next_user_request(state)
