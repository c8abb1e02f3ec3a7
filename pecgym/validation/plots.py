"""Pictures of comparisons: measured against simulated, one point per run, both axes logarithmic. Needs Matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pecgym.validation.comparison import Row

BAND = 0.10
WIDE = 300  # largest / smallest beyond which only powers of ten are labelled
NAMES = {
    "ttft_ms": "TTFT, ms",
    "tpot_ms": "TPOT, ms",
    "ttft_s": "TTFT, s",
    "tpot_s": "TPOT, s",
    "e2e_s": "end to end, s",
    "prefill_s": "prefill, s",
}
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#9a9a9a", "marker": "x"},
    {"color": "#d95f02", "marker": "s"},
    {"color": "#1f6fb2", "marker": "o"},
    {"color": "#7a3d9c", "marker": "^"},
    {"color": "#2a9d5c", "marker": "D"},
)


def write_scatter(
    path: str | Path, title: str, rows: Iterable[Row], groups: Sequence[str], *, reference: str = "measured"
) -> None:
    """One panel per metric of the rows; the groups in that order, in colours of their own. The band is 10 percent."""
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        if row.group in groups:
            by_metric.setdefault(row.metric, []).append(row)
    figure = Figure(figsize=(4.6 * len(by_metric) + 0.4, 4.6), layout="constrained", dpi=130)
    panels = figure.subplots(1, len(by_metric), squeeze=False)[0]
    for panel, (metric, chosen) in zip(panels, by_metric.items(), strict=True):
        for style, group in zip(cycle(_STYLES), groups, strict=False):
            points = np.array([(row.reference, row.simulated) for row in chosen if row.group == group])
            if len(points):
                panel.scatter(*points.T, s=22, alpha=0.75, linewidths=1.2, label=f"{group} ({len(points)})", **style)
        _frame(panel, NAMES.get(metric, metric), chosen, reference)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _frame(panel: Any, name: str, rows: Sequence[Row], reference: str) -> None:
    values = np.array([(row.reference, row.simulated) for row in rows])
    ends = np.array([values.min() / 1.3, values.max() * 1.3])
    panel.plot(ends, ends, color="0.35", linewidth=1, zorder=0)
    panel.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), color="0.88", zorder=-1, label="within 10 %")
    panel.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel=f"{reference}: {name}", ylabel=f"simulated: {name}"
    )
    panel.set_aspect("equal")
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ends[1] / ends[0] < WIDE else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
        axis.set_minor_formatter(NullFormatter())
    panel.set_axisbelow(True)
    panel.grid(color="0.93")
    panel.legend(fontsize=7.5, loc="upper left", framealpha=0.9)
