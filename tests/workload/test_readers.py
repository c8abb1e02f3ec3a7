"""The readers on the real files and on small files of every format."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from pecgym.errors import TraceError
from pecgym.workload import (
    Trace,
    generate,
    load_trace,
    merge_chunks,
    read_azure,
    read_burstgpt,
    read_mooncake,
    read_parquet,
    read_plain_csv,
    stream_trace,
)
from tests.conftest import shared_file

AZURE_2023 = "traces/azure2023/AzureLLMInferenceTrace_{}.csv"


@pytest.mark.parametrize(
    ("kind", "rows", "duration_s", "input_max", "cv", "dispersion_60_s"),
    [("conv", 19366, 3501.721937, 14050, 1.09, 16.4), ("code", 8819, 3435.948056, 7437, 13.15, 167)],
)
def test_azure_2023(kind: str, rows: int, duration_s: float, input_max: int, cv: float, dispersion_60_s: float) -> None:
    path = shared_file(AZURE_2023.format(kind))
    trace = load_trace(path)
    with path.open(newline="") as file:
        cells = list(csv.reader(file))[1:]
    first = exact_seconds(cells[0][0])
    assert trace.arrival_s.tolist() == [float(exact_seconds(row[0]) - first) for row in cells]
    assert trace.input_tokens.tolist() == [int(row[1]) for row in cells]
    assert trace.output_tokens.tolist() == [int(row[2]) for row in cells]
    summary = trace.summary()
    assert (len(trace), trace.duration_s) == (rows, duration_s)
    assert summary["input_tokens"]["max"] == input_max
    assert summary["interarrival_cv"] == pytest.approx(cv, abs=0.005)
    assert summary["index_of_dispersion"][60.0] == pytest.approx(dispersion_60_s, abs=0.5)


def exact_seconds(stamp: str) -> Decimal:
    whole, fraction = stamp.split(".")
    return int((datetime.fromisoformat(whole) - datetime(2023, 1, 1)).total_seconds()) + Decimal(f"0.{fraction}")


def test_both_azure_2023_traces_have_the_papers_share_of_short_inputs() -> None:
    both = Trace.merge(*(load_trace(shared_file(AZURE_2023.format(kind))) for kind in ("conv", "code")))
    assert np.mean(both.input_tokens < 2000) == pytest.approx(0.782, abs=0.0005)
    assert np.quantile(both.input_tokens, [0.5, 0.9, 0.99]).round().tolist() == [1046, 4073, 7435]


def test_azure_2024_stamps(tmp_path: Path) -> None:
    path = tmp_path / "week.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-12 23:59:59.999999+00:00,100,5\n"
        "2024-05-13 00:00:00+00:00,200,6\n"
        "2024-05-13 00:00:00.050000+00:00,300,7"
    )
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0.0, 0.000001, 0.050001]
    assert trace.input_tokens.tolist() == [100, 200, 300]


def test_azure_whole_second_first_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "bom.csv"
    path.write_bytes(
        b"\xef\xbb\xbfTIMESTAMP,ContextTokens,GeneratedTokens\r\n"
        b"2023-11-16 18:00:00,1,1\r\n2023-11-16 18:00:00.1234567,2,2"
    )
    assert load_trace(path).arrival_s.tolist() == [0.0, 0.1234567]


@pytest.mark.parametrize("extra", ["", "Session ID,Elapsed time,"])
def test_burstgpt(extra: str, tmp_path: Path) -> None:
    cells = "7,0.5," if extra else ""
    path = tmp_path / "burst.csv"
    path.write_text(
        f"Timestamp,{extra}Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        f"5,{cells}ChatGPT,472,18,490,Conversation log\n"
        f"45,{cells}GPT-4,1087,0,1087,API log\n"
        f"45,{cells}ChatGPT,417,276,693,Conversation log\n"
    )
    with pytest.raises(TraceError, match=r"row 3.*on_empty"):
        load_trace(path)
    with pytest.warns(UserWarning, match=r"1 row\(s\).*dropped"):
        dropped = load_trace(path, on_empty="drop")
    assert dropped.arrival_s.tolist() == [0.0, 40.0]
    assert dropped.output_tokens.tolist() == [18, 276]
    with pytest.warns(UserWarning, match="given one token"):
        filled = read_burstgpt(path, on_empty="one")
    assert filled.output_tokens.tolist() == [18, 1, 276]
    with pytest.warns(UserWarning, match="dropped"):
        spread = read_burstgpt(path, on_empty="drop", spread_s=1.0, seed=3)
    assert (np.floor(spread.arrival_s) == [0, 40]).all()
    assert (spread.arrival_s % 1 > 0).all()
    with pytest.raises(TraceError, match="on_empty must be one of"):
        load_trace(path, on_empty="ignore")


def test_vidur(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.25,374,44\n4.5,396,1\n")
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0.25, 4.5]
    assert trace.input_tokens.tolist() == [374, 396]
    assert trace.output_tokens.tolist() == [44, 1]


def test_mooncake(tmp_path: Path) -> None:
    path = tmp_path / "conversation.jsonl"
    rows = [(0, 6758, 500), (0, 7322, 490), (3000, 13544, 71), (5999, 1053, 26), (5999, 5710, 745), (9000, 10355, 584)]
    path.write_text(
        "\n".join(
            f'{{"timestamp": {stamp}, "input_length": {i}, "output_length": {o}, "hash_ids": [0, 1, {n}]}}'
            for n, (stamp, i, o) in enumerate(rows)
        )
    )
    trace = load_trace(path, seed=1)
    stamps = np.array([row[0] for row in rows]) / 1000
    assert trace.input_tokens.tolist() == [row[1] for row in rows]
    assert ((trace.arrival_s >= stamps) & (trace.arrival_s < stamps + 3)).all()
    assert read_mooncake(path, seed=1).equals(trace)
    assert not read_mooncake(path, seed=2).equals(trace)
    assert read_mooncake(path, spread_s=0).arrival_s.tolist() == stamps.tolist()
    with pytest.raises(TraceError, match="not quantised to 6 s"):
        read_mooncake(path, spread_s=6)


def test_mooncake_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'
    for line, parts in [
        ('{"timestamp": 3000, "input_length": 5}', ["row 2", "output_length"]),
        ('{"timestamp": 3000, "input_length": 5, "output_length": 1.5}', ["row 2", "output_length", "1.5"]),
        ('{"timestamp": 3000, "input_length": 5, "output_length":', ["row 2", "mooncake"]),
        ('{"timestamp": 3000, "input_length": -5, "output_length": 5}', ["row 2", "input_length", "negative"]),
    ]:
        path.write_text(good + line)
        with pytest.raises(TraceError) as caught:
            load_trace(path)
        assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_sorting(tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text("arrival_s,input_tokens,output_tokens\n3,1,1\n1,2,1\n3,3,1\n2,4,1\n")
    with pytest.raises(TraceError, match=r"row 3.*sort=True"):
        read_plain_csv(plain)
    assert read_plain_csv(plain, sort=True).input_tokens.tolist() == [2, 4, 1, 3]
    azure = tmp_path / "azure.csv"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-12 00:00:02+00:00,1,1\n2024-05-12 00:00:01.5+00:00,2,1\n"
    )
    with pytest.raises(TraceError, match=r"row 3.*sort=True"):
        read_azure(azure)
    assert read_azure(azure, sort=True).arrival_s.tolist() == [0.0, 0.5]


def test_parquet_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = {
        "arrival_s": pa.array([0, 1]),
        "input_tokens": pa.array([5.0, 6.0]),
        "output_tokens": pa.array([1, 2], pa.int8()),
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    assert read_parquet(path).input_tokens.tolist() == [5, 6]
    for column, values, parts in [
        ("input_tokens", pa.array(["5", "6"]), ["input_tokens", "string"]),
        ("input_tokens", pa.array([5.5, 6.0]), ["row 1", "input_tokens", "5.5"]),
        ("input_tokens", pa.array([5, None]), ["row 2", "input_tokens", "empty"]),
        ("other", pa.array([1, 2]), ["other", "unknown"]),
    ]:
        pyarrow.parquet.write_table(pa.table(columns | {column: values}), path)
        with pytest.raises(TraceError) as caught:
            load_trace(path)
        assert all(part in str(caught.value) for part in parts), str(caught.value)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TraceError, match="not a readable Parquet file"):
        load_trace(path)


def test_names() -> None:
    assert load_trace("azure2023_code", seed=3, duration_s=100).equals(generate("azure2023_code", 3, 100))
    with pytest.raises(TraceError, match=r"neither a file.*azure2023_conv.*mooncake_conv_trace"):
        load_trace("azure2023_convo")


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    path = tmp_path / "long.csv"
    generate("azure2023_conv", 0).write_csv(path)
    return path


@pytest.mark.parametrize("rows", [1, 7000, 19_000, 10**6])
def test_stream_gives_the_same_requests(rows: int, long_file: Path) -> None:
    whole = load_trace(long_file)
    if rows == 1:
        whole = whole.slice(0, 50)
        whole.write_csv(long_file)
    chunks = list(stream_trace(long_file, rows))
    assert all(len(chunk) == rows for chunk in chunks[:-1])
    assert Trace.concatenate(chunks).equals(whole)
    whole.write_parquet(long_file.with_suffix(".parquet"))
    assert Trace.concatenate(stream_trace(long_file.with_suffix(".parquet"), rows)).equals(whole)


def test_stream_of_the_real_trace_has_the_files_time_zero() -> None:
    path = shared_file(AZURE_2023.format("conv"))
    assert Trace.concatenate(stream_trace(path, 5000)).equals(load_trace(path))


def test_stream_checks_order_across_blocks_and_counts_file_rows(tmp_path: Path) -> None:
    path = tmp_path / "blocks.csv"
    # Longer than one read block (8 MiB), so that row numbers and order must carry over.
    lines = ["arrival_s,input_tokens,output_tokens", *(f"{n}.0000000000000,1000,1000" for n in range(400_000))]
    for bad, text in [(399_000, "5.0,1000,1000"), (398_000, "398000.0,1000,x")]:
        path.write_text("\n".join([*lines[:bad], text, *lines[bad + 1 :]]))
        assert path.stat().st_size > 8 << 20
        with pytest.raises(TraceError, match=f"row {bad + 1}[:,]"):
            list(stream_trace(path, 100_000))


def test_stream_refuses_what_it_cannot_stream(tmp_path: Path, long_file: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 5}\n')
    with pytest.raises(TraceError, match="read_mooncake"):
        stream_trace(path)
    with pytest.raises(TraceError, match="chunk_rows"):
        stream_trace(long_file, 0)


def pieces(trace: Trace, size: int) -> Iterator[Trace]:
    return (trace.slice(start, start + size) for start in range(0, len(trace), size))


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1000), (100, 7)])
def test_merged_chunks_are_the_merged_traces(sizes: tuple[int, int]) -> None:
    stream = np.random.default_rng(0)

    # Whole seconds give many ties, also across chunk boundaries.
    def some(count: int, name: str) -> Trace:
        times = np.sort(stream.integers(0, 60, count))
        return Trace(times, stream.integers(1, 1000, count), np.ones(count), name=name)

    first, second = some(200, "a"), some(300, "b")
    merged = list(merge_chunks(pieces(first, sizes[0]), pieces(second, sizes[1]), iter(())))
    assert Trace.concatenate(merged).equals(Trace.merge(first, second))
    assert list(merge_chunks(iter(()))) == []
