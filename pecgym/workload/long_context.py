"""Long-context rewrites: some inputs of a trace become 100K to 500K tokens long, as in PecSched's experiments.

No Azure text trace has an input above 14,050 tokens, so every such workload is a rewrite. Arrivals and outputs stay,
the rewritten requests get is_long. Work rises 3x to 26x: state the arrival scale with any result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.columns import BoolColumn, IntColumn
from pecgym.workload.trace import Trace

Mode = Literal["paper", "linear", "rank"]

LOW_TOKENS, HIGH_TOKENS = 100_000, 500_000  # PecSched v2, evaluation workloads
PERCENTILE = 95.0  # the same
LINEAR_THRESHOLD_TOKENS = 4096  # the authors' later tool, as the next
LINEAR_JITTER_TOKENS = 8


def rewrite_paper(
    trace: Trace,
    *,
    seed: int = 0,
    percentile: float = PERCENTILE,
    low_tokens: int = LOW_TOKENS,
    high_tokens: int = HIGH_TOKENS,
) -> Trace:
    """Redraws the inputs above the trace's own percentile uniformly from low_tokens..high_tokens, both included."""
    _check(trace, low_tokens, high_tokens)
    long = trace.input_tokens > _percentile(trace, percentile)
    tokens = random_stream(seed, "long_context").integers(low_tokens, high_tokens, int(long.sum()), endpoint=True)
    return _rewritten(trace, long, tokens)


def rewrite_linear(
    trace: Trace,
    *,
    seed: int = 0,
    threshold_tokens: int = LINEAR_THRESHOLD_TOKENS,
    source_range: tuple[int, int] | None = None,
    jitter_tokens: int = LINEAR_JITTER_TOKENS,
    low_tokens: int = LOW_TOKENS,
    high_tokens: int = HIGH_TOKENS,
) -> Trace:
    """Maps the inputs of at least threshold_tokens linearly from source_range onto low_tokens..high_tokens.

    Each then moves by a whole number of tokens drawn uniformly from -jitter_tokens..jitter_tokens and is held inside
    low_tokens..high_tokens. source_range defaults to the smallest and largest of those inputs, so the result depends on
    which rows are loaded; fix it to treat windows of a trace alike. Raises TraceError for an input outside it.
    """
    _check(trace, low_tokens, high_tokens)
    if jitter_tokens < 0:
        raise TraceError(f"jitter_tokens must be at least 0, got {jitter_tokens}")
    long = trace.input_tokens >= threshold_tokens
    source = trace.input_tokens[long]
    if not source.size:
        return _rewritten(trace, long, source)
    first, last = source_range if source_range is not None else (int(source.min()), int(source.max()))
    if first >= last:
        raise TraceError(
            f"source_range {first}..{last} has no width, so there is nothing to map linearly; pass a wider source_range"
        )
    if source.min() < first or source.max() > last:
        raise TraceError(
            f"trace {trace.name!r}: inputs of {source.min()} to {source.max()} tokens reach outside "
            f"source_range {first}..{last}; widen it"
        )
    mapped = np.rint(low_tokens + (source - first) * ((high_tokens - low_tokens) / (last - first))).astype(np.int64)
    mapped += random_stream(seed, "long_context").integers(-jitter_tokens, jitter_tokens, source.size, endpoint=True)
    return _rewritten(trace, long, np.clip(mapped, low_tokens, high_tokens))


def rewrite_rank(
    trace: Trace,
    *,
    seed: int = 0,
    percentile: float | None = None,
    threshold_tokens: int | None = None,
    share: float | None = None,
    low_tokens: int = LOW_TOKENS,
    high_tokens: int = HIGH_TOKENS,
) -> Trace:
    """Gives the longest inputs the quantiles of a log-uniform law on low_tokens..high_tokens, by their rank.

    Which inputs: those above threshold_tokens, those above the trace's percentile, or exactly round(share * n) of them
    (give at most one of the three; default: the 95th percentile). Of m, the one of rank r = 0..m - 1 gets
    low * (high / low) ** ((r + 1/2) / m) tokens. Equal inputs are ranked at random under `seed`.
    """
    _check(trace, low_tokens, high_tokens)
    if sum(option is not None for option in (percentile, threshold_tokens, share)) > 1:
        raise TraceError("rank rewrite: give at most one of percentile, threshold_tokens and share")
    shuffled = random_stream(seed, "long_context").permutation(len(trace))
    by_rank = shuffled[np.argsort(trace.input_tokens[shuffled], kind="stable")]
    if share is not None:
        if not 0 <= share <= 1:
            raise TraceError(f"rank rewrite: share must be from 0 to 1, got {share}")
        count = round(share * len(trace))
    else:
        by_percentile = _percentile(trace, PERCENTILE if percentile is None else percentile)
        count = int((trace.input_tokens > (by_percentile if threshold_tokens is None else threshold_tokens)).sum())
    chosen = by_rank[len(trace) - count :]
    quantile = (np.arange(count) + 0.5) / max(count, 1)
    tokens = np.rint(low_tokens * (high_tokens / low_tokens) ** quantile).astype(np.int64)
    long = np.zeros(len(trace), dtype=np.bool_)
    long[chosen] = True
    by_row = np.empty(len(trace), dtype=np.int64)
    by_row[chosen] = tokens
    return _rewritten(trace, long, by_row[long])


REWRITES: dict[str, Callable[..., Trace]] = {"paper": rewrite_paper, "linear": rewrite_linear, "rank": rewrite_rank}


def rewrite_long(trace: Trace, mode: Mode, **options: Any) -> Trace:
    """The rewrite called `mode` ("paper", "linear", "rank") with that function's options. TraceError for others."""
    if mode not in REWRITES:
        raise TraceError(f"no long-context rewrite {mode!r}; there are {', '.join(REWRITES)}")
    return REWRITES[mode](trace, **options)


def _percentile(trace: Trace, percentile: float) -> float:
    if not 0 <= percentile <= 100:
        raise TraceError(f"percentile must be from 0 to 100, got {percentile}")
    return float(np.percentile(trace.input_tokens, percentile)) if len(trace) else 0.0


def _check(trace: Trace, low_tokens: int, high_tokens: int) -> None:
    if not 1 <= low_tokens < high_tokens:
        raise TraceError(f"needs 1 <= low_tokens < high_tokens, got {low_tokens} and {high_tokens}")
    if trace.is_long.any():
        raise TraceError(f"trace {trace.name!r} has long requests already; rewrite the trace it was made from")


def _rewritten(trace: Trace, long: BoolColumn, tokens: IntColumn) -> Trace:
    """`trace` with the inputs of the `long` rows [n] replaced by `tokens` [sum of long]."""
    inputs = trace.input_tokens.copy()
    inputs[long] = tokens
    return replace(trace, input_tokens=inputs, is_long=long)
