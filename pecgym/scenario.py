"""Scenarios: the same requests at a chosen load."""

from __future__ import annotations

from typing import Any

import numpy as np

from pecgym.costs import Profile
from pecgym.engine import EngineSettings, Simulator
from pecgym.errors import SpecError
from pecgym.policies.dispatch import to_least_loaded
from pecgym.units import PS_PER_S
from pecgym.workload import Trace

SAMPLE_REQUESTS = 4000
SAMPLE_BATCHES = 16


def capacity_rps(trace: Trace, profile: Profile, settings: EngineSettings) -> float:
    """Requests per second that one replica completes when requests of this kind never run out.

    Many of them, an even sample of the trace or the trace over and over, are offered to one replica at once. Counted is
    the middle 80% of the completions, after the batch has filled and before it drains.
    """
    rows = _sample_rows(len(trace), max(SAMPLE_REQUESTS, SAMPLE_BATCHES * settings.slots))
    burst = Trace(np.zeros(len(rows)), trace.input_tokens[rows], trace.output_tokens[rows], name=trace.name)
    simulator = Simulator(1, profile, settings, choose=to_least_loaded, load="requests")
    simulator.load_trace(burst)
    simulator.run()
    finish = np.sort(simulator.finished().finish_ps)
    first, last = len(finish) // 10, len(finish) - 1 - len(finish) // 10
    if finish[last] == finish[first]:
        return float(len(finish) * PS_PER_S / finish[-1])
    return float((last - first) * PS_PER_S / (finish[last] - finish[first]))


def _sample_rows(n: int, wanted: int) -> Any:
    """`wanted` rows of n: evenly spread, or, of a shorter trace, all of them again and again."""
    if n >= wanted:
        return np.linspace(0, n - 1, wanted).astype(np.int64)
    return np.arange(wanted) % n


def scale_to_load(
    trace: Trace, load: float, n_replicas: int, profile: Profile, settings: EngineSettings
) -> tuple[Trace, float]:
    """The trace, stretched in time so that it offers `load` times the capacity of `n_replicas`, and the rate's factor.

    Stretching keeps the order of requests and the burstiness over windows that stretch with it (docs/workloads.md).
    Raises SpecError for a load that is not above 0 or a trace without a rate.
    """
    if not load > 0:
        raise SpecError(f"scenario.load={load}: must be above 0")
    if len(trace) < 2 or trace.duration_s == 0:
        raise SpecError(f"workload {trace.name!r} has no rate to scale: it needs requests at two different times")
    factor = load * capacity_rps(trace, profile, settings) * n_replicas / trace.rate_rps
    return trace.scale_rate(factor), factor
