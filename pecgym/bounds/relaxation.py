"""One machine as fast as all replicas together, which may stop and resume requests at will.

Whatever a policy does, it gives the requests that are there no more work per second than this machine, and each at
least its least work: so the machine's best sum of completion times is a bound. Its best is to serve the one with the
shortest remaining work first (Schrage 1968). The same argument bounds the end: what arrives from some time on cannot be
done sooner than its work takes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from pecgym.engine.compiled import compile_cached, separate_rule

_SIGNATURE = "float64(float64[::1], float64[::1], float64[::1])"


def mean_flow_ps(arrival_ps: Any, work_ps: Any) -> float:
    """The least mean time from arrival to completion on a machine that does one picosecond of work in each.

    arrival_ps: float64[n], ascending. work_ps: float64[n]. 0 for no requests.
    """
    n = len(arrival_ps)
    if n == 0:
        return 0.0
    arrival, work = np.ascontiguousarray(arrival_ps, np.float64), np.ascontiguousarray(work_ps, np.float64)
    return float(_compiled()(arrival, work, np.empty(n))) / n


def least_end_ps(arrival_ps: Any, work_ps: Any) -> float:
    """The least time at which that machine is done: of every arrival, it and the work that is there from then on."""
    if len(arrival_ps) == 0:
        return 0.0
    return float(np.max(arrival_ps + np.cumsum(work_ps[::-1])[::-1]))


@cache
def _compiled() -> Any:
    return compile_cached(_sum_of_flows, _SIGNATURE)


def _sum_of_flows(arrival: Any, work: Any, heap: Any) -> float:
    """The sum of the times in system: between two events it grows by the number that are there.

    heap: room for the remaining work of each, a binary heap.
    """
    n = len(arrival)
    total = 0.0
    now = 0.0
    size = 0
    for i in range(n + 1):
        until = np.inf
        if i < n:
            until = arrival[i]
        while size > 0 and now + heap[0] <= until:
            total += size * heap[0]
            now += heap[0]
            size -= 1
            heap[0] = heap[size]
            _sift_down(heap, size)
        if i == n:
            break
        if size > 0:
            total += size * (until - now)
            heap[0] -= until - now
        now = until
        heap[size] = work[i]
        _sift_up(heap, size)
        size += 1
    return total


@separate_rule
def _sift_up(heap: Any, i: int) -> None:
    value = heap[i]
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= value:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = value


@separate_rule
def _sift_down(heap: Any, size: int) -> None:
    if size == 0:
        return
    value = heap[0]
    i = 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = value
