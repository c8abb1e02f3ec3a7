"""Scenarios: the same requests at a chosen load.

Offered load is the rate of arrival times the mean work of a request, over the number of replicas. The work of a short
is 1 / (shorts per second that one replica completes when they never run out): measured, as batching decides it. The
work of a long is a closed form: degree x (prefill + decode with a shared-out cache), on the fewest replicas that hold
it, in as few nodes as these need, with the cheapest strategy, undisturbed. What policies add to it (larger groups,
replicas that wait for others, preemptions, replicas set apart) uses up capacity: at a load below 1 one policy may be
stable and another not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pecgym.costs import STRATEGIES, GroupCosts, Profile
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


def long_work_s(
    input_tokens: int, output_tokens: int, costs: GroupCosts, profile: Profile, replica_tokens: int, per_node: int
) -> float:
    """Replica-seconds of a long on the fewest replicas that hold it, with the cheapest strategy.

    replica_tokens: KV memory of a replica. per_node: replicas on a node.
    """
    degree = -(-(input_tokens + output_tokens - 1) // replica_tokens)
    nodes = -(-degree // per_node)
    return min(
        sum(group_work_s(input_tokens, output_tokens, costs, profile, degree, nodes, strategy))
        for strategy in range(len(STRATEGIES))
    )


def group_work_s(
    input_tokens: int,
    output_tokens: int,
    costs: GroupCosts,
    profile: Profile,
    degree: int,
    nodes: int,
    strategy: int,
) -> tuple[float, float]:
    """Replica-seconds of the prefill and of the decode of a long on `degree` replicas of `nodes` nodes, undisturbed.

    strategy: of sequence parallelism, index in STRATEGIES. Raises SpecError for a group that cannot be.
    """
    prefill_ps = costs.prefill_ps(strategy, degree, nodes, input_tokens)
    steps = output_tokens - 1
    sync_ps = int(costs.decode_sync_ps[costs.shape_index[degree, nodes]])
    step_ps = profile.g_ps(1) + profile.decode_base_ps + profile.decode_seq_ps + sync_ps
    read_tokens = steps * input_tokens + steps * (steps - 1) // 2
    decode_ps = steps * step_ps + read_tokens * int(costs.decode_kv_ps[degree])
    return degree * prefill_ps / PS_PER_S, degree * decode_ps / PS_PER_S


def work_s(
    trace: Trace, profile: Profile, settings: EngineSettings, costs: GroupCosts | None = None, per_node: int = 1
) -> float:
    """Mean replica-seconds of work of a request of the trace: see the top of this module.

    costs: of groups of replicas, needed for longs. per_node: replicas on a node.
    """
    shorts = trace.take(~trace.is_long)
    total_s = len(shorts) / capacity_rps(shorts, profile, settings) if len(shorts) else 0.0
    if len(shorts) < len(trace):
        if costs is None:
            raise SpecError(f"workload {trace.name!r} has long requests: their work needs the costs of groups")
        resolved = settings.resolved(profile)
        assert resolved.kv_capacity_tokens is not None
        assert resolved.block_tokens is not None
        replica_tokens = resolved.kv_capacity_tokens // resolved.block_tokens * resolved.block_tokens
        for row in np.flatnonzero(trace.is_long):
            tokens = int(trace.input_tokens[row]), int(trace.output_tokens[row])
            total_s += long_work_s(*tokens, costs, profile, replica_tokens, per_node)
    return total_s / len(trace)


def scale_to_load(
    trace: Trace,
    load: float,
    n_replicas: int,
    profile: Profile,
    settings: EngineSettings,
    costs: GroupCosts | None = None,
    per_node: int = 1,
) -> tuple[Trace, float]:
    """The trace, stretched in time so that it offers `load` times the capacity of `n_replicas`, and the rate's factor.

    Stretching keeps the order of requests and the burstiness over windows that stretch with it (docs/workloads.md).
    costs, per_node: as in `work_s`. Raises SpecError for a load that is not above 0 or a trace without a rate.
    """
    if not load > 0:
        raise SpecError(f"scenario.load={load}: must be above 0")
    if len(trace) < 2 or trace.duration_s == 0:
        raise SpecError(f"workload {trace.name!r} has no rate to scale: it needs requests at two different times")
    factor = load * n_replicas / work_s(trace, profile, settings, costs, per_node) / trace.rate_rps
    return trace.scale_rate(factor), factor
