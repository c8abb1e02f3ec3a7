"""Pictures of the study. Needs Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter

from pecgym.evaluation.infermax.cells import Row
from pecgym.evaluation.infermax.offline import Pair
from pecgym.evaluation.infermax.online import Point

COLOURS = ("#1f6fb2", "#d95f02", "#2a9d5c", "#7a3d9c", "#9a9a9a")
_DPI = 110
_MOST = 1.5
"""log2 of the speed-up at which the colours end."""


def count(tokens: float) -> str:
    """A number of tokens, short."""
    for unit, size in (("M", 10**6), ("K", 10**3)):
        if tokens >= size and tokens % (size / 10) == 0:
            return f"{tokens / size:g}{unit}"
    return f"{tokens:,.0f}"


def write_grid(path: Path, pairs: Sequence[Pair], presets: Sequence[str]) -> None:
    """Heat maps of how much shorter the makespan is with preempting: a row for each preset, a column for each M."""
    capacities = sorted({pair.capacity_tokens for pair in pairs})
    tokens = sorted({pair.input_tokens for pair in pairs} | {pair.output_tokens for pair in pairs})
    figure = Figure(figsize=(2.25 * len(capacities) + 1.2, 2.2 * len(presets) + 0.7), layout="constrained", dpi=_DPI)
    panels = figure.subplots(len(presets), len(capacities), squeeze=False, sharex=True, sharey=True)
    for line, preset in zip(panels, presets, strict=True):
        for panel, capacity in zip(line, capacities, strict=True):
            chosen = [pair for pair in pairs if (pair.preset, pair.capacity_tokens) == (preset, capacity)]
            grid = np.full((len(tokens), len(tokens)), np.nan)
            for pair in chosen:
                grid[tokens.index(pair.output_tokens), tokens.index(pair.input_tokens)] = np.log2(pair.speedup)
            panel.set_facecolor("0.8")
            image = panel.imshow(grid, origin="lower", cmap="RdBu", vmin=-_MOST, vmax=_MOST, aspect="auto")
            panel.set_title(f"{preset}, M = {count(capacity)}", fontsize=8)
            ticks = range(0, len(tokens), 2)
            labels = [str(tokens[i]) for i in ticks]
            panel.set_xticks(ticks, labels, fontsize=7, rotation=60)
            panel.set_yticks(ticks, labels, fontsize=7)
    figure.supxlabel("input tokens (I)", fontsize=9)
    figure.supylabel("output tokens (O)", fontsize=9)
    bar = figure.colorbar(image, ax=panels, ticks=np.arange(-_MOST, _MOST + 0.1, 0.5), extend="both", pad=0.01)
    bar.ax.set_yticklabels([f"{2.0**each:.2g}x" for each in bar.get_ticks()], fontsize=7)
    bar.set_label("blue: preempting is faster; grey: impossible", fontsize=8)
    figure.savefig(path)


def write_online(path: Path, points: Sequence[Point], rules: Mapping[str, str]) -> None:
    """A panel for each rule (suffix: name): its mean completion time against that of the preset, over contention."""
    profiles, presets = (list(dict.fromkeys(getattr(p, name) for p in points)) for name in ("profile", "preset"))
    figure = Figure(figsize=(4.6 * len(rules), 3.9), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, len(rules), squeeze=False, sharey=True)[0]
    for panel, (rule, name) in zip(panels, rules.items(), strict=True):
        for colour, profile in zip(COLOURS, profiles, strict=False):
            for marker, preset in zip("os^D", presets, strict=False):
                chosen = [p for p in points if (p.profile, p.preset) == (profile, preset)]
                x = [max(p.evictions_per_request(preset), 1e-4) for p in chosen]
                y = [p.change(preset + rule, "jct_mean_s").mean for p in chosen]
                label = f"{profile}, {preset}"
                panel.scatter(x, y, s=18, color=colour, marker=marker, alpha=0.75, linewidths=0, label=label)
        panel.axhline(0, color="0.4", linewidth=0.8)
        panel.set_xscale("log")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("evictions per request under NRF (at the left end: none)", fontsize=8)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("mean completion time against NRF", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    figure.savefig(path)


def write_five_minutes(path: Path, rows: Sequence[Row], paper_s: tuple[float, float]) -> None:
    """A panel for each profile: break-even over the context, a line for each M, alone (full) and added (dashed)."""
    profiles = list(dict.fromkeys(row["profile"] for row in rows))
    figure = Figure(figsize=(3.1 * len(profiles) + 0.6, 3.5), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, len(profiles), squeeze=False, sharey=True)[0]
    for panel, profile in zip(panels, profiles, strict=True):
        of_profile = [row for row in rows if row["profile"] == profile]
        for colour, capacity in zip(COLOURS, dict.fromkeys(row["capacity_tokens"] for row in of_profile), strict=False):
            chosen = [row for row in of_profile if row["capacity_tokens"] == capacity]
            x = [row["context_tokens"] for row in chosen]
            label = f"M = {count(capacity)}"
            panel.plot(x, [row["alone_of_kv_s"] for row in chosen], color=colour, label=label, linewidth=1.4)
            panel.plot(x, [row["added_of_kv_s"] for row in chosen], color=colour, linestyle="--", linewidth=1.2)
        panel.axhspan(*paper_s, color="0.9", zorder=-1)
        panel.set(xscale="log", yscale="log")
        panel.set_title(profile, fontsize=8)
        panel.set_xlabel("tokens of the cache", fontsize=8)
        panel.legend(fontsize=7)
    panels[0].set_ylabel("break-even, s", fontsize=8)
    figure.savefig(path)


def write_swap(path: Path, ratios: Mapping[tuple[str, str, int], Mapping[float, float]]) -> None:
    """A panel for each profile: time with swapping over time with recomputing, over the bandwidth."""
    profiles = list(dict.fromkeys(profile for profile, *_ in ratios))
    finite = sorted({gb for each in ratios.values() for gb in each if np.isfinite(gb)})
    free = finite[-1] * 2
    figure = Figure(figsize=(3.3 * len(profiles) + 0.6, 4.4), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, len(profiles), squeeze=False, sharey=True)[0]
    for panel, profile in zip(panels, profiles, strict=True):
        lines = [(what, capacity, each) for (of, what, capacity), each in ratios.items() if of == profile]
        for number, (what, capacity, each) in enumerate(lines):
            x = [gb if np.isfinite(gb) else free for gb in each]
            style: dict[str, Any] = {"linestyle": ("-", "--")[number % 2], "color": f"C{number // 2}"}
            panel.plot(x, list(each.values()), label=f"{what}, M = {count(capacity)}", linewidth=1.3, **style)
        panel.axhline(1, color="0.3", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks([*finite, free], [*(f"{gb:g}" for gb in finite), "free"], fontsize=7)
        panel.set_yticks([0.5, 0.75, 1, 1.5, 2, 3, 4], ["0.5", "0.75", "1", "1.5", "2", "3", "4"], fontsize=7)
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_title(profile, fontsize=8)
        panel.set_xlabel("GB/s to host memory", fontsize=8)
        panel.legend(fontsize=5.5)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("time with swapping / with recomputing", fontsize=8)
    figure.savefig(path)
