"""Result tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

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
_SCALE = {"ms": 1000.0, "%": 100.0}


def results_table(rows: Iterable[dict[str, Any]]) -> Table:
    """One line per (workload, policy): the median over its seeds. The rows are of one model, cluster and scenario."""
    rows = list(rows)
    several_workloads = len({r["workload"] for r in rows}) > 1
    table = Table(title=_title(rows), title_justify="left", caption_justify="left", header_style="bold")
    if several_workloads:
        table.add_column("workload")
    table.add_column("policy")
    for heading, unit, _ in COLUMNS:
        table.add_column(f"{heading}\n{unit}", justify="right")
    for (workload, policy), group in grouped(rows).items():
        cells = [_cell(group, key, unit) for _, unit, key in COLUMNS]
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


def _title(rows: Sequence[dict[str, Any]]) -> str:
    first, seeds = rows[0], sorted({row["seed"] for row in rows})
    workload = f"{first['workload']}, " if len({row["workload"] for row in rows}) == 1 else ""
    requests = median_of(rows, "n_requests") or 0
    of_seeds = f"median of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    return (
        f"{first['model']} on {first['cluster']}, engine {first['engine']}, {workload}scenario {first['scenario']}, "
        f"{requests:,.0f} requests, {of_seeds}"
    )


def _cell(rows: Sequence[dict[str, Any]], key: str, unit: str) -> str:
    value = median_of(rows, key)
    if value is None:
        return "-"
    value *= _SCALE.get(unit, 1.0)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
