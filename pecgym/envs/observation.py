"""What an agent sees of Cluster-v0: the features of pecgym.envs.spaces, in their order.

Nothing here depends on an output length that is not known: not the end of a run of decodes, nor what admission set
aside for outputs.
"""

from __future__ import annotations

import math
from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.iteration import iterations_within, run_ps
from pecgym.engine.memory import blocks_of, growth_blocks
from pecgym.engine.state import (
    DECODE,
    GROUP_GATHERING,
    N_CLASSES,
    NEVER_PS,
    NONE,
    OPEN,
    PLACE_SHORT,
    PREFILL,
    RUNNING,
    SECONDS_PER_PS,
    SERVING,
    START_LONG,
    State,
)
from pecgym.envs.actions import list_longs
from pecgym.policies.view import fewest_replicas

RATE_SECONDS = 60.0


@rule
def half_at(x: float, half: float) -> float:
    """0.5 at `half`, towards 1 above."""
    return x / (x + half)


@rule
def log_of(x: float, most: float) -> float:
    """log2 of 1 + x over `most`."""
    return min(math.log2(1.0 + x) / most, 1.0)


@rule
def seconds_since(state: State, time_ps: int) -> float:
    """Seconds from a time to now."""
    return (state.cluster[0].now_ps - time_ps) * SECONDS_PER_PS


@rule
def _prefill_left_ps(state: State, lead: int) -> int:
    """What is left of the prefill of a group's long, undisturbed; 0 once it decodes."""
    group = state.groups[lead]
    if group.phase >= DECODE:
        return 0
    left = group.work_ps - group.done_ps
    if group.phase == PREFILL:
        left -= state.cluster[0].now_ps - state.replicas[lead].started_ps
    return max(left, 0)


@rule
def _until_boundary_ps(state: State, r: int, done: int) -> int:
    """Until the running iteration of replica r ends, or the running prefill of its long; 0 if neither runs.

    done: iterations of the run under way that have ended.
    """
    replica = state.replicas[r]
    if replica.status == SERVING:
        phase = state.groups[replica.lead].phase
        if phase == PREFILL:
            return _prefill_left_ps(state, replica.lead)
        if phase != DECODE or state.event_ps[replica.lead] == NEVER_PS:
            return 0  # the next iterations begin after the decisions of this moment
        replica = state.replicas[replica.lead]
    if done >= replica.n_iterations:
        return 0
    return run_ps(replica, done + 1) - (state.cluster[0].now_ps - replica.started_ps)


@rule
def _iterations_done(state: State, r: int) -> int:
    """Iterations that have ended of the run under way of replica r, or of the group whose long it decodes."""
    replica = state.replicas[r]
    if replica.status == SERVING:
        if state.groups[replica.lead].phase != DECODE:
            return 0
        replica = state.replicas[replica.lead]
    if replica.n_iterations == 1:
        return 0
    return iterations_within(replica, state.cluster[0].now_ps - replica.started_ps)


