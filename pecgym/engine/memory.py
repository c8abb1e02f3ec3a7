"""KV memory of a replica: blocks held, blocks set aside, growth of the decodes, and what still fits.

A resident whose prompt is incomplete holds blocks for the whole prompt; a decode holds blocks for its computed tokens
and takes one more whenever they fill. Every decode advances one token per decode iteration, so its computed tokens
minus the replica's decode steps stay constant: counting decodes by that difference modulo the block size
(`phases`) gives the growth over any number of iterations without visiting them. Blocks of who is not in the batch, a
long and shorts whose KV cache is on its way elsewhere, are held as well (`held_blocks`).
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.state import (
    DECODE_FIRST,
    HISTORY_BUCKETS,
    NONE,
    PUSHED,
    RESERVE_HISTORY,
    RESERVE_PEAK,
    RESERVE_PROMPT,
    State,
)


@rule
def blocks_of(settings: Any, tokens: int) -> int:
    """KV blocks that hold `tokens` tokens."""
    return (tokens + settings.block_tokens - 1) // settings.block_tokens


@rule
def resident(state: State, r: int, i: int) -> int:
    """Slot of resident i of replica r: the decodes come first, then the incomplete prompts."""
    n_decodes = state.replicas[r].n_decodes
    if i < n_decodes:
        return state.decodes[r, i].slot
    return state.prefills[r, i - n_decodes]


@rule
def steps_since_join(replica: Any, request: Any) -> int:
    """Tokens that a resident has decoded, up to the replica's last boundary, beyond what its counters say."""
    if request.decoding != 1:
        return 0
    return replica.decode_steps - request.join_step


@rule
def held_tokens(replica: Any, request: Any, steps_ahead: int) -> int:
    """KV tokens for which a resident holds blocks: a decode what it will have computed after `steps_ahead` more decode
    iterations, an incomplete prompt the whole prompt."""
    if request.decoding != 1:
        return request.prompt_tokens
    return request.computed_tokens + steps_since_join(replica, request) + steps_ahead


@rule
def _phase_after(phase: int, block: int) -> int:
    """Which decodes take a block in the step after that of `phase`; a remainder would take longer."""
    return phase - 1 if phase > 0 else block - 1


@rule
def growth_blocks(state: State, r: int, steps: int) -> int:
    """Blocks that the decodes of replica r take over their next `steps` decode iterations."""
    replica = state.replicas[r]
    if replica.n_decodes == 0:
        return 0
    block = state.settings[0].block_tokens
    rounds = steps // block
    grown = rounds * replica.n_decodes
    phase = (-replica.decode_steps) % block
    for _ in range(steps - rounds * block):
        grown += state.phases[r, phase]
        phase = _phase_after(phase, block)
    return grown


