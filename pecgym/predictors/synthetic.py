"""Predictors that are made from the true lengths, with errors of a known kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from pecgym.errors import SpecError
from pecgym.predictors.base import TAIL, Named, Predictions
from pecgym.random import random_stream
from pecgym.workload.trace import Trace


def check_latency(latency_s: float) -> None:
    """Raises SpecError for a time that a prediction cannot take."""
    if not (math.isfinite(latency_s) and latency_s >= 0):
        raise SpecError(f"latency_s={latency_s}: must be 0 or more")


@dataclass(frozen=True)
class Oracle(Named):
    """The true length, and nothing above it."""

    kind: ClassVar[str] = "oracle"
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        check_latency(self.latency_s)

    def predict(self, trace: Trace, seed: int) -> Predictions:
        return Predictions.of(trace.output_tokens, trace.output_tokens, self.latency_s)


@dataclass(frozen=True)
class LogNormal(Named):
    """The true length x exp(sigma N), N standard normal and drawn for each request by itself.

    The tail is that of the distribution which the prediction p stands for where every log-length is as likely as any
    other, log-normal around p: CVaR 0.9 = p exp(sigma^2 / 2) Phi(sigma - z) / 0.1, z = Phi^-1(0.9).
    """

    kind: ClassVar[str] = "lognormal"
    sigma: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        check_latency(self.latency_s)
        if not 0 <= self.sigma <= 10:
            raise SpecError(f"sigma={self.sigma}: must be between 0 and 10")

    def predict(self, trace: Trace, seed: int) -> Predictions:
        noise = random_stream(seed, "predictions").standard_normal(len(trace))
        predicted = np.maximum(np.rint(trace.output_tokens * np.exp(self.sigma * noise)), 1)
        return Predictions.of(predicted, predicted * self.tail_ratio, self.latency_s)

    @property
    def tail_ratio(self) -> float:
        """CVaR 0.9 of the predicted distribution over its median."""
        normal = NormalDist()
        return math.exp(self.sigma**2 / 2) * normal.cdf(self.sigma - normal.inv_cdf(1 - TAIL)) / TAIL
