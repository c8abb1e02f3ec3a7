"""The sections of the page on the offline grid, and on what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pecgym.costs import load_gpu, load_profile
from pecgym.evaluation.infermax import figures, offline
from pecgym.evaluation.infermax.figures import count
from pecgym.evaluation.infermax.offline import SAME, Pair
from pecgym.evaluation.infermax.page_text import percent, say, table

SHOWN_PRESETS = ("vllm", "sarathi")
INPUT_CLASSES = ((1, 32), (64, 128), (256, 1024))


def _lengths(pair: Pair) -> str:
    return f"I = {pair.input_tokens}, O = {pair.output_tokens}"


def offline_section(rows: list[Any], picture: Path, link: str) -> str:
    """The grid, and what it costs; writes the picture."""
    pairs = offline.pairs(rows)
    profiles, presets = (list(dict.fromkeys(getattr(p, name) for p in pairs)) for name in ("profile", "preset"))
    shown = [preset for preset in SHOWN_PRESETS if preset in presets] or presets[:2]
    figures.write_grid(picture, [pair for pair in pairs if pair.profile == profiles[0]], shown)
    grid = say(
        "grid",
        link=link,
        profile=profiles[0],
        requests=rows[0]["requests"],
        same=f"{SAME:.0%}",
        table=_grid_table(pairs, shown),
        every=_best_table(pairs, presets),
        least=_range(_best(pairs, 100, preset).speedup for preset in shown) if _has(pairs, 100) else "–",
    )
    return grid + "\n\n" + _money(pairs, shown)


def _has(pairs: Sequence[Pair], capacity: int) -> bool:
    return any(pair.capacity_tokens == capacity for pair in pairs)


def _best(pairs: Sequence[Pair], capacity: int, preset: str) -> Pair:
    """Where preempting pays most, under the first profile."""
    of_first = [pair for pair in pairs if pair.profile == pairs[0].profile]
    return max(_of(of_first, preset, capacity), key=lambda pair: pair.speedup)


def _of(pairs: Sequence[Pair], preset: str, capacity: int) -> list[Pair]:
    return [pair for pair in pairs if (pair.preset, pair.capacity_tokens) == (preset, capacity)]


def _range(values: Iterable[float]) -> str:
    return " and ".join(f"{value:.2f}" for value in values)


def _grid_table(pairs: Sequence[Pair], presets: Sequence[str]) -> str:
    paper = {(100, "vllm"): "up to 1.9x", (100, "sarathi"): "up to 2x", (10**5, ""): "never preempting better"}
    lines = []
    capacities = sorted({pair.capacity_tokens for pair in pairs})
    for profile in dict.fromkeys(pair.profile for pair in pairs):
        for preset in presets:
            for capacity in capacities:
                found = _of([pair for pair in pairs if pair.profile == profile], preset, capacity)
                best, worst = (pick(found, key=lambda pair: pair.speedup) for pick in (max, min))
                better = sum(pair.speedup > 1 + SAME for pair in found)
                worse = sum(pair.speedup < 1 - SAME for pair in found)
                said = paper.get((capacity, preset), paper[10**5, ""] if capacity >= 10**5 else "–")
                first = f"**{best.speedup:.2f}x** ({_lengths(best)})" if better else "–"
                last = f"**{1 / worst.speedup:.2f}x** ({_lengths(worst)})" if worse else "–"
                same = len(found) - better - worse
                lines.append(
                    (f"`{profile}`", f"`{preset}`", count(capacity), said, first, last, f"{better} / {same} / {worse}")
                )
    head = ("profile", "preset", "M", "paper", "preempting faster, up to", "never preempting faster, up to")
    return table((*head, "cells: preempting better / same / worse"), lines)


def _best_table(pairs: Sequence[Pair], presets: Sequence[str]) -> str:
    profile = pairs[0].profile
    of_profile = [pair for pair in pairs if pair.profile == profile]
    capacities = sorted({pair.capacity_tokens for pair in of_profile})
    lines = []
    for preset in presets:
        cells = []
        for capacity in capacities:
            speedups = [pair.speedup for pair in _of(of_profile, preset, capacity)]
            cells.append(f"{max(speedups):.2f} / {min(speedups):.2f}")
        lines.append((f"`{preset}`", *cells))
    return table(("preset", *(f"M = {count(capacity)}" for capacity in capacities)), lines)


def _money(pairs: Sequence[Pair], presets: Sequence[str]) -> str:
    """GPU cost with preempting against without, by length of input."""
    profile = load_profile(pairs[0].profile)
    of_profile = [pair for pair in pairs if pair.profile == profile.name and pair.crowding > 1]
    lines, examples = [], []
    for preset in presets:
        for capacity in sorted({pair.capacity_tokens for pair in of_profile}):
            found = _of(of_profile, preset, capacity)
            cells = []
            for low, high in INPUT_CLASSES:
                changes = sorted(1 / p.speedup - 1 for p in found if low <= p.input_tokens <= high)
                middle = changes[len(changes) // 2] if changes else math.nan
                cells.append(f"{percent(middle)} [{percent(changes[0])}, {percent(changes[-1])}]" if changes else "–")
            lines.append((f"`{preset}`", count(capacity), *cells))
        short = max((p for p in of_profile if p.preset == preset), key=lambda pair: pair.speedup)
        longs = [p for p in of_profile if p.preset == preset and p.input_tokens >= INPUT_CLASSES[-1][0]]
        for pair in (short, *([min(longs, key=lambda pair: pair.speedup)] if longs else [])):
            costs = [
                f"{3600 * row['gpu_hours']:.4g} s, {row['cost_usd']:.3g} USD" for row in (pair.preempting, pair.never)
            ]
            evictions = f"{pair.preempting['evictions'] / pair.never['requests']:.2f}"
            batches = f"{pair.preempting['mean_batch_size']:.1f} / {pair.never['mean_batch_size']:.1f}"
            where = f"{_lengths(pair)}, M = {count(pair.capacity_tokens)}"
            examples.append((f"`{preset}`", where, *costs, percent(1 / pair.speedup - 1), evictions, batches))
    classes = (f"I = {low} to {high}" for low, high in INPUT_CLASSES)
    head = (
        "preset",
        "requests",
        "preempting",
        "never",
        "change",
        "evictions per request",
        "mean batch: preempting / never",
    )
    return say(
        "money",
        profile=profile.name,
        price=load_gpu(profile.gpu).price_per_hour_usd,
        table=table(("preset", "M", *classes), lines),
        examples=table(head, examples),
        dearest=_dearest(pairs),
    )


def _dearest(pairs: Sequence[Pair]) -> str:
    """Of long inputs, under the first profile, where preempting costs most."""
    longs = [p for p in pairs if p.profile == pairs[0].profile and p.input_tokens >= INPUT_CLASSES[-1][0]]
    if not longs:
        return "none"
    worst = min(longs, key=lambda pair: pair.speedup)
    return f"{percent(1 / worst.speedup - 1)} (`{worst.preset}`, {_lengths(worst)}, M = {count(worst.capacity_tokens)})"
