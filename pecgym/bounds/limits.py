"""What an iteration can hold at most, under any policy."""

from __future__ import annotations

from dataclasses import dataclass

from pecgym.costs import Profile
from pecgym.engine import EngineSettings
from pecgym.workload import Trace


@dataclass(frozen=True)
class Limits:
    """The largest iteration of a replica for a workload.

    Attributes:
        slots: requests in it; beside the decode of a long that long too.
        tokens: new tokens in it.
        kv_tokens: KV tokens that its decodes read.
        chunk_tokens: prompt tokens of one request in it.
        mixes: whether prompts and decodes can share one. Beside the decode of a long they always can.
        splits: whether a prompt can be computed in several.
    """

    slots: int
    tokens: int
    kv_tokens: int
    chunk_tokens: int
    mixes: bool
    splits: bool


def limits_of(trace: Trace, profile: Profile, settings: EngineSettings) -> Limits:
    """The limits that a workload meets on an engine, whatever the policy and its rules for longs are.

    A prompt that was recomputed is at most input + output - 1 tokens long. The first whole prompt of an iteration may
    exceed the token budget, beside as many decodes as there are slots; a prompt beside a long gets the budget at most.
    """
    resolved = settings.resolved(profile)
    assert resolved.kv_capacity_tokens is not None
    assert resolved.block_tokens is not None
    kv_tokens = resolved.kv_capacity_tokens // resolved.block_tokens * resolved.block_tokens
    has_longs = bool(trace.is_long.any())
    shorts = trace.take(~trace.is_long)
    longest = int((shorts.input_tokens + shorts.output_tokens - 1).max(initial=1))
    slots = min(settings.slots, resolved.kv_capacity_tokens)
    budget, whole = settings.max_batch_tokens, settings.chunk_tokens == 0
    decodes_beside = slots - 1 if settings.mixing else 0
    tokens = max(budget, decodes_beside + longest) if whole else budget
    chunk_tokens = longest if whole else min(budget if has_longs else settings.chunk_tokens, budget)
    return Limits(
        slots=slots + has_longs,
        tokens=min(tokens, slots * longest) + has_longs,
        kv_tokens=kv_tokens,
        chunk_tokens=chunk_tokens,
        mixes=settings.mixing or has_longs,
        splits=not whole or has_longs,
    )
