"""Every metric, defined once.

| metric | definition |
|---|---|
| queueing delay | arrival to first execution (PecSched) |
| TTFT | arrival to first token, which is the end of prefill |
| TPOT | (finish - first token) / (output tokens - 1), for requests of 2 or more output tokens |
| JCT | arrival to finish |
| makespan | time zero to the last completion; to the end of the run if something is unfinished |
| short throughput | finished shorts / makespan (PecSched) |
| short throughput to the last short | finished shorts / time of the last completion of a short |
| throughput | output tokens of finished requests / makespan; `throughput_rps`: finished requests / makespan |
| quarter throughput | requests / 4 / time from the first arrival until a quarter of them is done (SSJF's code) |
| mean batch size | output tokens / iterations, the requests that an iteration serves: of a prompt in chunks, the last |
| mean KV use | KV tokens held / KV memory of a replica, over the time in which iterations run |
| idle rate | idle / (idle + busy) over GPUs and the makespan (PecSched) |
| starved fraction | longs not finished when the run ends / longs (PecSched) |
| long unfinished at last arrival | longs not finished when the last request arrives / longs |
| energy | GPU-seconds x the profile's watts: of prefills, decodes alone, and idle GPUs, up to the makespan |
| energy per request, per output token | energy, idle GPUs included / finished requests, / their output tokens |
| preemptions | times that a long was suspended for shorts (PecSched) |
| evictions | times that a request lost its KV memory to others |
| short, long, all | of the requests of that class; without one of them, of all requests |

A request that has not started counts in the queueing delay with its wait so far, a lower bound: leaving it out would
make a policy that never serves it look good. The mean batch size and KV use are of runs without longs, whose iterations
count on every replica of their group, in which everything finished.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pecgym.costs import cost_usd, energy_joules
from pecgym.engine.state import NONE as NEVER
from pecgym.units import J_PER_KWH

if TYPE_CHECKING:
    from pecgym.analysis.request_log import RequestLog
    from pecgym.predictors import Accuracy

PERCENTILES = (1, 25, 50, 75, 90, 95, 99)
TAIL_PERCENTILES = (50, 90, 95, 99)


def queueing_delay_s(log: RequestLog) -> Any:
    """float64[n]: arrival to first execution; for a request that has not started, its wait so far."""
    start = log.seconds("start")
    return np.where(np.isnan(start), log.facts.end_s, start) - log.seconds("arrival")


def ttft_s(log: RequestLog) -> Any:
    """float64[n]: arrival to first token, NaN if there was none."""
    return log.seconds("first_token") - log.seconds("arrival")


def tpot_s(log: RequestLog) -> Any:
    """float64[n]: mean time between a request's tokens, NaN if unfinished or of one token."""
    gaps = log.counts["output_tokens"] - 1
    spent = log.seconds("finish") - log.seconds("first_token")
    return np.divide(spent, gaps, out=np.full(len(log), np.nan), where=gaps > 0)


def jct_s(log: RequestLog) -> Any:
    """float64[n]: arrival to finish, NaN if unfinished."""
    return log.seconds("finish") - log.seconds("arrival")


def makespan_s(log: RequestLog) -> float:
    """Seconds from time zero to the last completion, or to the run's end if something is unfinished."""
    finish = log.ps["finish"]
    if len(log) and np.all(finish != NEVER):
        return float(np.max(log.seconds("finish")))
    return log.facts.end_s


def quarter_throughput_rps(log: RequestLog) -> float | None:
    """A quarter of the requests / seconds from the first arrival until a quarter of them is done; None before that."""
    finish_s = np.sort(log.seconds("finish"))
    last = math.ceil(len(log) / 4) - 1
    if last < 0 or np.isnan(finish_s[last]):
        return None
    return _ratio(len(log) / 4, finish_s[last] - log.seconds("arrival").min())


def mean_batch_size(log: RequestLog) -> float | None:
    """Output tokens for each iteration; None with longs, with unfinished requests, or where nobody counted."""
    if log.facts.iterations is None or not _is_of_shorts_that_ended(log):
        return None
    return _ratio(log.counts["output_tokens"].sum(), log.facts.iterations)


def mean_kv_use(log: RequestLog) -> float | None:
    """Share of the replicas' KV memory that is held, over the time in which they run iterations; None as above."""
    facts = log.facts
    if facts.kv_token_s is None or facts.kv_capacity_tokens is None or not _is_of_shorts_that_ended(log):
        return None
    return _ratio(facts.kv_token_s, float(np.sum(facts.busy_s)) * facts.kv_capacity_tokens)


def _is_of_shorts_that_ended(log: RequestLog) -> bool:
    """Whether every iteration was of shorts, and every one has ended."""
    return not log.is_long.any() and not np.any(log.ps["finish"] == NEVER)


def idle_rate(log: RequestLog) -> float | None:
    """Share of the replicas' time, up to the makespan, in which no iteration ran."""
    span = makespan_s(log) * len(log.facts.busy_s)
    return 1 - float(np.sum(log.facts.busy_s)) / span if span > 0 else None


