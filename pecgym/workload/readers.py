"""Reads real traces: Azure 2023 and 2024, BurstGPT, Mooncake and the plain CSV, Parquet and JSON-lines formats."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.columns import (
    arrival_column,
    deadline_column,
    duration_column,
    flag_column,
    text_column,
    token_column,
)
from pecgym.workload.formats import (
    AZURE,
    BURSTGPT,
    CSV_FORMATS,
    MOONCAKE,
    PLAIN,
    VIDUR,
    Format,
    recognise,
    require_file,
)
from pecgym.workload.scan import Batch, csv_batches, json_batch, parquet_batches
from pecgym.workload.trace import Trace

OnEmpty = Literal["error", "one", "drop"]
_ON_EMPTY = ("error", "one", "drop")

MOONCAKE_SPREAD_S = 3.0


def read_azure(path: str | Path, *, on_empty: OnEmpty = "error", sort: bool = False) -> Trace:
    """An Azure LLM inference trace (2023 or 2024); time zero is the first row, times are exact to the nanosecond.

    `on_empty` decides what becomes of a row with zero input or output tokens: an error, one token instead, or dropped
    (both counted in a warning). `sort=True` sorts rows that are out of order. Raises TraceError naming the row.
    """
    return _read_csv(path, AZURE, on_empty, sort)


def read_burstgpt(
    path: str | Path, *, on_empty: OnEmpty = "error", sort: bool = False, spread_s: float = 0.0, seed: int = 0
) -> Trace:
    """A BurstGPT trace. Failed requests have zero response tokens: see `on_empty` of read_azure.

    Stamps are whole seconds; `spread_s=1.0` spreads the requests of each second uniformly inside it, under `seed`.
    """
    return _spread(_read_csv(path, BURSTGPT, on_empty, sort), spread_s, seed)


def read_vidur(path: str | Path, *, on_empty: OnEmpty = "error", sort: bool = False) -> Trace:
    """A trace of the simulator Vidur, times as written. Options and errors as read_azure."""
    return _read_csv(path, VIDUR, on_empty, sort)


def read_plain_csv(path: str | Path, *, on_empty: OnEmpty = "error", sort: bool = False) -> Trace:
    """The plain CSV: arrival_s,input_tokens,output_tokens and those of predicted_tokens, predicted_tail_tokens,
    prediction_s, deadline_s, is_long and prompt that there are; times as written.

    An empty deadline_s, or NaN, means none. Options and errors as read_azure.
    """
    return _read_csv(path, PLAIN, on_empty, sort)


def read_parquet(path: str | Path, *, on_empty: OnEmpty = "error", sort: bool = False) -> Trace:
    """The plain columns in Parquet, times as written. Options and errors as read_azure; rows count from 1."""
    path = require_file(path)
    return _gather(parquet_batches(path, 1 << 20), PLAIN, path, on_empty, sort)


def read_plain_jsonl(path: str | Path, *, on_empty: OnEmpty = "error", sort: bool = False) -> Trace:
    """The plain columns as JSON lines, an object a request. Options and errors as read_azure; rows count from 1."""
    path = require_file(path)
    return _gather(iter([json_batch(path, PLAIN)]), PLAIN, path, on_empty, sort)


def read_mooncake(
    path: str | Path,
    *,
    on_empty: OnEmpty = "error",
    sort: bool = False,
    spread_s: float = MOONCAKE_SPREAD_S,
    seed: int = 0,
) -> Trace:
    """A Mooncake trace (JSON lines, stamps in milliseconds).

    Stamps are quantised to 3 s, so the requests of a stamp are spread uniformly over the `spread_s` after it, under
    `seed`, in file order; time zero is the first stamp. `spread_s=0` keeps the stamps. TraceError if the stamps are not
    so quantised.
    """
    path = require_file(path)
    return _spread(_gather(iter([json_batch(path, MOONCAKE)]), MOONCAKE, path, on_empty, sort), spread_s, seed)


READERS: dict[str, Callable[..., Trace]] = {
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "vidur": read_vidur,
    "plain": read_plain_csv,
    "parquet": read_parquet,
    "jsonl": read_plain_jsonl,
    "mooncake": read_mooncake,
}


def read_trace(path: str | Path, **options: Any) -> Trace:
    """Reads a file in whichever format its first bytes show; `options` are that reader's. TraceError if none fits."""
    path = require_file(path)
    return READERS[recognise(path)](path, **options)


