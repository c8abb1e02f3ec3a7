"""Predictors that are learned from a trace: how good, how calibrated, how saved."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skops.io
import yaml
from sklearn.linear_model import Ridge

from pecgym.errors import SpecError, TraceError
from pecgym.predictors import accuracy, load_predictor, training_overlap, with_predictions
from pecgym.predictors.accuracy import tail_mean
from pecgym.predictors.calibration import Calibration
from pecgym.predictors.fingerprint import Fingerprint
from pecgym.predictors.models import OBJECTIVES, TraceModel
from pecgym.predictors.saved import MANIFEST, MODEL, save_predictor
from pecgym.predictors.training import STEPS, Trained, train_predictor
from pecgym.random import random_stream
from pecgym.workload import Trace, generate, load_trace
from pecgym.workload.splits import split_rows
from tests.conftest import shared_file
from tests.predictors.workloads import chat, learnable

TRACE = learnable(1500)
QUICK = TraceModel(iterations=20, learning_rate=0.2)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train_predictor(QUICK, TRACE)


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    save_predictor(tmp_path / "mine", trained, TRACE, "learnable", "0" * 64, seed=0)
    return tmp_path / "mine"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns(objective: str) -> None:
    found = train_predictor(replace(QUICK, objective=objective), TRACE)
    for split in ("validation", "test"):
        assert found.accuracy[split].requests == 300
        assert found.accuracy[split].kendall_tau > 0.6
        assert found.accuracy[split].calibration == pytest.approx(1, abs=0.1)
        assert found.accuracy[split].mae_tokens < 0.6 * found.baselines["constant (median)"][split].mae_tokens
    assert [row.requests for row in found.deciles] == [30] * 10
    assert found.measured_s > 0


def test_the_test_split_is_not_learned_from() -> None:
    first, last = split_rows(len(TRACE), "train")[1], len(TRACE)
    outputs = TRACE.output_tokens.copy()
    outputs[first:last] = outputs[first:last][::-1]
    elsewhere = replace(TRACE, output_tokens=outputs)
    one, other = (train_predictor(QUICK, trace).learned for trace in (TRACE, elsewhere))
    assert one.calibration == other.calibration
    inputs = QUICK.inputs(TRACE)
    assert np.array_equal(QUICK.raw(one.fitted, inputs), QUICK.raw(other.fitted, inputs))


def test_steps_are_told() -> None:
    told: list[str] = []
    train_predictor(QUICK, TRACE, tick=told.append)
    assert len(told) == STEPS


def test_saved_it_says_the_same_and_is_charged(folder: Path, trained: Trained) -> None:
    predictor = load_predictor(f"{folder}{{latency_s:0.25}}")
    found = with_predictions(TRACE, predictor, 0)
    said = trained.learned.predictions(QUICK.inputs(TRACE), 0.25)
    assert np.array_equal(found.predicted_tokens, said.predicted_tokens)
    assert np.array_equal(found.predicted_tail_tokens, said.predicted_tail_tokens)
    assert (found.prediction_s == 0.25).all()
    assert found.predictor == f"{folder}{{latency_s:0.25}}"
    measured = load_predictor(str(folder)).predict(TRACE, 0).prediction_s
    assert measured == pytest.approx(trained.measured_s, rel=0.01)
    assert len(load_predictor(str(folder)).predict(TRACE.slice(0, 0), 0).predicted_tokens) == 0
    again = train_predictor(QUICK, TRACE).learned.predictions(QUICK.inputs(TRACE), 0.25)
    assert np.array_equal(again.predicted_tokens, said.predicted_tokens)


def test_a_prediction_knows_nothing_of_what_comes_later(folder: Path) -> None:
    predictor = load_predictor(str(folder))
    whole = predictor.predict(TRACE, 0).predicted_tokens
    assert np.array_equal(predictor.predict(TRACE.slice(0, 700), 1).predicted_tokens, whole[:700])
    shuffled = replace(TRACE, output_tokens=TRACE.output_tokens[::-1].copy())
    assert np.array_equal(predictor.predict(shuffled, 0).predicted_tokens, whole)


def test_the_manifest_says_what_it_is(folder: Path) -> None:
    manifest = yaml.safe_load((folder / MANIFEST).read_text())
    assert (manifest["kind"], manifest["source"]) == ("trace", "learnable")
    assert (manifest["requests"], manifest["trained_on"]) == (1500, 900)
    assert manifest["options"]["iterations"] == 20
    assert manifest["accuracy"]["test"]["requests"] == 300


def test_requests_that_it_was_trained_on_are_noticed(folder: Path) -> None:
    predictor = load_predictor(str(folder))
    assert "about 100%" in str(training_overlap(TRACE.slice(100, 800).scale_rate(3.0), predictor))
    assert "about 6" in str(training_overlap(TRACE, predictor))
    assert training_overlap(TRACE.slice(900, None), predictor) is None
    assert training_overlap(TRACE.slice(0, 3), predictor) is None
    assert training_overlap(learnable(1500, seed=1), predictor) is None
    assert training_overlap(TRACE, load_predictor("oracle")) is None
    staged = load_predictor(f"two_stage{{cheap:oracle,full:{folder},threshold_tokens:5}}")
    assert "mine was trained on" in str(training_overlap(TRACE, staged))


def test_unknown_types_are_not_read(folder: Path) -> None:
    class Mine(Ridge):
        pass

    skops.io.dump({"trees": Mine().fit([[0.0], [1.0]], [0.0, 1.0])}, folder / MODEL)
    with pytest.raises(SpecError, match="is not the model that its manifest"):
        load_predictor(str(folder)).predict(TRACE, 0)
    _trust(folder)
    with pytest.raises(SpecError, match=r"holds .*Mine.*not read"):
        load_predictor(str(folder)).predict(TRACE, 0)
    (folder / MODEL).write_bytes(b"no archive")
    _trust(folder)
    with pytest.raises(SpecError, match="not a model that skops can read"):
        load_predictor(str(folder)).predict(TRACE, 0)
    (folder / MODEL).unlink()
    with pytest.raises(SpecError, match="is missing"):
        load_predictor(str(folder)).predict(TRACE.slice(0, 5), 0)


def _trust(folder: Path) -> None:
    """Writes the model's digest into the manifest, as someone would who means harm."""
    manifest = yaml.safe_load((folder / MANIFEST).read_text())
    manifest["model_sha256"] = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))


