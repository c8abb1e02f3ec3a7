"""The page of the reproduction, as Markdown: all text that speaks of numbers is chosen by the numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pecgym.engine import LongRules
from pecgym.evaluation.paper.fit import P99, Fit, Point
from pecgym.evaluation.paper.runs import FITTED, LARGE_GPUS, NATIVE, Reproduction
from pecgym.evaluation.paper.statements import STATEMENTS, Growth
from pecgym.evaluation.paper.targets import WITHOUT_LONGS, Measured, Rows, Target, models, notes, plain, read, targets
from pecgym.policies import load_policy
from pecgym.policies.base import RESERVED_SHARE

PROSE = "prose.yaml"
SHORT_NAMES = {"mistral-7b": "Mistral", "phi-3-14b": "Phi-3", "yi-34b": "Yi", "llama-3.1-70b": "Llama"}
COLUMNS = (
    ("short queue p50, s", "short_queueing_delay_p50_s", 1.0),
    ("short queue p99, s", "short_queueing_delay_p99_s", 1.0),
    ("shorts/s", "short_throughput_rps", 1.0),
    ("to the last short", "short_throughput_to_last_short_rps", 1.0),
    ("long JCT mean, s", "long_jct_mean_s", 1.0),
    ("long JCT p99, s", "long_jct_p99_s", 1.0),
    ("preemptions", "preemptions", 1.0),
    ("idle, %", "idle_rate", 100.0),
    ("longs open at last arrival, %", "long_unfinished_at_last_arrival", 100.0),
)


def write_page(found: Reproduction, path: Path, command: str) -> None:
    """Writes the page."""
    text = "\n\n".join(
        part
        for part in (
            _head(found, command),
            "## What was run\n\n" + _setting(found),
            "## The one number that is fitted\n\n" + _fits(found),
            "## What the paper says, and whether it holds here\n\n" + _statements(found),
            *(_case(found, case) for case in (FITTED, NATIVE)),
            "## Time that scheduling takes\n\n" + _scheduling(found),
            "## Every policy, every load\n\n" + _everything(found),
        )
        if part
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _name(model: str) -> str:
    return SHORT_NAMES.get(model, model)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _head(found: Reproduction, command: str) -> str:
    return _say("head", command=command, seeds=", ".join(map(str, found.plan.seeds)))


def _setting(found: Reproduction) -> str:
    plan = found.plan
    rows = {model: found.results[model][NATIVE][plan.policies[0]] for model in found.models}
    counts = [(row["n_requests"], row["n_long"]) for row in next(iter(rows.values()))]
    requests, longs = (_range([count[i] for count in counts]) for i in (0, 1))
    lines = [
        ("cluster", f"`{plan.cluster}`"),
        ("models", ", ".join(f"{_name(model)} (`{each[0]['profile']}`)" for model, each in rows.items())),
        ("engine", f"`{plan.engine.name}`"),
        ("workload", _say("workload", name=plan.workload.label(), requests=requests, longs=longs)),
        ("window", _say("window")),
        ("policies", ", ".join(f"`{policy}`" for policy in plan.policies)),
    ]
    return _table(("what", "value"), lines) + "\n\n" + _constants()


def _constants() -> str:
    rules, defaults = load_policy("pecsched").rules, LongRules()
    reserved = ", ".join(f"{share:.4g} of the replicas at TP{tp}" for tp, share in RESERVED_SHARE.items())
    at_tetris = "fitted to Tetris (ISCA'26), Table I, and to NCCL's tables"
    lines = [
        ("decode replicas", f"{rules.decode_replicas:g} of all: 4, 4, 1, 1", "the paper"),
        ("reserved replicas (Reservation)", reserved, "ours; the paper: able to serve one request of 500K"),
        ("replicas of a long", "the fewest that hold it, rounded up to whole nodes where these are free", "ours"),
        ("colocated prompt tokens", f"{rules.colocation_tokens} per GPU and iteration", "ours"),
        ("switch between kernels", f"{1000 * defaults.switch_s:g} ms", "ours"),
        ("operators per layer", f"{defaults.operators_per_layer}: a prefill stops between two of them", "ours"),
        ("visible part of a KV push", f"{1000 * defaults.push_visible_s:g} ms", "Splitwise (ISCA'24)"),
        ("iteration times", "fitted per model", "[cost model](cost-model.md)"),
        ("sequence parallelism", at_tetris, "[sequence parallelism](sequence-parallelism.md)"),
    ]
    return _table(("constant", "value", "source"), lines)


def _fits(found: Reproduction) -> str:
    head = ("model", "paper: p99", "paper: throughput", "fitted to", "arrival scale", "p99 there", "throughput there")
    lines = []
    for model, each in found.fits.items():
        point, anchor = each.point, "p99" if each.anchor == P99 else "throughput"
        paper = (f"{each.p99_target:g}", f"{each.throughput_target:g}")
        reached = (plain(point.p99_ratio), f"{point.throughput_ratio:.3g}")
        lines.append((_name(model), *paper, anchor, f"**{point.scale:g}**", *reached))
    parts = [_say("fit"), _table(head, lines), *map(_about_roots, found.fits.values()), _say("curves"), _curves(found)]
    return "\n\n".join(parts)


def _about_roots(each: Fit) -> str:
    """Which root was taken, or why there is none."""
    model = _name(each.model)
    if each.anchor == P99:
        roots = ", ".join(f"{a:g} and {b:g}" for a, b in each.p99_roots)
        return _say("one_root" if len(each.p99_roots) == 1 else "many_roots", model=model, roots=roots)
    finite = [point for point in each.curve if math.isfinite(point.p99_ratio)]
    if not finite:
        return _say("never_finite", model=model)
    least = min(finite, key=lambda point: point.p99_ratio)
    return _say(
        "no_root",
        model=model,
        target=each.p99_target,
        first=finite[0].scale,
        least=plain(least.p99_ratio),
        at=least.scale,
        seconds=plain(3600 / least.scale),
    )


def _curves(found: Reproduction) -> str:
    curves = [found.fits[model].curve for model in found.models]
    lines = [(f"{points[0].scale:.4g}", *map(_point, points)) for points in zip(*curves, strict=True)]
    return _table(("scale", *map(_name, found.models)), lines)


def _point(point: Point) -> str:
    delays = f"{plain(point.p99_with_s)} / {plain(point.p99_without_s)}"
    return f"{delays}; {plain(point.p99_ratio)}; {point.throughput_ratio:.2g}"


def _statements(found: Reproduction) -> str:
    lines = []
    for statement in STATEMENTS:
        cells = []
        for case in found.cases:
            by_model: dict[str, Rows] = {model: found.results[model][case] for model in found.models}
            if isinstance(statement, Growth):
                cells.append("holds" if statement.holds(by_model) else "does not")
                continue
            failing = [_name(model) for model, rows in by_model.items() if not statement.holds(rows)]
            some = f"not {', '.join(failing)}" if len(failing) < len(by_model) else "does not"
            cells.append(some if failing else "holds")
        lines.append((statement.text, *cells))
    return _table(("statement", *found.cases), lines)


def _case(found: Reproduction, case: str) -> str:
    title = found.cases[case][0].upper() + found.cases[case][1:]
    scales = ", ".join(f"{_name(model)} {found.fits[model].point.scale:g}" for model in found.models)
    said = _say(case, scales=scales)
    positions = {model: models().index(model) for model in found.models}
    lines, differing = [], []
    for target in targets():
        measured = {model: target.measured(found.results[model][case]) for model in found.models}
        verdicts = {model: target.verdict(each, positions[model]) for model, each in measured.items()}
        cells = [_cell(target, measured[model], bool(verdicts[model])) for model in found.models]
        lines.append((target.what, target.show_paper(), *cells))
        differing.append((target, {_name(model): verdict for model, verdict in verdicts.items() if verdict}))
    table = _table(("", f"paper ({' / '.join(map(_name, models()))})", *map(_name, found.models)), lines)
    return f"## {title}\n\n{said}\n\n{table}\n\nWhere and why they differ:\n\n{_reasons(case, differing)}"


def _cell(target: Target, measured: Measured | None, differs: bool) -> str:
    if measured is None:
        return "–"
    shown = target.show(measured.median)
    shown = f"**{shown}**" if differs else shown
    if measured.least == measured.greatest:
        return shown
    return f"{shown} [{target.show(measured.least)}, {target.show(measured.greatest)}]"


def _reasons(case: str, differing: Sequence[tuple[Target, dict[str, str]]]) -> str:
    """A list: what differs how, and why; a number whose reason is not known is said to have none."""
    lines, explained = [], set()
    for note in notes():
        meant = {
            (target.key, model): target
            for target, verdicts in differing
            for model, verdict in verdicts.items()
            if case in note.cases and target.key in note.targets and verdict in note.verdicts
        }
        if meant:
            explained |= set(meant)
            by_target: dict[str, list[str]] = {}
            for (_, model), target in meant.items():
                by_target.setdefault(target.what, []).append(model)
            what = "; ".join(f"{what} ({', '.join(of)})" for what, of in by_target.items())
            lines.append(f"- **{what}.** {note.why}")
    for target, verdicts in differing:
        missing = [model for model in verdicts if (target.key, model) not in explained]
        if missing:
            lines.append(f"- **{target.what} ({', '.join(missing)}).** Not explained yet.")
    return "\n".join(lines) if lines else "nowhere."


def _scheduling(found: Reproduction) -> str:
    lines = []
    for model in found.models:
        rows, large = found.results[model][FITTED]["pecsched"], found.large[model]
        lines.append((_name(model), *_decision(rows), *_decision([large])))
    head = ("model", "per request, µs", "of the mean JCT", f"{LARGE_GPUS} GPUs: µs", "of the mean JCT")
    return _say("scheduling", gpus=LARGE_GPUS) + "\n\n" + _table(head, lines)


def _decision(rows: Sequence[dict[str, Any]]) -> tuple[str, str]:
    each_s = [row["engine_wall_s"] / row["n_requests"] for row in rows]
    shares = [value / row["jct_mean_s"] for value, row in zip(each_s, rows, strict=True)]
    return plain(1e6 * median(each_s)), f"{100 * median(shares):.2g}%"


def _everything(found: Reproduction) -> str:
    parts = [_say("everything")]
    for case, title in found.cases.items():
        for model in found.models:
            by_policy = found.results[model][case]
            scale = median(row["arrival_scale"] for row in by_policy[found.plan.policies[0]])
            parts.append(f"### {_name(model)}, {title} (arrivals × {scale:.3g})")
            lines = []
            for policy, rows in by_policy.items():
                name = "fifo without longs" if policy == WITHOUT_LONGS else policy
                lines.append((name, *(_median_cell(rows, key, factor) for _, key, factor in COLUMNS)))
            parts.append(_table(("policy", *(heading for heading, _, _ in COLUMNS)), lines))
    return "\n\n".join(parts)


def _median_cell(rows: Sequence[dict[str, Any]], key: str, factor: float) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return plain(factor * median(values)) if values else "–"


def _say(key: str, **values: Any) -> str:
    """A paragraph of prose.yaml."""
    text: str = read(PROSE)[key]
    return text.format(**values).rstrip()


def _range(values: Sequence[int]) -> str:
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return low if low == high else f"{low} to {high}"
