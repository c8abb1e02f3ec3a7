"""Pictures of the study. Needs Matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from pecgym.evaluation.optimum.cells import FREE, NEVER
from pecgym.evaluation.optimum.gaps import Point, best_engine_gap, compares_evicting, is_closed
from pecgym.evaluation.optimum.tables import of_shape, once, shapes

_DPI = 110
_MOST_SAVED, _MOST_GAP = 0.4, 0.4
_TOP = 1.3
"""Of the shares of memory: above 1 all requests fit."""

Value = Callable[[Point], float]
Known = Callable[[Point], bool]


@dataclass(frozen=True)
class _Map:
    """What a heat map shows. known: whether the value is exact."""

    title: str
    value: Value
    known: Known
    colours: str
    norm: Normalize
    label: str


def _maps() -> list[_Map]:
    both = Normalize(-_MOST_SAVED, _MOST_SAVED)
    return [
        _Map("the optimum", lambda p: p.saved(NEVER), lambda p: p.is_known(NEVER), "RdBu", both, "saved by preempting"),
        _Map("the best engine of each kind", _engines_save, lambda p: True, "RdBu", both, "saved by preempting"),
        _Map(
            "the best engine",
            best_engine_gap,
            lambda p: is_closed(p.optima[FREE]),
            "YlOrBr",
            Normalize(0, _MOST_GAP),
            "slower than the optimum",
        ),
    ]


def _engines_save(point: Point) -> float:
    return point.engines_save if compares_evicting([point]) else math.nan


def write_heat_maps(path: Path, points: Sequence[Point]) -> None:
    """A column for each N and O; rows: what free eviction saves, of the optimum and of engines, and the best engine's
    gap. Each over input tokens and KV memory; a dot: not known exactly."""
    columns, maps = shapes(points), _maps()
    figure = Figure(figsize=(2.35 * len(columns) + 1.5, 2.45 * len(maps) + 0.4), layout="constrained", dpi=_DPI)
    panels = figure.subplots(len(maps), len(columns), squeeze=False)
    for line, each in zip(panels, maps, strict=True):
        for panel, (requests, outputs) in zip(line, columns, strict=True):
            found = of_shape(points, requests, outputs)
            image = _draw(panel, found, each, lambda column: [point.share for point in column])
            panel.set_title(f"{each.title}, N = {requests}, O = {outputs}", fontsize=7)
            _show_shares(panel, min(point.share for point in found))
        _add_bar(figure, image, line, each)
    figure.supxlabel("input tokens (I)", fontsize=9)
    figure.supylabel("KV memory / N (I + O - 1), log", fontsize=9)
    figure.savefig(path)


def write_ranks(path: Path, points: Sequence[Point]) -> None:
    """The same of the first N and O, with all memories of an input length in order, each as high as any other."""
    found, maps = of_shape(points, *shapes(points)[0]), _maps()
    figure = Figure(figsize=(3.6 * len(maps), 3.2), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for panel, each in zip(panels, maps, strict=True):
        image = _draw(panel, found, each, lambda column: [k / len(column) for k in range(len(column))])
        panel.set_title(f"{each.title}, N = {found[0].requests}, O = {found[0].output_tokens}", fontsize=8)
        panel.set_yticks([0, 1], ["one fits", "all fit"], fontsize=7)
        panel.set_ylim(0, 1)
        _add_bar(figure, image, [panel], each)
    figure.supxlabel("input tokens (I)", fontsize=9)
    figure.supylabel("KV memories, in order", fontsize=9)
    figure.savefig(path)


def _draw(panel: Any, points: Sequence[Point], each: _Map, heights: Callable[[list[Point]], list[float]]) -> Any:
    """Every point up to the next larger memory. heights: where the points of one input length begin. Returns what a
    colour bar needs."""
    inputs = sorted({point.input_tokens for point in points})
    for x, tokens in enumerate(inputs):
        column = once([point for point in points if point.input_tokens == tokens])
        low = heights(column)
        edges = [*low, max(_TOP, low[-1] * _TOP)]
        numbers = np.array([[each.value(point)] for point in column])
        image = panel.pcolormesh([x - 0.5, x + 0.5], edges, numbers, cmap=each.colours, norm=each.norm)
        unknown = [(a + b) / 2 for p, a, b in zip(column, edges, edges[1:], strict=False) if not each.known(p)]
        panel.plot([x] * len(unknown), unknown, ".", color="0.35", markersize=3)
    panel.set_facecolor("0.8")
    panel.set_xticks(range(len(inputs)), [str(tokens) for tokens in inputs], fontsize=7)
    panel.tick_params(axis="y", labelsize=7)
    return image


def _show_shares(panel: Any, least: float) -> None:
    ticks = [tick for tick in (0.001, 0.01, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0) if tick >= least * 0.99]
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    panel.yaxis.set_minor_locator(NullLocator())


def _add_bar(figure: Figure, image: Any, panels: Sequence[Any], each: _Map) -> None:
    bar = figure.colorbar(image, ax=panels, extend="both" if each.norm.vmin else "max", pad=0.01)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(labelsize=7)
    bar.set_label(each.label, fontsize=8)
