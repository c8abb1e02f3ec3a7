"""The engine counts time in int64 picoseconds; seconds appear at the edges only."""

from __future__ import annotations

from typing import Any

import numpy as np

from pecgym.errors import PecGymError

PS_PER_S = 10**12
PS_PER_US = 10**6
J_PER_KWH = 3.6e6
HORIZON_S = 4.0e6
"""The longest time that the engine takes, in seconds (46 days); sums of two such times still fit in int64."""


def seconds_to_ps(seconds: Any) -> Any:
    """Rounds seconds (scalar or array of float64) to whole picoseconds, int64."""
    values = np.asarray(seconds, np.float64)
    if not np.all(np.isfinite(values)) or np.any(np.abs(values) > HORIZON_S):
        raise PecGymError(
            f"a time of {np.max(np.abs(values))} s: times must be finite and below {HORIZON_S:.0f} s (46 days)"
        )
    # Whole seconds apart from the fraction: the product of a large time and 1e12 would lose the last digits.
    whole = np.floor(values)
    ps = whole.astype(np.int64) * PS_PER_S + np.rint((values - whole) * PS_PER_S).astype(np.int64)
    return ps if ps.ndim else int(ps)


def ps_to_seconds(ps: Any) -> Any:
    """Picoseconds (int64) as float64 seconds."""
    return np.asarray(ps, np.int64) / PS_PER_S
