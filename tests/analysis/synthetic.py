"""Runs of a small made-up cluster whose log and timeline agree, for the tests of reports and traces.

Replicas 0..3 (node 0) serve one long after the other as a group, 4..6 prefill shorts, 7 decodes them. With
`preempt`, a short that would wait is prefilled on the group, in a gap of the long's prefill.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pecgym.analysis import RequestLog, RunFacts
from pecgym.analysis.timeline import COLOCATED, DECODE, LONG_DECODE, LONG_PREFILL, PREFILL, Timeline
from pecgym.random import random_stream
from pecgym.units import PS_PER_S

GROUP, GENERAL, DECODER, N_REPLICAS = (0, 1, 2, 3), (4, 5, 6), 7, 8
NEVER = -1
EVENTS = ("arrival", "placed", "start", "first_token", "pushed", "finish")
LABELS = {
    "model": "llama-3.1-70b",
    "cluster": "p4de_x4",
    "engine": "vllm",
    "profile": "llama-3.1-70b-a100-80gb-tp4-vllm",
    "workload": "azure2023",
    "scenario": "native",
    "arrival_scale": 0.25,
}


def synthetic_run(
    policy: str = "pecsched", *, n: int = 600, seed: int = 0, preempt: bool = True, gap_s: float = 0.25
) -> tuple[RequestLog, Timeline]:
    """A run of `n` requests, every 40th a long, with arrivals `gap_s` apart on average; the last long never ends."""
    random = random_stream(seed, "synthetic")
    arrival = np.cumsum(random.exponential(gap_s * PS_PER_S, n)).astype(np.int64)
    work = random.lognormal(-1.0, 0.8, n) * PS_PER_S
    inputs = (work / PS_PER_S * 2000).astype(np.int64) + 1
    is_long = np.arange(n) % 40 == 20
    inputs[is_long] += 100_000
    ps = {event: np.full(n, NEVER) for event in EVENTS} | {"arrival": arrival}
    counts: dict[str, Any] = {"row": np.arange(n), "input_tokens": inputs, "output_tokens": np.full(n, 50)}
    counts |= {name: np.full(n, -1) for name in ("replica", "decode_replica")}
    counts |= {name: np.zeros(n, np.int64) for name in ("preemptions", "evictions", "recomputed_tokens")}
    counts["sp_degree"] = np.where(is_long, len(GROUP), 1)
    slices: list[tuple[int, int, int, int, int]] = []

    free = dict.fromkeys(GENERAL, 0)
    gaps: list[tuple[int, int, int]] = []
    for i in np.flatnonzero(~is_long):
        replica = min(free, key=lambda r: free[r])
        start = max(int(arrival[i]), free[replica])
        last_gap = max((end for _, end, _ in gaps), default=0)
        if preempt and start > arrival[i] >= last_gap:
            start, replica = int(arrival[i]), GROUP[i % len(GROUP)]
        end = start + int(work[i])
        if replica in free:
            free[replica] = end
        else:
            gaps.append((start, end, replica))
        slices.append((replica, PREFILL, start, end, -1))
        pushed = end + 8 * PS_PER_S // 1000
        counts["replica"][i], counts["decode_replica"][i] = replica, DECODER
        values = (start, start, end, pushed, pushed + 50 * int(0.03 * PS_PER_S))
        for event, value in zip(EVENTS[1:], values, strict=True):
            ps[event][i] = value

    longs = np.flatnonzero(is_long)
    now = 0
    for i in longs:
        start = now = max(now, int(arrival[i]))
        counts["replica"][i], ps["placed"][i] = GROUP[0], now
        for _, end, _ in (gap for gap in gaps if gap[0] <= now < gap[1]):
            start = now = end
        left = int(8 * PS_PER_S)
        for begin, end, _ in (gap for gap in gaps if gap[0] >= now):
            if begin >= now + left:
                break
            slices += [(r, LONG_PREFILL, now, begin, i) for r in GROUP if begin > now]
            left, now = left - (begin - now), end
            counts["preemptions"][i] += 1
        slices += [(r, LONG_PREFILL, now, now + left, i) for r in GROUP]
        ps["start"][i], now = start, now + left
        if i == longs[-1]:
            break
        ps["first_token"][i] = now
        for _ in range(2):
            blocked = [gap for gap in gaps if gap[0] < now + PS_PER_S and gap[1] > now]
            if blocked:
                now = max(end for _, end, _ in blocked)
            kinds = [LONG_DECODE] * 3 + [COLOCATED]
            if not any(gap[0] < now + PS_PER_S // 2 and gap[1] > now for gap in gaps):
                slices += [(r, kind, now, now + PS_PER_S // 2, i) for r, kind in zip(GROUP, kinds, strict=True)]
                now += PS_PER_S // 2
        ps["finish"][i] = now

    slices += [(DECODER, DECODE, begin, end, -1) for begin, end in _union(ps["pushed"], ps["finish"], ~is_long)]
    replica, kind, start_ps, end_ps, row = np.array(slices, np.int64).T
    timeline = Timeline(replica, kind, start_ps, end_ps, row, n_replicas=N_REPLICAS, replicas_per_node=4)
    facts = RunFacts(
        labels={"policy": policy, **LABELS, "seed": seed},
        gpus=32,
        gpus_per_replica=4,
        end_s=timeline.end_s + 1.0,
        busy_s=timeline.seconds_by_kind().sum(axis=1),
        prefill_s=timeline.seconds_by_kind()[:, [PREFILL, LONG_PREFILL]].sum(axis=1),
        idle_w=60.0,
        decode_w=300.0,
        prefill_w=400.0,
        price_per_gpu_hour_usd=2.0,
        wall_s=0.1,
        notes=("made-up run",),
    )
    return RequestLog(ps, counts, is_long, facts), timeline


def _union(start: Any, end: Any, members: Any) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for begin, until in sorted(zip(start[members].tolist(), end[members].tolist(), strict=True)):
        if runs and begin <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(until, runs[-1][1]))
        else:
            runs.append((begin, until))
    return runs
