"""The parts of a report that are plain HTML: facts, tables and bars, readable without scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from pecgym.analysis.comparison import METRICS
from pecgym.analysis.distance import BOUND, distance_rows, shown_distances
from pecgym.analysis.metrics import __doc__ as metrics_doc
from pecgym.analysis.predictions import predictor_lines
from pecgym.analysis.report.curves import shares_of_time
from pecgym.analysis.report.inputs import SAME_ON_A_PAGE, Case
from pecgym.analysis.tables import has_windows, is_upper_bound, ratio_text, typical_of
from pecgym.analysis.timeline import KIND_NAMES

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    # heading, unit, key of the result's row, which is better: -1 less, 1 more, 0 neither
    ("short queue p50", "s", "short_queueing_delay_p50_s", -1),
    ("short queue p99", "s", "short_queueing_delay_p99_s", -1),
    ("short throughput", "req/s", "short_throughput_rps", 1),
    ("long JCT mean", "s", "long_jct_mean_s", -1),
    ("longs starved", "%", "starved_fraction", -1),
    ("preemptions", "", "preemptions", 0),
    ("TTFT p50", "s", "ttft_p50_s", -1),
    ("TTFT p99", "s", "ttft_p99_s", -1),
    ("TPOT p50", "ms", "tpot_p50_s", -1),
    ("TPOT p99", "ms", "tpot_p99_s", -1),
    ("JCT p50", "s", "jct_p50_s", -1),
    ("JCT p99", "s", "jct_p99_s", -1),
    ("tokens", "tok/s", "throughput_tokens_per_s", 1),
    ("idle", "%", "idle_rate", 0),
    ("GPU-hours", "h", "gpu_hours", -1),
    ("cost", "USD", "cost_usd", -1),
    ("energy", "kWh", "energy_kwh", -1),
    ("energy a request", "J", "energy_per_request_j", -1),
)
_SCALE = {"ms": 1000.0, "%": 100.0}


def facts_list(cases: Sequence[Case]) -> str:
    """What was run, as a list of terms and values."""
    rows = [row for case in cases for row in case.rows]
    facts = [(label, str(rows[0][label])) for label in SAME_ON_A_PAGE]
    facts += [(label, ", ".join(dict.fromkeys(str(row[label]) for row in rows))) for label in ("workload", "scenario")]
    facts.append(("arrival scale", _range([row["arrival_scale"] for row in rows], ".3g")))
    facts.append(("requests a run", _range([row["n_requests"] for row in rows], ",d")))
    facts.append(("policies", str(len({row["policy"] for row in rows}))))
    facts.append(("seeds", ", ".join(map(str, sorted({row["seed"] for row in rows})))))
    if has_windows(rows):
        facts.append(("windows", f"{len({row['window'] for row in rows})} a seed, split {rows[0]['split'] or 'all'}"))
    return "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(value)}</dd></div>" for term, value in facts)


def results_html(case: Case) -> str:
    """The table of a case: per policy the typical value over its runs, below it their range; the best are marked."""
    columns = [
        (heading, unit, key, better)
        for heading, unit, key, better in COLUMNS
        if any(row[key] is not None and (better or row[key]) for row in case.rows)
    ]
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(heading)}<small>{unit}</small></button></th>'
        for heading, unit, _, _ in columns
    )
    cells = [_column_cells(case, unit, key, better) for _, unit, key, better in columns]
    body = "".join(
        f'<tr><th scope="row"><i class="swatch" data-policy="{number}"></i>{escape(policy)}</th>'
        f"{''.join(column[number] for column in cells)}</tr>"
        for number, policy in enumerate(case.policies)
    )
    return (
        '<div class="scroll"><table class="results sortable"><thead><tr>'
        '<th scope="col" aria-sort="none"><button type="button">policy</button></th>'
        f"{head}</tr></thead><tbody>{body}</tbody>{_bounds_html(case, columns)}</table></div>"
    )


def _bounds_html(case: Case, columns: Sequence[tuple[str, str, str, int]]) -> str:
    """What no policy can beat, below the policies; empty without bounds."""
    if not case.bounds:
        return ""
    cells = ""
    for _, unit, key, _ in columns:
        value = typical_of([{key: row.get(key)} for row in case.bounds], key)
        sign = "≤" if is_upper_bound(key) else "≥"
        text = "–" if value is None else f"{sign}\u202f{_number(value * _SCALE.get(unit, 1.0))}"
        cells += f'<td class="number">{text}</td>'
    title = "no policy can beat these values"
    return f'<tfoot><tr title="{title}"><th scope="row">{BOUND}</th>{cells}</tr></tfoot>'


def distances_html(case: Case) -> str:
    """The main metrics of every policy / the bounds; empty where no run has any."""
    rows = distance_rows(case.rows, case.bounds)
    columns = shown_distances(rows)
    if not columns:
        return ""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading, _ in columns)
    body = ""
    for number, policy in enumerate(case.policies):
        of_policy = [row for row in rows if row["policy"] == policy]
        cells = "".join(f'<td class="number">{ratio_text(typical_of(of_policy, key))}</td>' for _, key in columns)
        name = f'<i class="swatch" data-policy="{number}"></i>{escape(policy)}'
        body += f'<tr><th scope="row">{name}</th>{cells}</tr>'
    table = f'<table class="distances"><thead><tr><th scope="col">policy</th>{head}</tr></thead><tbody>{body}</tbody>'
    return f'<div class="scroll">{table}</table></div>'


def shares_html(case: Case) -> str:
    """How the replicas' time was spent under each policy, as stacked bars; empty without timelines."""
    bars = ""
    for policy, timeline in case.timelines.items():
        shares = shares_of_time(timeline)
        said = ", ".join(
            f"{name} {share:.1%}" for name, share in zip((*KIND_NAMES, "idle"), shares, strict=True) if share
        )
        parts = "".join(
            f'<span class="kind{kind}" style="width:{share * 100:.3f}%"></span>'
            for kind, share in enumerate(shares[:-1])
            if share
        )
        bars += (
            f'<div class="share"><b>{escape(policy)}</b>'
            f'<div role="img" aria-label="{escape(said)}" title="{escape(said)}">'
            f"{parts}</div><em>{shares[-1]:.1%} idle</em></div>"
        )
    return f'<div class="shares">{bars}</div>' if bars else ""


