"""The rules of a trace's columns, each checked in one place; every message names the column, the row and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import TraceError

FloatColumn = NDArray[np.float64]
IntColumn = NDArray[np.int64]
BoolColumn = NDArray[np.bool_]
TextColumn = NDArray[np.object_]
RowName = Callable[[int], str]

# No model reads or writes more; the bound keeps sums over any trace inside int64.
MAX_TOKENS = 2**31 - 1


def row_of(trace: str) -> RowName:
    """How a row of an in-memory trace is called in messages (rows count from 0)."""
    return lambda index: f"trace {trace!r}, row {index} (rows count from 0)"


def _first(bad: BoolColumn) -> int | None:
    return int(np.argmax(bad)) if bad.any() else None


def _one_dimension(column: str, values: Any, row: RowName) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise TraceError(f"column {column}: needs one value per request, got an array of shape {array.shape}")
    if array.size == 0:
        return array.astype(np.float64) if array.dtype == object else array
    if array.dtype.kind not in "iufb":
        raise TraceError(f"column {column}: holds {array.dtype}, not numbers ({row(0)}); convert it first")
    return array


def token_column(column: str, values: Any, row: RowName) -> IntColumn:
    """Token counts as int64 [n], each between 1 and MAX_TOKENS; floats are taken only where they are whole numbers."""
    array = _one_dimension(column, values, row)
    if array.dtype.kind == "b":
        raise TraceError(f"column {column}: holds booleans; give token counts")
    if array.dtype.kind == "f":
        bad = _first(~np.isfinite(array))
        if bad is not None:
            raise TraceError(f"column {column}, {row(bad)}: {array[bad]} is not a count; remove the row or fill it in")
        bad = _first(array != np.floor(array))
        if bad is not None:
            raise TraceError(f"column {column}, {row(bad)}: {array[bad]} is not a whole number; round it first")
    bad = _first(array < 1)
    if bad is not None:
        remedy = "remove the row, or give it one token; the readers do so with on_empty='drop' or 'one'"
        if array[bad] < 0:
            remedy = "a token count cannot be negative; correct or remove the row"
        raise TraceError(f"column {column}, {row(bad)}: {array[bad]} tokens, at least 1 is needed; {remedy}")
    bad = _first(array > MAX_TOKENS)
    if bad is not None:
        raise TraceError(f"column {column}, {row(bad)}: {array[bad]} tokens is above {MAX_TOKENS}; correct the row")
    return np.ascontiguousarray(array, dtype=np.int64)


def arrival_column(values: Any, row: RowName, *, ordered: bool = True, after_s: float = 0.0) -> FloatColumn:
    """Arrival times as float64 [n] seconds: finite, >= 0; if `ordered`, non-decreasing, none before `after_s`."""
    array = np.ascontiguousarray(_one_dimension("arrival_s", values, row), dtype=np.float64)
    bad = _first(~np.isfinite(array))
    if bad is not None:
        raise TraceError(f"column arrival_s, {row(bad)}: {array[bad]} is not a time; remove the row or fill it in")
    if ordered and array.size:
        late = _first(array[1:] < array[:-1])
        bad = 0 if after_s > 0 and array[0] < after_s else None if late is None else late + 1
        if bad is not None:
            before = array[bad - 1] if bad else after_s
            raise TraceError(
                f"column arrival_s, {row(bad)}: {array[bad]} s comes after {before} s; sort the rows by time "
                "(readers do so with sort=True; a stream cannot, sort its file first)"
            )
    bad = _first(array < 0)
    if bad is not None:
        raise TraceError(f"column arrival_s, {row(bad)}: {array[bad]} s is before time zero; shift all times up")
    return array


def deadline_column(values: Any, row: RowName) -> FloatColumn:
    """Deadlines as float64 [n] seconds after arrival, each > 0 and finite, or NaN for none."""
    array = np.ascontiguousarray(_one_dimension("deadline_s", values, row), dtype=np.float64)
    bad = _first((array <= 0) | np.isinf(array))
    if bad is not None:
        raise TraceError(
            f"column deadline_s, {row(bad)}: {array[bad]} is not a deadline; "
            "give seconds after arrival above 0, or NaN (an empty cell) for none"
        )
    return array


def duration_column(column: str, values: Any, row: RowName) -> FloatColumn:
    """Times that something takes as float64 [n] seconds, each >= 0 and finite."""
    array = np.ascontiguousarray(_one_dimension(column, values, row), dtype=np.float64)
    bad = _first(~(np.isfinite(array) & (array >= 0)))
    if bad is not None:
        raise TraceError(f"column {column}, {row(bad)}: {array[bad]} is not a duration; give seconds, 0 or more")
    return array


def text_column(column: str, values: Any, row: RowName) -> TextColumn:
    """Texts as object [n], each a str of one character or more that can be written in UTF-8."""
    array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        raise TraceError(f"column {column}: needs one text per request, got an array of shape {array.shape}")
    for index, value in enumerate(array):
        if not isinstance(value, str):
            raise TraceError(f"column {column}, {row(index)}: holds {type(value).__name__}, not text; convert it first")
        if not value:
            raise TraceError(f"column {column}, {row(index)}: is empty; fill it in or remove the row")
        if not value.isascii() and not is_unicode(value):
            raise TraceError(f"column {column}, {row(index)}: holds half a surrogate pair; correct or remove the row")
    return array


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8: it can unless it has half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def flag_column(column: str, values: Any, row: RowName) -> BoolColumn:
    """A yes/no column as bool [n]; 0 and 1 are taken, nothing else is."""
    array = _one_dimension(column, values, row)
    bad = _first((array != 0) & (array != 1))
    if bad is not None:
        raise TraceError(f"column {column}, {row(bad)}: {array[bad]} is neither true nor false; give 0 or 1")
    return np.ascontiguousarray(array, dtype=np.bool_)


def require_equal_lengths(lengths: dict[str, int], trace: str) -> None:
    """All columns of a trace have one value per request."""
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise TraceError(f"trace {trace!r}: columns differ in length ({found}); give one value per request in each")
