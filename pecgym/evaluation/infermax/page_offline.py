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
from pecgym.evaluation.infermax.page_text import percent, say, say_if, table

SHOWN_PRESETS = ("vllm", "sarathi")
INPUT_CLASSES = ((1, 32), (64, 128), (256, 1024))


def _lengths(pair: Pair) -> str:
    return f"I = {pair.input_tokens}, O = {pair.output_tokens}"


def offline_section(rows: list[Any], picture: Path, link: str, is_shipped: bool) -> str:
    """The grid, and what it costs; writes the picture. is_shipped: of what is true of the shipped settings alone."""
    pairs = offline.pairs(rows)
    profiles, presets = (list(dict.fromkeys(getattr(p, name) for p in pairs)) for name in ("profile", "preset"))
    shown = [preset for preset in SHOWN_PRESETS if preset in presets] or presets[:2]
    figures.write_grid(picture, [pair for pair in pairs if pair.profile == profiles[0]], shown)
    grid = say(
        "grid",
        link=link,
        profile=profiles[0],
        requests=rows[0]["requests"],
        shortest=min(min(pair.input_tokens, pair.output_tokens) for pair in pairs),
        longest=max(max(pair.input_tokens, pair.output_tokens) for pair in pairs),
        same=f"{SAME:.0%}",
        table=_grid_table(pairs, shown),
        every=_best_table(pairs, presets),
        meaning=_meaning(pairs, shown) if is_shipped else "",
    )
    return grid.rstrip() + "\n\n" + _money(pairs, shown, is_shipped)


def _meaning(pairs: Sequence[Pair], presets: Sequence[str]) -> str:
    """With where preempting pays most at the paper's smallest memory, under the first profile."""
    of_first = [pair for pair in pairs if pair.profile == pairs[0].profile]
    return say_if(
        True, "grid_meaning", least=_range(max(p.speedup for p in _of(of_first, preset, 100)) for preset in presets)
    )


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


def _money(pairs: Sequence[Pair], presets: Sequence[str], is_shipped: bool) -> str:
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
        of_preset = [p for p in of_profile if p.preset == preset]
        longs = [p for p in of_preset if p.input_tokens >= INPUT_CLASSES[-1][0]]
        ends = [pick(of, key=lambda pair: pair.speedup) for pick, of in ((max, of_preset), (min, longs)) if of]
        for pair in ends:
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
        meaning=say_if(is_shipped, "money_meaning", dearest=_dearest(pairs)),
    )


def _dearest(pairs: Sequence[Pair]) -> str:
    """Of long inputs, under the first profile, where preempting costs most."""
    longs = [p for p in pairs if p.profile == pairs[0].profile and p.input_tokens >= INPUT_CLASSES[-1][0]]
    if not longs:
        return "none"
    worst = min(longs, key=lambda pair: pair.speedup)
    return f"{percent(1 / worst.speedup - 1)} (`{worst.preset}`, {_lengths(worst)}, M = {count(worst.capacity_tokens)})"
