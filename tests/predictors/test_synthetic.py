"""Predictors that are made from true lengths, against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from pecgym.errors import SpecError
from pecgym.predictors import accuracy, load_predictor, with_predictions
from pecgym.predictors.accuracy import length_class, tail_mean
from pecgym.predictors.base import Predictions
from pecgym.predictors.ssjf import released
from pecgym.predictors.synthetic import LogNormal
from pecgym.random import random_stream
from tests.predictors.workloads import lmsys

MANY = lmsys(40_000)


def predictions(name: str, seed: int = 1) -> Predictions:
    return load_predictor(name).predict(MANY, seed)


def test_the_oracle_says_the_truth_at_no_cost() -> None:
    found = predictions("oracle")
    assert np.array_equal(found.predicted_tokens, MANY.output_tokens)
    assert np.array_equal(found.predicted_tail_tokens, MANY.output_tokens)
    assert not found.prediction_s.any()
    assert (predictions("oracle{latency_s:0.5}").prediction_s == 0.5).all()


@pytest.mark.parametrize(("sigma", "tau"), [(0, 1.0), (0.5, 0.74), (0.75, 0.65), (1, 0.57), (2, 0.36)])
def test_noise_ranks_as_measured_on_the_released_lengths(sigma: float, tau: float) -> None:
    found = predictions(f"lognormal{{sigma:{sigma}}}")
    assert accuracy(found.predicted_tokens, MANY.output_tokens).kendall_tau == pytest.approx(tau, abs=0.015)


def test_the_tail_of_noise_is_that_of_a_log_normal() -> None:
    draws = np.exp(0.75 * random_stream(0, "tail").standard_normal(2_000_000))
    assert LogNormal(0.75).tail_ratio == pytest.approx(tail_mean(draws), rel=0.005)
    assert LogNormal(0.0).tail_ratio == pytest.approx(1)
    found = predictions("lognormal{sigma:0.75}")
    long = found.predicted_tokens > 100
    ratios = found.predicted_tail_tokens[long] / found.predicted_tokens[long]
    assert np.allclose(ratios, LogNormal(0.75).tail_ratio, rtol=0.01)


def test_the_proxy_mistakes_classes_as_released() -> None:
    found = predictions("ssjf_proxy")
    values = np.unique(found.predicted_tokens)
    assert len(values) == 5
    true_class = length_class(MANY.output_tokens, released().cuts_tokens)
    chosen = np.searchsorted(values, found.predicted_tokens)
    for row, expected in enumerate(released().confusion[:4]):  # the fifth class has 1% of the requests
        shares = np.bincount(chosen[true_class == row], minlength=5) / (true_class == row).sum()
        assert shares == pytest.approx(expected, abs=0.015)
    measured = accuracy(found.predicted_tokens, MANY.output_tokens)
    assert measured.same_class == pytest.approx(0.60, abs=0.015)
    assert measured.within_one_class == pytest.approx(0.93, abs=0.01)
    assert (found.prediction_s == 0.0078).all()


def test_what_the_proxy_predicts_is_the_mean_of_those_predicted_so() -> None:
    found = predictions("ssjf_proxy")
    for value in np.unique(found.predicted_tokens):
        of_class = MANY.output_tokens[found.predicted_tokens == value].astype(float)
        assert value == pytest.approx(of_class.mean(), rel=0.03)
        tail = found.predicted_tail_tokens[found.predicted_tokens == value]
        assert tail[0] == tail[-1] == pytest.approx(tail_mean(of_class), rel=0.03)


def test_own_cuts_fit_other_lengths() -> None:
    short = MANY.take(MANY.output_tokens < 42)
    assert len(np.unique(load_predictor("ssjf_proxy").predict(short, 0).predicted_tokens)) > 1
    own = load_predictor("ssjf_proxy{cuts:own}").predict(short, 0)
    assert accuracy(own.predicted_tokens, short.output_tokens).kendall_tau > 0.55
    assert own.predicted_tail_tokens.max() < 42
    with pytest.raises(SpecError, match=r"60 requests.*cuts:lmsys"):
        load_predictor("ssjf_proxy{cuts:own}").predict(MANY.slice(0, 100), 0)


def test_the_same_seed_gives_the_same_and_a_prefix_is_a_prefix() -> None:
    for name in ("ssjf_proxy", "lognormal{sigma:1}"):
        once, again = predictions(name), predictions(name)
        assert np.array_equal(once.predicted_tokens, again.predicted_tokens)
        assert not np.array_equal(once.predicted_tokens, predictions(name, seed=2).predicted_tokens)
        first = load_predictor(name).predict(MANY.slice(0, 50), 1)
        assert np.array_equal(first.predicted_tokens, once.predicted_tokens[:50])


def test_two_stages() -> None:
    cheap, full = "lognormal{sigma:1,latency_s:0.001}", "lognormal{sigma:0.1,latency_s:0.01}"
    found = predictions(f"two_stage{{cheap:{cheap},full:{full},threshold_tokens:200}}")
    first = predictions(cheap)
    is_long = first.predicted_tokens > 200
    assert np.array_equal(is_long, found.predicted_tokens > 200)
    assert np.array_equal(found.predicted_tokens[~is_long], first.predicted_tokens[~is_long])
    assert (found.prediction_s[~is_long] == 0.001).all()
    assert found.prediction_s[is_long] == pytest.approx(0.011)
    truly_long = is_long & (MANY.output_tokens > 260)
    errors = np.log(found.predicted_tokens[truly_long] / MANY.output_tokens[truly_long])
    assert errors.std() == pytest.approx(0.1, rel=0.1)
    cheap_errors = np.log(first.predicted_tokens[truly_long] / MANY.output_tokens[truly_long])
    assert abs(np.corrcoef(errors, cheap_errors)[0, 1]) < 0.05  # the two err independently


def test_a_trace_keeps_what_predicted_it_and_takes_it_once() -> None:
    trace = with_predictions(MANY, load_predictor("lognormal{sigma:1}"), 3)
    assert trace.predictor == "lognormal{sigma:1.0}"
    assert with_predictions(MANY, load_predictor(trace.predictor), 3).equals(trace)
    with pytest.raises(ValueError, match="predictions of its own"):
        with_predictions(trace, load_predictor("oracle"), 3)