def test_a_manifest_with_other_keys_is_refused(folder: Path) -> None:
    path = folder / MANIFEST
    text = path.read_text()
    path.write_text(text + "colour: red\n")
    with pytest.raises(SpecError, match="unknown key 'colour'"):
        load_predictor(str(folder))
    path.write_text(text.replace("features: history", "features: all"))
    with pytest.raises(SpecError, match=r"features='all'"):
        load_predictor(str(folder))


def test_what_is_there_is_not_lost(folder: Path, trained: Trained) -> None:
    with pytest.raises(SpecError, match="fresh=true"):
        save_predictor(folder, trained, TRACE, "learnable", "0" * 64, seed=0)
    save_predictor(folder, trained, TRACE, "learnable", "0" * 64, seed=0, latency_s=0.5, overwrite=True)
    assert (load_predictor(str(folder)).predict(TRACE, 0).prediction_s == 0.5).all()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(SpecError, match="other files"):
        save_predictor(folder, trained, TRACE, "learnable", "0" * 64, seed=0, overwrite=True)


def test_without_the_extra_one_line_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for ask in (lambda: load_predictor(str(folder)), lambda: train_predictor(QUICK, TRACE)):
        with pytest.raises(SpecError, match=r"sklearn and skops: pip install -e '\.\[predict\]'"):
            ask()
    assert load_predictor("lognormal{sigma:1}").predict(TRACE, 0).predicted_tokens.min() >= 1


def test_calibration_by_its_own_errors() -> None:
    stream = random_stream(0, "calibration")
    raw = stream.uniform(10, 1000, 20_000)
    spread = np.where(raw < 500, 0.1, 0.8)
    true = 2 * raw * np.exp(spread * stream.standard_normal(len(raw)) - spread**2 / 2)  # twice as long on average
    calibration = Calibration.of(raw, true)
    found = calibration.predictions(raw, 0.0)
    assert found.predicted_tokens.sum() == pytest.approx(true.sum(), rel=0.001)
    for rows in (raw < 200, raw > 800):
        expected = tail_mean((true / (calibration.scale * raw))[rows])
        assert np.mean(found.predicted_tail_tokens[rows] / found.predicted_tokens[rows]) == pytest.approx(
            expected, rel=0.05
        )
    few = Calibration.of(raw[:60], true[:60])
    assert (few.edges, len(few.tail_ratios)) == ([], 1)


def test_too_little_or_the_wrong_thing() -> None:
    with pytest.raises(SpecError, match="99 requests, at least 100"):
        train_predictor(QUICK, TRACE.slice(0, 99))
    with pytest.raises(TraceError, match="needs arrival_s and input_tokens"):
        train_predictor(QUICK, chat(200))
    for changes in ({"features": "all"}, {"objective": "rank"}, {"leaves": 1}, {"learning_rate": 0.0}):
        with pytest.raises(SpecError, match=next(iter(changes))):
            TraceModel(**changes)  # type: ignore[arg-type]


def test_the_shipped_predictor_on_an_hour_like_its_own() -> None:
    trace = generate("azure2023_conv", 3)
    predictor = load_predictor("azure2023_conv")
    found = predictor.predict(trace, 0)
    measured = accuracy(found.predicted_tokens, trace.output_tokens)
    assert measured.kendall_tau > 0.5
    assert measured.within_one_class > 0.88
    assert training_overlap(trace, predictor) is None
    folder = predictor.folder  # type: ignore[attr-defined]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 150_000


def test_the_shipped_predictor_on_the_hour_it_is_of() -> None:
    trace = load_trace(shared_file("traces/azure2023/AzureLLMInferenceTrace_conv.csv"))
    predictor = load_predictor("azure2023_conv")
    found = with_predictions(trace, predictor, 0)
    manifest = predictor.manifest  # type: ignore[attr-defined]
    for split in ("validation", "test"):
        rows = slice(*split_rows(len(trace), split))
        measured = accuracy(found.predicted_tokens[rows], trace.output_tokens[rows])  # type: ignore[index]
        for figure in ("kendall_tau", "mae_tokens", "within_one_class", "calibration"):
            assert getattr(measured, figure) == pytest.approx(getattr(manifest.accuracy[split], figure), rel=1e-6)
    assert manifest.accuracy["test"].kendall_tau > 0.55
    assert "azure2023_conv was trained on about 6" in str(training_overlap(trace, predictor))
    assert training_overlap(trace.slice(manifest.trained_on, None), predictor) is None


def test_a_rewrite_of_inputs_does_not_hide_training_requests() -> None:
    long = replace(TRACE, input_tokens=np.where(TRACE.input_tokens > 3800, 200_000, TRACE.input_tokens))
    assert Fingerprint.take(TRACE.slice(0, 900), "outputs").overlap(long.slice(0, 900)) == 1.0
    assert Fingerprint.take(Trace([0], [1], [1]), "outputs").overlap(long) == 0.0
