"""Every way in which a file can be wrong ends in one message that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pecgym.errors import TraceError
from pecgym.workload import load_trace, read_azure, read_plain_csv, stream_trace

PLAIN = "arrival_s,input_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
STAMP = "2023-11-16 18:17:03.9799600"

CASES = {
    "missing column": ("arrival_s,input_tokens\n0,1\n", ["header", "output_tokens", "missing"]),
    "missing azure column": ("TIMESTAMP,ContextTokens\n", ["header", "GeneratedTokens", "missing"]),
    "extra column": (PLAIN.strip() + ",user\n0,1,1,9\n", ["header", "user", "unknown", "deadline_s"]),
    "doubled column": ("arrival_s,input_tokens,input_tokens,output_tokens\n0,1,1,1\n", ["input_tokens", "twice"]),
    "unknown header": (
        "time,prompt\n0,1\n",
        ["time,prompt", "azure", "burstgpt", "vidur", "plain", "Parquet", "mooncake"],
    ),
    "empty cell": (PLAIN + "0,1,1\n1,,1\n", ["row 3", "input_tokens", "empty"]),
    "empty time": (PLAIN + "0,1,1\n,1,1\n", ["row 3", "arrival_s", "empty"]),
    "empty line": (PLAIN + "0,1,1\n\n1,1,1\n", ["row 3", "empty", "remove the row"]),
    "NaN tokens": (PLAIN + "0,1,1\n1,1,NaN\n", ["row 3", "output_tokens", "'NaN'", "whole number"]),
    "NaN time": (PLAIN + "0,1,1\nnan,1,1\n", ["row 3", "arrival_s", "nan"]),
    "infinite time": (PLAIN + "0,1,1\ninf,1,1\n", ["row 3", "arrival_s", "inf"]),
    "negative time": (PLAIN + "-1,1,1\n", ["row 2", "arrival_s", "-1"]),
    "negative tokens": (PLAIN + "0,1,1\n1,1,-4\n", ["row 3", "output_tokens", "-4", "negative"]),
    "zero tokens": (PLAIN + "0,1,1\n1,0,4\n", ["row 3", "input_tokens", "0 tokens", "on_empty"]),
    "fraction of a token": (PLAIN + "0,1,1\n1,2.5,4\n", ["row 3", "input_tokens", "'2.5'", "whole number"]),
    "words for tokens": (PLAIN + "0,1,1\n1,many,4\n", ["row 3", "input_tokens", "'many'"]),
    "too many tokens": (PLAIN + "0,1,1\n1,3000000000,4\n", ["row 3", "input_tokens", "2147483647"]),
    "far too many tokens": (PLAIN + "0,1,1\n1,99999999999999999999,4\n", ["row 3", "input_tokens"]),
    "unsorted": (PLAIN + "0,1,1\n2,1,1\n1,1,1\n", ["row 4", "arrival_s", "sort=True"]),
    "short row": (PLAIN + "0,1,1\n1,1\n", ["row 3", "3 columns, got 2"]),
    "long row": (PLAIN + "0,1,1\n1,1,1,1\n", ["row 3", "3 columns, got 4"]),
    "bad deadline": (PLAIN.strip() + ",deadline_s\n0,1,1,\n1,1,1,-2\n", ["row 3", "deadline_s", "NaN"]),
    "empty prediction": (PLAIN.strip() + ",predicted_tokens\n0,1,1,3\n1,1,1,\n", ["row 3", "predicted_tokens"]),
    "bad stamp": (AZURE + f"{STAMP},1,1\nyesterday,1,1\n", ["row 3", "TIMESTAMP", "'yesterday'", "date"]),
    "bad first stamp": (AZURE + "soon,1,1\n", ["row 2", "TIMESTAMP", "'soon'"]),
    "stamp last, first row short": ("ContextTokens,GeneratedTokens,TIMESTAMP\n1,1\n", ["row 2", "3 columns, got 2"]),
    "stamp last, first row empty": ("ContextTokens,GeneratedTokens,TIMESTAMP\n\n", ["row 2", "empty"]),
    "endless first row": (AZURE + "x" * 200_000 + "\n", ["row 2", "3 columns, got 1"]),
    "mixed zones": (AZURE + f"{STAMP},1,1\n{STAMP}+00:00,1,1\n", ["row 3", "TIMESTAMP", "zone"]),
    "ten fractional digits": (AZURE + f"{STAMP}123,1,1\n", ["row 2", "TIMESTAMP"]),
    "header only": (PLAIN, ["header and no rows"]),
    "header only, no newline": (AZURE.strip(), ["header and no rows"]),
    "empty": ("", ["empty (0 bytes)"]),
    "blank": ("\n\n", ["no known trace format"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("read", [load_trace, lambda path: list(stream_trace(path))], ids=["load", "stream"])
def test_bad_csv(case: str, read: object, tmp_path: Path) -> None:
    text, parts = CASES[case]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read(path)  # type: ignore[operator]
    message = str(caught.value)
    assert str(path) in message
    assert all(part in message for part in parts), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "junk", [bytes(range(256)) * 40, b"\x00" * 100, b"\x89PNG\r\n\x1a\n", "time,ä\n".encode("utf-16"), b"PAR1junk"]
)
def test_binary_junk(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "junk.csv"
    path.write_bytes(junk)
    with pytest.raises(TraceError, match=r"junk\.csv"):
        load_trace(path)


def test_junk_below_a_good_header(tmp_path: Path) -> None:
    path = tmp_path / "junk.csv"
    path.write_bytes(PLAIN.encode() + b"0,1,1\n\xff\xfe\x00,1,1\n")
    with pytest.raises(TraceError, match=r"row 3: column arrival_s.*xff"):
        load_trace(path)


def test_directory_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is a directory"):
        load_trace(tmp_path)
    for read in (load_trace, read_azure, read_plain_csv, stream_trace):
        with pytest.raises(TraceError, match=r"nothing\.csv"):
            read(tmp_path / "nothing.csv")


def test_the_wrong_reader(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text(PLAIN + "0,1,1\n")
    with pytest.raises(TraceError, match=r"TIMESTAMP.*missing for a azure|TIMESTAMP.*missing"):
        read_azure(path)


def test_all_rows_dropped(tmp_path: Path) -> None:
    path = tmp_path / "zero.csv"
    path.write_text(PLAIN + "0,1,0\n")
    with pytest.warns(UserWarning, match="dropped"), pytest.raises(TraceError, match="no row is left"):
        load_trace(path, on_empty="drop")


def test_quotes_and_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "quoted.csv"
    path.write_text(
        '"arrival_s","input_tokens","output_tokens","deadline_s"\r\n"0.5","1","2",""\r\n1,3,4,NaN\r\n1,3,4,9'
    )
    trace = load_trace(path)
    assert trace.arrival_s.tolist() == [0.5, 1, 1]
    assert trace.deadline_s is not None
    assert trace.deadline_s[2] == 9
