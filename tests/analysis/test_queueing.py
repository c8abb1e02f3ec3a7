"""Closed forms of M/G/1 against one another, against textbook values, and against the simulator."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pecgym.analysis.metrics import jct_s
from pecgym.analysis.queueing import (
    Jobs,
    fcfs_response_s,
    shortest_first_response_s,
    shortest_remaining_response_s,
)
from pecgym.cluster import make_cluster
from pecgym.engine import load_engine
from pecgym.errors import SpecError
from pecgym.evaluation.ssjf.cases import capacity_rps
from pecgym.evaluation.ssjf.closed_forms import RESPONSES, jobs_of
from pecgym.predictors import load_predictor, with_predictions
from pecgym.random import random_stream
from pecgym.workload import Trace, draw_chat, poisson
from tests.engine.test_queueing_theory import MEAN_TOKENS, UNIT_PS, assert_mean, responses, serve, steady

LOADS = (0.3, 0.73, 0.95)
SIZES = np.array([0.2, 0.5, 1.0, 3.0])
SHARES = np.array([0.4, 0.3, 0.2, 0.1])
MEAN = float(SIZES @ SHARES)


def exponential(points: int = 200_000) -> Jobs:
    """Mean 1, in equal parts of probability, by the midpoints of their quantiles."""
    return Jobs.exact(-np.log1p(-(np.arange(points) + 0.5) / points), np.full(points, 1 / points))


@pytest.mark.parametrize("load", LOADS)
def test_exponential_jobs_respond_as_in_mm1(load: float) -> None:
    assert fcfs_response_s(exponential(), load) == pytest.approx(1 / (1 - load), rel=1e-3)


@pytest.mark.parametrize("load", LOADS)
def test_equal_jobs_have_one_response_under_every_order(load: float) -> None:
    jobs = Jobs.exact(np.array([2.0]), np.array([1.0]))
    expected = 2 + load * 2 / (2 * (1 - load))
    for response_s in (fcfs_response_s, shortest_first_response_s, shortest_remaining_response_s):
        assert response_s(jobs, load / 2) == pytest.approx(expected)


@pytest.mark.parametrize("load", LOADS)
def test_predictions_that_say_nothing_give_first_come_first_served(load: float) -> None:
    jobs = Jobs(SIZES, np.full(4, 7.0), SHARES)
    assert shortest_first_response_s(jobs, load / MEAN) == pytest.approx(fcfs_response_s(jobs, load / MEAN))


@pytest.mark.parametrize("load", LOADS)
def test_better_knowledge_responds_sooner(load: float) -> None:
    exact, rate_rps = Jobs.exact(SIZES, SHARES), load / MEAN
    noisy = Jobs(np.repeat(SIZES, 2), np.outer(SIZES, [0.3, 3.0]).ravel(), np.repeat(SHARES / 2, 2))
    srpt, sprpt = (shortest_remaining_response_s(jobs, rate_rps) for jobs in (exact, noisy))
    sjf, spjf = (shortest_first_response_s(jobs, rate_rps) for jobs in (exact, noisy))
    assert exact.mean_s < srpt < sjf < spjf < fcfs_response_s(exact, rate_rps)
    assert srpt < sprpt


def test_two_sizes_by_hand() -> None:
    """Cobham: E[W(i)] = W0 / ((1 - s(i-1)) (1 - s(i))); SRPT of the short ones: no long is ever in the way but for
    what is left of it when it is as short."""
    jobs, rate_rps = Jobs.exact(np.array([1.0, 4.0]), np.array([0.5, 0.5])), 0.3
    residual, load_of_short = 0.3 * 8.5 / 2, 0.15
    waits = residual / (1 - load_of_short), residual / ((1 - load_of_short) * (1 - 0.75))
    assert shortest_first_response_s(jobs, rate_rps) == pytest.approx(2.5 + np.mean(waits))
    short = 0.3 * (0.5 * 1 + 0.5 * 1) / 2 / (1 - load_of_short) + 1
    long = 0.3 * 8.5 / 2 / ((1 - load_of_short) * (1 - 0.75)) + 1 + 3 / (1 - load_of_short)
    assert shortest_remaining_response_s(jobs, rate_rps) == pytest.approx((short + long) / 2)


def test_what_goes_before_a_job_is_what_a_plain_sum_says() -> None:
    random = random_stream(3, "jobs")
    service_s, share = random.exponential(1, 300), random.dirichlet(np.ones(300))
    jobs = Jobs(service_s, np.round(service_s * random.lognormal(0, 1, 300), 1) + 0.1, share)
    rate_rps = 0.8 / jobs.mean_s
    total = 0.0
    for mine, y, weight in zip(jobs.service_s, jobs.predicted_s, share, strict=True):
        left_s = np.maximum(jobs.service_s - np.maximum(jobs.predicted_s - y, 0), 0)
        below, upto = (
            rate_rps * (share[of] @ jobs.service_s[of]) for of in (jobs.predicted_s < y, jobs.predicted_s <= y)
        )
        total += weight * rate_rps * (share @ left_s**2) / 2 / ((1 - below) * (1 - upto))
        knots_s = np.unique(np.concatenate([[max(y - mine, 0), y], jobs.predicted_s[jobs.predicted_s < y]]))
        for start_s, end_s in pairwise(knots_s):
            if start_s >= y - mine:
                smaller = jobs.predicted_s < (start_s + end_s) / 2
                total += weight * (end_s - start_s) / (1 - rate_rps * (share[smaller] @ jobs.service_s[smaller]))
        total += weight * max(mine - y, 0)
    assert shortest_remaining_response_s(jobs, rate_rps) == pytest.approx(total, rel=1e-9)


def test_what_has_no_mean_is_refused() -> None:
    jobs = Jobs.exact(SIZES, SHARES)
    for response_s in (fcfs_response_s, shortest_first_response_s, shortest_remaining_response_s):
        with pytest.raises(SpecError, match=r"a load of 1\.2"):
            response_s(jobs, 1.2 / MEAN)
    with pytest.raises(SpecError, match="sum to 1"):
        Jobs.exact(SIZES, SHARES / 2)
    with pytest.raises(SpecError, match="as many"):
        Jobs(SIZES, SIZES[:2], SHARES)


LOAD, REQUESTS = 0.8, 60_000
UNITS = MEAN_TOKENS / MEAN


def simulated(policy: str) -> Any:
    """Mean response times of runs, in means of the service time, with the sizes above."""

    def run(seed: int) -> float:
        sizes = np.rint(SIZES * UNITS).astype(np.int64)
        outputs = random_stream(seed, "lengths").choice(sizes, REQUESTS, p=SHARES)
        arrival_s = poisson(LOAD / (MEAN_TOKENS * UNIT_PS * 1e-12), random_stream(seed, "arrivals"), n=REQUESTS)
        trace = Trace(arrival_s, np.ones(REQUESTS, np.int64), outputs, name="queue")
        return float(steady(responses(serve(trace, policy, 1))).mean())

    return run


@pytest.mark.parametrize(
    ("policy", "response_s"),
    [
        ("fifo", fcfs_response_s),
        ("sjf", shortest_first_response_s),
        ("srpt", shortest_remaining_response_s),
    ],
)
def test_the_simulator_agrees_on_few_sizes_where_many_jobs_are_equal(policy: str, response_s: Any) -> None:
    expected = response_s(Jobs.exact(SIZES, SHARES), LOAD / MEAN) / MEAN
    assert math.isfinite(expected)
    assert_mean(expected, simulated(policy), 0.08)


PREDICTOR = "lognormal{sigma:1.0}"


def simulated_chat(policy: str, load: float) -> Any:
    """Mean response times of SSJF's jobs, one at a time, in order of predicted lengths; seconds."""
    engine = load_engine("one_at_a_time", eviction="swap", swap_gb_per_s=float("inf"))

    def run(seed: int) -> float:
        trace = draw_chat(20_000, "poisson", load * capacity_rps("none", 1), seed=seed)
        predicted = with_predictions(trace, load_predictor(PREDICTOR), seed)
        cluster = make_cluster("llama-3.1-8b", "a100_x1", policy, predicted, engine, profile="ssjf-linear")
        return float(steady(jct_s(cluster.run())).mean())

    return run


@pytest.mark.parametrize(("load", "resolution"), [(0.5, 0.03), (0.8, 0.08)])
@pytest.mark.parametrize(("policy", "response_s"), [(p, RESPONSES[p]) for p in ("spjf", "sprpt")])
def test_the_simulator_agrees_on_predicted_sizes(policy: str, response_s: Any, load: float, resolution: float) -> None:
    jobs, rate_rps = jobs_of(PREDICTOR), load * capacity_rps("none", 1)
    expected = response_s(jobs, rate_rps)
    exact = response_s(jobs_of(None), rate_rps)
    assert exact < (1 - resolution) * expected  # a formula that took predictions for the truth would be noticed
    assert_mean(expected, simulated_chat(policy, load), resolution)
