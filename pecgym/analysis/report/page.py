"""Puts a report together: template, styles, scripts, Plotly and the data in one file."""

from __future__ import annotations

import base64
import gzip
import json
import os
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pecgym.analysis.report import tables
from pecgym.analysis.report.curves import MEASURES, cdf_figure, pareto_figure, timeline_payload
from pecgym.analysis.report.inputs import Case, Requests, Row, Timelines, read_cases
from pecgym.analysis.tables import runs_said
from pecgym.analysis.timeline import KIND_NAMES, LONG_PREFILL

_LIBRARIES = ("pecgym", "numpy", "numba", "plotly", "pyarrow")
_NOT_RECORDED = "not recorded in this evaluation"


def write_report(
    rows: Sequence[Row] | str | Path,
    requests: Requests | None,
    path: str | Path,
    *,
    title: str = "PecGym evaluation",
    targets: Sequence[Mapping[str, Any]] | None = None,
    timelines: Timelines | None = None,
    comparison: Mapping[str, Any] | None = None,
    bounds: Sequence[Row] = (),
    command: str | None = None,
) -> None:
    """Writes the results of an evaluation as one HTML page that opens from disk and loads nothing from elsewhere.

    Args:
        rows: as in `summary.json`, or its path; of one model, cluster, engine and profile.
        requests: for the distributions: `requests.parquet` or its path, or the runs' logs; None leaves them out.
        path: the page.
        title: its heading.
        targets: paper against measured, a mapping per line: `metric`, `paper`, `measured` (numbers or texts), `note`.
        timelines: a folder of files written by `Timeline.save` with the labels policy, workload, scenario and seed (of
            several seeds the lowest is shown), or timelines by policy; None leaves them out.
        comparison: as in `comparison.json` (pecgym.analysis.comparison.compare); None leaves it out.
        bounds: as in `bound.json` (pecgym.bounds.bound_row), what no policy can beat; none leaves them out.
        command: what to run to get these results again.

    Raises PecGymError for rows, requests and timelines that do not belong together.
    """
    cases = read_cases(rows, requests, timelines, bounds)
    template = Template(_asset("page.html"))
    page = template.substitute(
        title=escape(title),
        facts=tables.facts_list(cases),
        tabs=_tabs(cases),
        cases="".join(_case_html(number, case) for number, case in enumerate(cases)),
        targets="" if targets is None else _section("targets", "Paper against measured", tables.targets_html(targets)),
        comparison="" if comparison is None else _comparison(comparison),
        notes=tables.notes_html(cases),
        definitions=tables.definitions_html(),
        command=f"<pre><code>{escape(command)}</code></pre>" if command else "",
        versions=escape(
            ", ".join([f"Python {platform.python_version()}", *(f"{n} {_version(n)}" for n in _LIBRARIES)])
        ),
        css=_asset("page.css"),
        script="\n".join(_asset(name) for name in ("gantt.js", "page.js")),
        plotly=_packed(files("plotly").joinpath("package_data/plotly.min.js").read_bytes()),
        data=_packed(json.dumps(_data(cases), separators=(",", ":"), allow_nan=False).encode()),
    )
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _data(cases: Sequence[Case]) -> dict[str, Any]:
    """What the scripts draw."""
    return {
        "kinds": KIND_NAMES,
        "firstLongKind": LONG_PREFILL,
        "cases": [
            {
                "policies": case.policies,
                "figures": {measure: cdf_figure(case, measure) for measure in MEASURES}
                | {"pareto": pareto_figure(case)},
                "timelines": {policy: timeline_payload(line) for policy, line in case.timelines.items()},
            }
            for case in cases
        ],
    }


def _tabs(cases: Sequence[Case]) -> str:
    """Buttons that choose the case, where there are several."""
    if len(cases) == 1:
        return ""
    buttons = "".join(
        f'<button type="button" role="tab" data-case="{i}" aria-selected="{str(i == 0).lower()}">'
        f"{escape(case.label)}</button>"
        for i, case in enumerate(cases)
    )
    return f'<nav class="tabs" role="tablist" aria-label="workload and scenario">{buttons}</nav>'


