"""Offline: equal requests at time zero, with preempting and without, over lengths and KV memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pecgym.evaluation.infermax.cells import Burst, Cell, Engine, Row
from pecgym.evaluation.infermax.config import NEVER, OfflineConfig
from pecgym.evaluation.infermax.runs import Found

SAME = 0.01
"""A share of the makespan below which two are called the same."""


def cells(config: OfflineConfig, limits: Mapping[str, Any]) -> list[Cell]:
    """A cell for each profile, KV memory and pair of lengths that one request's peak leaves possible."""
    engines = tuple(Engine(name, name, limits) for preset in config.presets for name in (preset, preset + NEVER))
    works = [Burst(config.requests, i, o) for i in config.tokens for o in config.tokens]
    return [
        Cell(profile, capacity, work, engines)
        for profile in config.profiles
        for capacity in config.capacity_tokens
        for work in works
        if work.peak_tokens <= capacity
    ]


def rows(cells: Sequence[Cell], found: Sequence[Found]) -> list[Row]:
    """A row for each cell and engine."""
    return [
        {
            "profile": cell.profile,
            "capacity_tokens": cell.capacity_tokens,
            "input_tokens": cell.work.input_tokens,
            "output_tokens": cell.work.output_tokens,
            "requests": cell.work.requests,
            "engine": engine,
            **row,
        }
        for cell, by_engine in zip(cells, found, strict=True)
        if isinstance(cell.work, Burst)
        for engine, (row,) in by_engine.items()
    ]


@dataclass(frozen=True)
class Pair:
    """One preset with preempting and without, on the same requests."""

    profile: str
    preset: str
    capacity_tokens: int
    input_tokens: int
    output_tokens: int
    preempting: Row
    never: Row

    @property
    def speedup(self) -> float:
        """Makespan without preempting / with it: above 1 preempting is better."""
        return float(self.never["makespan_s"] / self.preempting["makespan_s"])

    @property
    def crowding(self) -> float:
        """KV tokens at the ends of all requests / KV memory."""
        peak = self.input_tokens + self.output_tokens - 1
        return float(self.never["requests"] * peak / self.capacity_tokens)


def pairs(rows: Sequence[Row]) -> list[Pair]:
    """Every row of a preset that may preempt, with that of the same preset that never does."""
    where = ("profile", "capacity_tokens", "input_tokens", "output_tokens")
    by_run = {(row["engine"], *(row[name] for name in where)): row for row in rows}
    return [
        Pair(
            profile, engine, capacity, inputs, outputs, row, by_run[engine + NEVER, profile, capacity, inputs, outputs]
        )
        for (engine, profile, capacity, inputs, outputs), row in by_run.items()
        if not engine.endswith(NEVER)
    ]
