"""Two predictors one after the other: a cheap one for all, a better one for those that seem long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pecgym.errors import SpecError
from pecgym.predictors.base import Predictions, Predictor, braces
from pecgym.random import random_stream
from pecgym.workload.trace import Trace


@dataclass(frozen=True)
class TwoStage:
    """SkipPredict's predictions (Mitzenmacher and Shahout, arXiv:2402.03564): every request pays for the cheap one;
    one whose cheap prediction is above the threshold also for the full one, which is then its own, threshold + 1 at
    least. The others keep the cheap one. The two err independently."""

    cheap: Predictor
    full: Predictor
    threshold_tokens: int

    def __post_init__(self) -> None:
        if self.threshold_tokens < 1:
            raise SpecError(f"threshold_tokens={self.threshold_tokens}: must be 1 or more")

    @property
    def name(self) -> str:
        given = {"cheap": self.cheap.name, "full": self.full.name, "threshold_tokens": self.threshold_tokens}
        return "two_stage" + braces(given)

    def predict(self, trace: Trace, seed: int) -> Predictions:
        other_seed = int(random_stream(seed, "predictions/full").integers(2**63))
        cheap, full = self.cheap.predict(trace, seed), self.full.predict(trace, other_seed)
        is_long = cheap.predicted_tokens > self.threshold_tokens
        longs = np.maximum(full.predicted_tokens, self.threshold_tokens + 1)
        return Predictions.of(
            np.where(is_long, longs, cheap.predicted_tokens),
            np.where(is_long, full.predicted_tail_tokens, cheap.predicted_tail_tokens),
            cheap.prediction_s + np.where(is_long, full.prediction_s, 0.0),
        )
