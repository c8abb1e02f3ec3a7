"""Online: who is evicted (NRF, SRF) and what admission sets aside, on windows, over load and KV memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pecgym.analysis.comparison import bootstrap_interval, iqm
from pecgym.configs import WorkloadConfig
from pecgym.evaluation.infermax.cells import Cell, Engine, Row, Windows, capacities
from pecgym.evaluation.infermax.config import OnlineConfig
from pecgym.evaluation.infermax.runs import Found


def cells(config: OnlineConfig, workload: WorkloadConfig, limits: Mapping[str, Any]) -> list[Cell]:
    """A cell for each workload, profile, preset, KV memory, load and seed."""
    return [
        Cell(
            profile,
            capacity,
            Windows(each, load, seed, config.windows, config.window_requests),
            tuple(Engine(name, name, limits) for name in (preset, *(preset + rule for rule in config.rules))),
        )
        for each in workloads(config, workload)
        for profile in config.profiles
        for preset in config.presets
        for capacity in capacities(profile, config.capacity_tokens)
        for load in config.loads
        for seed in config.seeds
    ]


def workloads(config: OnlineConfig, workload: WorkloadConfig) -> list[WorkloadConfig]:
    """Those by name or path with the window and speedup of `workload`, or that one alone."""
    return [WorkloadConfig.of(name, workload) for name in config.workloads] or [workload]


def rows(cells: Sequence[Cell], found: Sequence[Found]) -> list[Row]:
    """A row for each cell, engine and window. preset: with which an engine is compared."""
    return [
        {
            "profile": cell.profile,
            "capacity_tokens": cell.capacity_tokens,
            "workload": cell.work.workload.label(),
            "load": cell.work.load,
            "seed": cell.work.seed,
            "window": window,
            "requests": cell.work.window_requests,
            "preset": cell.engines[0].label,
            "engine": engine,
            **row,
        }
        for cell, by_engine in zip(cells, found, strict=True)
        if isinstance(cell.work, Windows)
        for engine, windows in by_engine.items()
        for window, row in enumerate(windows)
    ]


@dataclass(frozen=True)
class Change:
    """A metric of an engine relative to its preset on the same windows: interquartile mean of the relative change, with
    the 95% bootstrap interval; None: one window only."""

    mean: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, metric: str, rows: Sequence[Row], base: Sequence[Row]) -> Change:
        """rows, base: of the same windows in the same order."""
        values = np.array([row[metric] / other[metric] - 1 for row, other in zip(rows, base, strict=True)])
        return cls(iqm(values), bootstrap_interval(values[None, :], [row["seed"] for row in rows]))

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


@dataclass(frozen=True)
class Point:
    """One preset at one load and KV memory; engines: the preset first, each with its rows."""

    workload: str
    profile: str
    preset: str
    capacity_tokens: int
    load: float
    engines: dict[str, list[Row]]

    def change(self, engine: str, metric: str) -> Change:
        """Of an engine against the preset."""
        return Change.of(metric, self.engines[engine], self.engines[self.preset])

    def mean(self, engine: str, metric: str) -> float:
        """The interquartile mean over windows."""
        return iqm(np.array([row[metric] for row in self.engines[engine]]))

    def evictions_per_request(self, engine: str) -> float:
        """Over all windows."""
        found = self.engines[engine]
        return float(sum(row["evictions"] for row in found) / sum(row["requests"] for row in found))


def points(rows: Sequence[Row]) -> list[Point]:
    """The rows by workload, profile, preset, KV memory and load, in their order."""
    found: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        where = (row["workload"], row["profile"], row["preset"], row["capacity_tokens"], row["load"])
        found.setdefault(where, {}).setdefault(row["engine"], []).append(row)
    return [
        Point(workload, profile, preset, capacity, load, engines)
        for (workload, profile, preset, capacity, load), engines in found.items()
    ]
