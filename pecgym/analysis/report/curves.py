"""The figures of a report as Plotly figures (plain dictionaries), and the slices of its timelines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from pecgym.analysis.report.inputs import Case, Row
from pecgym.analysis.tables import typical_of
from pecgym.analysis.timeline import KIND_NAMES, Timeline
from pecgym.units import PS_PER_S

MEASURES = {
    "short_queueing_delay": "queueing delay of shorts",
    "ttft": "time to first token",
    "long_jct": "completion time of longs",
}
MAX_POINTS = 400
SHORTEST_SHOWN_S = 1e-4
MAX_SLICES = 24_000
_PROBABILITIES = np.unique(
    np.concatenate([np.linspace(0, 1, 280), 1 - np.geomspace(0.1, 1e-5, 100), np.geomspace(1e-3, 0.01, 20)])
)


def cdf(values: Any) -> tuple[Any, Any]:
    """A distribution in at most MAX_POINTS points, dense in its upper tail.

    values: float64[n], NaN where it has not happened; such a value counts as larger than every other, so the curve ends
    below 1. Returns (x, share of values that are at most x).
    """
    known = np.sort(values[~np.isnan(values)])
    if not len(known):
        return np.empty(0), np.empty(0)
    index = np.arange(len(known))
    if len(known) > MAX_POINTS:
        index = np.unique(np.rint(_PROBABILITIES * (len(known) - 1)).astype(np.int64))
    return known[index], (index + 1) / len(values)


def cdf_figure(case: Case, measure: str) -> dict[str, Any] | None:
    """The distribution of a measure under every policy; None where no request has it."""
    traces = []
    for number, policy in enumerate(case.policies):
        values = case.delays.get(policy, {}).get(measure, np.empty(0))
        x, share = cdf(values)
        if len(x):
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": policy,
                    "x": _rounded(np.maximum(x, SHORTEST_SHOWN_S)),
                    "y": _rounded(share),
                    "line": {"shape": "hv"},
                    "meta": {"policy": number},
                    "hovertemplate": "%{x:.3~s}s: %{y:.2%}<extra>" + policy + "</extra>",
                }
            )
    if not traces:
        return None
    return {
        "data": traces,
        "layout": {
            "xaxis": {"type": "log", "title": {"text": f"{MEASURES[measure]}, s"}},
            "yaxis": {"title": {"text": "share of requests"}, "tickformat": ".0%", "range": [0, 1.02]},
        },
    }


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points that no other point beats in both coordinates (less is better), by the first."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not front or points[index][1] < points[front[-1]][1]:
            front.append(index)
    return front


def pareto_axes(case: Case) -> tuple[str, str, str, str]:
    """The two metrics to weigh against each other and their names: of shorts and longs, or of all without longs."""
    if any(row["long_jct_mean_s"] is not None for row in case.rows):
        return (
            "short_queueing_delay_p99_s",
            "p99 queueing delay of shorts, s",
            "long_jct_mean_s",
            "mean completion time of longs, s",
        )
    return (
        "all_queueing_delay_p99_s",
        "p99 queueing delay, s",
        "jct_mean_s",
        "mean completion time, s",
    )


def pareto_figure(case: Case) -> dict[str, Any] | None:
    """The two delays of each policy: the typical value over the runs with the range; None where no policy has both.

    The front is drawn among policies that finish every long, where there are such: the mean completion time of those
    that starve longs leaves the starved ones out.
    """
    x_key, x_name, y_key, y_name = pareto_axes(case)
    shown, points, starved = [], [], []
    for number, policy in enumerate(case.policies):
        x, y = (typical_of(case.of(policy), key) for key in (x_key, y_key))
        if x is not None and y is not None:
            shown.append((number, policy))
            points.append((max(x, SHORTEST_SHOWN_S), max(y, SHORTEST_SHOWN_S)))
            starved.append(typical_of(case.of(policy), "starved_fraction") or 0.0)
    if not shown:
        return None
    compared = [i for i, share in enumerate(starved) if share == 0] or list(range(len(points)))
    front = [compared[i] for i in pareto_front([points[i] for i in compared])]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "Pareto front",
            "x": [points[i][0] for i in front],
            "y": [points[i][1] for i in front],
            "line": {"shape": "hv", "dash": "dot", "width": 1.5},
            "hoverinfo": "skip",
            "meta": {"front": True},
        }
    ]
    for i, (number, policy) in enumerate(shown):
        hover = f"{policy}<br>{x_name}: %{{x:.4~g}}<br>{y_name}: %{{y:.4~g}}"
        hover += f"<br>{starved[i]:.1%} of longs unfinished" if starved[i] else ""
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "name": policy,
                "x": [points[i][0]],
                "y": [points[i][1]],
                "text": [policy],
                "textposition": "top center",
                "error_x": _interval(case.of(policy), x_key, points[i][0]),
                "error_y": _interval(case.of(policy), y_key, points[i][1]),
                "meta": {"policy": number, "hollow": starved[i] > 0, "front": False, "onFront": i in front},
                "hovertemplate": hover + "<extra></extra>",
            }
        )
    return {
        "data": traces,
        "layout": {
            "xaxis": {"type": "log", "title": {"text": x_name}},
            "yaxis": {"type": "log", "title": {"text": y_name}},
            "showlegend": False,
        },
    }


def _interval(rows: list[Row], key: str, middle: float) -> dict[str, Any]:
    """Error bars from the least to the greatest of the seeds."""
    values = [row[key] for row in rows if row[key] is not None]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(values) - middle],
        "arrayminus": [middle - max(min(values), SHORTEST_SHOWN_S)],
        "visible": len(values) > 1,
        "thickness": 1.5,
        "width": 4,
    }


def timeline_payload(timeline: Timeline) -> dict[str, Any]:
    """A timeline as the page draws it: merged to MAX_SLICES, times as whole ticks, per replica.

    `slices[r]`: gap in front of it and length, alternating, ticks. `kinds[r]`: one digit per slice. `rows[r]`: one
    number per slice, -1 for shorts.
    """
    lines, resolution_s = timeline.fitted(MAX_SLICES)
    tick_ps = max(PS_PER_S // 10**6, int(resolution_s * PS_PER_S) // 256)
    start, end = (np.rint(ps / tick_ps).astype(np.int64) for ps in (lines.start_ps, lines.end_ps))
    bounds = np.searchsorted(lines.replica, np.arange(lines.n_replicas + 1))
    slices, kinds, rows = [], [], []
    for first, last in pairwise(bounds):
        edges = np.stack([start[first:last], end[first:last]], axis=1).reshape(-1)
        slices.append(np.diff(edges, prepend=0).tolist())
        kinds.append("".join(map(str, lines.kind[first:last])))
        rows.append(lines.row[first:last].tolist())
    return {
        "replicasPerNode": timeline.replicas_per_node,
        "tick_s": tick_ps / PS_PER_S,
        "resolution_s": resolution_s,
        "end_s": timeline.end_s,
        "slices": slices,
        "kinds": kinds,
        "rows": rows,
    }


def shares_of_time(timeline: Timeline) -> list[float]:
    """How all replicas together spent the time until the last slice ends: a share per kind, then idle."""
    span_s = timeline.end_s * timeline.n_replicas
    shares = timeline.seconds_by_kind().sum(axis=0) / span_s if span_s > 0 else np.zeros(len(KIND_NAMES))
    return [*shares.tolist(), max(0.0, 1.0 - float(shares.sum()))]


def _rounded(values: Any) -> list[float]:
    """Five digits are more than a screen shows."""
    return [float(f"{value:.5g}") for value in values]
