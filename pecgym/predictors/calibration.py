"""From a model's raw word to an expected length and a tail, by its errors on requests that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.predictors.accuracy import tail_mean
from pecgym.predictors.base import TAIL, Predictions

Floats = NDArray[np.float64]

_BINS = 5
_ROWS_PER_BIN = 50


@dataclass  # not frozen: OmegaConf cannot fill a frozen one inside a manifest
class Calibration:
    """A prediction is scale x raw, so that predictions sum to what the true lengths sum to; ranks stay as they are.

    Attributes:
        scale: sum of the true lengths / sum of the raw predictions.
        edges: where bins of the raw prediction meet, rising; bin i begins at edges[i - 1].
        tail_ratios: of each bin, the mean of the worst tenth (CVaR 0.9) of true length / prediction.
    """

    scale: float
    edges: list[float]
    tail_ratios: list[float]

    @staticmethod
    def of(raw: Floats, true: NDArray[Any]) -> Calibration:
        """From raw predictions > 0 and true lengths [n]. Bins are of equal size, of 50 requests or more."""
        scale = float(true.sum() / raw.sum())
        bins = max(1, min(_BINS, len(raw) // _ROWS_PER_BIN))
        edges = np.unique(np.quantile(raw, np.arange(1, bins) / bins))
        where = np.searchsorted(edges, raw, side="right")
        ratios = [tail_mean((true / (scale * raw))[where == each], TAIL) for each in np.unique(where)]
        kept = edges[np.unique(where)[1:] - 1]
        return Calibration(scale, kept.tolist(), ratios)

    def predictions(self, raw: Floats, latency_s: float) -> Predictions:
        """Raw predictions [n] as predictions of that latency."""
        expected = self.scale * raw
        ratios = np.asarray(self.tail_ratios)[np.searchsorted(self.edges, raw, side="right")]
        return Predictions.of(expected, expected * ratios, latency_s)
