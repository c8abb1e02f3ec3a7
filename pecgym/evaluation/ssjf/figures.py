"""Pictures of the study. Needs Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pecgym.evaluation.ssjf.page_conversation import NOISE, by_title, gain, tau_of
from pecgym.evaluation.ssjf.study import Found
from pecgym.evaluation.ssjf.targets import MEASURES, target

COLOURS = ("#1f6fb2", "#d95f02", "#2a9d5c", "#7a3d9c", "#9a9a9a")
NAMES = {"sjf": "oracle", "spjf": "SSJF without its guard", "ssjf": "SSJF with its guard"}
_DPI = 110


def write_targets(path: Path, cases: Sequence[Found]) -> None:
    """Three panels over the cases: mean completion time, p99, and the two throughputs, against FIFO; bars with
    intervals, and what the re-implementation gave as a cross."""
    figure = Figure(figsize=(11, 0.42 * len(cases) + 1.9), layout="constrained", dpi=_DPI)
    panels = figure.subplots(1, 3, sharey=True)
    policies = [policy for policy in NAMES if policy in cases[0].rows]
    for panel, metric, title in zip(panels, ("jct_mean_s", "jct_p99_s"), ("mean JCT", "p99 JCT"), strict=False):
        series = [(policy, metric, NAMES[policy]) for policy in policies]
        _draw_bars(panel, cases, f"{title} against FCFS", series, COLOURS)
    throughputs = {"quarter_throughput_rps": "at 25% done", "throughput_rps": "of the full run"}
    series = [("spjf", metric, f"{name}, {NAMES['spjf']}") for metric, name in throughputs.items()]
    _draw_bars(panels[2], cases, "throughput against FCFS", series, COLOURS[3:])
    panels[0].set_yticks(range(len(cases)), [found.case.title for found in cases], fontsize=7)
    panels[0].invert_yaxis()
    figure.savefig(path)


def _draw_bars(
    panel: Any, cases: Sequence[Found], title: str, series: Sequence[tuple[str, str, str]], colours: Sequence[str]
) -> None:
    """A panel of `write_targets`. series: policy, metric and name of each bar of a case."""
    by_measure = {(measure.policy, measure.metric): measure.key for measure in MEASURES}
    height = 0.8 / len(series)
    for i, (policy, metric, name) in enumerate(series):
        y = [k - 0.4 + (i + 0.5) * height for k in range(len(cases))]
        values = [gain(found, policy, metric) for found in cases]
        errors = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
        middles = [v.value for v in values]
        panel.barh(y, middles, height, xerr=errors, color=colours[i], label=name, error_kw={"lw": 1})
        key = by_measure.get((policy, metric), "")
        known = [
            (value, at)
            for found, at in zip(cases, y, strict=True)
            if (value := target(found.case.key, key)) is not None
        ]
        panel.scatter([x for x, _ in known], [at for _, at in known], marker="x", color="black", s=22, zorder=3)
    panel.axvline(0, color="0.3", linewidth=0.8)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_title(title, fontsize=9)
    panel.tick_params(labelsize=7)
    panel.grid(axis="x", alpha=0.3)
    panel.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.05))


def write_conversation(path: Path, cases: Sequence[Found]) -> None:
    """A panel for each setting: mean completion time against FIFO over Kendall's tau; lines are log-normal noise, the
    other points are other predictors."""
    settings = by_title(cases)
    columns = min(3, len(settings))
    lines = -(-len(settings) // columns)
    figure = Figure(figsize=(3.7 * columns + 0.4, 3.2 * lines + 0.5), layout="constrained", dpi=_DPI)
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey="row").ravel()
    for panel in panels[len(settings) :]:
        panel.set_axis_off()
    for panel, (title, of_setting) in zip(panels, settings.items(), strict=False):
        _draw_curve(panel, of_setting)
        panel.axhline(0, color="0.3", linewidth=0.8)
        panel.set_title(title, fontsize=9)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[len(settings) - columns : len(settings)]:
        panel.set_xlabel("Kendall's tau of predicted and true lengths", fontsize=8)
    figure.supylabel("mean completion time against FIFO", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7)
    figure.savefig(path)


def _draw_curve(panel: Any, cases: Sequence[Found]) -> None:
    """The curve of log-normal noise with its band, the other predictors as points."""
    noise = sorted((found for found in cases if str(found.case.predictor).startswith(NOISE)), key=tau_of)
    x, values = [tau_of(found) for found in noise], [gain(found, "spjf", "jct_mean_s") for found in noise]
    panel.plot(x, [v.value for v in values], "o-", color=COLOURS[0], ms=3, lw=1.3, label=f"{NOISE} noise")
    panel.fill_between(x, [v.low for v in values], [v.high for v in values], color=COLOURS[0], alpha=0.2, lw=0)
    for colour, found in zip(COLOURS[1:], (each for each in cases if each not in noise), strict=False):
        value = gain(found, "spjf", "jct_mean_s")
        error = [[value.value - value.low], [value.high - value.value]]
        label = str(found.case.predictor)
        panel.errorbar([tau_of(found)], [value.value], error, fmt="s", color=colour, ms=5, capsize=2, label=label)
