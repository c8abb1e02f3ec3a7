"""What a comparison with a reference comes to: rows, their summary against a bar, a table and a JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One number against its reference, both in the same unit (part of the metric's name, such as `ttft_s`).

    case: the run that both are of. group: rows are summarised by group and metric ("fitted", "held out", ...).
    """

    case: str
    metric: str
    reference: float
    simulated: float
    group: str = "all"

    @property
    def error(self) -> float:
        """simulated / reference - 1: positive where the simulator says more."""
        return self.simulated / self.reference - 1.0

    def named(self) -> dict[str, Any]:
        """The row as a mapping, with its error."""
        return {**asdict(self), "error": self.error}


@dataclass(frozen=True)
class Bar:
    """What a summary must not exceed; None: that figure has no bar.

    median, p90: shares (0.04 is 4 percent). factor: how many times too large or too small the worst may be.
    """

    median: float | None = None
    p90: float | None = None
    factor: float | None = None

    def __str__(self) -> str:
        shares = [f"{100 * most:g}%" for most in (self.median, self.p90) if most is not None]
        return " / ".join(shares + ([] if self.factor is None else [f"{self.factor:g}x"]))


@dataclass(frozen=True)
class Summary:
    """Absolute relative errors of one metric in one group, as shares.

    bias: median of the signed errors. factor: how many times too large or too small the worst is. holds: None where
    there is no bar.
    """

    metric: str
    group: str
    n: int
    median_error: float
    p90_error: float
    worst_error: float
    bias: float
    factor: float
    bar: Bar | None
    holds: bool | None


def summarize(rows: Iterable[Row], bars: Mapping[tuple[str, str], Bar] | None = None) -> list[Summary]:
    """One summary for each (group, metric) of the rows, in order of appearance. bars: by (group, metric)."""
    errors: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        errors.setdefault((row.group, row.metric), []).append(row.error)
    given = bars or {}
    return [_summary(*key, signed, given.get(key)) for key, signed in errors.items()]


def _summary(group: str, metric: str, signed: Sequence[float], bar: Bar | None) -> Summary:
    size = np.abs(signed)
    ratios = 1.0 + np.array(signed)
    figures = {
        "median": float(np.median(size)),
        "p90": float(np.quantile(size, 0.9)),
        "factor": float(np.maximum(ratios, 1 / ratios).max()),
    }
    holds = None if bar is None else all(figures[key] <= most for key, most in asdict(bar).items() if most is not None)
    return Summary(
        metric=metric,
        group=group,
        n=len(signed),
        median_error=figures["median"],
        p90_error=figures["p90"],
        worst_error=float(size.max()),
        bias=float(np.median(signed)),
        factor=figures["factor"],
        bar=bar,
        holds=holds,
    )


def write_json(path: str | Path, rows: Iterable[Row], summaries: Iterable[Summary], **facts: Any) -> None:
    """Writes {"rows": [{case, group, metric, reference, simulated, error}], "summary": [...], and `facts`}."""
    content = {
        "summary": [{**asdict(each), "bar": _bar(each.bar)} for each in summaries],
        **facts,
        "rows": [row.named() for row in rows],
    }
    path = Path(path)
    part = path.with_name(f"{path.name}.part")  # so that an earlier file stays whole until this one is
    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def _bar(bar: Bar | None) -> dict[str, float] | None:
    return None if bar is None else {key: most for key, most in asdict(bar).items() if most is not None}


def summary_table(title: str, summaries: Iterable[Summary]) -> Table:
    """The summaries for the terminal, errors in percent; the bar (median / p90, or a factor) and whether it holds."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("group", "metric", "n", "median", "p90", "worst", "bias", "bar"):
        left = heading in ("group", "metric", "bar")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for each in summaries:
        figures = [_percent(x) for x in (each.median_error, each.p90_error, each.worst_error)]
        verdict = "" if each.bar is None else f"{each.bar} {'holds' if each.holds else 'FAILS'}"
        table.add_row(each.group, each.metric, str(each.n), *figures, _percent(each.bias, "+"), verdict)
    return table


def _percent(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.{0 if abs(share) >= 1 else 1}f}%"