@rule
def _kv_blocks(state: State, r: int, done: int) -> int:
    """KV blocks in use now; those that a long has been given for its output are left out.

    done: iterations of the run under way that have ended; the next one has taken its memory.
    """
    replica = state.replicas[r]
    used = replica.used_blocks
    if replica.status == RUNNING and replica.with_decodes == 1:
        used += growth_blocks(state, r, min(done + 1, replica.n_iterations))
    if replica.lead != NONE:
        group = state.groups[replica.lead]
        if group.phase != GROUP_GATHERING:
            prompt = state.requests[group.slot].input_tokens
            used += blocks_of(state.settings[0], (prompt + group.degree - 1) // group.degree) - group.share_blocks
    return used


@rule
def _observe_long(state: State, lead: int, row: Any) -> None:
    group = state.groups[lead]
    request = state.requests[group.slot]
    left_ps = _prefill_left_ps(state, lead)
    row[17] = half_at(left_ps * SECONDS_PER_PS, 10.0)
    row[18] = 1.0 - left_ps / group.work_ps
    row[19] = group.degree / 32.0
    row[20] = half_at(request.preemptions, 4.0)
    row[21] = half_at(seconds_since(state, request.arrival_ps), 60.0)


@rule
def _open_on_node(state: State, first: int) -> float:
    """The share of open replicas on the node whose first replica this is."""
    size = min(state.settings[0].replicas_per_node, len(state.replicas) - first)
    count = 0
    for r in range(first, first + size):
        if state.replicas[r].place_class == OPEN:
            count += 1
    return count / size


@rule
def _observe_load(state: State, r: int, row: Any) -> None:
    settings = state.settings[0]
    replica = state.replicas[r]
    busy = replica.status == RUNNING or replica.status == SERVING
    done = _iterations_done(state, r) if busy else 0
    row[8] = half_at(replica.n_requests, 16.0)
    row[9] = half_at(replica.n_waiting, 16.0)
    row[10] = half_at(replica.queued_tokens, settings.max_batch_tokens)
    row[11] = replica.n_decodes / settings.slots
    row[12] = min(_kv_blocks(state, r, done) / settings.capacity_blocks, 1.0)
    row[13] = half_at(replica.incoming, 16.0)
    row[14] = half_at(replica.n_pushing, 16.0)
    row[15] = busy
    row[16] = 0.0
    if busy:
        row[16] = half_at(_until_boundary_ps(state, r, done) * SECONDS_PER_PS, 1.0)


@rule
def _observe_replicas(c: Any, i: int, state: State) -> None:
    per_node = state.settings[0].replicas_per_node
    left_on_node = 0
    open_on_node = 0.0
    for r in range(len(state.replicas)):
        replica = state.replicas[r]
        row = c.replicas[i, r]
        if left_on_node == 0:
            left_on_node = per_node
            open_on_node = _open_on_node(state, r)
        left_on_node -= 1
        for k in range(len(row)):
            row[k] = 0.0
        row[replica.place_class] = 1.0
        row[22] = open_on_node
        if replica.n_requests > 0 or replica.used_blocks > 0 or replica.incoming > 0:
            _observe_load(state, r, row)
        if replica.lead != NONE:
            _observe_long(state, replica.lead, row)


@rule
def _observe_chosen(c: Any, i: int) -> None:
    """Marks the reference policy's target where the agent does not choose one."""
    shared = c.shared[0]
    kind = c.copies[i].kind
    free = kind == PLACE_SHORT and shared.controls_placement == 1
    free = free or (kind == START_LONG and shared.controls_start == 1)
    if kind != PLACE_SHORT and kind != START_LONG:
        return
    if not free:
        for r in range(shared.n_replicas):
            c.replicas[i, r, 23] = c.mask[i, r]


@rule
def _observe_request(c: Any, i: int, state: State) -> None:
    row = c.request[i]
    for k in range(len(row)):
        row[k] = 0.0
    kind = c.copies[i].kind
    if kind == NONE:
        return
    row[kind] = 1.0
    slot = NONE
    if kind == PLACE_SHORT:
        slot = state.cluster[0].queue
    elif kind == START_LONG:
        slot = state.cluster[0].longs
    if slot == NONE:
        return
    request = state.requests[slot]
    row[3] = log_of(request.input_tokens, 20.0)
    row[4] = half_at(request.input_tokens, 2048.0)
    row[5] = half_at(seconds_since(state, request.arrival_ps), 1.0)
    if c.shared[0].oracle_lengths == 1:
        row[6] = 1.0
        row[7] = log_of(request.rank_tokens, 16.0)


@rule
def _fewest_by_prompt(state: State, slot: int) -> int:
    """The fewest replicas whose KV memories hold the prompt of a long."""
    settings = state.settings[0]
    capacity = settings.capacity_blocks * settings.block_tokens
    return (state.requests[slot].input_tokens + capacity - 1) // capacity


@rule
def _observe_waiting_longs(c: Any, i: int, state: State) -> None:
    list_longs(c, i, state)
    copy = c.copies[i]
    n = copy.n_shown
    for k in range(max(n, copy.n_rows)):
        row = c.waiting_longs[i, k]
        if k >= n:
            for feature in range(len(row)):
                row[feature] = 0.0
            continue
        slot = c.slots[i, k]
        request = state.requests[slot]
        row[0] = 1.0
        row[1] = log_of(request.input_tokens, 20.0)
        row[2] = half_at(seconds_since(state, request.arrival_ps), 60.0)
        if c.shared[0].oracle_lengths == 1:
            row[3] = 1.0
            row[4] = log_of(request.rank_tokens, 16.0)
            fewest = fewest_replicas(state, slot)
        else:
            fewest = _fewest_by_prompt(state, slot)
        row[5] = min(fewest / len(state.replicas), 1.0)
    copy.n_rows = n


@rule
def note_rates(c: Any, i: int, state: State) -> None:
    """Averages over the arrivals of the episode, whose weights fall exponentially with their age."""
    copy = c.copies[i]
    kept = math.exp(-seconds_since(state, copy.rated_ps) / RATE_SECONDS)
    copy.requests_per_s *= kept
    copy.tokens_per_s *= kept
    copy.rated_ps = state.cluster[0].now_ps
    for row in range(copy.next_row, state.cluster[0].next_row):
        weight = math.exp(-seconds_since(state, state.trace[row].arrival_ps) / RATE_SECONDS) / RATE_SECONDS
        copy.requests_per_s += weight
        copy.tokens_per_s += weight * state.trace[row].input_tokens
    copy.next_row = state.cluster[0].next_row


@rule
def _observe_cluster(c: Any, i: int, state: State) -> None:
    cluster = state.cluster[0]
    copy = c.copies[i]
    row = c.cluster[i]
    elapsed_s = seconds_since(state, copy.last_ps)
    note_rates(c, i, state)
    for k in range(N_CLASSES):
        row[k] = state.class_counts[k] / len(state.replicas)
    row[8] = half_at(cluster.n_queued, 16.0)
    row[9] = half_at(cluster.n_unstarted, 64.0)
    row[10] = half_at(cluster.n_late, 16.0)
    row[11] = 0.0
    if cluster.oldest != NONE:
        row[11] = half_at(seconds_since(state, state.requests[cluster.oldest].arrival_ps), 1.0)
    row[12] = half_at(cluster.n_longs, 8.0)
    row[13] = half_at(cluster.n_open_longs, 8.0)
    row[14] = half_at(elapsed_s, 1.0)
    row[15] = half_at(copy.requests_per_s, 1.0)
    row[16] = half_at(copy.tokens_per_s, 10000.0)


@separate_rule
def observe(c: Any, i: int, state: State) -> None:
    """Writes the observation of copy i at the decision that is due, or at the end of its episode."""
    _observe_replicas(c, i, state)
    _observe_chosen(c, i)
    _observe_request(c, i, state)
    _observe_waiting_longs(c, i, state)
    _observe_cluster(c, i, state)
