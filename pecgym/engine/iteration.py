"""How long iterations take, and runs of them in closed form.

While only decodes run and nobody joins or leaves, each iteration reads one more KV token per decode than the one
before, so k iterations take k base + slope k (k - 1) / 2 picoseconds: a run of them is one event.
"""

from __future__ import annotations

import math
from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.memory import growth_blocks, is_seen, steps_before_overflow
from pecgym.engine.state import BY_PLAN, HORIZON_PS, NONE, RUNNING, State
from pecgym.engine.tournament import update_key


@rule
def token_term_ps(state: State, tokens: int) -> int:
    """The part of an iteration's time that depends on its number of new tokens (weights, matrix work)."""
    if tokens < len(state.token_ps):
        return state.token_ps[tokens]
    knots = state.token_knots
    i = len(knots) - 2
    while i > 0 and tokens < knots[i, 0]:
        i -= 1
    rise = knots[i + 1, 1] - knots[i, 1]
    return knots[i, 1] + rise * (tokens - knots[i, 0]) // (knots[i + 1, 0] - knots[i, 0])


@rule
def run_ps(replica: Any, k: int) -> int:
    """Duration of the first k iterations of the run under way."""
    return replica.first_extra_ps + k * replica.base_ps + replica.slope_ps * (k * (k - 1) // 2)


@rule
def iterations_within(replica: Any, elapsed_ps: int) -> int:
    """The most iterations of the run under way that end within `elapsed_ps` of its start."""
    time_left = elapsed_ps - replica.first_extra_ps
    if time_left < replica.base_ps:
        return 0
    if replica.slope_ps == 0:
        return time_left // replica.base_ps
    linear = 2.0 * replica.base_ps - replica.slope_ps
    root = math.sqrt(linear * linear + 8.0 * replica.slope_ps * time_left)
    k = int((root - linear) / (2.0 * replica.slope_ps))
    while run_ps(replica, k + 1) <= elapsed_ps:
        k += 1
    while run_ps(replica, k) > elapsed_ps:
        k -= 1
    return k


@rule
def steps_started(state: State, r: int) -> int:
    """Decode iterations of the run under way that have taken their memory by now, the one in progress included."""
    replica = state.replicas[r]
    if replica.status != RUNNING or replica.with_decodes == 0:
        return 0
    elapsed = state.cluster[0].now_ps - replica.started_ps
    done = iterations_within(replica, elapsed)
    if done >= replica.n_iterations or (done > 0 and run_ps(replica, done) == elapsed):
        return min(done, replica.n_iterations)
    return done + 1


@separate_rule
def batch_ps(state: State, r: int, long_decodes: int) -> int:
    """The time of one iteration of the batch composed on replica r; notes whether prompt tokens are in it.

    long_decodes: 1 if a long decodes beside it; what its context takes is not counted here. Source of the form:
    INFERMAX's cost model; pecgym.costs.Profile.iteration_ps is the same in plain Python.
    """
    replica = state.replicas[r]
    costs = state.costs[0]
    tokens = 0
    prefills = 0
    past = 0
    pairs = 0
    decodes = long_decodes
    context = 0
    for i in range(replica.n_prefills):
        request = state.requests[state.prefills[r, i]]
        chunk = request.chunk_tokens
        if chunk > 0 and request.decoding == BY_PLAN:
            decodes += 1
            context += request.computed_tokens
        elif chunk > 0:
            tokens += chunk
            prefills += 1
            past += request.computed_tokens
            pairs += chunk * chunk + 2 * chunk * request.computed_tokens
    time = 0
    if prefills > 0:
        time += costs.prefill_base_ps + prefills * costs.prefill_seq_ps + past * costs.prefill_kv_ps
        time += (pairs * costs.attention_ps_per_1024_pairs) >> 10
    if replica.with_decodes == 1:
        decodes += replica.n_decodes
        context += replica.kv_tokens
    if decodes > 0:
        tokens += decodes
        time += costs.decode_base_ps + decodes * costs.decode_seq_ps + context * costs.decode_kv_ps
    replica.with_prefills = prefills > 0
    return time + token_term_ps(state, tokens)


@rule
def start_run(state: State, r: int, swapped_tokens: int, steady: bool) -> None:
    """Starts the batch that was composed: decodes alone run until one leaves, memory is full, or prompts beside them
    have waited long enough; else one iteration.

    steady: False if somebody was evicted for this batch, so that the next boundary must look at the queue again.
    """
    replica = state.replicas[r]
    replica.base_ps = batch_ps(state, r, 0)
    replica.n_iterations = 1
    replica.slope_ps = 0
    if replica.with_decodes == 1 and replica.with_prefills == 0 and steady:
        longest = state.decodes[r, 0].step - replica.decode_steps
        if replica.holding_back == 1:
            longest = min(longest, state.settings[0].batch_wait_iterations - replica.held_back)
        replica.n_iterations = steps_before_overflow(state, r, longest)
        replica.slope_ps = replica.n_decodes * state.costs[0].decode_kv_ps
    replica.first_extra_ps = swapped_tokens * state.settings[0].swap_ps_per_token
    replica.started_ps = state.cluster[0].now_ps
    replica.status = RUNNING
    end_ps = replica.started_ps + run_ps(replica, replica.n_iterations)
    update_key(state.event_ps, state.event_tree, r, min(end_ps, HORIZON_PS + 1))


@rule
def iteration_start_ps(replica: Any, k: int) -> int:
    """When iteration k >= 1 of the run under way starts."""
    if k == 1:
        return replica.started_ps
    return replica.started_ps + run_ps(replica, k - 1)


@rule
def cut_run(state: State, r: int, slot: int) -> None:
    """Ends the run of replica r, or of the group that it leads, at its first iteration boundary from now on at which
    the request `slot` can join it; NONE: at the first of all."""
    replica = state.replicas[r]
    if replica.n_iterations == 1:
        return
    elapsed = state.cluster[0].now_ps - replica.started_ps
    done = iterations_within(replica, elapsed)
    if done == 0 or run_ps(replica, done) < elapsed:
        done += 1
    if slot != NONE and not is_seen(state, slot, iteration_start_ps(replica, done)):
        done += 1
    if done < replica.n_iterations:
        replica.n_iterations = done
        update_key(state.event_ps, state.event_tree, r, replica.started_ps + run_ps(replica, done))


@rule
def advance_decodes(state: State, r: int, steps: int) -> None:
    """The decodes of replica r have done `steps` iterations: each holds that many more tokens."""
    replica = state.replicas[r]
    replica.used_blocks += growth_blocks(state, r, steps)
    replica.decode_steps += steps
    replica.kv_tokens += steps * replica.n_decodes
