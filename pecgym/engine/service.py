"""How long a request would take alone: what rules that must guess at its duration reckon with."""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.iteration import token_term_ps
from pecgym.engine.state import NONE, State


@rule
def lone_prefill_ps(state: State, prompt: int) -> int:
    """The time of a prefill that is alone on a replica."""
    costs = state.costs[0]
    alone = costs.prefill_base_ps + costs.prefill_seq_ps + token_term_ps(state, prompt)
    return alone + ((prompt * prompt * costs.attention_ps_per_1024_pairs) >> 10)


@rule
def lone_decode_ps(state: State, iterations: int, context: int) -> int:
    """The time of that many decode iterations of a request that is alone on a replica."""
    if iterations <= 0:
        return 0
    costs = state.costs[0]
    each = token_term_ps(state, 1) + costs.decode_base_ps + costs.decode_seq_ps + context * costs.decode_kv_ps
    return iterations * each + costs.decode_kv_ps * (iterations * (iterations - 1) // 2)


@rule
def lone_prefill_in_chunks_ps(state: State, prompt: int) -> int:
    """The same in as many iterations as the prompt has chunks."""
    settings = state.settings[0]
    costs = state.costs[0]
    if settings.chunk_tokens == 0:
        return lone_prefill_ps(state, prompt)
    most = min(settings.chunk_tokens, settings.max_batch_tokens)
    time = 0
    past = 0
    while past < prompt:
        chunk = min(most, prompt - past)
        pairs = chunk * chunk + 2 * chunk * past
        time += costs.prefill_base_ps + costs.prefill_seq_ps + past * costs.prefill_kv_ps + token_term_ps(state, chunk)
        time += (pairs * costs.attention_ps_per_1024_pairs) >> 10
        past += chunk
    return time


@rule
def prefill_work_ps(state: State, strategy: int, shape: int, tokens: int) -> int:
    """Duration of a long prefill, between the knots of its table (GroupCosts.prefill_ps is the same in Python)."""
    step = state.settings[0].knot_tokens
    i = tokens // step
    below = state.prefill_table_ps[strategy, shape, i]
    rest = tokens - i * step
    if rest == 0:
        return below
    return below + (state.prefill_table_ps[strategy, shape, i + 1] - below) * rest // step


@rule
def _long_service_ps(state: State, request: Any, output_tokens: int) -> int:
    """The time of a long with so many output tokens, undisturbed, on the fewest replicas that would hold it, in as few
    nodes as these need."""
    settings = state.settings[0]
    costs = state.costs[0]
    steps = output_tokens - 1
    capacity = settings.capacity_blocks * settings.block_tokens
    degree = min((request.input_tokens + steps + capacity - 1) // capacity, len(state.shape_index) - 1)
    nodes = (degree + settings.replicas_per_node - 1) // settings.replicas_per_node
    shape = NONE
    if nodes < len(state.shape_index[0]):
        shape = state.shape_index[degree, nodes]
    if shape == NONE:  # more than a group may have: its prompt on one replica tells longs apart as well
        degree = 1
        shape = state.shape_index[1, 1]
    each = token_term_ps(state, 1) + costs.decode_base_ps + costs.decode_seq_ps + state.decode_sync_ps[shape]
    read_tokens = steps * request.input_tokens + steps * (steps - 1) // 2
    prefill_ps = prefill_work_ps(state, settings.strategy, shape, request.input_tokens)
    return prefill_ps + steps * each + read_tokens * state.decode_kv_ps[degree]


@separate_rule
def service_ps(state: State, slot: int, output_tokens: int) -> int:
    """The time that a request with so many output tokens would take if it were alone."""
    request = state.requests[slot]
    if request.is_long == 1:
        return _long_service_ps(state, request, output_tokens)
    prompt = request.input_tokens
    return lone_prefill_in_chunks_ps(state, prompt) + lone_decode_ps(state, output_tokens - 1, prompt)
