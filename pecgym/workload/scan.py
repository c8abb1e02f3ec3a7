"""Reads trace files batch by batch in bounded memory, as raw NumPy columns with the file row they came from."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet
from numpy.typing import NDArray

from pecgym.errors import TraceError
from pecgym.workload.columns import RowName, is_unicode
from pecgym.workload.formats import PLAIN, Format, csv_header, json_header

_BLOCK_BYTES = 8 << 20
_FIRST_ROW_CHARACTERS = 1 << 16
_TYPES = {
    "predicted_tokens": pa.int64(),
    "predicted_tail_tokens": pa.int64(),
    "prediction_s": pa.float64(),
    "deadline_s": pa.float64(),
    "is_long": pa.bool_(),
    "prompt": pa.string(),
}
_WANTED = {
    pa.int64(): "a whole number",
    pa.float64(): "a number",
    pa.bool_(): "true or false",
    pa.string(): "text in UTF-8",
}
_MAY_BE_EMPTY = ("deadline_s",)
_IS_NUMBER = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
_IS_TEXT = (pa.types.is_string, pa.types.is_large_string)
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows of a file: the columns that its format reads, by the file's names. A calendar stamp is
    int64 nanoseconds, another time a number."""

    path: Path
    first_row: int
    columns: dict[str, NDArray[Any]]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def row(self) -> RowName:
        """How row `index` of this batch is called: its number in the file, the header being row 1."""
        return lambda index: f"{self.path}, row {self.first_row + index}"


def csv_batches(path: Path, form: Format) -> Iterator[Batch]:
    """The rows of a CSV file in one of the CSV formats. Row numbers count the header as row 1.

    Raises TraceError, naming the row, for a cell that is empty or of the wrong type and for a row of the wrong width.
    """
    header = csv_header(path)
    form.check_header(header, path)
    with path.open("rb") as file:
        file.readline()
        if not file.read(1):
            raise TraceError(f"{path} has a header and no rows; a trace needs at least one request")
    types = _csv_types(path, form, header)
    first_row = 2
    try:
        for batch in _open_csv(path, types):
            yield _numpy_batch(path, form, batch, first_row)
            first_row += batch.num_rows
    except pa.ArrowInvalid as error:
        raise _explained(path, types, error) from None


def parquet_batches(path: Path, batch_rows: int, form: Format = PLAIN) -> Iterator[Batch]:
    """The rows of a Parquet file with plain columns; rows count from 1. Raises TraceError as csv_batches does."""
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(f"{path}: not a readable Parquet file ({_one_line(error)}); write it again") from None
    form.check_header(tuple(file.schema_arrow.names), path)
    for field in file.schema_arrow:
        fits, wanted = (_IS_TEXT, "text") if field.name == "prompt" else (_IS_NUMBER, "numbers")
        if not any(fit(field.type) for fit in fits):
            raise TraceError(f"{path}: column {field.name} holds {field.type}, not {wanted}; convert it first")
    first_row = 1
    try:
        for batch in file.iter_batches(batch_rows):
            yield _numpy_batch(path, form, batch, first_row)
            first_row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise TraceError(f"{path}: broken after row {first_row - 1} ({_one_line(error)}); write it again") from None
    if first_row == 1:
        raise TraceError(f"{path} has no rows; a trace needs at least one request")


def json_batch(path: Path, form: Format) -> Batch:
    """All rows of a JSON-lines file: one object a line, rows count from 1, the first one names the columns.

    Raises TraceError, naming the row, for a field that is absent, of the wrong type or, but in an open format, unknown.
    """
    header = json_header(path)
    form.check_header(header, path)
    types = _types(form, header)
    others = "ignore" if form.open else "error"
    try:
        table = pyarrow.json.read_json(
            path,
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior=others
            ),
            read_options=pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES),
        )
    except pa.ArrowInvalid as error:
        where = _bad_json_line(path, form, types) or f"{path}: {_one_line(error)}"
        raise TraceError(f"{where}; correct or remove the line") from None
    return _numpy_batch(path, form, table.combine_chunks().to_batches()[0], 1)


def _csv_types(path: Path, form: Format, header: tuple[str, ...]) -> dict[str, Any]:
    """The Arrow type of every column to be read; whether stamps carry a zone is seen on the first row."""
    if form.clock == "timestamp":
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            file.readline()
            cells = next(csv.reader([file.readline(_FIRST_ROW_CHARACTERS)]), [])
        stamp = dict(zip(header, cells, strict=False)).get(form.time, "")
        # A date has two dashes, so an offset is a "+", a "Z" or a third dash.
        zone = "UTC" if "+" in stamp or stamp.endswith("Z") or stamp.count("-") > 2 else None
        return _types(form, header) | {form.time: pa.timestamp("ns", zone)}
    return _types(form, header)


