"""Figures that describe a trace, each defined once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pecgym.errors import TraceError

QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}


def length_quantiles(tokens: NDArray[np.int64]) -> dict[str, float]:
    """p50, p90, p99 and max of token counts [n] (linear interpolation between order statistics)."""
    found = {
        name: float(value) for name, value in zip(QUANTILES, np.quantile(tokens, list(QUANTILES.values())), strict=True)
    }
    return {**found, "max": float(tokens.max())}


def interarrival_cv(arrival_s: NDArray[np.float64]) -> float:
    """Standard deviation of the gaps between arrivals [n] over their mean; NaN for fewer than 3 arrivals or no gap."""
    gaps = np.diff(arrival_s)
    if gaps.size < 2 or gaps.mean() == 0:
        return float("nan")
    return float(gaps.std() / gaps.mean())


def index_of_dispersion(arrival_s: NDArray[np.float64], window_s: ArrayLike) -> NDArray[np.float64]:
    """Sample variance over mean of the number of arrivals in windows of each length, float64 shaped as `window_s`.

    Windows are laid side by side from the first arrival; a last, incomplete one is left out. A Poisson process has 1
    at every length. NaN where fewer than two whole windows fit. Raises TraceError for a window that is not positive.
    """
    windows = np.atleast_1d(np.asarray(window_s, dtype=np.float64))
    if not np.all(windows > 0):
        raise TraceError(f"index of dispersion: window lengths must be above 0 s, got {windows.tolist()}")
    result = np.full(windows.shape, np.nan)
    for index, window in enumerate(windows.flat):
        since_s = arrival_s - arrival_s[0] if arrival_s.size else arrival_s
        whole = int(since_s[-1] // window) if since_s.size else 0
        if whole >= 2:
            slots = since_s // window
            slots = slots[slots < whole]
            # Only windows with arrivals are counted out, as a sparse trace may have any number of empty ones.
            counts = np.diff(np.flatnonzero(np.diff(slots, prepend=-1.0, append=np.inf)))
            total, squares = int(counts.sum()), int((counts**2).sum())
            result.flat[index] = (whole * squares - total**2) / ((whole - 1) * total)
    return result.reshape(np.shape(window_s))