def stream_trace(path: str | Path, chunk_rows: int = 1_000_000, *, on_empty: OnEmpty = "error") -> Iterator[Trace]:
    """Reads a CSV or Parquet file of any size in bounded memory, as traces of `chunk_rows` requests (the last: fewer).

    Arrival times run on over the chunks: time zero is the file's first row (plain formats: as written). Concatenated,
    the chunks are what the format's reader gives. Order is checked across chunks; rows cannot be sorted here.
    """
    if chunk_rows < 1:
        raise TraceError(f"stream_trace: chunk_rows must be at least 1, got {chunk_rows}")
    path = require_file(path)
    name = recognise(path)
    if name in ("jsonl", "mooncake"):
        raise TraceError(f"{path}: a stream reads CSV and Parquet; read JSON lines with {READERS[name].__name__}")
    if name == "parquet":
        pieces = _checked(parquet_batches(path, min(chunk_rows, 1 << 20)), PLAIN, on_empty, ordered=True)
    else:
        form = next(form for form in CSV_FORMATS if form.name == name)
        pieces = _checked(csv_batches(path, form), form, on_empty, ordered=True)
    return (_trace(columns, path.stem) for columns in _rechunked(pieces, chunk_rows))


def _read_csv(path: str | Path, form: Format, on_empty: OnEmpty, sort: bool) -> Trace:
    path = require_file(path)
    return _gather(csv_batches(path, form), form, path, on_empty, sort)


def _gather(batches: Iterator[Batch], form: Format, path: Path, on_empty: OnEmpty, sort: bool) -> Trace:
    return _trace(read_columns(batches, form, path, on_empty, sort), path.stem)


