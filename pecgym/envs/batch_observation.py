"""What an agent sees of Replica-v0: the features of pecgym.envs.spaces, in their order. Output lengths are not in them,
unless they are to be shown."""

from __future__ import annotations

from typing import Any

from pecgym.engine.batch_decisions import evictable_in_order, waiting_in_order
from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.memory import steps_since_join
from pecgym.engine.state import JOIN_BATCH, NONE, State
from pecgym.envs.observation import half_at, log_of, note_rates, seconds_since


@rule
def _observe_waiting(c: Any, i: int, state: State) -> None:
    copy = c.copies[i]
    for k in range(c.shared[0].n_waiting):
        row = c.waiting[i, k]
        if k >= copy.n_shown:
            for feature in range(len(row)):
                row[feature] = 0.0
            continue
        request = state.requests[c.waiting_slots[i, k]]
        row[0] = 1.0
        row[1] = log_of(request.prompt_tokens, 20.0)
        row[2] = log_of(request.emitted_tokens, 16.0)
        row[3] = half_at(seconds_since(state, request.arrival_ps), 1.0)
        row[4] = half_at(request.evictions, 4.0)
        row[5] = c.shared[0].oracle_lengths
        row[6] = c.shared[0].oracle_lengths * log_of(max(request.rank_tokens - request.emitted_tokens, 0), 16.0)


@rule
def _observe_residents(c: Any, i: int, state: State) -> None:
    copy = c.copies[i]
    settings = state.settings[0]
    for k in range(c.shared[0].n_residents):
        row = c.residents[i, k]
        if k >= copy.n_residents:
            for feature in range(len(row)):
                row[feature] = 0.0
            continue
        request = state.requests[c.resident_slots[i, k]]
        decoded = steps_since_join(state.replicas[0], request)
        emitted = request.emitted_tokens + decoded
        row[0] = 1.0
        row[1] = request.decoding
        row[2] = (request.computed_tokens + decoded) / (settings.capacity_blocks * settings.block_tokens)
        row[3] = log_of(emitted, 16.0)
        row[4] = half_at(seconds_since(state, request.arrival_ps), 1.0)
        row[5] = half_at(request.evictions, 4.0)
        row[6] = c.shared[0].oracle_lengths
        row[7] = c.shared[0].oracle_lengths * log_of(max(request.rank_tokens - emitted, 0), 16.0)


@rule
def _observe_batch(c: Any, i: int, state: State) -> None:
    cluster = state.cluster[0]
    settings = state.settings[0]
    replica = state.replicas[0]
    copy = c.copies[i]
    row = c.replica[i]
    note_rates(c, i, state)
    row[0] = copy.kind == JOIN_BATCH
    row[1] = copy.kind != NONE and copy.kind != JOIN_BATCH
    row[2] = half_at(replica.n_waiting, 16.0)
    row[3] = replica.n_decodes / settings.slots
    row[4] = replica.n_prefills / settings.slots
    row[5] = min(replica.used_blocks / settings.capacity_blocks, 1.0)
    row[6] = 0.0
    if copy.kind == JOIN_BATCH:
        row[6] = replica.left_tokens / settings.max_batch_tokens
    row[7] = half_at(cluster.n_unstarted, 64.0)
    row[8] = half_at(cluster.n_late, 16.0)
    row[9] = 0.0
    if cluster.oldest != NONE:
        row[9] = half_at(seconds_since(state, state.requests[cluster.oldest].arrival_ps), 1.0)
    row[10] = half_at(seconds_since(state, copy.last_ps), 1.0)
    row[11] = half_at(copy.requests_per_s, 1.0)
    row[12] = half_at(copy.tokens_per_s, 10000.0)


@separate_rule
def observe(c: Any, i: int, state: State) -> None:
    """Writes the observation of copy i at the decision that is due, or at the end of its episode."""
    copy = c.copies[i]
    if copy.kind == NONE:
        copy.n_shown = waiting_in_order(state, 0, c.waiting_slots[i], c.shared[0].n_waiting)
        copy.n_residents = evictable_in_order(state, 0, c.resident_slots[i], c.shared[0].n_residents)
    _observe_waiting(c, i, state)
    _observe_residents(c, i, state)
    _observe_batch(c, i, state)