@rule
def steps_before_overflow(state: State, r: int, wanted: int) -> int:
    """Decode iterations, at most `wanted`, that the decodes of replica r can do before KV memory overflows."""
    replica = state.replicas[r]
    settings = state.settings[0]
    block = settings.block_tokens
    free = settings.capacity_blocks - replica.used_blocks
    if replica.n_decodes * ((wanted + block - 1) // block) <= free:
        return wanted
    rounds = free // replica.n_decodes
    left = free - rounds * replica.n_decodes
    steps = rounds * block
    phase = (-replica.decode_steps) % block
    while steps < wanted:
        left -= state.phases[r, phase]
        if left < 0:
            break
        phase = _phase_after(phase, block)
        steps += 1
    return steps


@rule
def history_bucket(input_tokens: int) -> int:
    """floor(log2(input)): the bucket in which finished requests are averaged (INFERMAX, "hist")."""
    bucket = 0
    while input_tokens > 1:
        input_tokens >>= 1
        bucket += 1
    return min(bucket, HISTORY_BUCKETS - 1)


@rule
def tokens_to_reserve(state: State, r: int, request: Any) -> int:
    """KV tokens that admission sets aside for a request (INFERMAX, unified scheduling: reservation)."""
    settings = state.settings[0]
    if request.decode_replica != NONE and request.decode_replica != r:
        return request.prompt_tokens  # it does not grow here
    if settings.reservation == RESERVE_PEAK:
        return request.input_tokens + request.output_tokens - 1
    if settings.reservation == RESERVE_HISTORY:
        past = state.history[r, history_bucket(request.input_tokens)]
        if past[0] > 0:
            return max(request.prompt_tokens, past[1] // past[0])
    return request.prompt_tokens


@rule
def tokens_to_set_aside_again(state: State, r: int, request: Any) -> int:
    """For a request whose KV waits in host memory: what it had here, or, pushed from elsewhere, what it gets here."""
    if request.swapped == PUSHED:
        return tokens_to_reserve(state, r, request)
    return request.reserved_tokens


@rule
def blocks_to_admit(state: State, r: int, request: Any) -> int:
    """Blocks that must be free for a waiting request to become resident."""
    settings = state.settings[0]
    if request.swapped == 0:
        return blocks_of(settings, tokens_to_reserve(state, r, request))
    held = request.prompt_tokens
    if request.decoding == 1:
        held = request.computed_tokens + 1
    return blocks_of(settings, max(held, tokens_to_set_aside_again(state, r, request)))


@separate_rule
def _reserved_by_history(state: State, r: int, steps_ahead: int) -> int:
    """What `reserved_now` is when decodes can outgrow what was set aside for them: a sum over the residents."""
    replica = state.replicas[r]
    settings = state.settings[0]
    reserved = replica.held_blocks
    for i in range(replica.n_decodes + replica.n_prefills):
        request = state.requests[resident(state, r, i)]
        reserved += blocks_of(settings, max(held_tokens(replica, request, steps_ahead), request.reserved_tokens))
    return reserved


@rule
def reserved_now(state: State, r: int, steps_ahead: int) -> int:
    """Blocks set aside on replica r, `steps_ahead` decode iterations after its last boundary."""
    replica = state.replicas[r]
    settings = state.settings[0]
    used = replica.used_blocks + growth_blocks(state, r, steps_ahead)
    if settings.reservation == RESERVE_PROMPT:
        return used
    if settings.reservation == RESERVE_PEAK:
        return max(used, replica.reserved_blocks + replica.held_blocks)
    return _reserved_by_history(state, r, steps_ahead)


@rule
def prompt_share(chunk_tokens: int, wanted: int, left: int, first: bool) -> int:
    """Prompt tokens that a request may compute in an iteration of which `left` tokens of the budget are left.

    Chunked: what is left, at most chunk_tokens. Whole prompts (0): all or nothing, except that the first of an
    iteration may be longer than what is left: no engine admits prompts that it can never run.
    """
    if chunk_tokens > 0:
        return min(wanted, chunk_tokens, max(left, 0))
    if wanted <= left or first:
        return wanted
    return 0


@separate_rule
def fits(state: State, r: int, slot: int, steps_ahead: int) -> bool:
    """Whether replica r can take the waiting request now, with room for `steps_ahead` more decode iterations.

    An empty replica takes any request (none is larger than its memory); otherwise a batch slot and, above the
    watermark, memory must be free. Beside a long some requests never fit.
    """
    replica = state.replicas[r]
    settings = state.settings[0]
    residents = replica.n_decodes + replica.n_prefills
    if residents == 0 and replica.held_blocks == 0:
        return True
    if residents >= settings.slots:
        return False
    need = blocks_to_admit(state, r, state.requests[slot])
    return reserved_now(state, r, steps_ahead) + need + settings.watermark_blocks <= settings.capacity_blocks


@rule
def is_seen(state: State, slot: int, composed_ps: int) -> bool:
    """Whether a batch that was composed at that time knows of the waiting request.

    Asynchronous scheduling composes a batch while the one before it runs, from what was known when that began. A
    request whose KV cache waits in host memory is none of its newcomers.
    """
    request = state.requests[slot]
    return state.settings[0].async_scheduling == 0 or request.swapped != 0 or request.placed_ps <= composed_ps


@rule
def share_on_joining(state: State, r: int, slot: int, chunk_tokens: int, left: int, first: bool) -> int:
    """Prompt tokens that a waiting request gets if it joins the batch of replica r next (`prompt_share`); 0 if it may
    not, because none are left for it, its KV is in host memory, the batch does not know of it (`is_seen`), or it does
    not fit (`fits`).

    Where decodes go first their next iteration has a claim on memory before new requests.
    """
    request = state.requests[slot]
    steps_ahead = 0
    if state.settings[0].group_order == DECODE_FIRST:
        steps_ahead = 1
    share = prompt_share(chunk_tokens, request.prompt_tokens, left, first)
    if share == 0 or request.swapped != 0 or not is_seen(state, slot, state.replicas[r].seen_ps):
        return 0
    if not fits(state, r, slot, steps_ahead):
        return 0
    return share
