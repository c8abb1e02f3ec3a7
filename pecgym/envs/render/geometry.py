"""Where the parts of a Gantt chart are, in pixels from the upper left corner, and round numbers for its axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_TALLEST_ROW_PX, _NODE_GAP_PX = 44, 5
_ROW_GAP_FROM_PX = 4  # rows at least this high have a line between them


@dataclass(frozen=True)
class Geometry:
    """The parts of a frame from top to bottom: title, rows of replicas, plots over time, time axis, legend.

    Attributes:
        rows_top: of the rows.
        replica_of_y: int64[height of the rows], the replica that a line of pixels shows, -1 where there is none.
        replicas_per_line: 1, or of how many replicas a line of pixels shows one.
        number_every: the numbers of every so many replicas have room; a power of two.
        nodes_have_names: whether there are several nodes, and room for their names.
        plots: top and bottom of each plot; above each is a line for its title.
        axis_top, legend_top: of their text.
    """

    rows_top: int
    replica_of_y: Any
    replicas_per_line: int
    number_every: int
    nodes_have_names: bool
    plots: tuple[tuple[int, int], ...]
    axis_top: int
    legend_top: int

    @staticmethod
    def of(
        n_replicas: int, per_node: int, plot_shares: tuple[float, ...], height: int, font_px: int, legend_lines: int
    ) -> Geometry:
        """The geometry of a frame of that height. per_node: replicas on a node. plot_shares: parts of the height that
        the plots have at least."""
        line = round(1.4 * font_px)
        legend_top = height - line * legend_lines - font_px // 2
        axis_top = legend_top - round(1.2 * line)
        rows_top = 2 * line + font_px // 3
        above_plot = line + font_px // 2
        room = axis_top - rows_top - font_px // 2
        least = [above_plot + round(share * height) for share in plot_shares]
        replica_of_y, pitch = _rows(n_replicas, per_node, room - sum(least))
        spare = room - sum(least) - len(replica_of_y)
        plots, top = [], rows_top + len(replica_of_y)
        for share, px in zip(plot_shares, least, strict=True):
            bottom = top + px + int(spare * share / sum(plot_shares))
            plots.append((top + above_plot, bottom))
            top = bottom
        return Geometry(
            rows_top,
            replica_of_y,
            math.ceil(1 / pitch),
            1 << math.ceil(math.log2(max(1.1 * font_px / pitch, 1))),
            per_node < n_replicas and per_node * pitch >= 1.1 * font_px,
            tuple(plots),
            axis_top,
            legend_top,
        )

    def middle_of(self, first: int, n: int) -> int:
        """The middle of the rows of `n` replicas, as many as a line shows one of or more."""
        lines = np.flatnonzero((self.replica_of_y >= first) & (self.replica_of_y < first + n))
        return self.rows_top + int(lines[0] + lines[-1] + 1) // 2


def _rows(n: int, per_node: int, room: int) -> tuple[Any, float]:
    """`replica_of_y` in at most `room` pixels, and the distance of two rows."""
    if n > room:
        return np.arange(room) * n // room, room / n
    gap = _NODE_GAP_PX
    n_gaps = (n - 1) // per_node
    if n * _ROW_GAP_FROM_PX + n_gaps * gap > room:
        gap = 0
    pitch = min((room - n_gaps * gap) / n, _TALLEST_ROW_PX)
    replica_of_y = np.full(int(n * pitch) + n_gaps * gap, -1)
    for r in range(n):
        top, bottom = (int(i * pitch) + r // per_node * gap for i in (r, r + 1))
        replica_of_y[top : bottom - (pitch >= _ROW_GAP_FROM_PX)] = r
    return replica_of_y, pitch


def round_above(value: float) -> int:
    """The least of 4, 5, 10, 20, 50, 100, ... that is not below a number."""
    if value <= 5:
        return 4 if value <= 4 else 5
    power = 10 ** math.floor(math.log10(value))
    return int(next(f * power for f in (1, 2, 5, 10) if f * power >= value))


def ticks(first: float, last: float, at_most: int) -> tuple[Any, int]:
    """Multiples of 1, 2 or 5 times a power of ten from `first` to `last`, `at_most` or so; and decimals to show."""
    least = (last - first) / at_most
    exponent = math.floor(math.log10(least))
    step = next(f * 10.0**exponent for f in (1, 2, 5, 10) if f * 10.0**exponent >= least * (1 - 1e-9))
    numbers = np.arange(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)
    return numbers * step, max(0, -math.floor(math.log10(step) + 1e-9))
