"""No iteration that an engine can run is cheaper than the prices of what it does."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pecgym.bounds.limits import Limits
from pecgym.bounds.prices import Amounts, highest_prices
from pecgym.costs import Profile
from pecgym.costs.profile import PAIRS_UNIT
from tests.engine.cases import profiles


@st.composite
def batches(draw: Any) -> tuple[Limits, list[tuple[int, int]], list[int]]:
    """Limits, and an iteration within them: chunks (new, past tokens) and contexts of decodes."""
    slots, tokens = draw(st.integers(1, 40)), draw(st.integers(1, 200))
    limits = Limits(
        slots, max(tokens, slots), draw(st.integers(1, 3000)), max(tokens, slots), draw(st.booleans()), True
    )
    n_decodes = draw(st.integers(0, slots)) if draw(st.booleans()) else 0
    most = min(slots - n_decodes, limits.tokens - n_decodes)
    if n_decodes and not limits.mixes:
        most = 0
    lengths = draw(st.lists(st.integers(1, 200), min_size=0, max_size=most))
    left = limits.tokens - n_decodes
    chunks = []
    for rest, length in zip(range(len(lengths), 0, -1), lengths, strict=True):
        chunk = min(length, left - rest + 1)
        left -= chunk
        chunks.append((chunk, draw(st.integers(0, 50))))
    share = limits.kv_tokens // n_decodes if n_decodes else 0
    return limits, chunks, [draw(st.integers(0, share)) for _ in range(n_decodes)]


@settings(max_examples=1000, deadline=None)
@given(profiles(), batches(), st.tuples(*[st.integers(0, 10**6)] * 4))
def test_no_iteration_is_cheaper_than_its_prices(
    profile: Profile, batch: tuple[Limits, list[tuple[int, int]], list[int]], amounts: tuple[int, int, int, int]
) -> None:
    limits, chunks, contexts = batch
    prices = highest_prices(Amounts(*amounts), limits, profile)
    charged = 0.0
    for new, past in chunks:
        pairs = new * new + 2 * new * past
        charged += new * prices.prompt_token_ps + prices.prompt_ps + profile.prefill_seq_ps
        charged += past * profile.prefill_kv_ps + max(pairs * profile.attn_ps_per_1024_pairs / PAIRS_UNIT - new, 0)
    for context in contexts:
        charged += prices.decode_ps + profile.decode_seq_ps + context * (prices.kv_token_ps + profile.decode_kv_ps)
    assert charged <= profile.iteration_ps(chunks, contexts) * (1 + 1e-9)


@settings(max_examples=200, deadline=None)
@given(profiles(), batches())
def test_prices_are_worth_having(profile: Profile, batch: tuple[Limits, list[tuple[int, int]], list[int]]) -> None:
    """What matters alone is priced at what the fullest iteration of it takes."""
    limits = batch[0]
    prices = highest_prices(Amounts(1, 0, 0, 0), limits, profile)
    fullest = min((profile.g_ps(t) + profile.prefill_base_ps) / t for t in range(1, limits.tokens + 1))
    assert (fullest - 1) * (1 - 1e-8) <= prices.prompt_token_ps <= fullest
