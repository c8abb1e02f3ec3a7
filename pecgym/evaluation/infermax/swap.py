"""Recompute or swap: what an evicted KV cache costs when it is computed again, or comes back from host memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pecgym.analysis.comparison import iqm
from pecgym.configs import WorkloadConfig
from pecgym.evaluation.infermax.cells import Burst, Cell, Engine, Row, Windows
from pecgym.evaluation.infermax.config import OnlineConfig, SwapConfig
from pecgym.evaluation.infermax.runs import Found

RECOMPUTE = "recompute"


def cells(config: SwapConfig, windows: OnlineConfig, workload: WorkloadConfig, limits: Mapping[str, Any]) -> list[Cell]:
    """Cells of equal requests for each profile, shape and crowd, and one of the workload's windows for each seed."""
    swaps = (
        Engine(f"{gb_per_s:g}", config.preset, {**limits, "eviction": "swap", "swap_gb_per_s": float(gb_per_s)})
        for gb_per_s in config.gb_per_s
    )
    engines = (Engine(RECOMPUTE, config.preset, limits), *swaps)
    bursts = [
        Cell(profile, crowd * work.peak_tokens, work, engines)
        for profile in config.profiles
        for work in (Burst(config.requests, *shape) for shape in config.shapes)
        for crowd in config.crowds
    ]
    return bursts + [
        Cell(
            profile,
            config.capacity_tokens,
            Windows(workload, config.load, seed, windows.windows, windows.window_requests),
            engines,
        )
        for profile in config.profiles
        for seed in windows.seeds
    ]


def rows(cells: Sequence[Cell], found: Sequence[Found]) -> list[Row]:
    """A row for each cell and engine; of windows their interquartile means. what: the requests. measured: the metric
    that is compared, the makespan, or on windows the mean completion time."""
    flat = []
    for cell, by_engine in zip(cells, found, strict=True):
        burst = isinstance(cell.work, Burst)
        labels = (
            {"what": f"{cell.work.input_tokens} + {cell.work.output_tokens}", "seed": None}
            if isinstance(cell.work, Burst)
            else {"what": f"{cell.work.workload.label()}, load {cell.work.load:g}", "seed": cell.work.seed}
        )
        for engine, runs in by_engine.items():
            measured = "makespan_s" if burst else "jct_mean_s"
            flat.append(
                {"profile": cell.profile, "capacity_tokens": cell.capacity_tokens, **labels, "engine": engine}
                | {"measured": measured, "evictions": float(np.mean([run["evictions"] for run in runs]))}
                | {"seconds": iqm(np.array([run[measured] for run in runs]))}
            )
    return flat


def ratios(rows: Sequence[Row]) -> dict[tuple[str, str, int], dict[float, float]]:
    """By profile, requests and KV memory: for each bandwidth in GB/s, seconds with swapping / with recomputing, the
    geometric mean over seeds."""
    where = ("profile", "what", "capacity_tokens")
    base = {(*(row[name] for name in where), row["seed"]): row["seconds"] for row in rows if row["engine"] == RECOMPUTE}
    found: dict[tuple[str, str, int], dict[float, list[float]]] = {}
    for row in rows:
        if row["engine"] != RECOMPUTE:
            key = (row["profile"], row["what"], row["capacity_tokens"])
            by_bandwidth = found.setdefault(key, {})
            by_bandwidth.setdefault(float(row["engine"]), []).append(row["seconds"] / base[*key, row["seed"]])
    return {
        key: {gb_per_s: math.exp(np.mean(np.log(values))) for gb_per_s, values in sorted(each.items())}
        for key, each in found.items()
    }


def break_even_gb_per_s(by_bandwidth: Mapping[float, float]) -> float | None:
    """The bandwidth from which on swapping is no slower, between the measured ones along straight lines over their
    logarithm; inf: not even free swaps are; 0: all measured ones are; None: more than one crossing."""
    worse = [gb_per_s for gb_per_s, ratio in by_bandwidth.items() if ratio > 1]
    if not worse:
        return 0.0
    if len(worse) == len(by_bandwidth):
        return math.inf
    crossings = [
        (low, high) for low, high in pairwise(by_bandwidth) if (by_bandwidth[low] > 1) != (by_bandwidth[high] > 1)
    ]
    if len(crossings) != 1 or by_bandwidth[crossings[0][0]] <= 1:
        return None
    low, high = crossings[0]
    if math.isinf(high):
        return low
    above, below = by_bandwidth[low] - 1, 1 - by_bandwidth[high]
    return float(low * (high / low) ** (above / (above + below)))
