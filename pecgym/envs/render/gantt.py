"""A Gantt chart of a cluster at work: replicas over time, and who waits, as a picture that slides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pecgym.engine import Simulator
from pecgym.engine.state import State
from pecgym.envs.render.activity import ACTIVITY_NAMES, IDLE, Activity
from pecgym.envs.render.colours import COLOURS, DARK, FAINT, INK, LIGHT, LINE, OF_LONGS, PAPER
from pecgym.envs.render.geometry import Geometry, round_above, ticks
from pecgym.errors import EngineError, PecGymError
from pecgym.units import HORIZON_S, PS_PER_S, ps_to_seconds, seconds_to_ps


@dataclass(frozen=True)
class Plot:
    """A plot of counts over time, below the rows.

    Attributes:
        title: what is counted.
        areas: (one of COUNTS, colour, words after its number), from behind to the front.
        share: of a frame's height, at least.
        whole: what the scale ends at, and numbers are percentages of; None: counts, on a scale that fits.
    """

    title: str
    areas: tuple[tuple[str, tuple[int, int, int], str], ...]
    share: float
    whole: int | None = None

    def text(self, number: int) -> str:
        """A number of the plot in words."""
        return f"{number:,}" if self.whole is None else f"{number / self.whole:.0%}"


SHORTS = Plot("shorts waiting", (("waiting", LIGHT, "in all"), ("queued", DARK, "in the global queue")), 0.12)
LONGS = Plot("longs waiting", (("longs", OF_LONGS, ""),), 0.06)
BATCH = Plot("requests in the batch", (("running", DARK, ""),), 0.09)

_OF_SHORTS = (0, 1, 2, IDLE)
_SMALLEST = (480, 320)
_TICK_PX = 90


class Gantt:
    """Draws the last `window_s` seconds of a simulator that records its timeline (record=True), and consumes that.

    Rows are replicas, in groups of a node; columns of one pixel are equal parts of time, each in the colour of what the
    replica did (pecgym.envs.render.activity says which, where it did several things). Below: the shorts that wait,
    those of them that are in the global queue, and the longs that wait in theirs; of a single replica also its batch
    and its memory, as seen at the updates. With more replicas than lines of pixels, not all are shown.
    """

    def __init__(self, window_s: float = 120.0, size: tuple[int, int] = (960, 540)) -> None:
        """window_s: time across, seconds, to the nearest picosecond per pixel. size: width and height, pixels.

        Raises PecGymError for a window or a size that cannot be drawn.
        """
        if len(size) != 2 or size[0] < _SMALLEST[0] or size[1] < _SMALLEST[1]:
            raise PecGymError(f"size={size}: width and height, {_SMALLEST[0]} x {_SMALLEST[1]} pixels at least")
        width, height = size
        self.size = (width, height)
        self._font_px = min(max(round(height / 42), 12), 20)
        self._left = round(6.4 * self._font_px)
        self._n_columns = width - self._left - self._font_px
        self._column_ps = round(window_s * PS_PER_S / self._n_columns) if 0 < window_s <= HORIZON_S else 0
        if self._column_ps < 1:
            raise PecGymError(
                f"window_s={window_s}: it must be above 0 (1 ps per pixel), and at most {HORIZON_S:.0f} s"
            )
        self.reset(0.0)

    def reset(self, start_s: float) -> None:
        """Begins a new picture, at this time, seconds; what a simulator did before is not shown."""
        self._start_ps = int(seconds_to_ps(start_s))
        self._activity: Activity | None = None

    def update(self, simulator: Simulator) -> None:
        """Takes in what has happened since the last update, and how many wait now; takes the recorded timeline away.

        Raises EngineError if the simulator keeps no timeline, or has gone back in time without `reset`.
        """
        state = simulator.state
        if self._activity is None:
            self._prepare(state)
        assert self._activity is not None
        self._activity.update(state)
        cluster = state.cluster[0]
        in_system = int(cluster.n_live) if cluster.closed_loop == 0 else len(simulator.unfinished())
        self._counts = (int(cluster.n_logged) + in_system, int(cluster.n_logged))

    def frame(self, caption: str = "") -> np.ndarray:
        """uint8[height, width, 3]: the picture at the time of the last update. caption: stands right in its title.

        Raises EngineError before the first update.
        """
        activity = self._activity
        if activity is None:
            raise EngineError("nothing to draw yet: call update(simulator) first")
        pixels = self._paper.copy()
        columns = slice(self._left, self._left + self._n_columns)
        geometry = self._geometry
        lines = np.flatnonzero(geometry.replica_of_y >= 0)
        kinds = activity.kinds()[:, geometry.replica_of_y[lines]].T
        pixels[geometry.rows_top + lines, columns] = COLOURS[kinds]
        counts = activity.counts()
        scales = [
            plot.whole or round_above(int(max(counts[name].max() for name, _, _ in plot.areas))) for plot in self._plots
        ]
        for plot, (top, bottom), most in zip(self._plots, geometry.plots, scales, strict=True):
            for name, colour, _ in plot.areas:
                heights = np.ceil(counts[name] / most * (bottom - top))
                pixels[top:bottom, columns][np.arange(bottom - top, 0, -1)[:, None] <= heights] = colour
        image = Image.fromarray(pixels)
        draw = ImageDraw.Draw(image)
        self._draw_title(draw, caption)
        self._draw_axis(draw, activity)
        self._draw_plots(draw, scales, activity)
        return np.array(image)

    def position(self, replica: int, time_s: float) -> tuple[int, int]:
        """Column and line of pixels in `frame()` that show what a replica did at a time, seconds.

        Raises EngineError before the first update, and for what the frame does not show.
        """
        activity = self._activity
        if activity is None:
            raise EngineError("nothing to draw yet: call update(simulator) first")
        column = (int(seconds_to_ps(time_s)) - activity.start_ps) // activity.column_ps - activity.first
        lines = np.flatnonzero(self._geometry.replica_of_y == replica)
        if not 0 <= column < self._n_columns or not len(lines):
            raise EngineError(f"replica {replica} at {time_s} s is not in the picture")
        return self._left + column, self._geometry.rows_top + int(lines[len(lines) // 2])

    def _prepare(self, state: State) -> None:
        """What depends on the cluster: its geometry, and what is the same in all frames."""
        n, per_node = len(state.replicas), int(state.settings[0].replicas_per_node)
        self._activity = Activity(n, self._n_columns, self._column_ps, self._start_ps)
        with_longs = len(state.shape_index) > 1
        legend = self._legend(range(len(ACTIVITY_NAMES)) if with_longs else _OF_SHORTS)
        lines = 1 + max(line for _, _, line in legend)
        self._plots = [SHORTS] + [LONGS] * with_longs
        if n == 1:
            whole = int(state.settings[0].capacity_blocks)
            self._plots += [BATCH, Plot("KV memory in use", (("kv_blocks", DARK, ""),), 0.09, whole)]
        shares = tuple(plot.share for plot in self._plots)
        self._geometry = Geometry.of(n, per_node, shares, self.size[1], self._font_px, lines)
        paper = Image.new("RGB", self.size, PAPER)
        draw = ImageDraw.Draw(paper)
        for kind, x, line in legend:
            y = self._geometry.legend_top + line * self._line_px
            self._draw_key(draw, x, y, tuple(COLOURS[kind].tolist()), ACTIVITY_NAMES[kind])
        self._draw_names(draw, n, per_node)
        self._paper = np.asarray(paper)

    @property
    def _line_px(self) -> int:
        return round(1.4 * self._font_px)

    def _legend(self, kinds: Any) -> list[tuple[int, int, int]]:
        """Kind, x and line of each entry."""
        entries, x, line = [], self._font_px, 0
        for kind in kinds:
            width = round(2.4 * self._font_px + _font(self._font_px).getlength(ACTIVITY_NAMES[kind]))
            if x + width > self.size[0] and x > self._font_px:
                x, line = self._font_px, line + 1
            entries.append((kind, x, line))
            x += width
        return entries

    def _draw_key(self, draw: Any, x: int, y: int, colour: tuple[int, ...], text: str) -> int:
        """A square of a colour and what it means, from an upper left corner; returns where the next may begin."""
        px = self._font_px
        draw.rectangle((x, y + 1, x + px - 1, y + px), fill=colour)
        draw.text((x + 1.4 * px, y), text, INK, _font(px))
        return x + int(2.4 * px + _font(px).getlength(text))

    def _draw_names(self, draw: Any, n: int, per_node: int) -> None:
        px, geometry = self._font_px, self._geometry
        font = _font(px)
        draw.text((self._left - px // 2, geometry.rows_top - px // 2), "replica", FAINT, font, anchor="rs")
        for r in range(0, n, geometry.number_every):
            y = geometry.middle_of(r, geometry.replicas_per_line)
            draw.text((self._left - px // 2, y), str(r), INK, font, anchor="rm")
        for first in range(0, n if geometry.nodes_have_names else 0, per_node):
            y = geometry.middle_of(first, per_node)
            draw.text((px // 2, y), f"node {first // per_node}", FAINT, font, anchor="lm")

    def _draw_title(self, draw: Any, caption: str) -> None:
        px, activity = self._font_px, self._activity
        assert activity is not None
        decimals = max(0, math.ceil(-math.log10(self._column_ps / PS_PER_S)))
        now_s = float(ps_to_seconds(activity.now_ps))
        x, y = self._left, self._line_px
        for text, size, colour in (
            (f"{now_s:,.{decimals}f} s", round(1.3 * px), INK),
            (f"arrived {self._counts[0]:,}", px, FAINT),
            (f"finished {self._counts[1]:,}", px, FAINT),
        ):
            draw.text((x, y), text, colour, _font(size), anchor="ls")
            x += round(_font(size).getlength(text)) + 2 * px
        room = self.size[0] - px - x
        while caption and _font(px).getlength(caption) > room:
            caption = caption[:-2].rstrip() + "…" if len(caption) > 2 else ""
        draw.text((self.size[0] - px, y), caption, FAINT, _font(px), anchor="rs")

    def _draw_axis(self, draw: Any, activity: Activity) -> None:
        px, geometry = self._font_px, self._geometry
        first_ps = activity.start_ps + activity.first * activity.column_ps
        first_s, column_s = first_ps / PS_PER_S, activity.column_ps / PS_PER_S
        numbers, decimals = ticks(first_s, first_s + self._n_columns * column_s, self._n_columns // _TICK_PX)
        rows_bottom = geometry.rows_top + len(geometry.replica_of_y)
        bottom = geometry.plots[-1][1]
        for number in numbers:
            x = self._left + round((number - first_s) / column_s)
            draw.line((x, rows_bottom, x, rows_bottom + 3), FAINT)
            draw.line((x, bottom, x, bottom + 3), FAINT)
            label = f"{number:,.{decimals}f} s"
            half = _font(px).getlength(label) / 2
            draw.text((min(x, self.size[0] - 2 - half), geometry.axis_top), label, FAINT, _font(px), anchor="ma")

    def _draw_plots(self, draw: Any, scales: list[int], activity: Activity) -> None:
        px, left, right = self._font_px, self._left, self._left + self._n_columns - 1
        latest = activity.latest()
        for plot, (top, bottom), most in zip(self._plots, self._geometry.plots, scales, strict=True):
            draw.line((left, bottom, right, bottom), FAINT)
            draw.line((left, top, right, top), LINE)
            draw.text((left - px // 2, top), plot.text(most), FAINT, _font(px), anchor="rm")
            draw.text((left - px // 2, bottom), plot.text(0), FAINT, _font(px), anchor="rm")
            y = top - self._line_px
            draw.text((left, y), plot.title, INK, _font(px))
            x = left + round(_font(px).getlength(plot.title)) + px
            for name, colour, words in plot.areas:
                x = self._draw_key(draw, x, y, colour, f"{plot.text(latest[name])} {words}")


@cache
def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)
