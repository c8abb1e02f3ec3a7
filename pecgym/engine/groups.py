"""The life of a long: a group of replicas gathers, computes its prompt (suspended by shorts, and going on where it
stopped), decodes in step with the key-value cache shared out, and parts.

While a group works for its long (status SERVING of every member) the lead carries the event of the whole group; while
it gathers or is suspended the members run batches of their own.
"""

from __future__ import annotations

from pecgym.engine.activity import note_work
from pecgym.engine.arrivals import next_user_request
from pecgym.engine.batch import choose_batch, end_batch, note_slice
from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.iteration import batch_ps, cut_run, run_ps
from pecgym.engine.memory import blocks_of, fits
from pecgym.engine.ordering import changes_with_time
from pecgym.engine.queues import queue_push, queue_take
from pecgym.engine.residents import log_finished
from pecgym.engine.roles import change_role_if_empty, classify
from pecgym.engine.service import prefill_work_ps
from pecgym.engine.state import (
    DECODE,
    DECODE_SUSPENDED,
    GROUP_GATHERING,
    HORIZON_PS,
    IDLE,
    NEVER_PS,
    NONE,
    OPEN,
    PREFILL,
    PREFILL_STALLED,
    PREFILL_SUSPENDED,
    RESERVED,
    RUNNING,
    SERVING,
    SLICE_COLOCATED,
    SLICE_LONG_DECODE,
    SLICE_LONG_PREFILL,
    State,
)
from pecgym.engine.tournament import update_key


@rule
def mark_ready(state: State, r: int) -> None:
    """Replica r will compose a batch at the end of this point in time."""
    replica = state.replicas[r]
    if replica.in_ready == 0:
        cluster = state.cluster[0]
        replica.in_ready = 1
        state.ready[cluster.n_ready] = r
        cluster.n_ready += 1


@rule
def mark_check(state: State, lead: int) -> None:
    """The group of `lead` may start or go on at the end of this point in time."""
    group = state.groups[lead]
    if group.in_check == 0:
        cluster = state.cluster[0]
        group.in_check = 1
        state.check[cluster.n_check] = lead
        cluster.n_check += 1


