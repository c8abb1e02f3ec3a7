"""The bounds of one run's metrics, under the metrics' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.analysis.distance import BOUND
from pecgym.analysis.metrics import mean_and_tail
from pecgym.bounds.relaxation import least_end_ps, mean_flow_ps
from pecgym.bounds.work import LeastWork, least_work
from pecgym.cluster import Cluster
from pecgym.costs import cost_usd, energy_joules
from pecgym.errors import SpecError
from pecgym.units import J_PER_KWH, PS_PER_S, seconds_to_ps
from pecgym.workload import ClosedLoop, Trace


def bound_row(cluster: Cluster) -> dict[str, Any]:
    """A row of bounds for the cluster's workload, by the keys of `RequestLog.metrics`: the labels with BOUND as the
    policy, and of every metric that has a bound the least value (of throughputs the greatest) that any policy can reach
    that serves everything, None where the workload has no such request.

    Raises SpecError for a closed loop, whose arrivals depend on the policy.
    """
    if isinstance(cluster.workload, ClosedLoop):
        raise SpecError("no bound for a closed loop: when its requests arrive depends on the policy")
    trace = cluster.trace
    longest_context = int((trace.input_tokens + trace.output_tokens).max(initial=0))
    facts = cluster.facts(int(trace.input_tokens.max(initial=0)), longest_context)
    work = least_work(trace, cluster.n_replicas, cluster.profile, cluster.engine, cluster.group_costs)
    row = dict(facts.labels) | {"policy": BOUND, "predictor": None} | metric_bounds(trace, cluster.n_replicas, work)
    gpu_s = row["makespan_s"] * facts.gpus
    busy_gpu_s, prefill_gpu_s = (
        float(each.sum()) / PS_PER_S * facts.gpus_per_replica for each in (work.work_ps, work.prefill_work_ps)
    )
    if facts.prefill_w < facts.decode_w:
        prefill_gpu_s = busy_gpu_s
    joules = energy_joules(gpu_s, busy_gpu_s, prefill_gpu_s, facts.idle_w, facts.decode_w, facts.prefill_w)
    row["gpu_hours"] = gpu_s / 3600
    row["cost_usd"] = cost_usd(gpu_s, facts.price_per_gpu_hour_usd)
    row["energy_kwh"] = joules / J_PER_KWH
    row["energy_per_request_j"] = joules / len(trace)
    row["energy_per_output_token_j"] = joules / int(trace.output_tokens.sum())
    row["notes"] = list(facts.notes)
    return row


def metric_bounds(trace: Trace, n_replicas: int, work: LeastWork) -> dict[str, Any]:
    """The bounds of the metrics that requests have, in seconds or per second. work: of the trace's requests."""
    short, long = ~trace.is_long, trace.is_long
    n, n_short = len(trace), int(short.sum())
    demand = _Demand(seconds_to_ps(trace.arrival_s).astype(np.float64), n_replicas, work)
    end_s = max(demand.end_s(short | long, work.work_ps), *(demand.end_s(m, work.of_class_ps) for m in (short, long)))
    short_end_s = demand.end_s(short, work.of_class_ps)
    row: dict[str, Any] = {"n_requests": n, "n_long": n - n_short, "makespan_s": end_s}
    row["short_throughput_rps"] = _rate(n_short, end_s)
    row["short_throughput_to_last_short_rps"] = _rate(n_short, short_end_s)
    row["throughput_rps"] = _rate(n, end_s)
    row["throughput_tokens_per_s"] = _rate(int(trace.output_tokens.sum()), end_s)
    ttft_s, jct_s = work.prefill_ps / PS_PER_S, (work.prefill_ps + work.decode_ps) / PS_PER_S
    gaps = trace.output_tokens - 1
    row |= mean_and_tail("tpot", np.divide(work.decode_ps / PS_PER_S, gaps, out=np.full(n, np.nan), where=gaps > 0))
    sums = dict.fromkeys(("ttft", "jct"), 0.0)
    for name, members in (("short_", short), ("long_", long)):
        row |= mean_and_tail(f"{name}ttft", ttft_s[members]) | mean_and_tail(f"{name}jct", jct_s[members])
        if members.any():
            for metric, mean_s in demand.means_s(members, work.of_class_ps).items():
                row[f"{name}{metric}_mean_s"] = mean_s
                sums[metric] += mean_s * int(members.sum())
    row |= mean_and_tail("ttft", ttft_s) | mean_and_tail("jct", jct_s)
    for metric, mean_s in demand.means_s(short | long, work.work_ps).items():
        row[f"{metric}_mean_s"] = max(mean_s, sums[metric] / n)
    return row


def _rate(amount: int, end_s: float) -> float | None:
    """The most per second if so much is done by `end_s` at the earliest; None for nothing to do, or no bound."""
    return amount / end_s if amount and end_s > 0 else None


@dataclass(frozen=True)
class _Demand:
    """Requests that want to be served: when each arrives, float64[n] ps, by how many replicas, and its least work."""

    arrival_ps: NDArray[np.float64]
    n_replicas: int
    work: LeastWork

    def end_s(self, members: Any, work_ps: NDArray[np.float64]) -> float:
        """When the members can be done: not before their work is, and not before each alone would be."""
        arrival = self.arrival_ps[members]
        alone = (arrival + self.work.prefill_ps[members] + self.work.decode_ps[members]).max(initial=0.0)
        return max(float(alone), least_end_ps(arrival, work_ps[members] / self.n_replicas)) / PS_PER_S

    def means_s(self, members: Any, work_ps: NDArray[np.float64]) -> dict[str, float]:
        """Mean time of the members to their first and to their last token; the time between the two is none that
        others could shorten."""
        arrival, work = self.arrival_ps[members], self.work
        relaxed = mean_flow_ps(arrival, work.prefill_work_ps[members] / self.n_replicas)
        ttft = max(relaxed, float(work.prefill_ps[members].mean()))
        relaxed = mean_flow_ps(arrival, work_ps[members] / self.n_replicas)
        jct = max(relaxed, ttft + float(work.decode_ps[members].mean()))
        return {"ttft": ttft / PS_PER_S, "jct": jct / PS_PER_S}
