"""The trace formats that can be read: what columns each has, and how a file is recognised from its first bytes."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pecgym.errors import TraceError

Clock = Literal["timestamp", "milliseconds from first row", "seconds from first row", "seconds"]

_SNIFFED_BYTES = 1 << 16


@dataclass(frozen=True)
class Format:
    """A table with a time column and two token columns.

    `clock` says what the time column holds: calendar stamps or seconds, both counted from the file's first row, or
    seconds taken as written. `optional` columns keep their names in the Trace; `ignored` ones are known and not read.
    `needed`: the columns that must be there, None for the time and the tokens. `open`: whether others are skipped.
    """

    name: str
    time: str
    inputs: str
    outputs: str
    clock: Clock
    optional: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    needed: tuple[str, ...] | None = None
    open: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        return (self.time, self.inputs, self.outputs) if self.needed is None else self.needed

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are read, where they are there."""
        return tuple(dict.fromkeys((self.time, self.inputs, self.outputs, *self.optional)))

    def check_header(self, header: tuple[str, ...], path: Path) -> None:
        """Raises TraceError unless the header has each required column once and no unknown one, unless it is open."""
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise TraceError(f"{path}, header: column {doubled[0]!r} appears twice; keep one")
        missing = [name for name in self.required if name not in header]
        if missing:
            raise TraceError(
                f"{path}, header: column(s) {', '.join(missing)} missing for {self._what} (found "
                f"{', '.join(header)}); rename or add them"
            )
        known = (*self.read, *self.ignored)
        extra = [name for name in header if name not in known]
        if extra and not self.open:
            raise TraceError(
                f"{path}, header: column(s) {', '.join(extra)} unknown in {self._what} (known: {', '.join(known)}); "
                "remove them"
            )

    @property
    def _what(self) -> str:
        return "a file of prompts" if self is PROMPTS else f"a {self.name} trace"


AZURE = Format("azure", "TIMESTAMP", "ContextTokens", "GeneratedTokens", "timestamp")
BURSTGPT = Format(
    "burstgpt",
    "Timestamp",
    "Request tokens",
    "Response tokens",
    "seconds from first row",
    ignored=("Session ID", "Elapsed time", "Model", "Total tokens", "Log Type"),
)
MOONCAKE = Format("mooncake", "timestamp", "input_length", "output_length", "milliseconds from first row", open=True)
PLAIN = Format(
    "plain",
    "arrival_s",
    "input_tokens",
    "output_tokens",
    "seconds",
    optional=("predicted_tokens", "predicted_tail_tokens", "prediction_s", "deadline_s", "is_long", "prompt"),
)
PROMPTS = replace(PLAIN, name="prompts", needed=("prompt", "output_tokens"))
"""What a text predictor is trained on: a plain trace that may lack arrivals and input lengths."""
VIDUR = Format("vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens", "seconds")
CSV_FORMATS = (AZURE, BURSTGPT, VIDUR, PLAIN)
FORMAT_NAMES = ("azure", "burstgpt", "vidur", "plain", "parquet", "jsonl", "mooncake")


def _list_of_formats() -> str:
    texts = [f"{form.name} CSV ({','.join(form.required)})" for form in CSV_FORMATS]
    return "; ".join(
        [
            *texts,
            "Parquet or JSON lines with the plain columns",
            f"mooncake JSON lines ({', '.join(MOONCAKE.required)})",
        ]
    )


def require_file(path: str | Path) -> Path:
    """The path of an existing, non-empty regular file; TraceError otherwise."""
    path = Path(path)
    if path.is_dir():
        raise TraceError(f"{path} is a directory; give the path of one trace file")
    if not path.exists():
        raise TraceError(f"{path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise TraceError(f"{path} is empty (0 bytes); copy or download it again")
    return path


def csv_header(path: Path) -> tuple[str, ...]:
    """The column names of a CSV file; a byte-order mark is skipped. TraceError where the first line is not text."""
    with path.open("rb") as file:
        head = file.read(_SNIFFED_BYTES)
    line = head.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    try:
        text = line.decode("utf-8").rstrip("\r")
        if not text.isprintable():
            raise ValueError
    except ValueError:
        raise TraceError(f"{path} is not a text file in UTF-8; readable are: {_list_of_formats()}") from None
    return tuple(next(csv.reader([text]), ()))


def json_header(path: Path) -> tuple[str, ...]:
    """The keys of the first object of a JSON-lines file. TraceError where its first line is not one."""
    with path.open("rb") as file:
        line = next((line for line in file if line.strip()), b"")
    try:
        first = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        first = None
    if not isinstance(first, dict):
        raise TraceError(f"{path}, row 1: not a line of JSON with one object; correct or remove the line")
    return tuple(first)


def container(path: Path) -> Literal["parquet", "json", "csv"]:
    """What a file is written in, from its first bytes; what is neither Parquet nor JSON lines is taken for CSV."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == b"PAR1":
        return "parquet"
    return "json" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" else "csv"


def recognise(path: Path) -> str:
    """Which of FORMAT_NAMES a file is, from its first bytes or header line. TraceError listing them if none fits."""
    kind = container(path)
    if kind == "parquet":
        return kind
    if kind == "json":
        keys = {*json_header(path)}
        return "jsonl" if len(keys & {*PLAIN.read}) > len(keys & {*MOONCAKE.read}) else "mooncake"
    header = csv_header(path)
    # The format that shares most columns: its own check then says which column is missing or unknown.
    best = max(CSV_FORMATS, key=lambda form: len({*form.required} & {*header}))
    if not {*best.required} & {*header}:
        found = ",".join(header)[:120]
        raise TraceError(f"{path}: no known trace format (first line: {found!r}); readable are: {_list_of_formats()}")
    return best.name
