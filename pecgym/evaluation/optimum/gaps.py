"""What the results say: distances of engines to the optimum, and what preempting saves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pecgym.evaluation.infermax.cells import Row
from pecgym.evaluation.optimum.cells import FREE

CLOSED = 2e-6
"""A share of a time below which bound and best count as one: the solvers' tolerance is 1e-6."""


@dataclass(frozen=True)
class Interval:
    """Where a number lies; low == high: it is known."""

    low: float
    high: float


def gap_of(engine: Row, optimum: Row) -> Row:
    """By how much an engine is slower than the optimum, as a share of it: at least gap_low, at most gap_high."""
    best_s, bound_s = optimum["best_s"], optimum["bound_s"]
    return {
        "best_s": best_s,
        "bound_s": bound_s,
        "gap_low": max(0.0, engine["makespan_s"] / best_s - 1),
        "gap_high": max(0.0, engine["makespan_s"] / (best_s if is_closed(optimum) else bound_s) - 1),
    }


def is_closed(optimum: Row) -> bool:
    """Whether the optimum is known."""
    return bool(optimum["best_s"] - optimum["bound_s"] <= CLOSED * optimum["best_s"])


@dataclass(frozen=True)
class Point:
    """Equal requests and a KV memory. optima: by rule; engines: by name, with their gaps."""

    grid: str
    requests: int
    input_tokens: int
    output_tokens: int
    capacity_tokens: int
    optima: dict[str, Row]
    engines: dict[str, Row]

    @property
    def share(self) -> float:
        """KV memory / what all requests hold at their ends."""
        return self.capacity_tokens / (self.requests * (self.input_tokens + self.output_tokens - 1))

    def saved(self, rule: str) -> float:
        """The share of the best time under a rule that free eviction saves, as far as was found."""
        return float(1 - self.optima[FREE]["best_s"] / self.optima[rule]["best_s"])

    def saved_within(self, rule: str) -> Interval:
        """Where that share lies for the optima themselves."""
        free, other = self.optima[FREE], self.optima[rule]
        if self.is_known(rule):
            return Interval(self.saved(rule), self.saved(rule))
        return Interval(max(0.0, 1 - free["best_s"] / other["bound_s"]), 1 - free["bound_s"] / other["best_s"])

    def is_known(self, rule: str) -> bool:
        """Whether `saved` is exact."""
        return is_closed(self.optima[FREE]) and is_closed(self.optima[rule])

    def fastest(self, never_evicts: bool) -> Row:
        """The best engine of those that set the peak aside, or of the others."""
        found = [row for row in self.engines.values() if row["never_evicts"] == never_evicts]
        return min(found, key=lambda row: float(row["makespan_s"]))

    @property
    def engines_save(self) -> float:
        """The share of the best never-evicting engine's time that the best of the others saves; below 0: it loses."""
        return float(1 - self.fastest(False)["makespan_s"] / self.fastest(True)["makespan_s"])

    def own_saving(self, name: str, without: str) -> float:
        """The share of the time of engine `without` that engine `name` saves."""
        return float(1 - self.engines[name]["makespan_s"] / self.engines[without]["makespan_s"])


def points(optima: Sequence[Row], gaps: Sequence[Row]) -> list[Point]:
    """The rows of the study, by what they were measured on."""
    where = ("grid", "requests", "input_tokens", "output_tokens", "capacity_tokens")
    found: dict[tuple[Any, ...], Point] = {}
    for row in optima:
        at = tuple(row[key] for key in where)
        if at not in found:
            found[at] = Point(**{key: row[key] for key in where}, optima={}, engines={})
        found[at].optima[row["rule"]] = row
    for row in gaps:
        found[tuple(row[key] for key in where)].engines[row["engine"]] = row
    return list(found.values())


def compares_evicting(points: Sequence[Point]) -> bool:
    """Whether there are engines of both kinds."""
    return {row["never_evicts"] for row in points[0].engines.values()} == {False, True}


def middle_and_most(rows: Iterable[Row]) -> tuple[Interval, Interval]:
    """Median and maximum of gaps, each as an interval."""
    found = list(rows)
    lows, highs = ([float(row[key]) for row in found] for key in ("gap_low", "gap_high"))
    return Interval(median(lows), median(highs)), Interval(max(lows), max(highs))


def best_engine_gap(point: Point) -> float:
    """The gap of the best engine to the best schedule that was found; nan where all engines may cut prompts."""
    gaps = [row["gap_low"] for row in point.engines.values() if row["reference"] == FREE]
    return min(gaps, default=math.nan)
