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
_LABELS = (
    *("policy", "model", "cluster", "engine", "profile", *_OF_A_RUN, "first_request", "arrival_scale"),
    *("predictor", "n_requests", "n_long", "notes"),
)


def with_bounds(rows: Sequence[Row], bounds: Sequence[Row]) -> list[Row]:
    """The rows of runs, and after them those of bounds by the same keys, None where there is no bound."""
    return [*rows, *({key: bound.get(key) for key in rows[0]} | {"policy": BOUND} for bound in bounds)]


def distances(rows: Iterable[Row], bounds: Sequence[Row]) -> list[Row]:
    """For every run and metric with a bound: the run's labels, `metric`, its `value`, the `bound` and the `ratio` of
    the two, at least 1, of throughputs at most 1. A run that left requests unfinished has none, since bounds are of
    serving everything, and so has a metric that is 0 or does not apply."""
    by_run = {_run(bound): bound for bound in bounds}
    found = []
    for row in rows:
        if row["n_finished"] < row["n_requests"]:
            continue
        labels = {key: row.get(key) for key in ("policy", *_OF_A_RUN, "first_request")}
        for metric, bound in by_run.get(_run(row), {}).items():
            value = row.get(metric)
            if metric not in _LABELS and bound and value is not None:
                found.append(labels | {"metric": metric, "value": value, "bound": bound, "ratio": value / bound})
    return found


def distance_rows(rows: Sequence[Row], bounds: Sequence[Row]) -> list[Row]:
    """The distances as a row per run, the ratios by the keys of DISTANCES, None where there is none."""
    ratios = {(each["policy"], *_run(each), each["metric"]): each["ratio"] for each in distances(rows, bounds)}
    return [row | {key: ratios.get((row["policy"], *_run(row), key)) for _, key in DISTANCES} for row in rows]


def shown_distances(distance: Sequence[Row]) -> list[tuple[str, str]]:
    """The DISTANCES that some run has; without longs those of shorts are those of all."""
    has_longs = any(row["n_long"] for row in distance)
    shown = [each for each in DISTANCES if has_longs or not each[1].startswith("short_")]
    return [(heading, key) for heading, key in shown if any(row[key] is not None for row in distance)]


def _run(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in _OF_A_RUN)