def energy_j(log: RequestLog) -> float:
    """Joules that all GPUs drew up to the makespan."""
    facts = log.facts
    busy_gpu_s, prefill_gpu_s = (float(np.sum(s)) * facts.gpus_per_replica for s in (facts.busy_s, facts.prefill_s))
    gpu_s = makespan_s(log) * facts.gpus
    return energy_joules(gpu_s, busy_gpu_s, prefill_gpu_s, facts.idle_w, facts.decode_w, facts.prefill_w)


def predictor_figures(accuracy: Accuracy | None) -> dict[str, float | None]:
    """How good the predicted lengths were that a run's orders read (pecgym.predictors); None: they read none, or, of
    tau, all were the same."""
    keys = ("kendall_tau", "mae_tokens", "within_one_class", "calibration")
    if accuracy is None:
        return {f"predictor_{key}": None for key in keys}
    figures = {f"predictor_{key}": float(getattr(accuracy, key)) for key in keys}
    return {key: None if np.isnan(figure) else figure for key, figure in figures.items()}


def metrics_row(log: RequestLog) -> dict[str, Any]:
    """One row of a result table: the run's labels, then every metric; None where one does not apply."""
    facts = log.facts
    finished = log.ps["finish"] != NEVER
    short, long = ~log.is_long, log.is_long
    span_s = makespan_s(log)
    delay = queueing_delay_s(log)
    row: dict[str, Any] = dict(facts.labels)
    row |= {"n_requests": len(log), "n_long": int(long.sum()), "n_finished": int(finished.sum()), "makespan_s": span_s}
    for group, members in (("short", short), ("long", long), ("all", short | long)):
        row |= _percentiles(f"{group}_queueing_delay", delay[members])
    row["short_throughput_rps"] = _ratio((finished & short).sum(), span_s) if short.any() else None
    last_short_s = float(np.nanmax(log.seconds("finish")[short], initial=0)) if finished[short].all() else span_s
    row["short_throughput_to_last_short_rps"] = _ratio(finished[short].sum(), last_short_s) if short.any() else None
    row["throughput_rps"] = _ratio(finished.sum(), span_s)
    row["quarter_throughput_rps"] = quarter_throughput_rps(log)
    row["throughput_tokens_per_s"] = _ratio(log.counts["output_tokens"][finished].sum(), span_s)
    measures = {"ttft": ttft_s(log), "tpot": tpot_s(log), "jct": jct_s(log)}
    for name, values in measures.items():
        row |= mean_and_tail(name, values)
    for group, members in (("short", short), ("long", long)):
        for name in ("ttft", "jct"):
            row |= mean_and_tail(f"{group}_{name}", measures[name][members])
    row["preemptions"] = int(log.counts["preemptions"].sum())
    row["evictions"] = int(log.counts["evictions"].sum())
    row["recomputed_tokens"] = int(log.counts["recomputed_tokens"].sum())
    row["mean_batch_size"] = mean_batch_size(log)
    row["mean_kv_use"] = mean_kv_use(log)
    row["idle_rate"] = idle_rate(log)
    row["starved_fraction"] = _ratio((long & ~finished).sum(), long.sum())
    in_time = finished & (log.ps["finish"] <= log.ps["arrival"].max(initial=0))
    row["long_unfinished_at_last_arrival"] = _ratio((long & ~in_time).sum(), long.sum())
    gpu_s = span_s * facts.gpus
    row["gpu_hours"] = gpu_s / 3600
    row["cost_usd"] = cost_usd(gpu_s, facts.price_per_gpu_hour_usd)
    joules = energy_j(log)
    row["energy_kwh"] = joules / J_PER_KWH
    row["energy_per_request_j"] = _ratio(joules, finished.sum())
    row["energy_per_output_token_j"] = _ratio(joules, log.counts["output_tokens"][finished].sum())
    row |= predictor_figures(facts.predictions)
    row["engine_wall_s"] = facts.wall_s
    row["notes"] = list(facts.notes)
    if not finished.all():
        row["notes"].append(
            f"{facts.labels['policy']}: {int((~finished).sum())} of {len(log)} requests unfinished; "
            "TTFT, TPOT and JCT are of those that got so far"
        )
    return row


def _percentiles(name: str, values: Any, percentiles: tuple[int, ...] = PERCENTILES) -> dict[str, float | None]:
    known = values[~np.isnan(values)]
    found = np.percentile(known, percentiles) if len(known) else [None] * len(percentiles)
    return {f"{name}_p{p}_s": None if v is None else float(v) for p, v in zip(percentiles, found, strict=True)}


def mean_and_tail(name: str, values: Any) -> dict[str, float | None]:
    """Mean and upper percentiles of seconds, float64[n], under their keys; NaN: not happened, left out."""
    return {f"{name}_mean_s": _mean(values)} | _percentiles(name, values, TAIL_PERCENTILES)


def _mean(values: Any) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole > 0 else None