def read_columns(
    batches: Iterator[Batch], form: Format, path: Path, on_empty: OnEmpty, sort: bool
) -> dict[str, NDArray[Any]]:
    """The batches as the columns of a trace, those of them that are there; sorted (stably) if asked and if they have
    times, of which the earliest is then time zero. Raises TraceError."""
    zero = None
    if sort:
        held = list(batches)
        sort = form.time in held[0].columns
        zero = min(batch.columns[form.time].min() for batch in held) if sort else None
        batches = iter(held)
    pieces = list(_checked(batches, form, on_empty, ordered=not sort, zero=zero))
    columns = _end_to_end(pieces)
    del pieces
    if sort:
        order = np.argsort(columns["arrival_s"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
    if not columns["output_tokens"].size:
        raise TraceError(f"{path}: no row is left after dropping those with zero tokens; a trace needs one request")
    return columns


def _checked(
    batches: Iterator[Batch], form: Format, on_empty: OnEmpty, *, ordered: bool, zero: Any = None
) -> Iterator[dict[str, NDArray[Any]]]:
    """The columns of each batch, checked under the names of the file's rows; `zero` is the first row's time if None."""
    if on_empty not in _ON_EMPTY:
        raise TraceError(f"on_empty must be one of {', '.join(_ON_EMPTY)}, got {on_empty!r}")
    empty_rows = 0
    path = None
    last_s = 0.0
    for batch in batches:
        path = batch.path
        values = dict(batch.columns)
        tokens = [name for name in (form.inputs, form.outputs) if name in values]
        kept = np.arange(batch.rows)
        empty = np.any([values[name] == 0 for name in tokens], axis=0)
        if on_empty != "error" and empty.any():
            empty_rows += int(empty.sum())
            if on_empty == "drop":
                kept = np.flatnonzero(~empty)
            else:
                values |= {name: np.where(values[name] == 0, 1, values[name]) for name in tokens}

        def row(index: int, batch: Batch = batch, kept: NDArray[np.intp] = kept) -> str:
            return batch.row(int(kept[index]))

        columns: dict[str, NDArray[Any]] = {}
        if form.time in values:
            time = values[form.time]
            zero = time[0] if zero is None else zero
            arrival_s = arrival_column(_seconds(time, form, zero)[kept], row, ordered=ordered, after_s=last_s)
            last_s = float(arrival_s[-1]) if kept.size and ordered else last_s
            columns["arrival_s"] = arrival_s
        for column, name in (("input_tokens", form.inputs), ("output_tokens", form.outputs)):
            if name in values:
                columns[column] = token_column(name, values[name][kept], row)
        columns |= {name: _OPTIONAL[name](name, values[name][kept], row) for name in form.optional if name in values}
        yield columns
    if empty_rows:
        what = "dropped" if on_empty == "drop" else "given one token"
        warnings.warn(f"{path}: {empty_rows} row(s) with zero input or output tokens were {what}", stacklevel=2)


_OPTIONAL: dict[str, Callable[..., NDArray[Any]]] = {
    "predicted_tokens": token_column,
    "predicted_tail_tokens": token_column,
    "prediction_s": duration_column,
    "deadline_s": lambda _, values, row: deadline_column(values, row),
    "is_long": flag_column,
    "prompt": text_column,
}


def _seconds(time: NDArray[Any], form: Format, zero: Any) -> NDArray[np.float64]:
    if form.clock == "timestamp":
        # The difference is taken in integers, so the seconds are correctly rounded.
        since_s: NDArray[np.float64] = (time - zero) / 1e9
        return since_s
    if form.clock == "milliseconds from first row":
        since_s = (time - zero) / 1e3
        return since_s
    times = np.asarray(time, dtype=np.float64)
    return times - zero if form.clock == "seconds from first row" else times


def _spread(trace: Trace, window_s: float, seed: int) -> Trace:
    """Moves each request uniformly into the `window_s` after its quantised stamp, in file order."""
    if not 0 <= window_s < np.inf:
        raise TraceError(f"spread_s must be finite and at least 0, got {window_s}")
    if window_s == 0:
        return trace
    gaps_s = np.diff(trace.arrival_s)
    near = np.flatnonzero((gaps_s > 0) & (gaps_s < 0.99 * window_s))
    if near.size:
        raise TraceError(
            f"trace {trace.name!r}: stamps {gaps_s[near[0]]:g} s apart (requests {near[0]} and {near[0] + 1}) are not "
            f"quantised to {window_s:g} s; pass spread_s=0 to keep the stamps as they are"
        )
    moved = trace.arrival_s + window_s * random_stream(seed, "spread").random(len(trace))
    # Sorting the times, not the rows, keeps the file's order inside a stamp.
    return replace(trace, arrival_s=np.sort(moved))


def _rechunked(pieces: Iterator[dict[str, NDArray[Any]]], rows: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The same columns in chunks of exactly `rows` rows; the last may be shorter."""
    held: list[dict[str, NDArray[Any]]] = []
    held_rows = 0
    for piece in pieces:
        held.append(piece)
        held_rows += piece["arrival_s"].size
        if held_rows < rows:
            continue
        joined = _end_to_end(held)
        start = 0
        while held_rows - start >= rows:
            yield {name: values[start : start + rows] for name, values in joined.items()}
            start += rows
        held = [{name: values[start:] for name, values in joined.items()}]
        held_rows -= start
    if held_rows:
        yield _end_to_end(held)


def _end_to_end(pieces: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _trace(columns: dict[str, Any], name: str) -> Trace:
    for values in columns.values():
        values.flags.writeable = False
    return Trace(**columns, name=name)
