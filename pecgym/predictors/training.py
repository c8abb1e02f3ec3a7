"""Training of a length predictor: on the first 60% of the requests, checked on those that follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import SpecError
from pecgym.predictors.accuracy import Accuracy, Decile, accuracy, calibration_table
from pecgym.predictors.base import Predictions
from pecgym.predictors.calibration import Calibration
from pecgym.predictors.extras import require_sklearn
from pecgym.predictors.models import Fitted, Model, TextModel, TraceModel
from pecgym.workload.prompts import Prompts
from pecgym.workload.splits import split_rows
from pecgym.workload.trace import Trace

FOLDS = 5
STEPS = 2 * (FOLDS + 3)
"""What a training does, of the model and of its baseline: features, choice of options, a fit without each fifth of the
training requests, and one on all of them."""
FEWEST_REQUESTS = 100
HELD_OUT = ("validation", "test")

_TIMED = 100


@dataclass(frozen=True)
class Learned:
    """A model that was fitted, and what its errors taught."""

    model: Model
    fitted: Fitted
    calibration: Calibration

    def predictions(self, inputs: Any, latency_s: float) -> Predictions:
        """Of what `model.inputs` gave."""
        return self.calibration.predictions(self.model.raw(self.fitted, inputs), latency_s)


@dataclass(frozen=True)
class Trained:
    """A predictor and how good it is on what it was not trained on.

    Attributes:
        learned: the predictor.
        accuracy: by split, "validation" and "test", of the predictor itself.
        baselines: the same of a constant and of a model that sees lengths alone, by what they are.
        deciles: predicted and true lengths by tenths of the predictions of "test".
        measured_s: median time of a prediction of one request here.
    """

    learned: Learned
    accuracy: dict[str, Accuracy]
    baselines: dict[str, dict[str, Accuracy]]
    deciles: list[Decile]
    measured_s: float


def train_predictor(
    model: TraceModel | TextModel,
    requests: Trace | Prompts,
    seed: int = 0,
    tick: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Trains a model on the first 60% of the requests, in their order; validation and test are the next and last 20%.

    The same requests, options and seed give the same predictor. tick: is told what comes next, `STEPS` times. Raises
    PecGymError for too few requests, or requests that lack what the model reads.
    """
    require_sklearn()
    if len(requests) < FEWEST_REQUESTS:
        raise SpecError(f"{requests.name}: {len(requests)} requests, at least {FEWEST_REQUESTS} are needed to train on")
    rows = {split: slice(*split_rows(len(requests), split)) for split in ("train", *HELD_OUT)}
    lengths = requests.output_tokens
    median = np.full(len(lengths), np.median(lengths[rows["train"]]))
    tick("features")
    inputs = model.inputs(requests)
    learned = _learn(model, inputs[rows["train"]], lengths[rows["train"]], seed, tick)
    found = learned.predictions(inputs, 0.0)
    baseline, simple = _baseline(model)
    tick("features of the baseline")
    simple_inputs = simple.inputs(requests)
    by_length = _learn(simple, simple_inputs[rows["train"]], lengths[rows["train"]], seed, tick)
    guesses = {"constant (median)": median, baseline: by_length.predictions(simple_inputs, 0.0).predicted_tokens}

    def on_held_out(predicted: Any) -> dict[str, Accuracy]:
        return {split: accuracy(predicted[rows[split]], lengths[rows[split]]) for split in HELD_OUT}

    test = rows["test"]
    return Trained(
        learned,
        on_held_out(found.predicted_tokens),
        {name: on_held_out(predicted) for name, predicted in guesses.items()},
        calibration_table(found.predicted_tokens[test], found.predicted_tail_tokens[test], lengths[test]),
        _median_time_s(learned, requests),
    )


def _learn(
    model: TraceModel | TextModel, inputs: Any, lengths: NDArray[np.int64], seed: int, tick: Callable[[str], None]
) -> Learned:
    """The model fitted on all rows, calibrated by its errors on each fifth of them when fitted on the others."""
    tick("options")
    model = model.tuned(inputs, lengths)
    index = np.arange(len(lengths))
    raw = np.empty(len(lengths))
    for fold in np.array_split(index, FOLDS):
        tick("held-out fifths")
        others = np.setdiff1d(index, fold)
        raw[fold] = model.raw(model.fit(inputs[others], lengths[others], seed), inputs[fold])
    tick("all training requests")
    fitted = model.fit(inputs, lengths, seed)
    return Learned(model, fitted, Calibration.of(raw, lengths))


def _baseline(model: TraceModel | TextModel) -> tuple[str, TraceModel | TextModel]:
    if isinstance(model, TraceModel):
        return "input length alone", replace(model, features="input")
    return "length of the text alone", TextModel(encoder="length")


def _median_time_s(learned: Learned, requests: Trace | Prompts) -> float:
    """Seconds that a prediction of one request takes, alone: the median of 100 of them."""
    times_s = []
    for row in np.linspace(0, len(requests) - 1, _TIMED).astype(int):
        one = requests.slice(row, row + 1)
        start_s = time.perf_counter()
        learned.predictions(learned.model.inputs(one), 0.0)
        times_s.append(time.perf_counter() - start_s)
    return float(np.median(times_s))
