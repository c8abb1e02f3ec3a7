"""Renewal arrivals against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload import fixed, gamma, generate, index_of_dispersion, interarrival_cv, poisson, with_arrivals


def test_poisson() -> None:
    times = poisson(20.0, random_stream(0, "a"), n=200_000)
    assert times.dtype == np.float64
    assert times.size / times[-1] == pytest.approx(20, rel=0.01)
    assert interarrival_cv(times) == pytest.approx(1, abs=0.01)
    assert index_of_dispersion(times, 1.0) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("cv", [0.5, 3.0])
def test_gamma(cv: float) -> None:
    times = gamma(20.0, cv, random_stream(0, "a"), n=2_000_000)
    assert times.size / times[-1] == pytest.approx(20, rel=0.03)
    assert interarrival_cv(times) == pytest.approx(cv, rel=0.02)
    assert index_of_dispersion(times, 30.0) == pytest.approx(cv**2, rel=0.1)


def test_fixed() -> None:
    assert fixed(4.0, n=3).tolist() == [0, 0.25, 0.5]
    assert fixed(4.0, duration_s=0.75).tolist() == [0, 0.25, 0.5]
    assert fixed(3.0, duration_s=1.0).size == 3
    assert fixed(4.0, duration_s=0.0).size == 0


def test_duration_is_a_prefix_of_the_same_stream() -> None:
    many = poisson(10.0, random_stream(3, "a"), n=5000)
    some = poisson(10.0, random_stream(3, "a"), duration_s=100.0)
    assert some.tolist() == many[many < 100].tolist()
    assert poisson(10.0, random_stream(3, "a"), duration_s=0.0).size == 0
    assert poisson(10.0, random_stream(3, "a"), n=0).size == 0


def test_with_arrivals_keeps_the_lengths() -> None:
    lengths = generate("azure2023_code", 0)
    other = with_arrivals(lengths, "gamma", 50.0, seed=2, cv=2.0)
    assert other.input_tokens.tolist() == lengths.input_tokens.tolist()
    assert other.rate_rps == pytest.approx(50, rel=0.1)
    assert "gamma" in other.name
    assert with_arrivals(lengths, "fixed", 2.0).arrival_s[1] == 0.5
    assert with_arrivals(lengths, "poisson", 2.0, seed=1).equals(with_arrivals(lengths, "poisson", 2.0, seed=1))


def test_bad_arguments() -> None:
    stream = random_stream(0, "a")
    lengths = generate("azure2023_code", 0, 100)
    for call in (
        lambda: poisson(0.0, stream, n=1),
        lambda: poisson(1.0, stream),
        lambda: poisson(1.0, stream, n=1, duration_s=1.0),
        lambda: poisson(1.0, stream, n=-1),
        lambda: poisson(1.0, stream, duration_s=float("inf")),
        lambda: gamma(1.0, 0.0, stream, n=1),
        lambda: fixed(float("nan"), n=1),
        lambda: with_arrivals(lengths, "weibull", 1.0),  # type: ignore[arg-type]
        lambda: with_arrivals(lengths, "gamma", 1.0),
        lambda: with_arrivals(lengths, "poisson", 1.0, cv=2.0),
    ):
        with pytest.raises(TraceError):
            call()
