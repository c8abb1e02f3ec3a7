"""Sampled iteration times, the input of a fit: from anywhere, for example a user's CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import ProfileError

Floats = NDArray[np.float64]

PHASES = ("prefill", "chunked prefill", "decode", "mixed")
REQUIRED_COLUMNS = ("prefill_tokens", "prefill_past_tokens", "n_decodes", "time_ms")
KV_COLUMNS = ("kv_tokens_read", "kv_tokens_each")
OPTIONAL_COLUMNS = ("n_prefills", "prefill_pairs", "power_w")
COLUMNS = (*REQUIRED_COLUMNS, *KV_COLUMNS, *OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class Point:
    """One iteration and its time.

    prefill_tokens: new tokens of all chunks together. prefill_past_tokens: their past tokens together. prefill_pairs:
    sum of c^2 + 2 c m over the chunks. kv_tokens_read: contexts of all decodes together. longest_prompt: tokens of the
    longest prompt with its past. time_ms: milliseconds. power_w: mean watts of one GPU meanwhile, NaN where unknown.
    """

    prefill_tokens: float
    prefill_past_tokens: float
    prefill_pairs: float
    n_prefills: float
    n_decodes: float
    kv_tokens_read: float
    longest_prompt: float
    time_ms: float
    power_w: float = math.nan


@dataclass(frozen=True, eq=False)
class Samples:
    """Points as columns, each float64[n]; see `Point`."""

    prefill_tokens: Floats
    prefill_past_tokens: Floats
    prefill_pairs: Floats
    n_prefills: Floats
    n_decodes: Floats
    kv_tokens_read: Floats
    longest_prompt: Floats
    time_ms: Floats
    power_w: Floats

    @classmethod
    def of(cls, points: Iterable[Point]) -> Samples:
        """Columns of the points, in order."""
        rows = list(points)
        return cls(**{f.name: np.array([getattr(p, f.name) for p in rows], dtype=np.float64) for f in fields(cls)})

    def __len__(self) -> int:
        return len(self.time_ms)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Samples:
        """The samples where `chosen`, bool[n], is true."""
        return Samples(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @property
    def tokens(self) -> Floats:
        """New tokens of each iteration: prefill tokens and one per decode."""
        return self.prefill_tokens + self.n_decodes

    @property
    def phase(self) -> NDArray[np.str_]:
        """Phase of each sample, one of PHASES."""
        prefills, decodes = self.n_prefills > 0, self.n_decodes > 0
        alone = np.where(self.prefill_past_tokens > 0, "chunked prefill", "prefill")
        return np.where(prefills & decodes, "mixed", np.where(decodes, "decode", alone))


def iteration_point(chunks: Iterable[tuple[int, int]], decode_contexts: Iterable[int], time_ms: float) -> Point:
    """The point of an iteration given request by request: (new, past) tokens of chunks, and contexts of decodes."""
    prefills, contexts = list(chunks), list(decode_contexts)
    return Point(
        prefill_tokens=sum(c for c, _ in prefills),
        prefill_past_tokens=sum(m for _, m in prefills),
        prefill_pairs=sum(c * c + 2 * c * m for c, m in prefills),
        n_prefills=len(prefills),
        n_decodes=len(contexts),
        kv_tokens_read=sum(contexts),
        longest_prompt=max((c + m for c, m in prefills), default=0),
        time_ms=time_ms,
    )


def read_points_csv(path: str | Path, columns: Mapping[str, str] | None = None) -> tuple[Samples, list[str]]:
    """Read measured iterations from a CSV with a header.

    Columns: prefill_tokens, prefill_past_tokens, n_decodes, time_ms and one of kv_tokens_read (contexts of the decodes
    summed) or kv_tokens_each (context of each decode, all alike). Optional: n_prefills (default: 1 where there are
    prefill tokens), prefill_pairs (sum of c^2 + 2 c m; needed where n_prefills > 1) and power_w (mean watts of one
    GPU). `columns` maps these names to other ones in the file; columns left over are then returned as ignored, without
    a mapping they are an error.
    Raises ProfileError with file, row (the header is row 1) and column.
    """
    mapping = dict(columns or {})
    unknown = sorted(set(mapping) - set(COLUMNS))
    if unknown:
        raise ProfileError(f"cannot map {', '.join(unknown)}: the columns are {', '.join(COLUMNS)}")
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = list(reader.fieldnames or [])
            names = {name: mapping.get(name, name) for name in COLUMNS if mapping.get(name, name) in header}
            ignored = _check_header(path, header, names, mapping)
            points = [_point_of_row(path, number, row, names) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise ProfileError(f"{path}: cannot be read: {problem}; give a CSV file in UTF-8") from problem
    if not points:
        raise ProfileError(f"{path}: no rows below the header; add measured points")
    return Samples.of(points), ignored


def _check_header(path: str | Path, header: list[str], names: dict[str, str], mapping: dict[str, str]) -> list[str]:
    """Refuse a header with repeated, missing or (without a mapping) unknown columns; return the ones not used."""
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ProfileError(f"{path}: row 1: column {', '.join(repeated)} appears more than once; keep one of each")
    absent = [f"{name} ({mapping[name]} in the file)" for name in mapping if mapping[name] not in header]
    absent += [name for name in REQUIRED_COLUMNS if name not in names and name not in mapping]
    if absent:
        raise ProfileError(f"{path}: row 1: missing column {', '.join(absent)}; the header has {', '.join(header)}")
    if sum(name in names for name in KV_COLUMNS) != 1:
        raise ProfileError(f"{path}: row 1: needs exactly one of the columns {' and '.join(KV_COLUMNS)}")
    ignored = [name for name in header if name not in names.values()]
    if ignored and not mapping:
        raise ProfileError(
            f"{path}: row 1: unknown column {', '.join(ignored)}; valid are {', '.join(COLUMNS)}. Remove it, or name "
            f"the columns to use with --columns (the others are then ignored)"
        )
    return ignored


def _point_of_row(path: str | Path, number: int, row: dict[str, str], names: dict[str, str]) -> Point:
    """One row as a point; ProfileError names row and column of what is wrong."""
    if None in row or None in row.values():
        raise ProfileError(f"{path}: row {number}: it has more or fewer cells than the header; correct it")
    value = {name: _cell(path, number, column, row[column], name) for name, column in names.items()}
    c, m, decodes = value["prefill_tokens"], value["prefill_past_tokens"], value["n_decodes"]
    prefills = value.get("n_prefills", 1.0 if c > 0 else 0.0)
    kv = value["kv_tokens_read"] if "kv_tokens_read" in value else value["kv_tokens_each"] * decodes
    faults = {
        "prefill_tokens": c < prefills or (prefills == 0 and c > 0) or c + decodes == 0,
        "prefill_past_tokens": c == 0 and m > 0,
        "prefill_pairs": prefills > 1 and "prefill_pairs" not in value,
        names.get("kv_tokens_read", "kv_tokens_each"): decodes == 0 and kv > 0,
    }
    wrong = [column for column, faulty in faults.items() if faulty]
    if wrong:
        raise ProfileError(
            f"{path}: row {number}: column {wrong[0]} does not agree with the others: an iteration has tokens, "
            "past tokens need a prefill, KV reads need decodes, several prefills need prefill_pairs"
        )
    pairs = value.get("prefill_pairs", c * c + 2 * c * m)
    # Of several prefills only the mean length is known: a lower bound of the longest.
    longest = (c + m) / max(1.0, prefills)
    return Point(c, m, pairs, prefills, decodes, kv, longest, value["time_ms"], value.get("power_w", math.nan))


def _cell(path: str | Path, number: int, column: str, text: str, name: str) -> float:
    """A cell as a number: finite, >= 0, whole unless it is a power or a time, which must be > 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if name == "time_ms":
        valid, expected = math.isfinite(value) and value > 0, "milliseconds > 0"
    elif name == "power_w":
        valid, expected = math.isfinite(value) and value >= 0, "watts of one GPU >= 0 (leave the column out if unknown)"
    else:
        valid, expected = math.isfinite(value) and value >= 0 and value == int(value), "a whole number >= 0"
    if not valid:
        raise ProfileError(f"{path}: row {number}: column {column} is {text!r}; expected {expected}")
    return value
