"""The paper's numbers, and what is measured beside each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import yaml

WITHOUT_LONGS = "without_longs"
"""Stands for a policy: FIFO on the same shorts alone."""

Rows = Mapping[str, Sequence[dict[str, Any]]]
"""The runs of one model in one case, by policy, one per seed in the same order of seeds."""

_FOLDER = Path(__file__).parent
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Target:
    """A number of the paper for each of its models: the ratio of a metric under two policies, or its value under one.

    Attributes:
        key: its name. what: in words.
        metric, policy, against: metric of `policy`, over that of `against` unless that is None.
        paper: a number per model, in order; {"from", "to"}: a range from the first model to the last; "similar": a
            ratio of 1; None: the paper has no such number.
        change: the paper's numbers are ratio - 1. percent: they are shares.
    """

    key: str
    what: str
    metric: str
    policy: str
    against: str | None = None
    paper: Any = None
    change: bool = False
    percent: bool = False

    def of_paper(self, position: int) -> tuple[float, float] | None:
        """The least and the greatest value that the paper gives for the model at that position, as ratio or value."""
        if self.paper is None:
            return None
        if self.paper == "similar":
            return 1.0, 1.0
        if isinstance(self.paper, dict):
            ends = [value + self.change for value in self.paper.values()]
            return min(ends), max(ends)
        value = self.paper[position] + self.change
        return value, value

    def measured(self, rows: Rows) -> Measured | None:
        """What the runs gave, None where it does not apply."""
        if self.policy not in rows or (self.against is not None and self.against not in rows):
            return None
        values = [row[self.metric] for row in rows[self.policy]]
        if self.against is not None:
            others = [row[self.metric] for row in rows[self.against]]
            values = [ratio(value, other) for value, other in zip(values, others, strict=True)]
        known = [value for value in values if value is not None and not math.isnan(value)]
        return Measured(median(known), min(known), max(known)) if known else None

    def verdict(self, measured: Measured | None, position: int) -> str:
        """How a measured number differs from the paper's in sign or by more than 2x; "" if it does not.

        Of a value or ratio: "above" or "below". Of a change, as a ratio or as the percentage itself: "sign", "stronger"
        or "weaker".
        """
        paper = self.of_paper(position)
        if paper is None or measured is None:
            return ""
        (low, high), value = paper, measured.median
        above, below = value > 2 * high + _TOLERANCE, value < low / 2 - _TOLERANCE
        if not self.change or self.paper == "similar":
            return "above" if above else "below" if below else ""
        if (value - 1) * (low - 1) < 0:
            return "sign"
        weakest, strongest = sorted((abs(low - 1), abs(high - 1)))
        grows = low > 1
        if (above if grows else below) or abs(value - 1) > 2 * strongest:
            return "stronger"
        return "weaker" if (below if grows else above) or abs(value - 1) < weakest / 2 else ""

    def show(self, value: float) -> str:
        """A ratio or value as the paper writes it."""
        if self.percent:
            return f"{value:.0%}"
        if not self.change:
            return plain(value)
        return f"{value - 1:+.0%}" if 0.01 < value < 100 else f"×{plain(value)}"

    def show_paper(self) -> str:
        """All that the paper says of it."""
        if self.paper is None:
            return "–"
        if isinstance(self.paper, str):
            return self.paper
        if isinstance(self.paper, dict):
            return f"{self.paper['from']:+.0%} to {self.paper['to']:+.0%}"
        return " / ".join(self.show(value) if self.percent else plain(value) for value in self.paper)


@dataclass(frozen=True)
class Measured:
    """Over seeds."""

    median: float
    least: float
    greatest: float


@dataclass(frozen=True)
class Note:
    """Why a number differs from the paper's: said only where it does.

    Attributes:
        targets: keys of the targets. verdicts: of `Target.verdict`. cases: the cases' names.
        why: sentences.
    """

    targets: tuple[str, ...]
    verdicts: tuple[str, ...]
    why: str
    cases: tuple[str, ...] = ("fitted", "native")


def ratio(value: float | None, other: float | None) -> float | None:
    """value / other: infinite over zero, undefined (NaN) for zero over zero."""
    if value is None or other is None:
        return None
    if other == 0:
        return math.nan if value == 0 else math.inf
    return value / other


def plain(value: float) -> str:
    """Three digits; all of a number of 100 or more, up to a million."""
    if math.isinf(value):
        return "∞"
    if math.isnan(value):
        return "undefined"
    if abs(value) >= 1e6:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@cache
def read(name: str) -> Any:
    """A YAML file of this package."""
    return yaml.safe_load((_FOLDER / name).read_text(encoding="utf-8"))


@cache
def models() -> tuple[str, ...]:
    """The paper's models, smallest first."""
    return tuple(read("targets.yaml")["models"])


@cache
def targets() -> tuple[Target, ...]:
    """Every number of the paper's tables."""
    return tuple(Target(**entry) for entry in read("targets.yaml")["targets"])


@cache
def notes() -> tuple[Note, ...]:
    """Why numbers differ."""
    found = []
    for entry in read("notes.yaml"):
        lists = {key: tuple(value) for key, value in entry.items() if key != "why"}
        found.append(Note(**lists, why=" ".join(entry["why"].split())))
    return tuple(found)
