"""The figures that say how good predictions are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from pecgym.errors import TraceError
from pecgym.predictors import accuracy, calibration_table
from pecgym.predictors.accuracy import kendall_tau
from pecgym.random import random_stream

PAIRS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=70)


@settings(max_examples=300, deadline=None)
@given(PAIRS)
def test_tau_is_that_of_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs * 2).T  # two at least, as SciPy has none of one
    expected = kendalltau(x, y).statistic
    assert kendall_tau(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_tau_of_many_without_and_with_ties() -> None:
    stream = random_stream(0, "tau")
    x, noise = stream.random(20_001), stream.random(20_001)
    for a, b in ((x, x + noise), (np.floor(9 * x), np.floor(40 * (x - noise)))):
        assert kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)
    assert kendall_tau(x, x) == pytest.approx(1)
    assert kendall_tau(x, -x) == pytest.approx(-1)
    assert math.isnan(kendall_tau(x, np.ones(len(x))))


def test_by_hand() -> None:
    true = [10, 20, 30, 40]  # cut at 17.5, 25, 32.5 and 39.7
    found = accuracy([10, 30, 20, 10], true)
    assert found.requests == 4
    assert found.mae_tokens == 12.5
    assert found.calibration == 0.7
    assert found.same_class == 0.25  # of the classes 0, 1, 2, 4 those of the predictions are 0, 2, 1, 0
    assert found.within_one_class == 0.75
    assert found.kendall_tau == pytest.approx(kendalltau([10, 30, 20, 10], true).statistic)
    assert str(found) == "tau -0.18, MAE 12 tokens, within one class 75%, predicted/true 0.70"


def test_perfect_and_constant() -> None:
    true = np.arange(1, 101)
    assert str(accuracy(true, true)) == "tau 1.00, MAE 0 tokens, within one class 100%, predicted/true 1.00"
    assert str(accuracy(np.full(100, 50), true)).startswith("tau undefined, MAE 25 tokens")


@pytest.mark.parametrize(("predicted", "true"), [([], []), ([1, 2], [1]), ([[1]], [[1]])])
def test_needs_one_of_both_for_each_request(predicted: list[int], true: list[int]) -> None:
    with pytest.raises(TraceError, match="one of both per request"):
        accuracy(predicted, true)


def test_deciles() -> None:
    true = np.arange(1, 201)
    rows = calibration_table(true[::-1], 2 * true[::-1], true[::-1])
    assert [row.requests for row in rows] == [20] * 10
    assert (
        [row.predicted_tokens for row in rows]
        == [row.true_tokens for row in rows]
        == [10.5 + 20 * k for k in range(10)]
    )
    assert rows[0].tail_tokens == 21
    assert rows[0].true_tail_tokens == 19.5  # of 1 to 20, the longest two
    assert len(calibration_table([1, 2], [1, 2], [1, 2])) == 2
