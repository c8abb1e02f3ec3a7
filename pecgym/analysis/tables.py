"""Result tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from pecgym.analysis.comparison import METRICS, iqm
from pecgym.analysis.distance import BOUND, distance_rows, shown_distances, with_bounds

COLUMNS: tuple[tuple[str, str, str], ...] = (
    # heading, unit, key of the result's row
    ("queue p50", "s", "all_queueing_delay_p50_s"),
    ("queue p99", "s", "all_queueing_delay_p99_s"),
    ("TTFT p50", "s", "ttft_p50_s"),
    ("TTFT p99", "s", "ttft_p99_s"),
    ("TPOT p50", "ms", "tpot_p50_s"),
    ("TPOT p99", "ms", "tpot_p99_s"),
    ("JCT p50", "s", "jct_p50_s"),
    ("JCT p99", "s", "jct_p99_s"),
    ("throughput", "tok/s", "throughput_tokens_per_s"),
    ("GPU-hours", "h", "gpu_hours"),
    ("idle", "%", "idle_rate"),
)
LONG_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("short queue p50", "s", "short_queueing_delay_p50_s"),
    ("short queue p99", "s", "short_queueing_delay_p99_s"),
    ("short throughput", "req/s", "short_throughput_rps"),
    ("long JCT mean", "s", "long_jct_mean_s"),
    ("long JCT p99", "s", "long_jct_p99_s"),
    ("preemptions", "", "preemptions"),
    ("idle", "%", "idle_rate"),
    ("longs open at last arrival", "%", "long_unfinished_at_last_arrival"),
    ("longs starved", "%", "starved_fraction"),
)
_NARROW = (
    *("all_queueing_delay_p99_s", "ttft_p99_s", "tpot_p99_s", "jct_p50_s", "jct_p99_s", "gpu_hours"),
    *("short_queueing_delay_p99_s", "short_throughput_rps", "long_jct_mean_s", "preemptions"),
)
_SCALE = {"ms": 1000.0, "%": 100.0}


def results_table(
    rows: Iterable[dict[str, Any]], *, narrow: bool = False, bounds: Sequence[dict[str, Any]] = ()
) -> Table:
    """One line per (workload, policy): the typical value over its runs. The rows are of one model, cluster, scenario.
    bounds: rows of pecgym.bounds, a line after the policies of their workload.

    Where some requests are long, the columns are those of PecSched. narrow: leave columns out, for a terminal of 80
    characters.
    """
    rows = list(rows)
    several_workloads = len({r["workload"] for r in rows}) > 1
    has_longs = any(row["starved_fraction"] is not None for row in rows)
    columns = [column for column in (LONG_COLUMNS if has_longs else COLUMNS) if not narrow or column[2] in _NARROW]
    table = Table(
        title=_title(rows),
        title_justify="left",
        caption="narrow terminal: more columns at 145 characters, all in table.csv" if narrow else None,
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD if narrow else HEAVY_HEAD,
        padding=(0, 0) if narrow else (0, 1),
    )
    if several_workloads:
        table.add_column("workload", no_wrap=not narrow)
    table.add_column("policy", no_wrap=True)
    for heading, unit, _ in columns:
        table.add_column(f"{_two_lines(heading) if has_longs else heading}\n{unit}", justify="right", no_wrap=True)
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    shown = sorted(with_bounds(rows, bounds), key=lambda row: workloads.index(row["workload"]))
    for (workload, policy), group in grouped(shown).items():
        cell, style = (_bound_cell, "cyan") if policy == BOUND else (_cell, None)
        cells = [cell(group, key, unit) for _, unit, key in columns]
        table.add_row(*([workload] if several_workloads else []), escape(policy), *cells, style=style)
    return table


def distance_table(
    rows: Sequence[dict[str, Any]], bounds: Sequence[dict[str, Any]], *, narrow: bool = False
) -> Table | None:
    """One line per (workload, policy): its metrics / the bounds, the typical ratio over its runs; None where no run has
    one. rows, bounds: as of `results_table`."""
    distance = distance_rows(rows, bounds)
    columns = shown_distances(distance)
    if not columns:
        return None
    table = Table(
        title="distance to the bound: policy / bound",
        title_justify="left",
        caption="of runs that served everything; more metrics in distances.csv",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD if narrow else HEAVY_HEAD,
        padding=(0, 0) if narrow else (0, 1),
    )
    several_workloads = len({row["workload"] for row in rows}) > 1
    if several_workloads:
        table.add_column("workload", no_wrap=not narrow)
    table.add_column("policy", no_wrap=True)
    for heading, _ in columns:
        table.add_column(_two_lines(heading) if " " in heading else heading, justify="right", no_wrap=True)
    for (workload, policy), group in grouped(distance).items():
        cells = [ratio_text(typical_of(group, key)) for _, key in columns]
        table.add_row(*([workload] if several_workloads else []), escape(policy), *cells)
    return table


def ratio_text(ratio: float | None) -> str:
    """A distance to a bound, with as many digits as tell it from 1."""
    if ratio is None:
        return "-"
    return f"{ratio:.3f}" if ratio < 10 else _number(ratio)


def is_upper_bound(key: str) -> bool:
    """Whether the bound of a metric is from above: of throughputs."""
    return "throughput" in key


def grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows by (workload, policy), in order of appearance."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["workload"], row["policy"]), []).append(row)
    return groups


def has_windows(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether runs are of windows of a workload, not of all of it."""
    return rows[0].get("window") is not None


