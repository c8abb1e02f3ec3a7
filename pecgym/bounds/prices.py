"""Prices of what an iteration does, so low that no iteration is cheaper than the sum of what it does.

An iteration computes P prompt tokens of n_p requests and decodes n_d requests that hold K tokens together. Beside the
profile's own price of each sequence, KV read and attention pair, which it pays to whom they belong, it takes
G = g(P + n_d) + prefill_base [P > 0] + decode_base [n_d > 0] for all of them together. Prices a of a prompt token, y of
a prompt's appearance, d of a decode and x of a KV token read are valid if

    a P + y n_p + d n_d + x K <= G          for every iteration that the engine can run (Limits).

For a number of tokens t = P + n_d the left side is largest at a corner of what is possible; along t both sides are
linear between g's knots and a few other sizes, but for g's rounding down, which takes less than 1 ps. So finitely many
iterations decide, and any valid list will do: of those on a grid the one is taken that prices a workload highest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pecgym.bounds.limits import Limits
from pecgym.costs import Profile

Floats = NDArray[np.float64]

SAFETY = 1 - 1e-9
"""Times it, so that float64 never rounds a bound above what it bounds."""
_TOKEN_SHARES = np.linspace(0, 1, 33)[:, None, None]
_PROMPT_SHARES = np.linspace(0, 1, 5)[None, :, None]
_KV_SHARES = np.linspace(0, 1, 17)[None, None, :]


@dataclass(frozen=True)
class Amounts:
    """What a workload does in all, at least: prompt tokens, prompts, decodes, KV tokens that these read."""

    prompt_tokens: float
    prompts: float
    decodes: float
    kv_tokens: float


@dataclass(frozen=True)
class Prices:
    """Picoseconds of a prompt token, of a prompt in an iteration, of a decode and of a KV token that a decode reads;
    what the profile itself takes for each sequence and each KV token comes on top."""

    prompt_token_ps: float
    prompt_ps: float
    decode_ps: float
    kv_token_ps: float


def highest_prices(amounts: Amounts, limits: Limits, profile: Profile) -> Prices:
    """Of the valid price lists on a grid the one that prices the amounts highest."""
    tokens, prompts, decodes, reads, most = _iterations(limits, profile)
    of_prompts = _cheapest(most, tokens) * _TOKEN_SHARES
    left = most - of_prompts[..., None] * tokens
    of_prompt = _cheapest(left, prompts) * _PROMPT_SHARES
    left = left - of_prompt[..., None] * prompts
    of_read = _cheapest(left, reads) * _KV_SHARES
    left = left - of_read[..., None] * reads
    of_decode = _cheapest(left, decodes)
    value = (
        of_prompts * amounts.prompt_tokens
        + of_prompt * amounts.prompts
        + of_read * amounts.kv_tokens
        + of_decode * amounts.decodes
    )
    best = np.unravel_index(np.argmax(value), value.shape)
    lists = (of_prompts, of_prompt, of_decode, of_read)
    return Prices(*(float(np.broadcast_to(each, value.shape)[best]) * SAFETY for each in lists))


def _cheapest(left: Floats, amount: Floats) -> Floats:
    """The most that each of `amount` can be priced in every iteration; rounding may have left a trifle below 0."""
    some = amount > 0
    cheapest: Floats = np.maximum((left[..., some] / amount[some]).min(axis=-1), 0.0)
    return cheapest


def _iterations(limits: Limits, profile: Profile) -> tuple[Floats, ...]:
    """The iterations that decide: prompt tokens, prompts, decodes, KV tokens read, and the time to be shared."""
    slots = limits.slots
    sizes = np.unique([1, 2, slots - 1, slots, slots + 1, limits.tokens, *profile.g_knots_tokens.tolist()])
    sizes = sizes[(sizes >= 1) & (sizes <= max(limits.tokens, slots))]
    rows = [(t, min(slots, t), 0) for t in sizes if t <= limits.tokens]
    rows += [(0, 0, t) for t in sizes if t <= slots]
    if limits.mixes and slots > 1:
        for t in sizes[sizes > 1]:
            others = min(slots, t) - 1
            rows += [(t - 1, others, 1), (t - others, 1, others)]
    tokens, prompts, decodes = np.array(rows, np.float64).T
    g = np.array([profile.g_ps(int(p + n)) - 1 for p, _, n in rows], np.float64)
    time = g + profile.prefill_base_ps * (prompts > 0) + profile.decode_base_ps * (decodes > 0)
    return tokens, prompts, decodes, limits.kv_tokens * (decodes > 0), np.maximum(time, 0.0)
