"""Every metric against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pecgym.analysis import RequestLog, RunFacts
from pecgym.analysis.metrics import idle_rate, jct_s, makespan_s, queueing_delay_s, tpot_s, ttft_s
from pecgym.units import PS_PER_S

FACTS = RunFacts(
    labels={"policy": "p", "workload": "w", "scenario": "native", "arrival_scale": 1.0, "seed": 0},
    gpus=4,
    gpus_per_replica=2,
    end_s=100.0,
    busy_s=np.array([30.0, 10.0]),
    prefill_s=np.array([6.0, 10.0]),
    idle_w=50.0,
    decode_w=300.0,
    prefill_w=400.0,
    price_per_gpu_hour_usd=3.6,
    wall_s=0.5,
)


def make_log(events: list[tuple[float | None, ...]], outputs: list[int], is_long: list[bool]) -> RequestLog:
    """events: (arrival, placed, start, first token, finish) of each request, seconds, None for not yet."""
    ps = {
        name: np.array([-1 if row[i] is None else round(row[i] * PS_PER_S) for row in events], np.int64)
        for i, name in enumerate(("arrival", "placed", "start", "first_token", "finish"))
    }
    n = len(events)
    ps["pushed"] = np.full(n, -1)
    names = ("row", "input_tokens", "replica", "decode_replica", "sp_degree", "preemptions", "evictions")
    counts = {name: np.zeros(n, np.int64) for name in names}
    counts |= {"output_tokens": np.array(outputs, np.int64), "recomputed_tokens": np.full(n, 5)}
    return RequestLog(ps, counts, np.array(is_long, bool), FACTS)


FINISHED = make_log(
    [(0.0, 0.0, 1.0, 2.0, 10.0), (1.0, 1.0, 4.0, 6.0, 6.0), (2.0, 2.0, 2.5, 3.0, 40.0)],
    [5, 1, 38],
    [False, False, True],
)


def test_each_delay_is_the_difference_of_its_two_events() -> None:
    np.testing.assert_allclose(queueing_delay_s(FINISHED), [1.0, 3.0, 0.5])
    np.testing.assert_allclose(ttft_s(FINISHED), [2.0, 5.0, 1.0])
    np.testing.assert_allclose(jct_s(FINISHED), [10.0, 5.0, 38.0])


def test_tpot_divides_by_the_gaps_between_tokens_and_a_single_token_has_none() -> None:
    np.testing.assert_allclose(tpot_s(FINISHED), [8.0 / 4, np.nan, 1.0])


def test_makespan_is_the_last_completion_or_the_end_of_an_unfinished_run() -> None:
    assert makespan_s(FINISHED) == 40.0
    unfinished = make_log([(0.0, 0.0, 1.0, 2.0, None)], [9], [False])
    assert makespan_s(unfinished) == FACTS.end_s


def test_quarter_throughput_counts_from_the_first_arrival_to_when_a_quarter_is_done() -> None:
    ends = [30.0, 13.0, 21.0, 55.0, 90.0]
    events = [(5.0 + i, 5.0 + i, 6.0 + i, 7.0 + i, end) for i, end in enumerate(ends)]
    row = make_log(events, [2] * 5, [False] * 5).metrics()
    assert row["quarter_throughput_rps"] == pytest.approx(1.25 / (21 - 5))  # two of five are more than a quarter
    assert row["throughput_rps"] == pytest.approx(5 / 90)
    half_done = [(*event[:4], None if event[4] > 13 else event[4]) for event in events]
    assert make_log(half_done, [2] * 5, [False] * 5).metrics()["quarter_throughput_rps"] is None


def test_idle_rate_energy_and_money_count_every_gpu_until_the_makespan() -> None:
    row = FINISHED.metrics()
    assert idle_rate(FINISHED) == pytest.approx(1 - 40 / (2 * 40))
    assert row["gpu_hours"] == pytest.approx(4 * 40 / 3600)
    assert row["cost_usd"] == pytest.approx(4 * 40 / 3600 * 3.6)
    prefill_gpu_s, decode_gpu_s, idle_gpu_s = 2 * 16, 2 * 24, 4 * 40 - 2 * 40
    joules = prefill_gpu_s * 400 + decode_gpu_s * 300 + idle_gpu_s * 50
    assert row["energy_kwh"] == pytest.approx(joules / 3.6e6)
    assert row["energy_per_request_j"] * row["n_finished"] == pytest.approx(joules)
    assert row["energy_per_output_token_j"] * 44 == pytest.approx(joules)


def test_the_mean_batch_size_is_of_runs_of_shorts_that_ended() -> None:
    counted = replace(FACTS, iterations=20)
    shorts = make_log([(0.0, 0.0, 1.0, 2.0, 10.0), (1.0, 1.0, 4.0, 6.0, 8.0)], [5, 25], [False, False])
    assert shorts.metrics()["mean_batch_size"] is None
    assert replace(shorts, facts=counted).metrics()["mean_batch_size"] == pytest.approx(30 / 20)
    assert replace(FINISHED, facts=counted).metrics()["mean_batch_size"] is None
    unfinished = make_log([(0.0, 0.0, 1.0, 2.0, None)], [9], [False])
    assert replace(unfinished, facts=counted).metrics()["mean_batch_size"] is None


def test_the_mean_kv_use_is_over_the_time_in_which_iterations_run() -> None:
    counted = replace(FACTS, kv_token_s=120.0, kv_capacity_tokens=100)
    shorts = make_log([(0.0, 0.0, 1.0, 2.0, 10.0)], [5], [False])
    assert shorts.metrics()["mean_kv_use"] is None
    assert replace(shorts, facts=counted).metrics()["mean_kv_use"] == pytest.approx(120 / (sum(FACTS.busy_s) * 100))
    assert replace(FINISHED, facts=counted).metrics()["mean_kv_use"] is None


def test_row_separates_shorts_and_longs() -> None:
    row = FINISHED.metrics()
    assert (row["n_requests"], row["n_finished"]) == (3, 3)
    assert row["short_throughput_rps"] == pytest.approx(2 / 40)
    assert row["throughput_tokens_per_s"] == pytest.approx(44 / 40)
    assert row["short_queueing_delay_p50_s"] == pytest.approx(2.0)
    assert row["long_queueing_delay_p50_s"] == pytest.approx(0.5)
    assert row["all_queueing_delay_p99_s"] == pytest.approx(np.percentile([1.0, 3.0, 0.5], 99))
    assert row["long_jct_mean_s"] == pytest.approx(38.0)
    assert row["starved_fraction"] == 0
    assert row["recomputed_tokens"] == 15


def test_each_class_has_its_own_times() -> None:
    row = FINISHED.metrics()
    assert (row["n_long"], row["preemptions"]) == (1, 0)
    assert row["short_ttft_mean_s"] == pytest.approx(3.5)
    assert row["long_ttft_p99_s"] == pytest.approx(1.0)
    assert row["short_jct_p50_s"] == pytest.approx(7.5)
    assert row["short_jct_p90_s"] == pytest.approx(9.5)
    assert row["long_jct_p95_s"] == row["long_jct_mean_s"] == pytest.approx(38.0)
    FINISHED.counts["preemptions"][2] = 7
    assert FINISHED.metrics()["preemptions"] == 7
    FINISHED.counts["preemptions"][2] = 0


def test_short_throughput_counts_to_the_last_completion_or_to_the_last_short() -> None:
    row = FINISHED.metrics()
    assert row["short_throughput_rps"] == pytest.approx(2 / 40)
    assert row["short_throughput_to_last_short_rps"] == pytest.approx(2 / 10)
    unfinished = make_log([(0.0, 0.0, 1.0, 2.0, 4.0), (1.0, None, None, None, None)], [2, 2], [False, False])
    assert unfinished.metrics()["short_throughput_to_last_short_rps"] == pytest.approx(1 / FACTS.end_s)


def test_longs_that_end_after_the_last_arrival_are_open_there() -> None:
    events = [
        (0.0, 0.0, 1.0, 2.0, 5.0),
        (0.0, 0.0, 1.0, 2.0, 6.0),
        (0.0, 0.0, 1.0, 2.0, 6.5),
        (6.0, 6.0, 7.0, 8.0, 9.0),
    ]
    row = make_log(events, [2] * 4, [True, True, True, False]).metrics()
    assert row["long_unfinished_at_last_arrival"] == pytest.approx(1 / 3)
    assert row["starved_fraction"] == 0


def test_a_request_that_never_started_counts_with_its_wait_so_far() -> None:
    log = make_log([(0.0, 0.0, 1.0, 2.0, 3.0), (10.0, None, None, None, None)], [2, 2], [False, True])
    np.testing.assert_allclose(queueing_delay_s(log), [1.0, 90.0])
    row = log.metrics()
    assert row["starved_fraction"] == 1.0
    assert row["n_finished"] == 1
    assert row["long_jct_mean_s"] is None


def test_values_that_do_not_apply_are_none() -> None:
    row = make_log([(0.0, 0.0, 0.0, 1.0, 1.0)], [1], [False]).metrics()
    assert row["long_queueing_delay_p50_s"] is None
    assert row["starved_fraction"] is None
    assert row["energy_per_output_token_j"] > 0
    assert row["tpot_mean_s"] is None
    empty = make_log([], [], []).metrics()
    assert empty["n_requests"] == 0
    assert empty["energy_per_request_j"] is None
    assert empty["energy_per_output_token_j"] is None
    assert empty["all_queueing_delay_p99_s"] is None


def test_parquet_holds_every_request_with_its_labels(tmp_path) -> None:
    FINISHED.write_parquet(tmp_path / "log.parquet", policy="fifo", seed=3)
    table = pq.read_table(tmp_path / "log.parquet").to_pydict()
    assert table["policy"] == ["fifo"] * 3
    assert table["seed"] == ["3"] * 3
    assert table["finish_s"] == [10.0, 6.0, 40.0]
    assert table["is_long"] == [False, False, True]


def test_digest_sees_every_event() -> None:
    same = make_log(
        [(0.0, 0.0, 1.0, 2.0, 10.0), (1.0, 1.0, 4.0, 6.0, 6.0), (2.0, 2.0, 2.5, 3.0, 40.0)], [5, 1, 38], [False] * 3
    )
    assert same.digest() == FINISHED.digest()
    same.ps["finish"][1] += 1
    assert same.digest() != FINISHED.digest()
