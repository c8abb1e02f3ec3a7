"""Trace: what it accepts, what it refuses and that its methods keep every request."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload import Trace, index_of_dispersion, poisson, read_parquet, read_plain_csv


def small(**changes: object) -> Trace:
    columns: dict[str, object] = {
        "arrival_s": [0.0, 1.0, 1.0, 4.5, 10.0],
        "input_tokens": [10, 20, 30, 40, 50],
        "output_tokens": [1, 2, 3, 4, 5],
        "name": "small",
    }
    return Trace(**(columns | changes))  # type: ignore[arg-type]


def full() -> Trace:
    return small(
        predicted_tokens=[1, 1, 2, 3, 5],
        predicted_tail_tokens=[1, 2, 2, 9, 5],
        prediction_s=[0, 1e-9, 0.1 + 0.2, 0.0078, 2],
        prompt=["hi", 'say "a, b"', "two\nlines\r\nand a half", "日本語 ✓", " "],
        predictor="mine",
        deadline_s=[np.nan, 0.1 + 0.2, 5, np.nan, 1e-9],
        is_long=[False, True, False, False, True],
        arrival_s=[0.1, 0.1 + 0.2, 1 / 3, np.nextafter(1, 2), 1e6 / 7],
    )


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"arrival_s": [0, 1, 2, 3]}, ["differ in length", "arrival_s 4", "input_tokens 5"]),
        ({"arrival_s": [0, 1, 0.5, 3, 4]}, ["arrival_s", "row 2", "sort"]),
        ({"arrival_s": [-1, 1, 2, 3, 4]}, ["arrival_s", "row 0", "-1"]),
        ({"arrival_s": [0, 1, np.nan, 3, 4]}, ["arrival_s", "row 2", "nan"]),
        ({"arrival_s": [0, 1, 2, 3, np.inf]}, ["arrival_s", "row 4", "inf"]),
        ({"arrival_s": ["a", "b", "c", "d", "e"]}, ["arrival_s", "not numbers"]),
        ({"arrival_s": np.zeros((5, 1))}, ["arrival_s", "shape (5, 1)"]),
        ({"input_tokens": [1, 2, 0, 4, 5]}, ["input_tokens", "row 2", "at least 1", "on_empty"]),
        ({"input_tokens": [1, 2, -3, 4, 5]}, ["input_tokens", "row 2", "negative"]),
        ({"output_tokens": [1, 2, 3, 4.5, 5]}, ["output_tokens", "row 3", "4.5", "whole"]),
        ({"output_tokens": [1, 2, 3, np.nan, 5]}, ["output_tokens", "row 3", "nan"]),
        ({"output_tokens": [1, 2, 3, 4, 2**31]}, ["output_tokens", "row 4", "2147483647"]),
        ({"output_tokens": [1, 2, 3, 4, 1e300]}, ["output_tokens", "row 4", "1e+300"]),
        ({"output_tokens": np.array([1, 2, 3, 4, 2**64 - 1], np.uint64)}, ["output_tokens", "row 4"]),
        ({"output_tokens": [True] * 5}, ["output_tokens", "booleans"]),
        ({"output_tokens": [1, 2, 3, 4, None]}, ["output_tokens", "not numbers"]),
        ({"predicted_tokens": [1, 2, 0, 4, 5]}, ["predicted_tokens", "row 2"]),
        ({"predicted_tail_tokens": [1, 2, 3, 4, 5]}, ["predicted_tail_tokens", "without predicted_tokens"]),
        ({"predictor": "mine"}, ["predictor", "without predicted_tokens"]),
        ({"predicted_tokens": [1] * 5, "predicted_tail_tokens": [1, 0, 3, 4, 5]}, ["predicted_tail_tokens", "row 1"]),
        ({"predicted_tokens": [1] * 5, "prediction_s": [0, 1, -1e-9, 0, 0]}, ["prediction_s", "row 2", "0 or more"]),
        ({"predicted_tokens": [1] * 5, "prediction_s": [0, np.nan, 0, 0, 0]}, ["prediction_s", "row 1", "nan"]),
        ({"prompt": ["a", "b", "", "d", "e"]}, ["prompt", "row 2", "empty"]),
        ({"prompt": ["a", 2, "c", "d", "e"]}, ["prompt", "row 1", "int, not text"]),
        ({"prompt": ["a", "b", "c", "\ud800", "e"]}, ["prompt", "row 3", "surrogate"]),
        ({"prompt": ["a", "b", "c", "d"]}, ["differ in length", "prompt 4"]),
        ({"deadline_s": [1, 2, 0, 4, 5]}, ["deadline_s", "row 2", "NaN"]),
        ({"deadline_s": [1, 2, np.inf, 4, 5]}, ["deadline_s", "row 2", "NaN"]),
        ({"is_long": [0, 1, 2, 0, 0]}, ["is_long", "row 2", "0 or 1"]),
    ],
)
def test_refuses_and_says_where(changes: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(TraceError) as caught:
        small(**changes)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_dtypes_and_lossless_conversion() -> None:
    trace = small(input_tokens=np.array([10.0, 20, 30, 40, 50]), output_tokens=np.arange(1, 6, dtype=np.uint8))
    assert [trace.columns()[c].dtype for c in trace.columns()] == [np.float64, np.int64, np.int64, np.bool_]
    assert trace.input_tokens.tolist() == [10, 20, 30, 40, 50]
    assert not trace.is_long.any()


def test_arrays_are_read_only_and_the_callers_stay_theirs() -> None:
    mine = np.array([0.0, 1, 2, 3, 4])
    trace = small(arrival_s=mine)
    mine[0] = 0.5
    assert trace.arrival_s[0] == 0
    for values in trace.columns().values():
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1


def test_pickle_keeps_everything() -> None:
    again = pickle.loads(pickle.dumps(full()))
    assert again.equals(full())
    assert (again.name, again.predictor) == ("small", "mine")
    assert not again.arrival_s.flags.writeable


def test_slices_and_windows() -> None:
    trace = full()
    assert trace.slice(1, 3).arrival_s.tolist() == trace.arrival_s[1:3].tolist()
    assert len(trace.slice(2, 2)) == 0
    window = small().between(1.0, 10.0)
    assert window.arrival_s.tolist() == [0.0, 0.0, 3.5]
    assert window.input_tokens.tolist() == [20, 30, 40]
    assert small().between(1.0, 10.0, rebase=False).arrival_s.tolist() == [1.0, 1.0, 4.5]
    assert len(small().between(5.0, 5.0)) == 0
    with pytest.raises(TraceError, match="start_s <= stop_s"):
        small().between(2.0, 1.0)


def test_split_by_time() -> None:
    train, validation, test = small().split_by_time()
    assert [len(part) for part in (train, validation, test)] == [4, 0, 1]
    assert train.input_tokens.tolist() == [10, 20, 30, 40]
    assert test.arrival_s.tolist() == [2.0]
    assert train.name == "small[1/3]"
    shifted = small(arrival_s=np.array([0.0, 1.0, 1.0, 4.5, 10.0]) + 1000).split_by_time()
    assert [part.arrival_s.tolist() for part in shifted] == [[0, 1, 1, 4.5], [], [2.0]]
    for fractions in ((0.5, 0.2), (1.2, -0.2), ()):
        with pytest.raises(TraceError, match="sum to 1"):
            small().split_by_time(fractions)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), max_size=30), st.integers(1, 5))
def test_split_keeps_every_request_once(times: list[float], parts: int) -> None:
    count = len(times)
    trace = Trace(np.sort(np.array(times)), np.arange(1, count + 1), np.ones(count), name="any")
    split = trace.split_by_time([1 / parts] * parts)
    assert np.concatenate([part.input_tokens for part in split]).tolist() == trace.input_tokens.tolist()
    assert all((part.arrival_s >= 0).all() for part in split)


def test_scaling() -> None:
    assert small().scale_time(2.0).arrival_s.tolist() == [0, 2, 2, 9, 20]
    assert small().scale_rate(2.0).rate_rps == pytest.approx(2 * small().rate_rps)
    for factor in (0, -1, np.nan, np.inf):
        with pytest.raises(TraceError, match="above 0"):
            small().scale_time(factor)


def test_thinning_moves_the_dispersion_as_theory_says() -> None:
    # Batches of 4 at Poisson times: index of dispersion 4; thinned by p it is 1 + p (4 - 1).
    times = np.repeat(poisson(50.0, random_stream(1, "batches"), duration_s=2000.0), 4)
    trace = Trace(times, np.ones(times.size), np.ones(times.size))
    thinned = trace.thin(0.3, seed=5)
    assert len(thinned) / len(trace) == pytest.approx(0.3, rel=0.02)
    assert index_of_dispersion(times, 1.0) == pytest.approx(4, rel=0.08)
    assert index_of_dispersion(thinned.arrival_s, 1.0) == pytest.approx(1 + 0.3 * 3, rel=0.08)
    assert trace.thin(0.3, seed=5).equals(thinned)
    assert not trace.thin(0.3, seed=6).equals(thinned)
    assert trace.thin(1.0, seed=0).equals(trace)
    with pytest.raises(TraceError, match="thin"):
        trace.thin(0.0, seed=0)


def test_merge_is_stable_and_fills_deadlines() -> None:
    other = small(input_tokens=[1, 2, 3, 4, 5], name="other", deadline_s=[1, 1, 1, 1, 1])
    merged = Trace.merge(small(), other)
    assert merged.input_tokens.tolist() == [10, 1, 20, 30, 2, 3, 40, 4, 50, 5]
    assert merged.deadline_s is not None
    assert np.isnan(merged.deadline_s[merged.input_tokens >= 10]).all()
    assert (merged.deadline_s[merged.input_tokens < 10] == 1).all()
    assert merged.name == "small+other"
    with pytest.raises(TraceError, match=r"predicted_tokens.*'small'"):
        Trace.merge(small(), small(predicted_tokens=[1] * 5, name="predicted"))
    with pytest.raises(TraceError, match="at least one"):
        Trace.merge()


def test_merge_keeps_predictions_and_prompts_with_their_requests() -> None:
    other = small(predicted_tokens=[9] * 5, predicted_tail_tokens=[9] * 5, prediction_s=[9] * 5, prompt=["nine"] * 5)
    merged = Trace.merge(other, full())
    nine = merged.predicted_tokens == 9
    assert merged.prompt is not None
    assert merged.prediction_s is not None
    assert nine.tolist() == (merged.prompt == "nine").tolist() == (merged.prediction_s == 9).tolist()
    assert merged.prompt[~nine].tolist() == full().prompt.tolist()  # type: ignore[union-attr]
    assert merged.predictor == "mine"
    assert Trace.merge(full(), full()).predictor == "mine"
    with pytest.raises(TraceError, match=r"prompt.*'small' has none"):
        Trace.merge(small(), small(prompt=["x"] * 5))


def test_without_predictions() -> None:
    bare = full().without_predictions()
    assert (bare.predicted_tokens, bare.predicted_tail_tokens, bare.prediction_s, bare.predictor) == (None,) * 4
    assert bare.prompt is not None
    assert bare.equals(
        small(arrival_s=bare.arrival_s, deadline_s=bare.deadline_s, is_long=bare.is_long, prompt=bare.prompt)
    )


def test_concatenate_refuses_to_go_back() -> None:
    joined = Trace.concatenate([small(), small(arrival_s=[10, 11, 12, 13, 14])])
    assert len(joined) == 10
    with pytest.raises(TraceError, match="row 5"):
        Trace.concatenate([small(), small()])


@pytest.mark.parametrize("trace", [small(), full(), full().slice(3, 4)], ids=["plain", "all columns", "one row"])
def test_files_give_back_the_same_bits(trace: Trace, tmp_path: Path) -> None:
    trace.write_csv(tmp_path / "t.csv")
    trace.write_parquet(tmp_path / "t.parquet")
    for again in (read_plain_csv(tmp_path / "t.csv"), read_parquet(tmp_path / "t.parquet")):
        assert again.equals(trace)
        assert again.arrival_s.tobytes() == trace.arrival_s.tobytes()


@settings(max_examples=25, deadline=None)
@given(times=st.lists(st.floats(0, 1e12, allow_subnormal=True), min_size=1, max_size=40))
def test_any_time_survives_a_csv_file(times: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    arrival_s = np.sort(np.array(times))
    Trace(arrival_s, np.ones(arrival_s.size), np.ones(arrival_s.size)).write_csv(path)
    assert read_plain_csv(path).arrival_s.tolist() == arrival_s.tolist()


def test_one_request_and_none() -> None:
    one, none = small().slice(0, 1), small().slice(0, 0)
    assert (one.duration_s, none.duration_s) == (0, 0)
    for trace in (one, none):
        with pytest.raises(TraceError, match="no rate"):
            _ = trace.rate_rps
        assert [len(part) for part in trace.split_by_time()][:2] == [0, 0]
        assert Trace.merge(trace, small()).columns().keys() == small().columns().keys()
    summary = one.summary()
    assert summary["requests"] == 1
    assert np.isnan(summary["rate_rps"])
    assert np.isnan(summary["interarrival_cv"])
    with pytest.raises(TraceError, match="empty"):
        none.summary()


def test_summary_of_known_numbers() -> None:
    count = 1000
    trace = Trace(np.arange(count) * 0.25, np.arange(1, count + 1), np.full(count, 7))
    summary = trace.summary()
    assert summary["rate_rps"] == pytest.approx(1000 / 249.75)
    assert summary["interarrival_cv"] == 0
    assert summary["input_tokens"] == {
        "p50": pytest.approx(500.5),
        "p90": pytest.approx(900.1),
        "p99": pytest.approx(990.01),
        "max": 1000,
    }
    assert summary["index_of_dispersion"][1.0] == 0
    assert np.isnan(summary["index_of_dispersion"][300.0])


def test_dispersion_by_hand() -> None:
    # Counts 2, 0, 1, 1 in windows of 1 s; the incomplete last window is left out.
    times = np.array([0.0, 0.5, 2.5, 3.5, 4.2])
    assert index_of_dispersion(times, 1.0) == pytest.approx(np.var([2, 0, 1, 1], ddof=1) / 1.0)
    assert index_of_dispersion(times, [1.0, 2.0]).shape == (2,)
    # Two requests 30 years apart: ten thousand million windows, of which two are counted.
    assert index_of_dispersion(np.array([0.0, 1e9]), 0.1) == pytest.approx(1, abs=1e-9)
    many = np.sort(random_stream(0, "many").random(5000) * 100)
    counts = np.bincount(((many - many[0]) // 0.5).astype(int))[:-1]
    assert index_of_dispersion(many, 0.5) == pytest.approx(counts.var(ddof=1) / counts.mean(), rel=1e-12)
    with pytest.raises(TraceError, match="above 0"):
        index_of_dispersion(times, 0.0)
