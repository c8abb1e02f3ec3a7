"""The tables of the study, as heads and lines of text: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from pecgym.engine.variants import BASES
from pecgym.evaluation.infermax.cells import Row
from pecgym.evaluation.infermax.offline import SAME
from pecgym.evaluation.infermax.page_text import percent
from pecgym.evaluation.optimum.cells import CHUNKED, FREE, NEVER, PEAK
from pecgym.evaluation.optimum.gaps import Interval, Point, compares_evicting, is_closed, middle_and_most

Table = tuple[Sequence[str], list[Sequence[str]]]

EARLIER_NEVER = {1: 24, 4: 13, 8: 16, 16: 14, 32: 11, 64: 3, 128: 0}
EARLIER_PEAK = {1: 48, 4: 43, 8: 31, 16: 30, 32: 22, 64: 18, 128: 13}
"""Of I: what the optimum of 4 requests with 4 output tokens saved, in %, in an earlier calculation at a few M."""
EARLIER_FOR = ("infermax-llama-2-7b-a100", 4, 4)
_NOTHING = 1e-5
"""A share saved that counts as none: the solvers' tolerance is 1e-6."""
_RULES = (FREE, NEVER, PEAK, CHUNKED)


def grids(points: Sequence[Point]) -> list[str]:
    """Names of the grids."""
    return list(dict.fromkeys(point.grid for point in points))


def shapes(points: Sequence[Point]) -> list[tuple[int, int]]:
    """N and O."""
    return list(dict.fromkeys((point.requests, point.output_tokens) for point in points))


def of_shape(points: Sequence[Point], requests: int, outputs: int) -> list[Point]:
    """Those with this N and O."""
    return [point for point in points if (point.requests, point.output_tokens) == (requests, outputs)]


def once(points: Sequence[Point]) -> list[Point]:
    """Of points with the same lengths, those of other grids with the same KV memory left out; by KV memory."""
    return [found for _, found in sorted({point.capacity_tokens: point for point in points}.items())]


def reach(points: Sequence[Point]) -> Table:
    """How many optima are known, how long they took, and how wide the widest interval is."""
    lines: list[Sequence[str]] = []
    for grid in grids(points):
        for shape in shapes(of_grid := [point for point in points if point.grid == grid]):
            found = of_shape(of_grid, *shape)
            for rule in _RULES:
                if rows := [point.optima[rule] for point in found if rule in point.optima]:
                    lines.append((grid, *map(str, shape), rule, *_reached(rows)))
    return ("grid", "N", "O", "eviction", "cells", "known", "s: median", "most", "widest [bound, best], ms"), lines


def _reached(rows: Sequence[Row]) -> tuple[str, ...]:
    seconds = [row["wall_s"] for row in rows]
    widest = max(rows, key=lambda row: 1 - row["bound_s"] / row["best_s"])
    interval = f"[{widest['bound_s'] * 1e3:,.1f}, {widest['best_s'] * 1e3:,.1f}]"
    width = "–" if is_closed(widest) else f"{interval}, {1 - widest['bound_s'] / widest['best_s']:.1%}"
    return str(len(rows)), str(sum(map(is_closed, rows))), f"{median(seconds):.2f}", f"{max(seconds):.1f}", width


def families(points: Sequence[Point], names: Callable[[str], str] = str) -> Table:
    """Median and maximum over each grid of every engine's gap to the optimum; equal engines share a line."""
    of_grids = {grid: [point for point in points if point.grid == grid] for grid in grids(points)}
    by_cells: dict[tuple[str, ...], list[str]] = {}
    for name in points[0].engines:
        numbers = (middle_and_most(point.engines[name] for point in each) for each in of_grids.values())
        by_cells.setdefault(tuple(f"{_interval(m)} / {_interval(most)}" for m, most in numbers), []).append(name)
    lines: list[Sequence[str]] = [(", ".join(map(names, found)), *cells) for cells, found in by_cells.items()]
    return ("engine", *(f"{grid}: median / most" for grid in of_grids)), lines


def _interval(interval: Interval) -> str:
    low, high = (f"{value:.0%}" if value >= 0.095 else f"{value:.1%}" for value in (interval.low, interval.high))
    return low if low == high else f"{low} to {high}"


