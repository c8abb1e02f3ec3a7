"""The reference policies in plain code: the specification of pecgym.policies."""

from __future__ import annotations

from collections.abc import Callable

from tests.naive_engine import WAIT, NaiveCluster, Request


def to_startable(cluster: NaiveCluster, request: Request) -> int:
    able = [r.index for r in cluster.replicas if cluster.can_start(r, request)]
    return min(able, key=lambda r: (cluster.load(r), r)) if able else WAIT


def to_least_loaded(cluster: NaiveCluster, request: Request) -> int:
    return min(range(len(cluster.replicas)), key=lambda r: (cluster.load(r), r))


def to_next_in_turn(cluster: NaiveCluster, request: Request) -> int:
    turn = cluster.turn
    cluster.turn = (turn + 1) % len(cluster.replicas)
    return turn


def to_any(cluster: NaiveCluster, request: Request) -> int:
    return cluster.random_below(len(cluster.replicas))


def to_better_of_two(cluster: NaiveCluster, request: Request) -> int:
    n = len(cluster.replicas)
    first = cluster.random_below(n)
    if n == 1:
        return first
    second = (first + 1 + cluster.random_below(n - 1)) % n
    return second if cluster.load(second) < cluster.load(first) else first


POLICIES: dict[str, Callable[[NaiveCluster, Request], int]] = {
    "fifo": to_startable,
    "sjf": to_startable,
    "jsq_requests": to_least_loaded,
    "jsq_tokens": to_least_loaded,
    "srpt": to_least_loaded,
    "round_robin": to_next_in_turn,
    "random": to_any,
    "power_of_two": to_better_of_two,
}
