"""Result tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.table import Table

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


def results_table(rows: Iterable[dict[str, Any]], *, narrow: bool = False) -> Table:
    """One line per (workload, policy): the median over its seeds. The rows are of one model, cluster and scenario.

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
    for (workload, policy), group in grouped(rows).items():
        cells = [_cell(group, key, unit) for _, unit, key in columns]
        table.add_row(*([workload] if several_workloads else []), policy, *cells)
    return table


def grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The rows by (workload, policy), in order of appearance."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["workload"], row["policy"]), []).append(row)
    return groups


def median_of(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """The median of a metric over runs; None if no run has it."""
    values = [row[key] for row in rows if row[key] is not None]
    return median(values) if values else None


def _two_lines(heading: str) -> str:
    """A heading of several words over two lines, the first word or two above."""
    words = heading.split()
    return f"{' '.join(words[: len(words) // 2])}\n{' '.join(words[len(words) // 2 :])}"


def _title(rows: Sequence[dict[str, Any]]) -> str:
    first, seeds = rows[0], sorted({row["seed"] for row in rows})
    workload = f"{first['workload']}, " if len({row["workload"] for row in rows}) == 1 else ""
    counts = sorted({row["n_requests"] for row in rows})
    requests = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    of_seeds = f"median of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    scales = [row["arrival_scale"] for row in rows]
    scale = "" if max(scales) == 1.0 == min(scales) else f" (arrivals x {median(scales):.3g})"
    return (
        f"{first['model']} on {first['cluster']}, engine {first['engine']}, {workload}"
        f"scenario {first['scenario']}{scale}, {requests} requests, {of_seeds}"
    )


def _cell(rows: Sequence[dict[str, Any]], key: str, unit: str) -> str:
    value = median_of(rows, key)
    if value is None:
        return "-"
    value *= _SCALE.get(unit, 1.0)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
