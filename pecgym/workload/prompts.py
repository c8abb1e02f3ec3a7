"""Prompts with the lengths of their outputs: what a text predictor learns from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pecgym.workload.columns import FloatColumn, IntColumn, TextColumn
from pecgym.workload.formats import PROMPTS, container, require_file
from pecgym.workload.readers import OnEmpty, read_columns
from pecgym.workload.scan import csv_batches, json_batch, parquet_batches


@dataclass(frozen=True, eq=False)
class Prompts:
    """Columns [n] of a file of prompts: in order of arrival where that is known, else as in the file.

    prompt: object (str). output_tokens: int64, >= 1. input_tokens: int64, >= 1, and arrival_s: float64 seconds,
    non-decreasing; None where the file has no such column.
    """

    name: str
    prompt: TextColumn
    output_tokens: IntColumn
    input_tokens: IntColumn | None = None
    arrival_s: FloatColumn | None = None

    def __len__(self) -> int:
        return len(self.prompt)

    def slice(self, start: int, stop: int) -> Prompts:
        """Rows start..stop by index; shares memory."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        part: dict[str, Any] = {key: None if v is None else v[start:stop] for key, v in columns.items()}
        return Prompts(self.name, **part)


def read_prompts(path: str | Path, *, on_empty: OnEmpty = "error") -> Prompts:
    """A CSV, JSON-lines or Parquet file with `prompt` and `output_tokens`, and any other column of a plain trace.

    Rows with `arrival_s` are sorted by it (stably). on_empty: of rows with zero tokens, as of read_azure. Raises
    TraceError, naming file, row and column, as the readers of traces do.
    """
    path = require_file(path)
    batches = {
        "json": lambda: iter([json_batch(path, PROMPTS)]),
        "parquet": lambda: parquet_batches(path, 1 << 20, PROMPTS),
        "csv": lambda: csv_batches(path, PROMPTS),
    }[container(path)]()
    columns = read_columns(batches, PROMPTS, path, on_empty, sort=True)
    kept = {f.name: columns[f.name] for f in fields(Prompts) if f.name in columns}
    for values in kept.values():
        values.flags.writeable = False
    return Prompts(path.stem, **kept)