def gains(points: Sequence[Point]) -> Table:
    """What free eviction saves at the best M: of the optimum, with the printed numbers, and of engines."""
    lines: list[Sequence[str]] = []
    for requests, outputs in shapes(points):
        found = of_shape(points, requests, outputs)
        for inputs in dict.fromkeys(point.input_tokens for point in found):
            of_input = once([point for point in found if point.input_tokens == inputs])
            profile = of_input[0].optima[FREE]["profile"]
            is_earlier = (profile, requests, outputs) == EARLIER_FOR
            cells = [_most_saved(of_input, NEVER), _earlier(EARLIER_NEVER, inputs, is_earlier)]
            cells += [_most_saved(of_input, PEAK), _earlier(EARLIER_PEAK, inputs, is_earlier)]
            lines.append((str(requests), str(outputs), str(inputs), *cells, *_engines(of_input)))
    head = ("N", "O", "I", "optimum against never", "at a few M", "optimum against peak", "at a few M")
    return (
        *head,
        "best preempting engine against best never: most, least",
        "M: faster / same / slower",
        "one engine against its `_no_evict`: most, least",
    ), lines


def _earlier(numbers: dict[int, int], inputs: int, has: bool) -> str:
    return f"{numbers[inputs]}%" if has and inputs in numbers else "–"


def _most_saved(points: Sequence[Point], rule: str) -> str:
    within = most_saved(points, rule)
    if within.low < within.high:
        return f"{within.low:.1%} to {within.high:.1%}"
    best = max(points, key=lambda point: point.saved(rule))
    return f"{best.saved(rule):.1%} (M = {best.capacity_tokens:,})" if best.saved(rule) > _NOTHING else "0.0%"


def most_saved(points: Sequence[Point], rule: str) -> Interval:
    """The largest share of the time under a rule that free eviction saves."""
    found = [point.saved_within(rule) for point in points]
    return Interval(max(each.low for each in found), max(each.high for each in found))


def _engines(points: Sequence[Point]) -> tuple[str, str, str]:
    if not compares_evicting(points):
        return "–", "–", "–"
    saved, own = [point.engines_save for point in points], own_savings(points)
    faster, slower = _counts(saved)
    counts = f"{faster} / {len(saved) - faster - slower} / {slower}"
    return _ends(saved), counts, _ends(own) if own else "–"


def _counts(saved: Sequence[float]) -> tuple[int, int]:
    return sum(each > SAME for each in saved), sum(each < -SAME for each in saved)


def _ends(saved: Sequence[float]) -> str:
    return f"{percent(max(saved))}, {percent(min(saved))}"


def slower_from(points: Sequence[Point]) -> list[tuple[int, int, int | None]]:
    """Of each N and O the input tokens from which on the best preempting engine is slower than the best never-evicting
    one at more M than it is faster; None: at none."""
    found = []
    for requests, outputs in shapes(points):
        start = None
        of = of_shape(points, requests, outputs)
        for inputs in sorted({point.input_tokens for point in of}, reverse=True):
            faster, slower = _counts([p.engines_save for p in once([p for p in of if p.input_tokens == inputs])])
            if slower <= faster:
                break
            start = inputs
        found.append((requests, outputs, start))
    return found


def best_engines(points: Sequence[Point]) -> list[tuple[str, tuple[str, float], tuple[str, float]]]:
    """Of each grid: its name, the engine with the least median gap and that gap, and the same for the largest gap."""
    found = []
    for grid in grids(points):
        of_grid = [point for point in points if point.grid == grid]
        gaps = {name: middle_and_most(point.engines[name] for point in of_grid) for name in points[0].engines}
        middle, most = (min((gaps[name][k].low, name) for name in gaps) for k in (0, 1))
        found.append((grid, (middle[1], middle[0]), (most[1], most[0])))
    return found


def own_savings(points: Sequence[Point]) -> list[float]:
    """What each preempting engine saves against the same one with `_no_evict`."""
    return [
        point.own_saving(base, f"{base}_no_evict")
        for point in points
        for base in BASES
        if {base, f"{base}_no_evict"} <= point.engines.keys() and not point.engines[base]["never_evicts"]
    ]
