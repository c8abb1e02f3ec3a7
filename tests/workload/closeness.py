"""How close a synthetic trace is to a real one: the figures that the generator is judged by."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from pecgym.workload.statistics import index_of_dispersion, length_quantiles
from pecgym.workload.trace import Trace

WINDOWS_S = np.geomspace(0.1, 300.0, 15)

# Service of a request alone on one server: seconds per input and per output token of Llama-3.1-70B, TP4, A100.
PREFILL_S, DECODE_S = 0.153e-3, 27.7e-3
SERVERS = 32


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between two empirical distribution functions."""
    points = np.union1d(a, b)
    below_a = np.searchsorted(np.sort(a), points, side="right") / a.size
    below_b = np.searchsorted(np.sort(b), points, side="right") / b.size
    return float(np.abs(below_a - below_b).max())


def dispersion_error(synthetic: Trace, real: Trace) -> float:
    """RMS difference of log10 of the index-of-dispersion curves over windows of 0.1 to 300 s."""
    return curve_error(index_of_dispersion(synthetic.arrival_s, WINDOWS_S), real)


def curve_error(curve: np.ndarray, real: Trace) -> float:
    """RMS difference of log10 of an index-of-dispersion curve [15] and the real trace's."""
    ratio = curve / index_of_dispersion(real.arrival_s, WINDOWS_S)
    return float(np.sqrt(np.mean(np.log10(ratio) ** 2)))


def mean_wait_s(trace: Trace, unit_s: float, servers: int = SERVERS) -> float:
    """Mean time before service in a first-come-first-served queue; work is in units of `unit_s` seconds."""
    free_s = [0.0] * servers
    service_s = unit_s * work(trace)
    total_s = 0.0
    for arrival_s, needed_s in zip(trace.arrival_s.tolist(), service_s.tolist(), strict=True):
        start_s = max(arrival_s, free_s[0])
        total_s += start_s - arrival_s
        heapq.heapreplace(free_s, start_s + needed_s)
    return total_s / len(trace)


def work(trace: Trace) -> np.ndarray:
    """Service time of each request in seconds, before scaling to a utilisation."""
    return PREFILL_S * trace.input_tokens + DECODE_S * trace.output_tokens


def unit_for(trace: Trace, utilisation: float, servers: int = SERVERS) -> float:
    """The factor on `work` at which `servers` servers are busy this share of the trace's duration."""
    return float(utilisation * servers * trace.duration_s / work(trace).sum())


@dataclass(frozen=True)
class Closeness:
    """One synthetic trace against the real one; quantile errors are relative."""

    input_ks: float
    output_ks: float
    input_errors: dict[str, float]
    output_errors: dict[str, float]
    dispersion: float


def closeness(synthetic: Trace, real: Trace) -> Closeness:
    """All figures but the wait."""

    def errors(column: str) -> dict[str, float]:
        ours, theirs = length_quantiles(getattr(synthetic, column)), length_quantiles(getattr(real, column))
        return {name: ours[name] / theirs[name] - 1 for name in ours}

    return Closeness(
        kolmogorov_smirnov(synthetic.input_tokens, real.input_tokens),
        kolmogorov_smirnov(synthetic.output_tokens, real.output_tokens),
        errors("input_tokens"),
        errors("output_tokens"),
        dispersion_error(synthetic, real),
    )
