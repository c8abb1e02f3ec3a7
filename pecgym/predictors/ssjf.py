"""The proxy model of SSJF as a confusion matrix: which length class it predicts, given the true one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import SpecError
from pecgym.predictors.accuracy import CLASS_CUTS, length_class
from pecgym.predictors.base import TAIL, Named, Predictions
from pecgym.predictors.synthetic import check_latency
from pecgym.random import random_stream
from pecgym.strict import load_strict
from pecgym.workload.columns import IntColumn
from pecgym.workload.splits import split_rows
from pecgym.workload.trace import Trace

Floats = NDArray[np.float64]

_FILE = Path(__file__).parent / "data" / "ssjf.yaml"
_POINTS = 20_000
CUTS = ("lmsys", "own")
FEWEST_ROWS = 100
"""Requests that `own` cuts are taken from, at least: the p99 of fewer is no class border."""


@dataclass(frozen=True)
class Released:
    """What is known of the released predictions: data/ssjf.yaml says what each key is."""

    cuts_tokens: list[int]
    class_shares: list[float]
    confusion: list[list[float]]
    quantiles_tokens: list[int]
    latency_s: float

    def sample(self) -> tuple[Floats, Floats]:
        """Output lengths at evenly spaced probabilities, float64 [n], and the weight of each."""
        at = (np.arange(_POINTS) + 0.5) / _POINTS
        lengths = np.interp(at, np.linspace(0, 1, len(self.quantiles_tokens)), self.quantiles_tokens)
        classes = length_class(lengths, self.cuts_tokens)
        return lengths, (np.asarray(self.class_shares) / np.bincount(classes))[classes]


@cache
def released() -> Released:
    """The facts of the package."""
    return load_strict(Released, _FILE, SpecError)


@dataclass(frozen=True)
class SsjfProxy(Named):
    """The class of the true length is mistaken as SSJF's BERT mistakes it; each request by itself.

    The prediction is the mean output length of those that are predicted to be of that class, the tail the mean of the
    longest tenth of them. Neither depends on the request beyond its predicted class: five values in all.

    Attributes:
        cuts: where the classes are cut. "lmsys": where the paper's are, with its lengths; "own": at p25, p50, p75 and
            p99 of the first 60% of the trace, as a model that was trained on such traffic would have them.
        latency_s: of a prediction; the default is the paper's on a V100.
    """

    kind: ClassVar[str] = "ssjf_proxy"
    cuts: str = "lmsys"
    latency_s: float = 0.0078

    def __post_init__(self) -> None:
        check_latency(self.latency_s)
        if self.cuts not in CUTS:
            raise SpecError(f"cuts={self.cuts!r}: choose one of {', '.join(CUTS)}")

    def predict(self, trace: Trace, seed: int) -> Predictions:
        confusion = np.asarray(released().confusion)
        if self.cuts == "lmsys":
            cuts = np.asarray(released().cuts_tokens)
            lengths, weights = released().sample()
        else:
            lengths = _trained_on(trace)
            cuts, weights = np.quantile(lengths, CLASS_CUTS), np.ones(len(lengths))
        chosen = _drawn(confusion, length_class(trace.output_tokens, cuts), seed)
        of_class = confusion[length_class(lengths, cuts)].T * weights
        means = [float(np.average(lengths, weights=each)) for each in of_class]
        tails = [_weighted_tail(lengths, each) for each in of_class]
        return Predictions.of(np.asarray(means)[chosen], np.asarray(tails)[chosen], self.latency_s)


def _trained_on(trace: Trace) -> Floats:
    rows = slice(*split_rows(len(trace), "train"))
    lengths = trace.output_tokens[rows].astype(np.float64)
    if len(lengths) < FEWEST_ROWS:
        raise SpecError(
            f"predictor ssjf_proxy{{cuts:own}}: the first 60% of {trace.name!r} are {len(lengths)} requests, at least "
            f"{FEWEST_ROWS} are needed; use cuts:lmsys"
        )
    return lengths


def _drawn(confusion: Floats, true_class: IntColumn, seed: int) -> IntColumn:
    """A predicted class for each true one, by P(predicted | true)."""
    upto = np.cumsum(confusion / confusion.sum(axis=1, keepdims=True), axis=1)[true_class]
    draws = random_stream(seed, "predictions").random(len(true_class))
    chosen: IntColumn = (draws[:, None] >= upto[:, :-1]).sum(axis=1)
    return chosen


def _weighted_tail(lengths: Floats, weights: Floats) -> float:
    """CVaR: the mean over the longest tenth, by weight."""
    order = np.argsort(-lengths, kind="stable")
    upto = np.minimum(np.cumsum(weights[order]), TAIL * weights.sum())
    return float(np.average(lengths[order], weights=np.diff(upto, prepend=0.0)))
