"""What a length predictor is: a word on each request's output, made when the request arrives."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from pecgym.errors import TraceError
from pecgym.workload.columns import MAX_TOKENS, FloatColumn, IntColumn
from pecgym.workload.trace import Trace

TAIL = 0.1
"""The share of the predicted distribution that predicted_tail_tokens is the mean of: CVaR 0.9."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a predictor says of n requests: columns [n] of a Trace, in its order.

    predicted_tokens: int64, expected output length, >= 1. predicted_tail_tokens: int64, the mean of the worst tenth of
    the predicted distribution (CVaR 0.9), >= predicted_tokens. prediction_s: float64, how long each prediction takes.
    """

    predicted_tokens: IntColumn
    predicted_tail_tokens: IntColumn
    prediction_s: FloatColumn

    @staticmethod
    def of(predicted: Any, tail: Any, latency_s: Any) -> Predictions:
        """From lengths in tokens (float or int [n]), rounded and kept between 1 and MAX_TOKENS, and seconds (scalar or
        [n])."""
        tokens, tails = whole_tokens(predicted), whole_tokens(tail)
        return Predictions(tokens, np.maximum(tokens, tails), np.broadcast_to(np.float64(latency_s), tokens.shape))


class Predictor(Protocol):
    """A rule that says how long a request's output will be, before it is known."""

    @property
    def name(self) -> str:
        """What tables call it: a text that load_predictor takes."""

    def predict(self, trace: Trace, seed: int) -> Predictions:
        """A prediction for each request, from the stream "predictions" of the seed. One that is learned reads only what
        is known when the request arrives; others imitate a predictor from the true length. Raises PecGymError."""


class Named:
    """A predictor that is a dataclass of its parameters is called by its kind and those that are not the defaults."""

    kind: ClassVar[str]

    @property
    def name(self) -> str:
        return self.kind + braces({f.name: getattr(self, f.name) for f in fields(self) if _differs(self, f)})  # type: ignore[arg-type]


def braces(parameters: dict[str, Any]) -> str:
    """Parameters as they stand behind a name: {sigma:0.5,latency_s:0.01}; nothing where there are none."""
    return "{" + ",".join(f"{key}:{value}" for key, value in parameters.items()) + "}" if parameters else ""


def _differs(owner: Any, field: Any) -> bool:
    return bool(getattr(owner, field.name) != field.default)


def whole_tokens(lengths: Any) -> IntColumn:
    """Lengths as whole tokens, int64, at least 1."""
    tokens: IntColumn = np.clip(np.rint(lengths), 1, MAX_TOKENS).astype(np.int64)
    return tokens


def with_predictions(trace: Trace, predictor: Predictor, seed: int) -> Trace:
    """The trace with the predictor's columns and name. Raises TraceError where it has predictions already."""
    if trace.predicted_tokens is not None:
        raise TraceError(
            f"trace {trace.name!r} has predictions of its own (column predicted_tokens): leave the predictor "
            f"{predictor.name} out, or take the column out of the trace"
        )
    found = predictor.predict(trace, seed)
    return replace(trace, **{f.name: getattr(found, f.name) for f in fields(found)}, predictor=predictor.name)
