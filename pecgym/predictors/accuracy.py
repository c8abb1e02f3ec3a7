"""How good predictions are, each figure defined once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pecgym.errors import TraceError
from pecgym.workload.columns import IntColumn

CLASS_CUTS = (0.25, 0.50, 0.75, 0.99)
"""Classes of length are cut at these quantiles of the true lengths (SSJF, arXiv:2404.08509, section 4)."""


@dataclass  # not frozen: OmegaConf cannot fill a frozen one inside a manifest
class Accuracy:
    """How close predicted lengths are to true ones.

    Attributes:
        requests: how many were compared.
        kendall_tau: tau-b of predicted and true lengths, -1 to 1: how well they rank; NaN where one of the two is the
            same for all.
        mae_tokens: mean of |predicted - true|.
        same_class: share whose predicted length falls into the class of the true one: five classes, cut at p25, p50,
            p75 and p99 of these true lengths.
        within_one_class: share where the class is the same or a neighbour.
        calibration: sum of the predicted lengths / sum of the true ones.
    """

    requests: int
    kendall_tau: float
    mae_tokens: float
    same_class: float
    within_one_class: float
    calibration: float

    def __str__(self) -> str:
        tau = "undefined" if math.isnan(self.kendall_tau) else f"{self.kendall_tau:.2f}"
        return (
            f"tau {tau}, MAE {self.mae_tokens:.0f} tokens, within one class {self.within_one_class:.0%}, "
            f"predicted/true {self.calibration:.2f}"
        )


def accuracy(predicted: ArrayLike, true: ArrayLike) -> Accuracy:
    """Predicted against true lengths, both [n] in tokens. Raises TraceError for none, or for different numbers."""
    guesses, lengths = _pair(predicted, true)
    cuts = np.quantile(lengths, CLASS_CUTS)
    apart = np.abs(length_class(guesses, cuts) - length_class(lengths, cuts))
    return Accuracy(
        requests=len(lengths),
        kendall_tau=kendall_tau(guesses, lengths),
        mae_tokens=float(np.mean(np.abs(guesses - lengths))),
        same_class=float(np.mean(apart == 0)),
        within_one_class=float(np.mean(apart <= 1)),
        calibration=float(guesses.sum() / lengths.sum()),
    )


def length_class(tokens: ArrayLike, cuts: ArrayLike) -> IntColumn:
    """The class of each length [n]: how many of the rising cuts are at or below it."""
    return np.searchsorted(np.asarray(cuts), np.asarray(tokens), side="right").astype(np.int64)


@dataclass(frozen=True)
class Decile:
    """The requests of one tenth of the predictions, from the shortest predictions to the longest."""

    requests: int
    predicted_tokens: float
    true_tokens: float
    tail_tokens: float
    true_tail_tokens: float


def calibration_table(predicted: ArrayLike, tail: ArrayLike, true: ArrayLike) -> list[Decile]:
    """By tenths of the predictions, mean predicted and true length, and mean predicted tail beside the mean of the
    longest tenth of the true lengths. Arrays [n] in tokens; fewer than 10 requests give as many rows."""
    guesses, lengths = _pair(predicted, true)
    tails = np.asarray(tail, np.float64)
    order = np.argsort(guesses, kind="stable")
    return [
        Decile(
            len(rows),
            float(guesses[rows].mean()),
            float(lengths[rows].mean()),
            float(tails[rows].mean()),
            tail_mean(lengths[rows]),
        )
        for rows in np.array_split(order, min(10, len(order)))
    ]


def tail_mean(lengths: NDArray[np.float64], share: float = 0.1) -> float:
    """CVaR: the mean of the longest `share` of the lengths [n], at least of one."""
    longest = np.sort(lengths)[-max(1, round(share * len(lengths))) :]
    return float(longest.mean())


def kendall_tau(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b of two arrays [n] in O(n log^2 n) time; NaN where either has one value only (M. G. Kendall, The
    treatment of ties in ranking problems, Biometrika 33, 1945; counted by merging, W. R. Knight, JASA 61, 1966)."""
    first = np.unique(np.asarray(x), return_inverse=True)[1].astype(np.int64)
    second = np.unique(np.asarray(y), return_inverse=True)[1].astype(np.int64)
    order = np.lexsort((second, first))
    pairs = len(first) * (len(first) - 1) // 2
    tied_x, tied_y = _tied_pairs(first), _tied_pairs(second)
    tied_both = _tied_pairs(first * (int(second.max(initial=0)) + 1) + second)
    if pairs in (tied_x, tied_y):
        return float("nan")
    concordant_less_discordant = pairs - tied_x - tied_y + tied_both - 2 * _inversions(second[order])
    return concordant_less_discordant / math.sqrt(pairs - tied_x) / math.sqrt(pairs - tied_y)


def _tied_pairs(values: IntColumn) -> int:
    counts = np.unique(values, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: IntColumn) -> int:
    """Pairs (i, j), i < j, with values[i] > values[j], of whole numbers >= 0: a merge sort, a level at a time."""
    index = np.arange(len(values))
    span = int(values.max(initial=0)) + 1
    width, total = 1, 0
    while width < len(values):
        block = index // (2 * width)
        keys = block * span + values
        is_right = index // width % 2 == 1
        left, right = keys[~is_right], keys[is_right]
        ends = (block[is_right] + 1) * width  # how many are in the left halves up to and with this block's
        total += int((ends - np.searchsorted(left, right, side="right")).sum())
        keys.sort()
        values = keys - block * span
        width *= 2
    return total


def _pair(predicted: ArrayLike, true: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    guesses, lengths = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if guesses.shape != lengths.shape or guesses.ndim != 1 or not len(guesses):
        raise TraceError(
            f"accuracy: {guesses.size} predicted and {lengths.size} true lengths; give one of both per request"
        )
    return guesses, lengths