def typical_of(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """The median of a metric over runs, or, of windows, their interquartile mean; None if no run has it."""
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return None
    return iqm(values) if has_windows(rows) else median(values)


def runs_said(rows: Sequence[dict[str, Any]]) -> str:
    """Over which runs values are typical."""
    seeds = sorted({row["seed"] for row in rows})
    of_seeds = f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    if has_windows(rows):
        windows = len({row["window"] for row in rows})
        split = rows[0]["split"] or "all"
        cut = f"{windows} windows" if windows > 1 else "one window"
        return f"interquartile mean of {of_seeds} x {cut} of split {split}"
    return f"median of {of_seeds}" if len(seeds) > 1 else of_seeds


def _two_lines(heading: str) -> str:
    """A heading of several words over two lines, the first word or two above."""
    words = heading.split()
    return f"{' '.join(words[: len(words) // 2])}\n{' '.join(words[len(words) // 2 :])}"


def _title(rows: Sequence[dict[str, Any]]) -> str:
    first = rows[0]
    workload = f"{first['workload']}, " if len({row["workload"] for row in rows}) == 1 else ""
    counts = sorted({row["n_requests"] for row in rows})
    requests = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    scales = [row["arrival_scale"] for row in rows]
    scale = "" if max(scales) == 1.0 == min(scales) else f" (arrivals x {median(scales):.3g})"
    return (
        f"{first['model']} on {first['cluster']}, engine {first['engine']}, {workload}"
        f"scenario {first['scenario']}{scale}, {requests} requests, {runs_said(rows)}"
    )


def _cell(rows: Sequence[dict[str, Any]], key: str, unit: str) -> str:
    return _number(typical_of(rows, key), unit)


def _bound_cell(rows: Sequence[dict[str, Any]], key: str, unit: str) -> str:
    value = typical_of(rows, key)
    return "-" if value is None else f"{'≤' if is_upper_bound(key) else '≥'}{_number(value, unit)}"


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    value *= _SCALE.get(unit, 1.0)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_VERDICTS = {"better": "green", "worse": "red", "equal": "dim", "not resolved": "dim"}


def comparison_table(comparison: dict[str, Any], *, narrow: bool = False) -> Table:
    """What `pecgym.analysis.comparison.compare` gave: for each policy its main metrics beside the baseline's.

    narrow: leave columns out, for a terminal of 80 characters.
    """
    table = Table(
        title=f"against {escape(comparison['baseline'])} on the same {comparison['pairs']} runs: interquartile means, "
        f"{comparison['confidence']:.0%} intervals (bootstrap within {comparison['resampled_within']})",
        title_justify="left",
        caption="more metrics in comparison.json",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD if narrow else HEAVY_HEAD,
        padding=(0, 0) if narrow else (0, 1),
    )
    for heading in ("policy", "metric"):
        table.add_column(heading, no_wrap=not narrow)
    headings = ("baseline", "policy", "difference", *(() if narrow else ("relative, %", "wins/ties/losses")))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for each in comparison["policies"]:
        seeds = len(each["policies"])
        name = escape(each["policy"]) + (f"\n({seeds} training seeds)" if seeds > 1 else "")
        for metric in METRICS:
            if not metric.main or metric.key not in each["metrics"]:
                continue
            table.add_row(name, *_compared_cells(each["metrics"][metric.key], metric.heading, metric.unit, narrow))
            name = ""
        table.add_section()
    return table


def _compared_cells(found: dict[str, Any], heading: str, unit: str, narrow: bool) -> list[str]:
    difference, relative = found["difference"], found["relative_difference"]
    left_out = f" ({found['pairs_left_out']} pairs left out)" if found["pairs_left_out"] else ""
    cells = [
        f"{heading}, {unit}{left_out}",
        _number(found["baseline"]["iqm"], unit),
        _number(found["policy"]["iqm"], unit),
        _with_interval(difference, unit),
    ]
    if not narrow:
        cells += [_with_interval(relative, "%"), f"{found['wins']}/{found['ties']}/{found['losses']}"]
    colour = _VERDICTS[found["verdict"]]
    return [*cells, f"[{colour}]{found['verdict']}[/{colour}]"]


def _with_interval(value: dict[str, Any], unit: str) -> str:
    """A value and the ends of its interval; the bracket is escaped, as Rich reads it as markup."""
    if value["interval"] is None:
        return _number(value["iqm"], unit)
    low, high = (_number(end, unit) for end in value["interval"])
    return f"{_number(value['iqm'], unit)} \\[{low}, {high}]"
