"""What arrives: requests as NumPy columns, checked once at construction and never changed afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.columns import (
    BoolColumn,
    FloatColumn,
    IntColumn,
    TextColumn,
    arrival_column,
    deadline_column,
    duration_column,
    flag_column,
    require_equal_lengths,
    row_of,
    text_column,
    token_column,
)
from pecgym.workload.statistics import index_of_dispersion, interarrival_cv, length_quantiles

# is_long is None only until construction has filled it in.
_NOT_GIVEN = cast(BoolColumn, None)

PREDICTED = ("predicted_tokens", "predicted_tail_tokens", "prediction_s")
"""The columns that a length predictor fills in."""
COLUMNS = ("arrival_s", "input_tokens", "output_tokens", *PREDICTED, "deadline_s", "is_long", "prompt")
"""All columns, in the order in which files have them."""

SUMMARY_WINDOWS_S = (0.1, 1.0, 10.0, 60.0, 300.0)


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival. Columns are read-only arrays [n]; n may be 0 (a quiet window has no requests).

    | column | dtype | meaning |
    |---|---|---|
    | arrival_s | float64 | seconds since time zero, finite, >= 0, non-decreasing |
    | input_tokens | int64 | prompt length, 1 to 2**31 - 1 |
    | output_tokens | int64 | tokens generated, 1 to 2**31 - 1; policies do not see it |
    | predicted_tokens | int64 or None | what a length predictor says of output_tokens, >= 1 |
    | predicted_tail_tokens | int64 or None | mean of the worst tenth of the predicted lengths (CVaR 0.9), >= 1 |
    | prediction_s | float64 or None | how long the prediction takes, seconds >= 0; None: no time |
    | deadline_s | float64 or None | seconds after arrival, > 0; NaN: none |
    | is_long | bool | belongs to the long class; all False unless told otherwise |
    | prompt | object or None | the text itself, str; read by text predictors alone |

    predicted_tail_tokens and prediction_s need predicted_tokens; `predictor` names what made these three, None where
    that is not known.

    Values are converted where nothing is lost (whole floats to integers); anything else raises TraceError, which names
    the column, the row and the remedy. A writeable array is copied, a read-only one is shared.
    """

    arrival_s: FloatColumn
    input_tokens: IntColumn
    output_tokens: IntColumn
    predicted_tokens: IntColumn | None = None
    deadline_s: FloatColumn | None = None
    is_long: BoolColumn = _NOT_GIVEN
    name: str = "trace"
    predicted_tail_tokens: IntColumn | None = None
    prediction_s: FloatColumn | None = None
    prompt: TextColumn | None = None
    predictor: str | None = None

    def __post_init__(self) -> None:
        row = row_of(self.name)
        columns: dict[str, Any] = {
            "arrival_s": arrival_column(self.arrival_s, row),
            "input_tokens": token_column("input_tokens", self.input_tokens, row),
            "output_tokens": token_column("output_tokens", self.output_tokens, row),
        }
        for name in ("predicted_tokens", "predicted_tail_tokens"):
            if getattr(self, name) is not None:
                columns[name] = token_column(name, getattr(self, name), row)
        if self.prediction_s is not None:
            columns["prediction_s"] = duration_column("prediction_s", self.prediction_s, row)
        if self.deadline_s is not None:
            columns["deadline_s"] = deadline_column(self.deadline_s, row)
        if self.prompt is not None:
            columns["prompt"] = text_column("prompt", self.prompt, row)
        given = cast("BoolColumn | None", self.is_long)
        flags = np.zeros(len(columns["arrival_s"]), dtype=np.bool_) if given is None else given
        columns["is_long"] = flag_column("is_long", flags, row)
        require_equal_lengths({name: len(values) for name, values in columns.items()}, self.name)
        self._require_predictions()
        for name, values in columns.items():
            object.__setattr__(self, name, _read_only(values.copy() if values.flags.writeable else values))

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __repr__(self) -> str:
        return f"Trace({self.name!r}, {len(self)} requests, {self.duration_s:.6g} s)"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Trace, **self.columns(), name=self.name, predictor=self.predictor), ()

    def _require_predictions(self) -> None:
        """What belongs to predictions does not come without them."""
        alone = [name for name in (*PREDICTED[1:], "predictor") if getattr(self, name) is not None]
        if self.predicted_tokens is None and alone:
            raise TraceError(f"trace {self.name!r}: has {', '.join(alone)} without predicted_tokens; add or remove it")

    def without_predictions(self) -> Trace:
        """The same requests without what a length predictor said of them."""
        nothing: dict[str, Any] = dict.fromkeys((*PREDICTED, "predictor"))
        return replace(self, **nothing)

    def columns(self) -> dict[str, Any]:
        """The columns that are there by name, in order."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}

    def equals(self, other: Trace) -> bool:
        """Whether every column is the same, bit for bit (NaN deadlines count as the same). The names of trace and
        predictor may differ."""
        mine, theirs = self.columns(), other.columns()
        return mine.keys() == theirs.keys() and all(
            np.array_equal(mine[name], theirs[name], equal_nan=name == "deadline_s") for name in mine
        )

    @property
    def duration_s(self) -> float:
        """Time zero to the last arrival, in seconds; 0 for an empty trace."""
        return float(self.arrival_s[-1]) if len(self) else 0.0

    @property
    def rate_rps(self) -> float:
        """Requests per second over `duration_s`. Raises TraceError where that is 0: such a trace has no rate."""
        if self.duration_s == 0:
            raise TraceError(f"trace {self.name!r}: {len(self)} request(s) at time zero have no rate")
        return len(self) / self.duration_s

    def take(self, rows: Any) -> Trace:
        """The requests selected by a slice, index array or mask, arrival times unchanged (they must stay in order)."""
        return replace(self, **{name: _read_only(values[rows]) for name, values in self.columns().items()})

    def slice(self, start: int | None = None, stop: int | None = None) -> Trace:
        """Requests start..stop by index as Python slices count, arrival times unchanged; shares memory."""
        return self.take(slice(start, stop))

    def between(self, start_s: float, stop_s: float, *, rebase: bool = True) -> Trace:
        """Requests with start_s <= arrival_s < stop_s; `rebase` moves time zero to start_s. TraceError if reversed."""
        if not 0 <= start_s <= stop_s:
            raise TraceError(f"between: needs 0 <= start_s <= stop_s, got {start_s} and {stop_s}")
        first, last = np.searchsorted(self.arrival_s, [start_s, stop_s], side="left")
        part = self.slice(int(first), int(last))
        return replace(part, arrival_s=_read_only(part.arrival_s - start_s)) if rebase else part

    def split_by_time(self, fractions: Sequence[float] = (0.6, 0.2, 0.2)) -> tuple[Trace, ...]:
        """Consecutive windows over first to last arrival (train, validation, test), each re-based to its own start.

        Every request falls in exactly one window; an arrival on a boundary belongs to the later one, the last arrival
        to the last. Raises TraceError unless the fractions are positive and sum to 1.
        """
        shares = np.asarray(fractions, dtype=np.float64)
        if shares.ndim != 1 or not np.all(shares > 0) or abs(shares.sum() - 1) > 1e-9:
            raise TraceError(f"split_by_time: fractions must be positive and sum to 1, got {list(fractions)}")
        start_s = float(self.arrival_s[0]) if len(self) else 0.0
        inner_s = start_s + np.cumsum(shares)[:-1] * (self.duration_s - start_s)
        starts_s = [start_s, *inner_s.tolist()]
        cuts = [0, *np.searchsorted(self.arrival_s, inner_s, side="left").tolist(), len(self)]
        parts = (self.slice(first, last) for first, last in pairwise(cuts))
        return tuple(
            replace(
                part, arrival_s=_read_only(part.arrival_s - begin_s), name=f"{self.name}[{index + 1}/{len(starts_s)}]"
            )
            for index, (part, begin_s) in enumerate(zip(parts, starts_s, strict=True))
        )

    def scale_time(self, factor: float) -> Trace:
        """Time stretching: every arrival time times `factor` (2 halves the rate). Lengths and deadlines stay."""
        return replace(self, arrival_s=_read_only(self.arrival_s * _positive("scale_time: factor", factor)))

    def scale_rate(self, factor: float) -> Trace:
        """The same requests at `factor` times the rate: time stretching by 1 / factor."""
        return replace(self, arrival_s=_read_only(self.arrival_s / _positive("scale_rate: factor", factor)))

    def thin(self, p: float, seed: int) -> Trace:
        """Keeps each request with probability p, independently: the index of dispersion I becomes 1 + p (I - 1)."""
        if not 0 < p <= 1:
            raise TraceError(f"thin: p must be above 0 and at most 1, got {p}")
        return self.take(random_stream(seed, "thin").random(len(self)) < p)

    @staticmethod
    def merge(*traces: Trace) -> Trace:
        """All requests of several traces by arrival; ties keep the order of the arguments.

        A trace without deadlines merges with one that has some: its requests have none (NaN). predicted_tokens,
        predicted_tail_tokens, prediction_s and prompt must each be in all or in none: TraceError, as no value would be
        true.
        """
        joined = _joined(traces, "+".join(dict.fromkeys(trace.name for trace in traces)))
        order = np.argsort(joined["arrival_s"], kind="stable")
        columns = {name: _read_only(v[order]) if isinstance(v, np.ndarray) else v for name, v in joined.items()}
        return Trace(**columns)

    @staticmethod
    def concatenate(chunks: Iterable[Trace]) -> Trace:
        """Chunks of one stream as one trace, in the order given; times must not go back. Columns as in merge."""
        parts = tuple(chunks)
        return Trace(**_joined(parts, parts[0].name if parts else ""))

    def summary(self) -> dict[str, Any]:
        """Name, requests, duration, rate, inter-arrival CV, long share, length quantiles and index of dispersion.

        NaN where a figure is undefined (a rate without duration, fewer than two whole windows). TraceError if empty.
        """
        if not len(self):
            raise TraceError(f"trace {self.name!r} is empty: nothing to summarise")
        windows = np.asarray(SUMMARY_WINDOWS_S)
        dispersion = index_of_dispersion(self.arrival_s, windows)
        return {
            "name": self.name,
            "requests": len(self),
            "duration_s": self.duration_s,
            "rate_rps": self.rate_rps if self.duration_s else float("nan"),
            "interarrival_cv": interarrival_cv(self.arrival_s),
            "long_share": float(np.mean(self.is_long)),
            "input_tokens": length_quantiles(self.input_tokens),
            "output_tokens": length_quantiles(self.output_tokens),
            "index_of_dispersion": dict(zip(SUMMARY_WINDOWS_S, dispersion.tolist(), strict=True)),
        }

    def write_csv(self, path: str | Path) -> None:
        """Writes the plain CSV format; reading it back gives the same trace, bit for bit. is_long only if any is."""
        pyarrow.csv.write_csv(self._table(), str(path))

    def write_parquet(self, path: str | Path) -> None:
        """Writes the plain Parquet format; reading it back gives the same, bit for bit. is_long as in write_csv."""
        pyarrow.parquet.write_table(self._table(), str(path))

    def _table(self) -> pa.Table:
        columns = self.columns()
        if not np.any(columns["is_long"]):
            del columns["is_long"]
        return pa.table({name: pa.array(values) for name, values in columns.items()})


def empty_trace(name: str) -> Trace:
    """A trace without requests."""
    no_tokens = np.zeros(0, dtype=np.int64)
    return Trace(np.zeros(0), no_tokens, no_tokens, name=name)


def _joined(traces: Sequence[Trace], name: str) -> dict[str, Any]:
    """The columns of several traces end to end; what a column present in only some of them becomes is decided here."""
    if not traces:
        raise TraceError("no traces to join; give at least one")
    for column in (*PREDICTED, "prompt"):
        present = [getattr(trace, column) is not None for trace in traces]
        if any(present) and not all(present):
            lacking = traces[present.index(False)].name
            raise TraceError(f"column {column}: trace {lacking!r} has none, others do; add or remove it everywhere")
    names = list(traces[0].columns())
    if any(trace.deadline_s is not None for trace in traces) and "deadline_s" not in names:
        names.append("deadline_s")
    none_s = [np.full(len(trace), np.nan) for trace in traces]
    columns: dict[str, Any] = {}
    for column in names:
        parts = [getattr(trace, column) for trace in traces]
        parts = [fill if part is None else part for part, fill in zip(parts, none_s, strict=True)]
        columns[column] = _read_only(np.concatenate(parts))
    predictors = dict.fromkeys(trace.predictor for trace in traces if trace.predictor is not None)
    return {**columns, "name": name, "predictor": "+".join(predictors) or None}


def _positive(what: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise TraceError(f"{what} must be finite and above 0, got {value}")
    return float(value)


def _read_only(values: Any) -> Any:
    values.flags.writeable = False
    return values
