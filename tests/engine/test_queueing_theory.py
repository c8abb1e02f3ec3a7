"""The engine as a queue, against closed forms.

A replica serves one request at a time, an iteration takes one time unit of 0.1 us whatever is in it, and a request of
O output tokens needs O iterations (its prefill emits the first token): its service time is O units exactly. A mean of
a million tokens makes sizes as good as continuous (relative error of a moment about 1e-6) and the wait for an
iteration boundary, at most one unit, a millionth of a service time.

Tolerances: each case runs 12 times with its own seeds; the mean must lie within the two-sided 99.9% Student interval
of those independent runs, and the interval's half width must be under a stated share of the value, so that a wrong
formula would be noticed. The first 10% of each run, which starts empty, are left out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from pecgym.engine import EngineSettings, Simulator
from pecgym.policies import load_policy
from pecgym.random import random_stream
from pecgym.workload import Trace, poisson
from tests.engine.cases import make_profile

UNIT_PS = 100_000
MEAN_TOKENS = 1_000_000
MEAN_SERVICE_S = MEAN_TOKENS * UNIT_PS * 1e-12
RUNS = 12
LOADS = (0.5, 0.8, 0.95)
PROFILE = make_profile(g_tokens=(1, 2), g_ps=(UNIT_PS, UNIT_PS), kv_capacity_tokens=10**12)
ENGINE = EngineSettings(batching="none", eviction="swap", swap_gb_per_s=float("inf"))

Sizes = Callable[[np.random.Generator, int], Any]


def exponential(stream: np.random.Generator, n: int) -> Any:
    """Geometric on 1, 2, ...: the exponential distribution in whole tokens."""
    return stream.geometric(1 / MEAN_TOKENS, n)


def constant(stream: np.random.Generator, n: int) -> Any:
    return np.full(n, MEAN_TOKENS)


def uniform(stream: np.random.Generator, n: int) -> Any:
    return stream.integers(1, 2 * MEAN_TOKENS, n)


def short_or_long(stream: np.random.Generator, n: int) -> Any:
    """Nine short requests of half the mean to one of 5.5 times it: squared coefficient of variation 2.25."""
    return np.where(stream.random(n) < 0.9, MEAN_TOKENS // 2, 11 * MEAN_TOKENS // 2)


# E[S^2] / E[S]^2 of the discrete distributions above.
SECOND_MOMENT: dict[Sizes, float] = {
    exponential: 2 - 1 / MEAN_TOKENS,
    constant: 1.0,
    uniform: (4 * MEAN_TOKENS - 1) / (3 * MEAN_TOKENS),
    short_or_long: 0.9 * 0.5**2 + 0.1 * 5.5**2,
}


def make_trace(sizes: Sizes, load: float, servers: int, n: int, seed: int) -> Trace:
    """Poisson arrivals of which `servers` replicas are busy a share `load` of the time."""
    arrival_s = poisson(load * servers / MEAN_SERVICE_S, random_stream(seed, "arrivals"), n=n)
    return Trace(arrival_s, np.ones(n, np.int64), sizes(random_stream(seed, "lengths"), n), name="queue")


def serve(trace: Trace, policy_name: str, servers: int) -> Any:
    """The log of a run, in order of arrival."""
    policy = load_policy(policy_name)
    engine = ENGINE
    if policy.queue_order is not None:
        engine = engine.with_changes(queue_order=policy.queue_order, preemptive=bool(policy.preemptive))
    simulator = Simulator(
        servers, PROFILE, engine, choose=policy.choose, load=policy.load, global_order=policy.global_order
    )
    simulator.load_trace(trace)
    assert simulator.run()
    log = simulator.finished()
    return log[np.argsort(log.row)]


def waits(log: Any) -> Any:
    """Queueing delays in mean service times."""
    return (log.start_ps - log.arrival_ps) / (MEAN_TOKENS * UNIT_PS)


def responses(log: Any) -> Any:
    """Completion times in mean service times."""
    return (log.finish_ps - log.arrival_ps) / (MEAN_TOKENS * UNIT_PS)


def assert_mean(expected: float, run: Callable[[int], float], resolution: float) -> None:
    """The mean of RUNS independent runs is `expected`, within an interval no wider than `resolution` of it."""
    means = np.array([run(seed) for seed in range(RUNS)])
    half_width = stats.t.ppf(1 - 0.001 / 2, RUNS - 1) * means.std(ddof=1) / math.sqrt(RUNS)
    assert half_width <= resolution * expected, f"{half_width / expected:.3f} of the value: too wide to say anything"
    assert abs(means.mean() - expected) <= half_width, (
        f"{means.mean():.5f} instead of {expected:.5f} +- {half_width:.5f}"
    )


def steady(values: Any) -> Any:
    return values[len(values) // 10 :]


def mean_wait(sizes: Sizes, load: float, servers: int, n: int, policy: str = "fifo") -> Callable[[int], float]:
    return lambda seed: float(steady(waits(serve(make_trace(sizes, load, servers, n, seed), policy, servers))).mean())


def mean_response(sizes: Sizes, load: float, n: int, policy: str) -> Callable[[int], float]:
    return lambda seed: float(steady(responses(serve(make_trace(sizes, load, 1, n, seed), policy, 1))).mean())


def requests_for(load: float) -> int:
    """Queues remember for about 1 / (1 - load)^2 service times, so the same precision needs more requests."""
    return {0.5: 40_000, 0.8: 80_000, 0.95: 250_000}[load]


RESOLUTION = {0.5: 0.06, 0.8: 0.08, 0.95: 0.15}


@pytest.mark.parametrize("sizes", [exponential, constant, uniform, short_or_long])
def test_one_server_serves_exactly_as_the_lindley_recursion_says(sizes: Sizes) -> None:
    """W(n+1) = max(0, W(n) + S(n) - A(n)), in whole picoseconds."""
    log = serve(make_trace(sizes, 0.9, 1, 20_000, 1), "fifo", 1)
    free_ps = 0
    for row in log[["arrival_ps", "output_tokens", "start_ps", "finish_ps"]].tolist():
        arrival_ps, output_tokens, start_ps, finish_ps = row
        assert start_ps == max(arrival_ps, free_ps)
        free_ps = start_ps + output_tokens * UNIT_PS
        assert finish_ps == free_ps


@pytest.mark.parametrize("servers", [2, 5])
def test_many_servers_serve_exactly_as_the_kiefer_wolfowitz_recursion_says(servers: int) -> None:
    """Each request in turn starts when the first of the servers is free."""
    log = serve(make_trace(short_or_long, 0.9, servers, 20_000, 1), "fifo", servers)
    free_ps = [0] * servers
    for arrival_ps, output_tokens, start_ps in log[["arrival_ps", "output_tokens", "start_ps"]].tolist():
        assert start_ps == max(arrival_ps, heapq.heappop(free_ps))
        heapq.heappush(free_ps, start_ps + output_tokens * UNIT_PS)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("sizes", [exponential, constant, short_or_long], ids=lambda s: s.__name__)
def test_fifo_waits_as_pollaczek_and_khinchine_say(sizes: Sizes, load: float) -> None:
    """M/M/1, M/D/1 and M/G/1: E[W] = load E[S^2] / (2 (1 - load) E[S])."""
    expected = load * SECOND_MOMENT[sizes] / (2 * (1 - load))
    assert_mean(expected, mean_wait(sizes, load, 1, requests_for(load)), RESOLUTION[load])


def erlang_c(servers: int, load: float) -> float:
    """The chance that an arrival has to wait in M/M/k."""
    offered = servers * load
    idle = sum(offered**i / math.factorial(i) for i in range(servers))
    busy = offered**servers / math.factorial(servers) / (1 - load)
    return busy / (idle + busy)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("servers", [2, 8])
def test_fifo_over_several_replicas_waits_as_erlang_says(servers: int, load: float) -> None:
    """M/M/k: E[W] = C(k, load) / (k (1 - load)) mean service times."""
    expected = erlang_c(servers, load) / (servers * (1 - load))
    # With many servers at a low load few requests wait at all, so their mean is known less well.
    assert_mean(expected, mean_wait(exponential, load, servers, requests_for(load)), 0.2)


def below(x: float) -> tuple[float, float, float]:
    """Exponential sizes of mean 1: P(S > x), E[S; S <= x] and E[S^2; S <= x]."""
    tail = math.exp(-x)
    return tail, 1 - (1 + x) * tail, 2 - (2 + 2 * x + x * x) * tail


def sjf_response(load: float) -> float:
    """M/M/1 under non-preemptive shortest job first (Phipps 1956): E[W(x)] = load E[S^2] / (2 (1 - load(x))^2)."""
    waiting, _ = integrate.quad(lambda x: math.exp(-x) * load / (1 - load * below(x)[1]) ** 2, 0, 60, limit=500)
    return 1 + waiting


def srpt_response(load: float) -> float:
    """M/M/1 under shortest remaining processing time (Schrage and Miller 1966): waiting W(x) plus residence R(x)."""

    def waiting(x: float) -> float:
        tail, work, square = below(x)
        return load * (square + x * x * tail) / (2 * (1 - load * work) ** 2)

    wait, _ = integrate.quad(lambda x: math.exp(-x) * waiting(x), 0, 60, limit=500)
    # E[R] = integral of f(x) times the integral of dt / (1 - load(t)) up to x = integral of P(S > t) / (1 - load(t)).
    residence, _ = integrate.quad(lambda t: math.exp(-t) / (1 - load * below(t)[1]), 0, 60, limit=500)
    return wait + residence


@pytest.mark.parametrize("load", LOADS)
def test_sjf_responds_as_phipps_says(load: float) -> None:
    assert_mean(sjf_response(load), mean_response(exponential, load, requests_for(load), "sjf"), RESOLUTION[load])


@pytest.mark.parametrize("load", LOADS)
def test_srpt_responds_as_schrage_and_miller_say(load: float) -> None:
    assert_mean(srpt_response(load), mean_response(exponential, load, requests_for(load), "srpt"), RESOLUTION[load])


def test_sjf_serves_two_sizes_as_cobham_says() -> None:
    """Non-preemptive priorities, first come first served within a size: E[W(i)] = W0 / ((1 - s(i-1)) (1 - s(i)))."""
    load, n = 0.8, 60_000
    residual = load * SECOND_MOMENT[short_or_long] / 2
    load_of_short = load * 0.9 * 0.5

    def mean_of(long: bool) -> Callable[[int], float]:
        def run(seed: int) -> float:
            log = steady(serve(make_trace(short_or_long, load, 1, n, seed), "sjf", 1))
            return float(waits(log[(log.output_tokens > MEAN_TOKENS) == long]).mean())

        return run

    assert_mean(residual / (1 - load_of_short), mean_of(False), 0.06)
    assert_mean(residual / ((1 - load_of_short) * (1 - load)), mean_of(True), 0.12)


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("policy", ["fifo", "sjf", "srpt"])
def test_long_runs_agree_within_two_percent(policy: str, load: float) -> None:
    """The same with a million requests in each of the runs."""
    expected = {"fifo": lambda r: 1 / (1 - r), "sjf": sjf_response, "srpt": srpt_response}[policy](load)
    assert_mean(expected, mean_response(exponential, load, 1_000_000, policy), 0.06 if load == 0.95 else 0.02)
