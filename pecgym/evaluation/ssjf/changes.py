"""Means over runs, and of changes between policies on the same requests, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pecgym.analysis.comparison import CONFIDENCE, RESAMPLES
from pecgym.errors import SpecError
from pecgym.evaluation.ssjf.cells import Row
from pecgym.random import random_stream


@dataclass(frozen=True)
class Value:
    """A mean over runs, and the interval of CONFIDENCE that a bootstrap over the runs gives it."""

    value: float
    low: float
    high: float

    @property
    def is_resolved(self) -> bool:
        """Whether zero lies outside the interval."""
        return not self.low <= 0 <= self.high


def relative_change(rows: Sequence[Row], base: Sequence[Row], metric: str) -> Value:
    """(row - base) / base, run by run. Raises SpecError for a run without the metric."""
    pairs = [(row[metric], other[metric]) for row, other in zip(rows, base, strict=True)]
    if any(None in pair for pair in pairs):
        raise SpecError(f"{metric}: a run has none; let every run serve all of its requests")
    return _mean([value / of - 1 for value, of in pairs])


def mean_value(rows: Sequence[Row], metric: str) -> Value:
    """A metric, in its unit."""
    return _mean([row[metric] for row in rows])


def _mean(of_runs: Sequence[Any]) -> Value:
    values = np.array(of_runs, np.float64)
    drawn = random_stream(0, "bootstrap").integers(len(values), size=(RESAMPLES, len(values)))
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values[drawn].mean(axis=1), [outside, 100 - outside])
    return Value(float(values.mean()), float(low), float(high))