def _case_html(number: int, case: Case) -> str:
    several = len(case.rows) > len(case.policies)
    said = runs_said(case.rows)
    of_runs = f"{said[0].upper()}{said[1:]}; below each value the range of the runs. " if several else ""
    sections = [
        _section(
            "results",
            "Results",
            f'<p class="hint">{of_runs}Bold with a bar: best of its column. Choose a heading to sort.</p>'
            + tables.results_html(case),
        ),
        *_distances(case),
        _section("tradeoff", "The trade-off", _tradeoff(case)),
        _section("distributions", "Distributions over requests", _distributions(case)),
        _section("timeline", "What every replica did", _timeline(case)),
    ]
    hidden = " hidden" if number else ""
    return f'<div class="case" data-case="{number}"{hidden}>{"".join(sections)}</div>'


def _distances(case: Case) -> list[str]:
    """How far the policies are from the bounds, where there are some."""
    table = tables.distances_html(case)
    if not table:
        return []
    hint = (
        '<p class="hint">Value / bound: 1.000 is the bound, which no policy can beat; throughputs are at most 1. A '
        "bound need not be within reach: how much of a distance can be gained is open. Runs that leave requests "
        "unfinished have none.</p>"
    )
    return [_section("distances", "Distance to the bound", hint + table)]


def _comparison(comparison: Mapping[str, Any]) -> str:
    hint = (
        f'<p class="hint">Every policy and {escape(comparison["baseline"])} on the same {comparison["pairs"]} runs: '
        f"interquartile means, and {comparison['confidence']:.0%} bootstrap intervals of the paired differences. A "
        "difference is better or worse where its interval leaves zero out.</p>"
    )
    return _section("comparison", "Compared on the same runs", hint + tables.comparison_html(comparison))


def _section(name: str, heading: str, content: str) -> str:
    return f'<section class="{name}"><h2>{heading}</h2>{content}</section>'


def _tradeoff(case: Case) -> str:
    if pareto_figure(case) is None:
        return f'<p class="hint">{_NOT_RECORDED}</p>'
    return (
        '<p class="hint">Down and to the left is better. Dotted: the Pareto front, which no other policy beats in '
        "both. Bars: from the least to the greatest of the seeds. Hollow: leaves longs unfinished, which its mean "
        'leaves out.</p><div class="plot" data-figure="pareto"></div>'
    )


def _distributions(case: Case) -> str:
    plots = ""
    for measure, name in MEASURES.items():
        if cdf_figure(case, measure) is not None:
            plots += f'<figure><figcaption>{name}</figcaption><div class="plot" data-figure="{measure}"></div></figure>'
    if not plots:
        return f'<p class="hint">{_NOT_RECORDED}</p>'
    return (
        '<p class="hint">Share of requests at or below a time, over all seeds; further left is better. A curve that '
        "ends below 100% has requests that never got there; times below 0.1 ms stand at 0.1 ms. "
        "Choose a policy to hide it.</p>"
        '<p class="controls"><label>vertical axis <select class="axis"><option value="cdf">share at or below</option>'
        '<option value="tail">tail: share above, log</option></select></label></p>'
        f'<div class="plots">{plots}</div>'
    )


def _timeline(case: Case) -> str:
    if not case.timelines:
        return f'<p class="hint">{_NOT_RECORDED}</p>'
    policies = list(case.timelines)
    options = "".join(f'<option value="{escape(p)}">{escape(p)}</option>' for p in policies)
    return (
        '<p class="hint">One line per replica. Where slices are thinner than a pixel, the height of a colour is its '
        "share of the time and what is empty is idle. Drag to zoom, double-click to see all.</p>"
        f'<ul class="legend">{tables.legend_html()}</ul>'
        f"{tables.shares_html(case)}"
        f'<p class="controls"><label>policy <select class="first">{options}</select></label>'
        f'<label>compare with <select class="second"><option value="">nothing</option>{options}</select></label>'
        '<label>from <input class="from" type="number" min="0" step="any"> s</label>'
        '<label>to <input class="to" type="number" min="0" step="any"> s</label>'
        '<button type="button" class="earlier" aria-label="earlier">←</button>'
        '<button type="button" class="later" aria-label="later">→</button>'
        '<button type="button" class="wider">zoom out</button><button type="button" class="all">all</button></p>'
        '<div class="gantts"></div>'
    )


def _packed(content: bytes) -> str:
    """Compressed, as text that may stand in a script element."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return (files("pecgym.analysis.report") / name).read_text(encoding="utf-8")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "(not installed)"