def legend_html() -> str:
    """The colours of the timeline."""
    return "".join(f'<li><i class="kind{kind}"></i>{escape(name)}</li>' for kind, name in enumerate(KIND_NAMES))


def targets_html(targets: Sequence[Mapping[str, Any]]) -> str:
    """Paper against measured: one line per target (metric, paper, measured, note), with the ratio of two numbers."""
    body = ""
    for target in targets:
        paper, measured = target["paper"], target["measured"]
        ratio = ""
        if _is_number(paper) and _is_number(measured) and paper:
            ratio = f"{measured / paper:.2f}×"
        values = (_plain(paper), _plain(measured), ratio)
        cells = "".join(f'<td class="number">{escape(value)}</td>' for value in values)
        metric, note = escape(str(target["metric"])), escape(target.get("note") or "")
        body += f'<tr><th scope="row">{metric}</th>{cells}<td>{note}</td></tr>'
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("metric", "paper", "measured", "measured / paper", "note")
    )
    return (
        f'<div class="scroll"><table class="targets"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def comparison_html(comparison: Mapping[str, Any]) -> str:
    """Every policy beside the baseline: a line for each of its metrics."""
    heads = ("policy", "metric", "baseline", "policy", "difference", "relative", "wins / ties / losses", "verdict")
    body = ""
    for each in comparison["policies"]:
        for metric in METRICS:
            if (found := each["metrics"].get(metric.key)) is None:
                continue
            scale = _SCALE.get(metric.unit, 1.0)
            values = [
                *(_interval_html(found[name], scale) for name in ("baseline", "policy", "difference")),
                _interval_html(found["relative_difference"], 100.0, "%"),
                f"{found['wins']} / {found['ties']} / {found['losses']}",
            ]
            cells = "".join(f'<td class="number">{value}</td>' for value in values)
            what = f"<td>{escape(metric.heading)}<small>{metric.unit}</small></td>"
            body += f'<tr><th scope="row">{escape(each["policy"])}</th>{what}{cells}<td>{found["verdict"]}</td></tr>'
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f'<table class="comparison"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _interval_html(value: Mapping[str, Any], scale: float, unit: str = "") -> str:
    if value["iqm"] is None:
        return "–"
    ends = "" if value["interval"] is None else " to ".join(_number(end * scale) for end in value["interval"])
    return f"{_number(value['iqm'] * scale)}{unit}" + (f"<small>{ends}</small>" if ends else "")


def definitions_html() -> str:
    """Every metric's definition, from where the metrics are computed."""
    lines = [line.strip().strip("|").split("|") for line in (metrics_doc or "").splitlines() if line.startswith("| ")]
    return "".join(
        f"<div><dt>{escape(name.strip())}</dt><dd>{escape(what.strip())}</dd></div>" for name, what in lines[1:]
    )


def notes_html(cases: Sequence[Case]) -> str:
    """What the runs noted, each once."""
    notes = sorted({note for case in cases for row in case.rows for note in row.get("notes", ())})
    notes = predictor_lines([row for case in cases for row in case.rows]) + notes
    return "".join(f"<li>{escape(note)}</li>" for note in notes)


def _column_cells(case: Case, unit: str, key: str, better: int) -> list[str]:
    """A metric of every policy. The best is marked, with all that look the same, unless all do."""
    medians = [typical_of(case.of(policy), key) for policy in case.policies]
    shown = [None if value is None else _number(value * _SCALE.get(unit, 1.0)) for value in medians]
    known = [value for value in medians if value is not None]
    best = shown[medians.index((min if better < 0 else max)(known))] if better and known else None
    tells = len(set(shown)) > 1
    cells = []
    for policy, value, text in zip(case.policies, medians, shown, strict=True):
        if value is None or text is None:
            cells.append('<td class="number" data-value="">–</td>')
            continue
        runs = sorted(row[key] for row in case.of(policy) if row[key] is not None)
        low, high = (_number(run * _SCALE.get(unit, 1.0)) for run in (runs[0], runs[-1]))
        spread = f"<small>{low}–{high}</small>" if low != high else ""
        marked = f'<b class="best" title="best of this column">{text}</b>' if tells and text == best else text
        cells.append(f'<td class="number" data-value="{value!r}">{marked}{spread}</td>')
    return cells


def _number(value: float) -> str:
    """Three digits, all of a number above 1000."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: Any) -> str:
    return _number(value) if _is_number(value) else "–" if value is None else str(value)


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high} (median {format(type(values[0])(median(values)), form)})"