@rule
def share_blocks(state: State, slot: int, degree: int) -> int:
    """KV blocks of a long on every one of `degree` members: an equal share of its prompt and its output."""
    request = state.requests[slot]
    tokens = request.input_tokens + request.output_tokens - 1
    return blocks_of(state.settings[0], (tokens + degree - 1) // degree)


@rule
def _next_node(state: State, place_class: int, home: int) -> int:
    """The node with most replicas of a class that are in no group yet, `home` left out; NONE if there is none."""
    per_node = state.settings[0].replicas_per_node
    best = NONE
    best_count = 0
    for node in range((len(state.replicas) + per_node - 1) // per_node):
        count = 0
        for r in range(node * per_node, min((node + 1) * per_node, len(state.replicas))):
            if state.replicas[r].place_class == place_class and state.replicas[r].lead == NONE:
                count += 1
        if count > best_count and node != home:
            best = node
            best_count = count
    return best


@rule
def _next_on_node(state: State, place_class: int, node: int) -> int:
    """The least loaded replica of a class on a node that is in no group yet; NONE if there is none."""
    per_node = state.settings[0].replicas_per_node
    best = NONE
    for r in range(node * per_node, min((node + 1) * per_node, len(state.replicas))):
        replica = state.replicas[r]
        if replica.place_class != place_class or replica.lead != NONE:
            continue
        if best == NONE or state.loads[place_class, r] < state.loads[place_class, best]:
            best = r
    return best


@separate_rule
def start_long(state: State, anchor: int, degree: int, strategy: int, index: int) -> bool:
    """The waiting long `index`, in their order, joins the local queue of `degree` replicas, behind what is there; False
    if that cannot be.

    The group grows from the anchor over replicas of its class by load: its own node first, then the nodes that have
    most of them.
    """
    cluster = state.cluster[0]
    if anchor < 0 or anchor >= len(state.replicas) or degree < 1 or degree >= len(state.shape_index):
        return False
    place_class = state.replicas[anchor].place_class
    if strategy < 0 or strategy >= len(state.prefill_table_ps) or (place_class != OPEN and place_class != RESERVED):
        return False
    if index >= cluster.n_longs:
        return False
    slot, rest = queue_take(state.requests, cluster.longs, index)
    if not _form_group(state, slot, anchor, degree, strategy):
        cluster.longs = queue_push(state.requests, rest, slot, state.requests[slot].key, state.requests[slot].sequence)
        return False
    cluster.longs = rest
    cluster.n_longs -= 1
    cluster.longs_version += 1
    return True


@rule
def _form_group(state: State, slot: int, anchor: int, degree: int, strategy: int) -> bool:
    """A group of `degree` replicas gathers for the long `slot`; False if there are too few, or they cannot hold it."""
    cluster = state.cluster[0]
    settings = state.settings[0]
    place_class = state.replicas[anchor].place_class
    share = share_blocks(state, slot, degree)
    if degree > state.class_counts[place_class] or share > settings.capacity_blocks:
        return False
    home = anchor // settings.replicas_per_node
    node = home
    nodes = 1
    state.replicas[anchor].lead = anchor
    last = anchor
    for _ in range(degree - 1):
        r = _next_on_node(state, place_class, node)
        if r == NONE:
            node = _next_node(state, place_class, home)
            nodes += 1
            r = _next_on_node(state, place_class, node)
        state.replicas[r].lead = anchor
        state.replicas[last].next_member = r
        last = r
    shape = NONE
    if nodes < len(state.shape_index[0]):
        shape = state.shape_index[degree, nodes]
    if shape == NONE:
        r = anchor
        while r != NONE:
            following = state.replicas[r].next_member
            state.replicas[r].lead = NONE
            state.replicas[r].next_member = NONE
            r = following
        return False
    request = state.requests[slot]
    request.replica = anchor
    request.placed_ps = cluster.now_ps
    request.sp_degree = degree
    group = state.groups[anchor]
    group.slot = slot
    group.phase = GROUP_GATHERING
    group.degree = degree
    group.share_blocks = share
    group.work_ps = max(1, prefill_work_ps(state, strategy, shape, request.input_tokens))
    group.operator_ps = max(1, group.work_ps // (settings.layers * settings.operators_per_layer))
    group.done_ps = 0
    group.stop_ps = 0
    group.kv_ps = state.decode_kv_ps[degree]
    group.sync_ps = state.decode_sync_ps[shape]
    group.suspend_wanted = 0
    _classify_members(state, anchor)
    mark_check(state, anchor)
    return True


@rule
def _classify_members(state: State, lead: int) -> None:
    r = lead
    while r != NONE:
        classify(state, r)
        r = state.replicas[r].next_member


@separate_rule
def newcomer_beside_long(state: State, r: int, preempt: bool) -> None:
    """A short has come, or has got memory, on replica r, which works for a long: it may stop the long, if the first in
    the queue there could run beside it.

    A prefill stops when the running operator ends, and keeps what it has computed; a decode at its next boundary,
    where the short can also join it.
    """
    lead = state.replicas[r].lead
    group = state.groups[lead]
    cluster = state.cluster[0]
    runs_beside = preempt and fits(state, r, state.replicas[r].queue, 1)
    if group.phase == DECODE:
        if runs_beside:
            group.suspend_wanted = 1
        cut_run(state, lead, NONE)
    elif group.phase == PREFILL and runs_beside:
        done = group.done_ps + cluster.now_ps - state.replicas[lead].started_ps
        boundary = (done + group.operator_ps - 1) // group.operator_ps * group.operator_ps
        if boundary < group.work_ps:
            group.done_ps = boundary
            _stall(state, lead, cluster.now_ps + boundary - done)


@rule
def _stall(state: State, lead: int, stop_ps: int) -> None:
    """The long stops at `stop_ps`; then the kernels are switched."""
    group = state.groups[lead]
    group.phase += 1
    group.stop_ps = stop_ps
    group.suspend_wanted = 0
    state.requests[group.slot].preemptions += 1
    _classify_members(state, lead)
    end_ps = stop_ps + state.settings[0].switch_ps
    update_key(state.event_ps, state.event_tree, lead, min(end_ps, HORIZON_PS + 1))


@separate_rule
def end_group_event(state: State, lead: int) -> None:
    """What the group was doing ends now: a prefill, iterations of a decode, or the switch to shorts."""
    group = state.groups[lead]
    if group.phase == PREFILL:
        _end_prefill(state, lead)
    elif group.phase == DECODE:
        _end_steps(state, lead)
    else:
        _let_shorts_run(state, lead)


@rule
def _end_segment(state: State, lead: int, end_ps: int, kind: int) -> None:
    """The members have worked for the long until `end_ps`."""
    row = state.requests[state.groups[lead].slot].row
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        note_work(replica, end_ps - replica.started_ps, 1)
        if end_ps > replica.started_ps:
            note_slice(state, r, kind, replica.started_ps, end_ps, row)
        r = replica.next_member


@rule
def _let_shorts_run(state: State, lead: int) -> None:
    group = state.groups[lead]
    if group.phase == PREFILL_STALLED:
        _end_segment(state, lead, group.stop_ps, SLICE_LONG_PREFILL)
    group.phase += 1
    r = lead
    while r != NONE:
        state.replicas[r].status = IDLE
        mark_ready(state, r)
        r = state.replicas[r].next_member


@rule
def _end_prefill(state: State, lead: int) -> None:
    """The long has its first token; its decode begins with the batches of this point in time."""
    cluster = state.cluster[0]
    group = state.groups[lead]
    request = state.requests[group.slot]
    _end_segment(state, lead, cluster.now_ps, SLICE_LONG_PREFILL)
    request.first_token_ps = cluster.now_ps
    request.emitted_tokens = 1
    request.computed_tokens = request.input_tokens
    group.phase = DECODE
    cluster.changed = 1
    if request.output_tokens == 1:
        _finish_long(state, lead)
    else:
        _classify_members(state, lead)
        mark_check(state, lead)


@rule
def _end_steps(state: State, lead: int) -> None:
    group = state.groups[lead]
    request = state.requests[group.slot]
    now_ps = state.cluster[0].now_ps
    steps = state.replicas[lead].n_iterations
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        kind = SLICE_LONG_DECODE
        if replica.with_decodes == 1 or replica.with_prefills == 1:
            kind = SLICE_COLOCATED
        note_slice(state, r, kind, replica.started_ps, now_ps, request.row)
        note_work(replica, now_ps - replica.started_ps, replica.with_prefills)
        replica.iterations += steps
        end_batch(state, r, steps)
        r = replica.next_member
    request.emitted_tokens += steps
    request.computed_tokens += steps
    if request.emitted_tokens == request.output_tokens:
        _finish_long(state, lead)
    else:
        mark_check(state, lead)


@separate_rule
def _finish_long(state: State, lead: int) -> None:
    """The long is done: the members are free of it, and go on with the shorts that wait there."""
    group = state.groups[lead]
    log_finished(state, group.slot)
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        following = replica.next_member
        replica.held_blocks -= group.share_blocks
        replica.used_blocks -= group.share_blocks
        replica.status = IDLE
        replica.lead = NONE
        replica.next_member = NONE
        classify(state, r)
        change_role_if_empty(state, r)
        mark_ready(state, r)
        r = following
    if state.cluster[0].closed_loop == 1:
        next_user_request(state)


@rule
def _members_are_free(state: State, lead: int) -> bool:
    """Whether no member runs a batch, and, before the start, every one has memory for the long's share."""
    group = state.groups[lead]
    needed = 0
    if group.phase == GROUP_GATHERING:
        needed = group.share_blocks
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        if replica.status == RUNNING or replica.used_blocks + needed > state.settings[0].capacity_blocks:
            return False
        r = replica.next_member
    return True


@separate_rule
def go_on(state: State, lead: int) -> None:
    """At the end of a point in time: a group whose members are free starts or resumes its long."""
    group = state.groups[lead]
    group.in_check = 0
    if state.replicas[lead].lead != lead:
        return
    if group.phase == DECODE:
        if state.event_ps[lead] == NEVER_PS:
            _step_together(state, lead)
        return
    waits = group.phase == GROUP_GATHERING or group.phase == PREFILL_SUSPENDED or group.phase == DECODE_SUSPENDED
    if not waits or not _members_are_free(state, lead):
        return
    if group.phase == DECODE_SUSPENDED:
        group.phase = DECODE
        _step_together(state, lead)
        return
    if group.phase == GROUP_GATHERING:
        _take_shares(state, lead)
        state.cluster[0].changed = 1
    group.phase = PREFILL
    _classify_members(state, lead)
    now_ps = _serve(state, lead)
    end_ps = now_ps + group.work_ps - group.done_ps
    update_key(state.event_ps, state.event_tree, lead, min(end_ps, HORIZON_PS + 1))


@rule
def _take_shares(state: State, lead: int) -> None:
    """Every member holds its share of the long's KV cache from now on."""
    group = state.groups[lead]
    state.requests[group.slot].start_ps = state.cluster[0].now_ps
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        replica.held_blocks += group.share_blocks
        replica.used_blocks += group.share_blocks
        r = replica.next_member


@rule
def _serve(state: State, lead: int) -> int:
    """All members work for the long from now on; returns the time."""
    now_ps = state.cluster[0].now_ps
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        replica.status = SERVING
        replica.started_ps = now_ps
        replica.n_iterations = 1
        r = replica.next_member
    return now_ps


@separate_rule
def _somebody_preempts_decode(state: State, lead: int) -> bool:
    """Without colocation, a short that preempts and could run on a member stops the decode before it goes on."""
    if state.settings[0].colocation_tokens > 0:
        return False
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        if replica.queue != NONE and state.requests[replica.queue].preempts == 1 and fits(state, r, replica.queue, 1):
            return True
        r = replica.next_member
    return False


@rule
def _step_together(state: State, lead: int) -> None:
    """The next iterations of a sharded decode: every member reads its share and may run shorts beside it, the slowest
    decides, and the partial outputs are reduced. Without shorts they are one run, to the long's end; not from a step
    that moves a KV cache to or from host memory, which only that one waits for, or that evicts somebody, who may leave
    room for another at the next, nor while somebody waits whose turn may come by the order."""
    group = state.groups[lead]
    settings = state.settings[0]
    now_ps = _serve(state, lead)
    if group.suspend_wanted == 1 or _somebody_preempts_decode(state, lead):
        _stall(state, lead, now_ps)
        return
    request = state.requests[group.slot]
    alone = True
    slowest = 0
    r = lead
    while r != NONE:
        replica = state.replicas[r]
        swapped_before = replica.swapped_tokens
        evictions_before = replica.evictions
        choose_batch(state, r, 1)
        swapped = replica.swapped_tokens - swapped_before
        slowest = max(slowest, batch_ps(state, r, 1) + swapped * settings.swap_ps_per_token)
        if replica.with_decodes == 1 or replica.with_prefills == 1:
            alone = False
        if swapped > 0 or replica.evictions > evictions_before:
            alone = False
        if replica.queue != NONE and changes_with_time(settings.queue_order):
            alone = False
        r = replica.next_member
    replica = state.replicas[lead]
    replica.first_extra_ps = 0
    replica.base_ps = slowest + request.computed_tokens * group.kv_ps + group.sync_ps
    replica.slope_ps = 0
    if alone:
        replica.n_iterations = request.output_tokens - request.emitted_tokens
        replica.slope_ps = group.kv_ps
    end_ps = now_ps + run_ps(replica, replica.n_iterations)
    update_key(state.event_ps, state.event_tree, lead, min(end_ps, HORIZON_PS + 1))
