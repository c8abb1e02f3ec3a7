"""Distances to bounds, and how tables show them."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from pecgym.analysis import distance_table, results_table
from pecgym.analysis.distance import BOUND, distance_rows, distances, shown_distances, with_bounds

LABELS = {"model": "m", "cluster": "c", "engine": "e", "profile": "p", "scenario": "native", "arrival_scale": 1.0}
METRICS = ("makespan_s", "ttft_mean_s", "jct_mean_s", "short_jct_mean_s", "long_jct_mean_s", "throughput_tokens_per_s")
SHOWN = (
    *("all_queueing_delay_p50_s", "all_queueing_delay_p99_s", "ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s"),
    *("jct_p50_s", "jct_p99_s", "gpu_hours", "idle_rate", "starved_fraction"),
)


def row(policy: str, workload: str, seed: int, metrics: tuple[float | None, ...], finished: int = 10) -> dict[str, Any]:
    labels = LABELS | {"policy": policy, "workload": workload, "seed": seed}
    counts = {"n_requests": 10, "n_long": 0, "n_finished": finished}
    return labels | counts | dict(zip(METRICS, metrics, strict=True)) | dict.fromkeys(SHOWN)


def bound(workload: str, seed: int, metrics: tuple[float | None, ...]) -> dict[str, Any]:
    kept = row(BOUND, workload, seed, metrics)
    del kept["n_finished"], kept["idle_rate"]
    return kept | {"notes": []}


ROWS = [
    row("a", "w", 0, (10.0, 2.0, 6.0, 6.0, None, 90.0)),
    row("b", "w", 0, (10.0, 2.0, 6.0, 6.0, None, 90.0), finished=9),
    row("a", "v", 0, (30.0, 9.0, 9.0, 9.0, None, 10.0)),
]
BOUNDS = [bound("w", 0, (8.0, 0.0, 4.0, 4.0, None, 100.0)), bound("v", 0, (15.0, 3.0, 3.0, 3.0, None, 40.0))]


def test_of_runs_that_served_everything_and_bounds_that_are_there() -> None:
    found = {(each["policy"], each["workload"], each["metric"]): each["ratio"] for each in distances(ROWS, BOUNDS)}
    assert found[("a", "w", "makespan_s")] == 1.25
    assert found[("a", "v", "throughput_tokens_per_s")] == 0.25
    assert ("a", "w", "ttft_mean_s") not in found
    assert not any(policy == "b" or "long" in metric for policy, _, metric in found)
    assert {metric for _, _, metric in found} <= set(METRICS)
    assert distances(ROWS, []) == []


def test_rows_of_ratios_show_what_some_run_has() -> None:
    first, second, third = distance_rows(ROWS, BOUNDS)
    assert (first["makespan_s"], first["ttft_mean_s"], third["ttft_mean_s"]) == (1.25, None, 3.0)
    assert second["makespan_s"] is None
    assert [key for _, key in shown_distances([first])] == ["makespan_s", "jct_mean_s", "throughput_tokens_per_s"]
    assert [heading for heading, _ in shown_distances([first | {"n_long": 2}])] == [
        *("makespan", "JCT mean", "short JCT mean", "throughput")
    ]


def test_bounds_take_the_keys_of_runs() -> None:
    *rows, first, _ = with_bounds(ROWS, BOUNDS)
    assert rows == ROWS
    assert list(first) == list(ROWS[0])
    assert (first["policy"], first["idle_rate"], first["makespan_s"]) == (BOUND, None, 8.0)


def test_tables_end_each_workload_with_its_bound() -> None:
    console = Console(width=150)
    with console.capture() as capture:
        console.print(results_table(ROWS, bounds=BOUNDS))
        table = distance_table(ROWS, BOUNDS)
        assert table is not None
        console.print(table)
    lines = capture.get().splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    names = [each[:2] for each in cells]
    assert names[:5] == [["w", "a"], ["w", "b"], ["w", BOUND], ["v", "a"], ["v", BOUND]]
    assert "≤100" in cells[2]
    assert names[5:] == [["w", "a"], ["w", "b"], ["v", "a"]]
    assert cells[5][2:] == ["1.250", "-", "1.500", "0.900"]
    assert set(cells[6][2:]) == {"-"}
    assert distance_table(ROWS, []) is None
