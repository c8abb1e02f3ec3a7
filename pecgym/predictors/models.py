"""The models that learn lengths: gradient-boosted trees on a trace's features, a ridge regression on texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import SpecError, TraceError
from pecgym.predictors.accuracy import CLASS_CUTS, length_class
from pecgym.predictors.extras import one_thread
from pecgym.predictors.features import history_features, input_features
from pecgym.predictors.texts import encoded, weighted
from pecgym.strict import from_mapping
from pecgym.workload.columns import TextColumn
from pecgym.workload.prompts import Prompts
from pecgym.workload.trace import Trace

Floats = NDArray[np.float64]
Fitted = dict[str, Any]
"""What fitting gives: scikit-learn estimators and arrays by name."""

FEATURES = {"history": history_features, "input": input_features}
OBJECTIVES = ("mean", "log", "median", "classes")
ENCODERS = ("tfidf", "sentence", "length")
ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)
"""The ridge penalties that are tried where none is given."""


class Model(Protocol):
    """How lengths are learned from requests; a dataclass of its options.

    Attributes:
        kind: what it reads, "trace" or "text".
    """

    kind: ClassVar[str]

    def tuned(self, inputs: Any, lengths: NDArray[np.int64]) -> Self:
        """The model with the options that are chosen by the training rows, in order of time."""

    def inputs(self, requests: Trace | Prompts) -> Any:
        """What the model sees, a row for each request: an array or a sparse matrix. Raises TraceError where the
        requests lack it."""

    def fit(self, inputs: Any, lengths: NDArray[np.int64], seed: int) -> Fitted:
        """Learns from rows in order of time."""

    def raw(self, fitted: Fitted, inputs: Any) -> Floats:
        """Its word on each row, float64 [n] > 0, in about tokens: Calibration makes lengths of it."""


@dataclass  # not frozen: OmegaConf cannot fill a frozen one inside a configuration
class TraceModel:
    """Histogram gradient boosting on what a trace shows at arrival.

    Attributes:
        features: "history": input length and arrivals so far; "input": the input length alone.
        objective: "mean": Poisson deviance of the length; "log": squared error of its log; "median": absolute error of
            its log; "classes": five classes cut at p25, p50, p75 and p99, and the mean length of each.
        iterations: trees (of classes: times five).
        leaves: of a tree, at most.
        learning_rate: of boosting.
        leaf_rows: requests in a leaf, at least.
    """

    kind: ClassVar[str] = "trace"
    features: str = "history"
    objective: str = "mean"
    iterations: int = 60
    leaves: int = 8
    learning_rate: float = 0.1
    leaf_rows: int = 30

    def __post_init__(self) -> None:
        _choose("trace.features", self.features, FEATURES)
        _choose("trace.objective", self.objective, OBJECTIVES)
        for key, least in (("iterations", 1), ("leaves", 2), ("leaf_rows", 1)):
            if getattr(self, key) < least:
                raise SpecError(f"trace.{key}={getattr(self, key)}: must be {least} or more")
        if not 0 < self.learning_rate <= 1:
            raise SpecError(f"trace.learning_rate={self.learning_rate}: must be above 0 and at most 1")

    def inputs(self, requests: Trace | Prompts) -> Floats:
        if not isinstance(requests, Trace):
            raise TraceError(f"{requests.name}: a predictor on a trace's features needs arrival_s and input_tokens")
        return FEATURES[self.features](requests)

    def tuned(self, inputs: Any, lengths: NDArray[np.int64]) -> Self:
        return self

    @one_thread
    def fit(self, inputs: Any, lengths: NDArray[np.int64], seed: int) -> Fitted:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        settings: dict[str, Any] = {
            "max_iter": self.iterations,
            "max_leaf_nodes": self.leaves,
            "learning_rate": self.learning_rate,
            "min_samples_leaf": self.leaf_rows,
            "early_stopping": False,
            "random_state": seed,
        }
        if self.objective == "classes":
            classes = length_class(lengths, np.quantile(lengths, CLASS_CUTS))
            means = np.asarray([lengths[classes == each].mean() for each in np.unique(classes)])
            return {"trees": HistGradientBoostingClassifier(**settings).fit(inputs, classes), "means": means}
        losses = {"mean": ("poisson", None), "log": ("squared_error", None), "median": ("quantile", 0.5)}
        loss, quantile = losses[self.objective]
        trees = HistGradientBoostingRegressor(loss=loss, quantile=quantile, **settings)
        return {"trees": trees.fit(inputs, lengths if self.objective == "mean" else np.log(lengths))}

    @one_thread
    def raw(self, fitted: Fitted, inputs: Any) -> Floats:
        if self.objective == "classes":
            expected: Floats = fitted["trees"].predict_proba(inputs) @ fitted["means"]
            return expected
        found: Floats = fitted["trees"].predict(inputs)
        return found if self.objective == "mean" else np.exp(found)


@dataclass  # not frozen: as TraceModel
class TextModel:
    """Ridge regression of the log of the length on the text of the prompt.

    Attributes:
        encoder: "tfidf": weighted counts of words, pairs of words and runs of 3 to 5 letters; "sentence": a sentence
            encoder; "length": how long the text is, and nothing else.
        hash_bits: tfidf: words and letters are each hashed to 2^bits columns.
        sentence_model: sentence: the folder of a model that sentence-transformers can load.
        alpha: penalty of the regression; None: of 0.3, 1, 3, 10 and 30 the one that is best on the last fifth.
    """

    kind: ClassVar[str] = "text"
    encoder: str = "tfidf"
    hash_bits: int = 17
    sentence_model: str | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        _choose("text.encoder", self.encoder, ENCODERS)
        if not 8 <= self.hash_bits <= 22:
            raise SpecError(f"text.hash_bits={self.hash_bits}: must be between 8 and 22")
        if (self.encoder == "sentence") != (self.sentence_model is not None):
            raise SpecError("text.encoder=sentence needs text.sentence_model=FOLDER, and no other encoder takes it")
        if self.alpha is not None and not self.alpha > 0:
            raise SpecError(f"text.alpha={self.alpha}: must be above 0")

    def inputs(self, requests: Trace | Prompts) -> Any:
        return encoded(_prompts(requests), self.encoder, self.hash_bits, self.sentence_model)

    def tuned(self, inputs: Any, lengths: NDArray[np.int64]) -> Self:
        if self.alpha is not None:
            return self
        kept, target = len(lengths) * 4 // 5, np.log(lengths)
        errors = {}
        for alpha in ALPHAS:
            model = replace(self, alpha=alpha)
            raw = model.raw(model.fit(inputs[:kept], lengths[:kept], 0), inputs[kept:])
            errors[alpha] = float(np.mean((np.log(raw) - target[kept:]) ** 2))
        return replace(self, alpha=min(errors, key=errors.__getitem__))

    def fit(self, inputs: Any, lengths: NDArray[np.int64], seed: int) -> Fitted:
        if self.alpha is None:
            raise SpecError("text.alpha: choose one, or have it chosen by tuned()")
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import Ridge

        fitted: Fitted = {}
        if self.encoder == "tfidf":
            fitted["weights"] = TfidfTransformer(sublinear_tf=True).fit(inputs[:, 2:])
        columns = weighted(inputs, fitted.get("weights"))
        fitted["ridge"] = Ridge(alpha=self.alpha).fit(columns, np.log(lengths))
        return fitted

    def raw(self, fitted: Fitted, inputs: Any) -> Floats:
        # A line through the logs may leave every length that a text could have.
        logs: Floats = fitted["ridge"].predict(weighted(inputs, fitted.get("weights")))
        return np.exp(np.clip(logs, 0.0, 20.0))


MODELS: dict[str, type[TraceModel] | type[TextModel]] = {model.kind: model for model in (TraceModel, TextModel)}
"""By the kind of what they read."""


def model_of(kind: str, options: Mapping[str, Any], where: str) -> Model:
    """The model of that kind. Raises SpecError, naming `where`, for one that cannot be."""
    if kind not in MODELS:
        raise SpecError(f"{where}: kind={kind!r}: choose one of {', '.join(MODELS)}")
    found: Model = from_mapping(MODELS[kind], options, where, SpecError)  # type: ignore[arg-type]
    return found


def _prompts(requests: Trace | Prompts) -> TextColumn:
    if requests.prompt is None:
        raise TraceError(
            f"{requests.name}: a text predictor reads prompts, and this has none (column prompt); give a trace file "
            "with them, or choose a predictor that needs none"
        )
    return requests.prompt


def _choose(key: str, value: str, among: Any) -> None:
    if value not in among:
        raise SpecError(f"{key}={value!r}: choose one of {', '.join(among)}")
