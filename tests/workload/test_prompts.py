"""Files of prompts: read for training and, with arrivals and input lengths, as traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pecgym.errors import TraceError
from pecgym.workload import Trace, load_trace, read_prompts, stream_trace

ROWS = [
    {"prompt": 'He said "no, thanks"\nand left', "output_tokens": 5},
    {"prompt": "日本語, ✓", "output_tokens": 70},
    {"prompt": "x", "output_tokens": 1},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_json_lines_in_the_order_of_the_file(tmp_path: Path) -> None:
    prompts = read_prompts(jsonl(tmp_path / "mine.jsonl", ROWS))
    assert prompts.prompt.tolist() == [row["prompt"] for row in ROWS]
    assert prompts.output_tokens.tolist() == [5, 70, 1]
    assert (prompts.name, len(prompts), prompts.arrival_s, prompts.input_tokens) == ("mine", 3, None, None)
    assert prompts.slice(1, 3).prompt.tolist() == [row["prompt"] for row in ROWS[1:]]


def test_with_times_they_are_in_order_of_arrival(tmp_path: Path) -> None:
    rows = [row | {"arrival_s": time, "input_tokens": 9} for row, time in zip(ROWS, (4, 0.5, 4), strict=True)]
    prompts = read_prompts(jsonl(tmp_path / "mine.jsonl", rows))
    assert prompts.arrival_s is not None
    assert prompts.arrival_s.tolist() == [0.5, 4, 4]
    assert prompts.output_tokens.tolist() == [70, 5, 1]
    with pytest.raises(TraceError, match=r"row 2.*sort=True"):
        load_trace(tmp_path / "mine.jsonl")
    assert load_trace(tmp_path / "mine.jsonl", sort=True).prompt.tolist() == prompts.prompt.tolist()  # type: ignore[union-attr]


def test_a_trace_with_prompts_is_both(tmp_path: Path) -> None:
    trace = Trace([0, 1, 2], [3, 4, 5], [5, 70, 1], prompt=[row["prompt"] for row in ROWS])  # type: ignore[arg-type]
    trace.write_csv(tmp_path / "t.csv")
    trace.write_parquet(tmp_path / "t.parquet")
    names, columns = list(trace.columns()), [values.tolist() for values in trace.columns().values()]
    jsonl(tmp_path / "t.jsonl", [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])
    for file in ("t.csv", "t.parquet", "t.jsonl"):
        assert load_trace(tmp_path / file).equals(trace)
        assert read_prompts(tmp_path / file).prompt.tolist() == trace.prompt.tolist()  # type: ignore[union-attr]
        assert read_prompts(tmp_path / file).input_tokens.tolist() == [3, 4, 5]  # type: ignore[union-attr]
    assert Trace.concatenate(stream_trace(tmp_path / "t.csv", 2)).equals(trace)
    with pytest.raises(TraceError, match="read_plain_jsonl"):
        stream_trace(tmp_path / "t.jsonl")


GOOD = '{"prompt": "a", "output_tokens": 1}\n'
BAD = {
    "unknown field": (GOOD + '{"prompt": "b", "output_tokens": 2, "user": 1}', ["row 2", "user"]),
    "unknown field in all": ('{"prompt": "b", "output_tokens": 2, "user": 1}', ["header", "user", "unknown"]),
    "absent field": (GOOD + '{"prompt": "b"}', ["row 2", "output_tokens is empty"]),
    "number for text": (GOOD + '{"prompt": 3, "output_tokens": 2}', ["row 2", "prompt holds 3", "text"]),
    "fraction": (GOOD + '{"prompt": "b", "output_tokens": 2.5}', ["row 2", "2.5", "whole number"]),
    "boolean": (GOOD + '{"prompt": "b", "output_tokens": true}', ["row 2", "True", "whole number"]),
    "broken line": (GOOD + '{"prompt": "b", "output_tokens":', ["row 2", "not a line of prompts JSON"]),
    "not an object": (GOOD + "[1]", ["row 2", "not a JSON object"]),
    "empty prompt": (GOOD + '{"prompt": "", "output_tokens": 1}', ["row 2", "prompt", "empty"]),
    "half a pair": (GOOD + '{"prompt": "\\ud800", "output_tokens": 1}', ["row 2", "prompt", "UTF-8"]),
    "no tokens": (GOOD + '{"prompt": "b", "output_tokens": 0}', ["row 2", "0 tokens", "on_empty"]),
    "other keys": ('{"text": "b", "length": 1}', ["prompt, output_tokens missing for a file of prompts", "text"]),
    "csv: empty prompt": ('prompt,output_tokens\n"a",1\n"",2\n', ["row 3", "prompt", "empty"]),
    "csv: words for tokens": ('prompt,output_tokens\n"a\nb",1\nb,many\n', ["row 3", "'many'", "whole number"]),
    "csv: missing column": ("prompt,length\na,1\n", ["header", "output_tokens missing", "prompt, length"]),
    "csv: unknown column": ("prompt,output_tokens,user\na,1,2\n", ["header", "user", "unknown in a file of prompts"]),
    "csv: no rows": ("prompt,output_tokens\n", ["no rows"]),
    "empty": ("", ["0 bytes"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case: str, tmp_path: Path) -> None:
    text, parts = BAD[case]
    path = tmp_path / "bad.file"
    path.write_text(text)
    with pytest.raises(TraceError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert all(part in message for part in (str(path), *parts)), message
    assert "\n" not in message


def test_rows_of_no_tokens_on_request(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.jsonl", [*ROWS, {"prompt": "b", "output_tokens": 0}])
    with pytest.warns(UserWarning, match="1 row"):
        assert read_prompts(path, on_empty="drop").output_tokens.tolist() == [5, 70, 1]
    with pytest.warns(UserWarning, match="1 row"):
        assert read_prompts(path, on_empty="one").output_tokens.tolist() == [5, 70, 1, 1]


def test_a_file_of_prompts_is_no_trace_and_a_mooncake_file_is_still_one(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="arrival_s, input_tokens missing for a plain trace"):
        load_trace(jsonl(tmp_path / "mine.jsonl", ROWS))
    mooncake = [{"timestamp": 0, "input_length": 4, "output_length": 3, "hash_ids": [1]}]
    assert load_trace(jsonl(tmp_path / "moon.jsonl", mooncake)).input_tokens.tolist() == [4]
