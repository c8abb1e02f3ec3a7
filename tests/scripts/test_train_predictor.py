"""scripts/train_predictor.py as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pecgym.predictors import accuracy, load_predictor, with_predictions
from pecgym.workload import Trace
from tests.conftest import REPOSITORY
from tests.predictors.workloads import chat, learnable

COMMAND = [sys.executable, str(REPOSITORY / "scripts" / "train_predictor.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def write_chat(path: Path, n: int) -> None:
    prompts = chat(n)
    rows = zip(prompts.prompt.tolist(), prompts.output_tokens.tolist(), strict=True)
    path.write_text("".join(json.dumps({"prompt": text, "output_tokens": tokens}) + "\n" for text, tokens in rows))


def test_from_prompts_to_a_run(tmp_path: Path) -> None:
    write_chat(tmp_path / "mine.jsonl", 400)
    done = run(tmp_path, "data=mine.jsonl", "text.hash_bits=12")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "predictors" / "mine"
    assert {path.name for path in folder.iterdir()} == {"manifest.yaml", "model.skops"}
    for part in ("Kendall tau", "constant (median)", "length of the text alone", "validation", "predicted tail"):
        assert part in done.stdout
    assert "trained on the first 240 of 400 requests of mine.jsonl" in done.stdout
    assert "use it as workload.predictor=results/predictors/mine" in done.stdout
    new = chat(200, seed=5)
    trace = Trace(range(200), [5] * 200, new.output_tokens, prompt=new.prompt)  # type: ignore[arg-type]
    found = with_predictions(trace, load_predictor(str(folder)), 0)
    assert accuracy(found.predicted_tokens, trace.output_tokens).kendall_tau > 0.6  # type: ignore[arg-type]
    again = run(tmp_path, "data=mine.jsonl")
    assert again.returncode == 2
    assert "fresh=true" in again.stderr


def test_from_a_trace(tmp_path: Path) -> None:
    learnable(400).write_csv(tmp_path / "t.csv")
    done = run(tmp_path, "workload.path=t.csv", "trace.iterations=20", "name=own", "latency_s=0.01")
    assert done.returncode == 0, done.stderr
    assert "input length alone" in done.stdout
    assert "10 ms are charged" in done.stdout
    assert (tmp_path / "results" / "predictors" / "own" / "model.skops").is_file()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["data=absent.jsonl"], ["absent.jsonl", "does not exist"]),
        (["data=mine.csv", "kind=trace"], ["workload.path=mine.csv"]),
        (["kind=sound"], ["kind='sound'", "trace, text"]),
        (["text.encoder=length"], ["text.*", "kind=trace"]),
        (["workload.predictor=oracle"], ["workload.predictor", "leave it out"]),
        (["trace.depth=3"], ["depth"]),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode != 0
    assert all(part in done.stderr for part in parts), done.stderr
    assert not (tmp_path / "results").exists()


def test_an_interrupted_training_writes_nothing(tmp_path: Path) -> None:
    write_chat(tmp_path / "mine.jsonl", 20_000)
    process = subprocess.Popen([*COMMAND, "data=mine.jsonl"], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"learning from mine.jsonl: 20,000 requests\n"
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(60) == 130, errors
    assert errors.endswith(b"interrupted: nothing was written\n")
    assert b"Traceback" not in errors
    assert not (tmp_path / "results").exists()
