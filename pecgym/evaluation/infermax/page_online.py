"""The section of the page on whom to evict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pecgym.evaluation.infermax import figures, online
from pecgym.evaluation.infermax.config import HIST, NEVER, SRF
from pecgym.evaluation.infermax.figures import count
from pecgym.evaluation.infermax.online import Change, Point
from pecgym.evaluation.infermax.page_text import percent, say, say_if, table

RULES = {SRF: "SRF", HIST + SRF: "SRF+hist"}
LIGHT_LOAD = 0.8
CALM, CONTENDED = 0.001, 0.01
"""Evictions per request below which memory is not contended, and from which on it is."""


def online_section(rows: list[Any], picture: Path, link: str, is_shipped: bool) -> str:
    """Who is evicted; writes the picture. is_shipped: of what is true of the shipped settings alone."""
    points = online.points(rows)
    workloads = list(dict.fromkeys(point.workload for point in points))
    of_last = [point for point in points if point.workload == workloads[-1]]
    figures.write_online(picture, of_last, RULES)
    calm = [p for p in points if p.evictions_per_request(p.preset) < CALM]
    calmest = max((abs(p.change(p.preset + rule, "jct_mean_s").mean) for p in calm for rule in RULES), default=0.0)
    contended = [p for p in points if p.evictions_per_request(p.preset) >= CONTENDED]
    srf, both = ([p.change(p.preset + rule, "jct_mean_s") for p in contended] for rule in RULES)
    return say(
        "online",
        meaning=say_if(
            is_shipped,
            "online_meaning",
            light_load=f"{LIGHT_LOAD:g}",
            light=" and ".join(_most_below(points, rule) for rule in RULES),
            contended=len(contended),
            srf_better=sum(change.resolved and change.mean < 0 for change in srf),
            srf_worse=sum(change.resolved and change.mean > 0 for change in srf),
            hist_ahead=sum(one.mean < other.mean for one, other in zip(both, srf, strict=True)),
            hist_worse=sum(change.resolved and change.mean > 0 for change in both),
        ),
        holds=say_if(is_shipped, "online_holds"),
        hour=say_if("azure2023_conv_trace" in workloads, "online_hour"),
        link=link,
        workloads=", ".join(f"`{name}`" for name in workloads),
        shown=workloads[-1],
        windows=len(next(iter(points[0].engines.values()))),
        window_requests=rows[0]["requests"],
        best="\n\n".join(
            f"`{name}`:\n\n{_best_online([p for p in points if p.workload == name])}" for name in workloads
        ),
        calm=len(calm),
        calmest=f"{calmest:.1%}",
        table=_online_table([p for p in of_last if (p.profile, p.preset) == (of_last[0].profile, of_last[0].preset)]),
        profile=of_last[0].profile,
        preset=of_last[0].preset,
    )


def _most_below(points: Sequence[Point], rule: str) -> str:
    """The largest gain of a rule up to LIGHT_LOAD."""
    changes = [p.change(p.preset + rule, "jct_mean_s").mean for p in points if p.load <= LIGHT_LOAD]
    return f"{percent(min(changes))} ({RULES[rule]})" if changes else "– (no such load)"


def _change(change: Change) -> str:
    interval = "" if change.interval is None else f" [{', '.join(percent(end) for end in change.interval)}]"
    return percent(change.mean) + interval


def _best_online(points: Sequence[Point]) -> str:
    """The largest gain of each rule, by profile and preset, below the capacity and above it."""
    lines = []
    for profile, preset in dict.fromkeys((p.profile, p.preset) for p in points):
        of = [p for p in points if (p.profile, p.preset) == (profile, preset)]
        cells = []
        for rule in RULES:
            for chosen in ([p for p in of if p.load < 1], [p for p in of if p.load >= 1]):
                if not chosen:
                    cells.append("–")
                    continue
                changes = [p.change(preset + rule, "jct_mean_s") for p in chosen]
                best, p = min(zip(changes, chosen, strict=True), key=lambda each: each[0].mean)
                cells.append(f"{_change(best)}, M = {count(p.capacity_tokens)}, load {p.load:g}")
        lines.append((f"`{profile}`", f"`{preset}`", *cells))
    columns = (f"{name}, {where}" for name in RULES.values() for where in ("load below 1", "above 1"))
    return table(("profile", "preset", *columns), lines)


def _online_table(points: Sequence[Point]) -> str:
    lines = []
    for p in points:
        cells = [count(p.capacity_tokens), f"{p.load:g}", f"{p.mean(p.preset, 'mean_batch_size'):.0f}"]
        cells += [f"{p.mean(p.preset, 'jct_mean_s'):.2f} / {p.mean(p.preset, 'jct_p99_s'):.1f}"]
        cells += [f"{p.evictions_per_request(p.preset):.3f} / {p.mean(p.preset, 'recomputed_tokens') / 1000:.0f}K"]
        for rule in (SRF, HIST, HIST + SRF, NEVER):
            name = p.preset + rule
            if name not in p.engines:
                cells.append("–")
                continue
            mean, tail = (p.change(name, metric) for metric in ("jct_mean_s", "jct_p99_s"))
            cells.append(f"{_change(mean)}; {percent(tail.mean)}")
        lines.append(cells)
    head = (
        "M",
        "load",
        "mean batch",
        "JCT of NRF, s: mean / p99",
        "evictions per request / recomputed tokens per window",
    )
    return table((*head, "SRF", "hist", "SRF+hist", "never preempting"), lines)