def _types(form: Format, header: tuple[str, ...]) -> dict[str, Any]:
    """The Arrow type of every column of the header that is read; times as numbers."""
    time = pa.int64() if form.clock == "milliseconds from first row" else pa.float64()
    types = {form.time: time, form.inputs: pa.int64(), form.outputs: pa.int64()} | _TYPES
    return {name: types[name] for name in form.read if name in header}


def _open_csv(path: Path, types: dict[str, Any]) -> Any:
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(ignore_empty_lines=False, newlines_in_values="prompt" in types),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
        ),
    )


def _numpy_batch(path: Path, form: Format, batch: Any, first_row: int) -> Batch:
    columns = {name: batch.column(name) for name in form.read if name in batch.schema.names}
    for name, values in columns.items():
        if values.null_count and name not in _MAY_BE_EMPTY:
            row = first_row + pc.index(values.is_null(), pa.scalar(True)).as_py()
            raise TraceError(f"{path}, row {row}: column {name} is empty; fill it in or remove the row")
    return Batch(path, first_row, {name: _numpy(values) for name, values in columns.items()})


def _numpy(values: Any) -> NDArray[Any]:
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    if values.null_count:
        values = pc.fill_null(values.cast(pa.float64()), float("nan"))
    array: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array


def _explained(path: Path, types: dict[str, Any], error: Exception) -> TraceError:
    """Reads the file again as text up to the cell that would not convert, and says which one it is."""
    first_row = 2
    try:
        for batch in _open_csv(path, dict.fromkeys(types, pa.binary())):
            for name, wanted in types.items():
                for index, cell in enumerate(_suspects(batch.column(name), wanted)):
                    if cell is not None and not _converts(cell, wanted):
                        what = _WANTED.get(
                            wanted, "a date and time like those of the first row (with or without a zone)"
                        )
                        return TraceError(
                            f"{path}, row {first_row + index}: column {name} holds {_shown(cell)}, not {what}; "
                            "correct or remove the row"
                        )
            first_row += batch.num_rows
    except pa.ArrowInvalid as broken:
        error = broken
    return TraceError(f"{path}: {_one_line(error)}; correct or remove the row")


def _suspects(cells: Any, wanted: Any) -> list[bytes | None]:
    """The cells of a column if they do not all convert, else none: most batches need no look at each cell."""
    try:
        cells.cast(pa.string()).cast(wanted)
    except pa.ArrowInvalid:
        return list(cells.to_pylist())
    return []


def _converts(cell: bytes, wanted: Any) -> bool:
    try:
        pa.scalar(cell).cast(pa.string()).cast(wanted)
    except pa.ArrowInvalid:
        return False
    return True


def _shown(cell: bytes) -> str:
    return repr(cell[:_SHOWN_CHARACTERS].decode("utf-8", errors="backslashreplace"))


def _bad_json_line(path: Path, form: Format, types: dict[str, Any]) -> str | None:
    """Which line of a JSON-lines file is not an object with the fields of the first, of the right types."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line) if line.strip() else {}
            except ValueError:
                return f"{path}, row {number}: not a line of {form.name} JSON"
            if not isinstance(record, dict):
                return f"{path}, row {number}: not a JSON object"
            for name, value in record.items():
                if name not in types and not form.open:
                    return f"{path}, row {number}: field {name} is unknown, or not in the first row"
                if name in types and value is not None and not _is_of(value, types[name]):
                    shown = repr(value)[:_SHOWN_CHARACTERS]
                    return f"{path}, row {number}: field {name} holds {shown}, not {_WANTED[types[name]]}"
    return None


def _is_of(value: Any, wanted: Any) -> bool:
    """Whether a JSON value is of an Arrow type."""
    if wanted == pa.float64():
        return isinstance(value, int | float) and not isinstance(value, bool)
    kind: type[Any] = {pa.int64(): int, pa.bool_(): bool, pa.string(): str}[wanted]
    return type(value) is kind and (kind is not str or is_unicode(value))


def _one_line(error: Exception) -> str:
    return re.sub(r"Row #(\d+)", r"row \1", " ".join(str(error).split())).rstrip(".")
