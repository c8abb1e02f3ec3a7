"""Text predictors: learned from prompts, used on traces that have prompts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pecgym.errors import SpecError, TraceError
from pecgym.predictors import accuracy, load_predictor, training_overlap, with_predictions
from pecgym.predictors.models import ALPHAS, TextModel
from pecgym.predictors.saved import save_predictor
from pecgym.predictors.training import train_predictor
from pecgym.workload import Prompts, Trace
from tests.predictors.workloads import TASKS, chat

SMALL = TextModel(hash_bits=12)


def as_trace(prompts: Prompts) -> Trace:
    n = len(prompts)
    return Trace(np.arange(n), np.full(n, 9), prompts.output_tokens, prompt=prompts.prompt, name="chat")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("text") / "mine"
    save_predictor(made, train_predictor(SMALL, chat(600)), chat(600), "chat.jsonl", "0" * 64, 0, latency_s=0.002)
    return made


def test_it_learns_what_the_task_says() -> None:
    found = train_predictor(SMALL, chat(600))
    assert found.learned.model.alpha in ALPHAS  # type: ignore[union-attr]
    for split in ("validation", "test"):
        assert found.accuracy[split].kendall_tau > 0.65
        assert found.accuracy[split].calibration == pytest.approx(1, abs=0.12)
        assert found.accuracy[split].kendall_tau > found.baselines["length of the text alone"][split].kendall_tau + 0.1


def test_any_trace_with_prompts_takes_it(folder: Path) -> None:
    new = as_trace(chat(500, seed=7))
    found = with_predictions(new, load_predictor(str(folder)), 0)
    assert accuracy(found.predicted_tokens, new.output_tokens).kendall_tau > 0.65
    assert (found.predicted_tail_tokens >= found.predicted_tokens).all()
    assert (found.prediction_s == 0.002).all()
    by_task = [
        np.mean([p for p, text in zip(found.predicted_tokens, new.prompt, strict=True) if text.startswith(task)])
        for task in TASKS
    ]  # type: ignore[arg-type]
    assert by_task == pytest.approx(list(TASKS.values()), rel=0.2)


def test_the_text_alone_decides(folder: Path) -> None:
    predictor, trace = load_predictor(str(folder)), as_trace(chat(50, seed=7))
    whole = predictor.predict(trace, 0).predicted_tokens
    other = replace(trace, output_tokens=trace.output_tokens[::-1].copy(), input_tokens=trace.input_tokens * 3)
    assert np.array_equal(predictor.predict(other, 1).predicted_tokens, whole)
    assert np.array_equal(predictor.predict(trace.slice(20, 30), 0).predicted_tokens, whole[20:30])


def test_without_prompts_it_says_so(folder: Path) -> None:
    with pytest.raises(TraceError, match=r"chat: a text predictor reads prompts.*column prompt"):
        load_predictor(str(folder)).predict(replace(as_trace(chat(5)), prompt=None), 0)


def test_prompts_that_it_was_trained_on_are_noticed_in_any_order(folder: Path) -> None:
    same, other = as_trace(chat(600)), replace(as_trace(chat(600)), prompt=[f"q{i}" for i in range(600)])  # type: ignore[arg-type]
    assert "about 100%" in str(training_overlap(same.slice(100, 200), load_predictor(str(folder))))
    assert training_overlap(other, load_predictor(str(folder))) is None


def test_options() -> None:
    for changes in (
        {"encoder": "bert"},
        {"hash_bits": 30},
        {"alpha": 0.0},
        {"encoder": "sentence"},
        {"sentence_model": "x"},
    ):
        with pytest.raises(SpecError, match=r"text\."):
            TextModel(**changes)  # type: ignore[arg-type]
    fixed = train_predictor(replace(SMALL, alpha=2.0), chat(200)).learned.model
    assert fixed == replace(SMALL, alpha=2.0)


def test_a_sentence_encoder_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SpecError, match=r"pip install -e '\.\[text\]'"):
        train_predictor(TextModel(encoder="sentence", sentence_model="none"), chat(200))


def test_a_sentence_encoder_is_asked_for_embeddings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Encoder:
        """Stands for a model: the share of each letter is a sentence's embedding."""

        def __init__(self, model: str, local_files_only: bool) -> None:
            if model == "absent":
                raise OSError("no such folder")

        def encode(self, texts: list[str], **_: Any) -> Any:
            letters = "abcdefghijklmnopqrstuvwxyz"
            return np.asarray([[text.lower().count(each) for each in letters] for text in texts], np.float32)

    module = ModuleType("sentence_transformers")
    module.SentenceTransformer = Encoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    with pytest.raises(SpecError, match=r"sentence_model=absent.*no such folder"):
        train_predictor(TextModel(encoder="sentence", sentence_model="absent"), chat(200))
    model = TextModel(encoder="sentence", sentence_model="letters")
    trained = train_predictor(model, chat(600))
    assert trained.accuracy["test"].kendall_tau > 0.6
    save_predictor(tmp_path / "s", trained, chat(600), "chat.jsonl", "0" * 64, 0)
    new = as_trace(chat(100, seed=3))
    found = load_predictor(str(tmp_path / "s")).predict(new, 0)
    assert np.array_equal(found.predicted_tokens, trained.learned.predictions(model.inputs(new), 0.0).predicted_tokens)
