"""Plain renewal arrivals, for queueing theory and controlled experiments. None of them is like a real trace.

The Azure traces have an index of dispersion in the tens to hundreds, and their lengths drift with their rate: neither
Poisson nor gamma arrivals, nor real lengths under other arrivals, should be called Azure-like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.columns import FloatColumn
from pecgym.workload.trace import Trace

Process = Literal["poisson", "gamma", "fixed"]


def poisson(
    rate_rps: float, stream: np.random.Generator, *, n: int | None = None, duration_s: float | None = None
) -> FloatColumn:
    """Exponential gaps: arrival times in seconds, float64, `n` of them or all before `duration_s` (give one)."""
    _require_rate(rate_rps)
    return _renewal(lambda count: stream.exponential(1 / rate_rps, count), rate_rps, n, duration_s)


def gamma(
    rate_rps: float, cv: float, stream: np.random.Generator, *, n: int | None = None, duration_s: float | None = None
) -> FloatColumn:
    """Gamma gaps of coefficient of variation `cv` (1 is Poisson); otherwise as poisson(). The index of dispersion of
    long windows is cv squared."""
    _require_rate(rate_rps)
    if not (np.isfinite(cv) and cv > 0):
        raise TraceError(f"gamma arrivals: cv must be finite and above 0, got {cv}")
    return _renewal(lambda count: stream.gamma(cv**-2, cv**2 / rate_rps, count), rate_rps, n, duration_s)


def fixed(rate_rps: float, *, n: int | None = None, duration_s: float | None = None) -> FloatColumn:
    """Arrivals every 1 / rate_rps seconds, the first at time zero; otherwise as poisson()."""
    _require_rate(rate_rps)
    _require_one_end(n, duration_s)
    if n is None:
        assert duration_s is not None
        # One more than fits, because the product may be rounded either way.
        times_s = np.arange(int(duration_s * rate_rps) + 2) / rate_rps
        return times_s[times_s < duration_s]
    return np.arange(n) / rate_rps


def with_arrivals(
    lengths: Trace, process: Process, rate_rps: float, *, seed: int = 0, cv: float | None = None
) -> Trace:
    """The requests of `lengths`, in order, arriving as "poisson", "gamma" (needs `cv`) or "fixed" at `rate_rps`.

    Lengths, predictions, deadlines and classes stay; the link between rate and lengths is lost. Raises TraceError for
    an unknown process or a bad number.
    """
    if process not in ("poisson", "gamma", "fixed"):
        raise TraceError(f"no arrival process {process!r}; there are poisson, gamma and fixed")
    if (cv is None) == (process == "gamma"):
        raise TraceError("gamma arrivals need cv, the others take none")
    stream = random_stream(seed, "arrivals")
    if process == "fixed":
        arrival_s = fixed(rate_rps, n=len(lengths))
    elif cv is None:
        arrival_s = poisson(rate_rps, stream, n=len(lengths))
    else:
        arrival_s = gamma(rate_rps, cv, stream, n=len(lengths))
    return replace(lengths, arrival_s=arrival_s, name=f"{lengths.name} ({process} arrivals)")


def _renewal(
    draw_gaps: Callable[[int], FloatColumn], rate_rps: float, n: int | None, duration_s: float | None
) -> FloatColumn:
    _require_one_end(n, duration_s)
    if n is not None:
        return np.cumsum(draw_gaps(n))
    assert duration_s is not None
    gaps: list[FloatColumn] = []
    reached_s = 0.0
    while reached_s < duration_s:
        left = max(0.0, duration_s - reached_s) * rate_rps
        gaps.append(draw_gaps(int(left + 3 * left**0.5) + 10))
        reached_s += float(gaps[-1].sum())
    times_s = np.cumsum(np.concatenate(gaps)) if gaps else np.zeros(0)
    return times_s[times_s < duration_s]


def _require_rate(rate_rps: float) -> None:
    if not (np.isfinite(rate_rps) and rate_rps > 0):
        raise TraceError(f"rate_rps must be finite and above 0, got {rate_rps}")


def _require_one_end(n: int | None, duration_s: float | None) -> None:
    if (n is None) == (duration_s is None):
        raise TraceError("give either n or duration_s")
    if n is not None and n < 0:
        raise TraceError(f"n must be at least 0, got {n}")
    if duration_s is not None and not 0 <= duration_s < np.inf:
        raise TraceError(f"duration_s must be finite and at least 0, got {duration_s}")
