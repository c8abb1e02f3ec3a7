"""The least time in which a short can be served, whoever else is there: nobody makes an iteration shorter.

g must not fall with more tokens, as in every profile that the package reads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.bounds.limits import Limits
from pecgym.costs import Profile
from pecgym.costs.profile import PAIRS_UNIT

Floats = NDArray[np.float64]


def fewest_chunks(tokens: Any, limits: Limits) -> Any:
    """Iterations that a prompt of so many tokens needs at least."""
    return -(-tokens // limits.chunk_tokens)


def past_tokens(tokens: Any, chunks: Any, limits: Limits) -> Any:
    """Past tokens that the chunks of a prompt read together, at least: the largest chunks come last."""
    further = chunks - 1
    return further * tokens - limits.chunk_tokens * further * chunks // 2


def attention_ps(tokens: Any, profile: Profile) -> Any:
    """Attention within a prompt, however it is cut: each of its iterations rounds down by less than 1 ps."""
    pairs = np.asarray(tokens, np.float64) ** 2
    return np.maximum(pairs * profile.attn_ps_per_1024_pairs / PAIRS_UNIT - tokens, 0.0)


def prefill_ps(tokens: Any, limits: Limits, profile: Profile) -> Any:
    """The least time of computing prompts of so many tokens, float64[n]: in one iteration, which takes exactly what it
    takes alone, or in several."""
    knots, times = profile.g_knots_tokens.astype(np.float64), profile.g_knots_ps.astype(np.float64)
    last_slope = (times[-1] - times[-2]) / (knots[-1] - knots[-2])
    g = np.interp(tokens, knots, times) + last_slope * np.maximum(tokens - knots[-1], 0.0)
    attention = attention_ps(tokens, profile)
    whole = g - 1 + profile.prefill_base_ps + profile.prefill_seq_ps + attention
    if not limits.splits:
        return whole
    chunks = np.maximum(fewest_chunks(tokens, limits), 2)
    several = chunks * profile.prefill_seq_ps + attention
    several += profile.prefill_kv_ps * past_tokens(tokens, fewest_chunks(tokens, limits), limits)
    several += np.max([chunks * base + slope * tokens for base, slope in _lines_below(limits, profile)], axis=0)
    return np.where(tokens <= limits.chunk_tokens, np.minimum(whole, several), several)


def _lines_below(limits: Limits, profile: Profile) -> list[tuple[float, float]]:
    """Lines (value at 0 tokens, slope), neither below 0, under what an iteration of 1 to chunk_tokens tokens takes."""
    most = limits.chunk_tokens
    sizes = np.unique([*np.clip(profile.g_knots_tokens, 1, most).tolist(), most])
    times = np.array([profile.g_ps(int(t)) - 1 + profile.prefill_base_ps for t in sizes], np.float64)
    slopes = [0.0, *(float(s) for s in np.diff(times) / np.diff(sizes) if s > 0)]
    if most > 1:
        slopes.append(float((times[-1] - times[0]) / (sizes[-1] - sizes[0])))
    lines = [(float((times - slope * sizes).min()), slope) for slope in slopes]
    from_zero = 0.0, float((times / sizes).min())
    return [from_zero, *(line for line in lines if line[0] >= 0)]


def decode_ps(contexts: Any, limits: Limits, profile: Profile) -> Any:
    """The least time of the next token at contexts of so many tokens, float64[n]: a decode or, where the request was
    evicted, a prompt of one token more."""
    step = profile.g_ps(1) + profile.decode_base_ps + profile.decode_seq_ps
    return np.minimum(step + contexts * float(profile.decode_kv_ps), prefill_ps(contexts + 1, limits, profile))
