"""Token counts drawn from tables of quantiles by inverse transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 4096


@dataclass(frozen=True)
class QuantileTable:
    """Inverse distribution functions that share one grid of probabilities.

    Row r of the table is the piecewise linear function through (grid[k], values[r, k]): base + slope * u on each of
    the grid's intervals. `guide` [4096] gives the first interval that can hold a u of each cell, so that a lookup is
    one gather and `steps` corrections instead of a binary search.
    """

    grid: NDArray[np.float64]
    base: NDArray[np.float64]
    slope: NDArray[np.float64]
    guide: NDArray[np.int32]
    steps: int

    @staticmethod
    def build(grid: Sequence[float], values: Sequence[Sequence[float]]) -> QuantileTable:
        """From probabilities [k] rising from 0 to 1 and quantiles [rows, k]."""
        knots = np.asarray(grid, dtype=np.float64)
        table = np.asarray(values, dtype=np.float64)
        slope = np.diff(table, axis=1) / np.diff(knots)
        base = table[:, :-1] - slope * knots[:-1]
        cells = np.searchsorted(knots[1:-1], np.arange(_CELLS + 1) / _CELLS, side="right").astype(np.int32)
        return QuantileTable(knots, base.ravel(), slope.ravel(), cells[:-1], int(np.diff(cells).max()))

    def draw(self, stream: np.random.Generator, count: int, row: NDArray[np.int64] | int = 0) -> NDArray[np.int64]:
        """`count` token counts, int64 [count], each from its row of the table (or all from one), rounded."""
        u = stream.random(count)
        interval = self.guide[(u * _CELLS).astype(np.int32)]
        for _ in range(self.steps):
            interval += u >= self.grid[1:][interval]
        index = interval + row * (self.grid.size - 1)
        u *= self.slope[index]
        u += self.base[index]
        return np.rint(u, out=u).astype(np.int64)
