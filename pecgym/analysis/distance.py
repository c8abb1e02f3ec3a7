"""How far policies are from the bounds that hold for any of them (pecgym.bounds)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]

BOUND = "bound"
"""What stands in place of a policy's name in a row of bounds."""

DISTANCES: tuple[tuple[str, str], ...] = (
    # heading, key of the result's row
    ("makespan", "makespan_s"),
    ("TTFT mean", "ttft_mean_s"),
    ("JCT mean", "jct_mean_s"),
    ("short JCT mean", "short_jct_mean_s"),
    ("long JCT mean", "long_jct_mean_s"),
    ("throughput", "throughput_tokens_per_s"),
)
"""The metrics of the tables of distances: the value of a policy / that of the bound."""

_OF_A_RUN = ("workload", "scenario", "seed", "split", "window")
_LABELS = ("model", "cluster", "engine", "profile", *_OF_A_RUN, "first_request", "arrival_scale", "n_requests", "n_long")


def with_bounds(rows: Sequence[Row], bounds: Sequence[Row]) -> list[Row]:
    """The rows of runs, and after them those of bounds by the same keys, None where there is no bound."""
    return [*rows, *({key: bound.get(key) for key in rows[0]} | {"policy": BOUND} for bound in bounds)]


def distance_rows(rows: Iterable[Row], bounds: Sequence[Row]) -> list[Row]:
    """Of every run the labels and, by the key of each metric with a bound, its value / the bound: at least 1, of
    throughputs at most 1. None where the run left requests unfinished, which bounds take for served, and where the
    metric or its bound is 0 or does not apply."""
    by_run = {_run(bound): bound for bound in bounds}
    found = []
    for row in rows:
        bound = by_run.get(_run(row), {})
        served = row["n_finished"] == row["n_requests"]
        ratios = {
            key: row[key] / least if served and least and row.get(key) is not None else None
            for key, least in bound.items()
            if is_metric(key)
        }
        found.append({key: row.get(key) for key in ("policy", *_LABELS)} | ratios)
    return found


def is_metric(key: str) -> bool:
    """Whether a key of a row of bounds is that of a metric, not a label."""
    return key not in (*_LABELS, "policy", "notes")


def _run(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in _OF_A_RUN)
