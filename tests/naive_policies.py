"""The reference policies in plain code: the specification of pecgym.policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pecgym.costs import STRATEGIES
from tests.engine.role_policies import RESERVES_AT_RANDOM, naive_any_number
from tests.naive_engine import NaiveCluster
from tests.naive_groups import WAIT, Placement
from tests.naive_records import Request


def replicas_of(cluster: NaiveCluster, place_class: str) -> list[int]:
    return [r.index for r in cluster.replicas if cluster.place_class(r) == place_class]


def least_loaded(cluster: NaiveCluster, place_class: str) -> int:
    return min(replicas_of(cluster, place_class), key=lambda r: (cluster.load(r), r), default=WAIT)


# -- shorts ---------------------------------------------------------------------------------------------------------


def to_startable(cluster: NaiveCluster, request: Request) -> int:
    able = [r for r in replicas_of(cluster, "open") if cluster.can_start(cluster.replicas[r], request)]
    return min(able, key=lambda r: (cluster.load(r), r)) if able else WAIT


def to_least_loaded(cluster: NaiveCluster, request: Request) -> int:
    return least_loaded(cluster, "open")


def to_next_in_turn(cluster: NaiveCluster, request: Request) -> int:
    chosen = first_open_from(cluster, cluster.turn)
    if chosen != WAIT:
        cluster.turn = (chosen + 1) % len(cluster.replicas)
    return chosen


def first_open_from(cluster: NaiveCluster, first: int) -> int:
    n = len(cluster.replicas)
    able = replicas_of(cluster, "open")
    for step in range(n):
        if (first + step) % n in able:
            return (first + step) % n
    return WAIT


def to_any(cluster: NaiveCluster, request: Request) -> int:
    return first_open_from(cluster, cluster.random_below(len(cluster.replicas)))


def to_better_of_two(cluster: NaiveCluster, request: Request) -> int:
    n = len(cluster.replicas)
    first = first_open_from(cluster, cluster.random_below(n))
    if n == 1 or first == WAIT:
        return first
    second = first_open_from(cluster, (first + 1 + cluster.random_below(n - 1)) % n)
    return second if cluster.load(second) < cluster.load(first) else first


def in_arrival_order(cluster: NaiveCluster, request: Request) -> int:
    """FIFO: not before a long that came earlier; or to a member that waits for its group, if it does not delay it."""
    if cluster.longs and cluster.longs[0].sequence < request.sequence:
        return WAIT
    chosen = to_startable(cluster, request)
    if chosen == WAIT and cluster.rules.backfill:
        waiting = least_loaded(cluster, "gathering")
        if waiting != WAIT and ends_before_group_is_ready(cluster, waiting, request):
            return waiting
    return chosen


def ends_before_group_is_ready(cluster: NaiveCluster, r: int, request: Request) -> bool:
    replica = cluster.replicas[r]
    if replica.n_requests or cluster.guests(replica):
        return False
    alone = cluster.profile.prefill_ps(request.prompt) + cluster.lone_decode(request.rank - 1, request.prompt)
    return alone <= max(cluster.time_left(member) for member in replica.group.members)  # type: ignore[union-attr]


def pecsched(cluster: NaiveCluster, request: Request) -> Any:
    decode = least_loaded(cluster, "pool")
    free = least_loaded(cluster, "open")
    if free != WAIT:
        return Placement(free, decode)
    beside_decode = least_loaded(cluster, "decode")
    if beside_decode != WAIT:
        return Placement(beside_decode, decode, preempt=cluster.rules.colocation_tokens == 0)
    able = [(k, r) for k, name in enumerate(("gathering", "suspended", "prefill")) for r in replicas_of(cluster, name)]
    if not able:
        return WAIT
    _, r = min(able, key=lambda kr: (cluster.load(kr[1]), kr))
    return Placement(r, decode, preempt=cluster.rules.preemption)


# -- longs ----------------------------------------------------------------------------------------------------------


def when_free(cluster: NaiveCluster, request: Request, idle_only: bool = False) -> Any:
    """Start the long on replicas without a long, as many as the rule for the degree says."""
    place_class = "reserved" if cluster.rules.reserved_replicas else "open"
    able = replicas_of(cluster, place_class)
    if idle_only:
        able = [r for r in able if cluster.replicas[r].n_requests == 0]
    fewest = next(d for d in range(1, 1000) if cluster.share(request, d) <= cluster.capacity)
    degree = choose_degree(cluster, able, fewest)
    if degree > len(able):
        return WAIT
    anchor = best_anchor(cluster, able, degree)
    per_node = cluster.topology.replicas_per_node
    on_node = [r // per_node for r in able].count(anchor // per_node)
    if idle_only and on_node < degree and (degree <= per_node or len(able) < len(replicas_of(cluster, place_class))):
        return WAIT
    return anchor, degree, STRATEGIES.index(cluster.rules.sp_strategy)


def choose_degree(cluster: NaiveCluster, able: list[int], fewest: int) -> int:
    rule, per_node = cluster.rules.sp_degree, cluster.topology.replicas_per_node
    if rule == "memory":
        return fewest
    if rule != "node":
        return max(fewest, int(rule))
    nodes_needed = -(-fewest // per_node)
    on_node = [r // per_node for r in able]
    whole = sum(on_node.count(node) == per_node for node in set(on_node))
    enough = whole >= nodes_needed and nodes_needed * per_node <= cluster.costs.max_degree  # type: ignore[union-attr]
    return nodes_needed * per_node if enough else fewest


def best_anchor(cluster: NaiveCluster, able: list[int], degree: int) -> int:
    """The least loaded replica of the node whose `degree` least loaded ones have the least load together; if no node
    has so many, of the node that has most."""
    per_node = cluster.topology.replicas_per_node
    nodes: dict[int, list[int]] = {}
    for r in sorted(able, key=lambda r: (cluster.load(r), r)):
        nodes.setdefault(r // per_node, []).append(r)
    full = [node for node, members in nodes.items() if len(members) >= degree]
    if full:
        node = min(full, key=lambda n: (total(cluster.load(r) for r in nodes[n][:degree]), n))
    else:
        node = min(nodes, key=lambda n: (-len(nodes[n]), n))
    return nodes[node][0]


def total(loads: Any) -> tuple[int, int]:
    pairs = list(loads)
    return sum(tokens for tokens, _ in pairs), sum(requests for _, requests in pairs)


def long_in_arrival_order(cluster: NaiveCluster, request: Request) -> Any:
    if cluster.queue and cluster.queue[0].sequence < request.sequence:
        return WAIT
    return when_free(cluster, request)


def long_after_shorts(cluster: NaiveCluster, request: Request) -> Any:
    return WAIT if cluster.queue else when_free(cluster, request, idle_only=True)


def pool_by_fill(cluster: NaiveCluster) -> int:
    """One more decode replica when some request waits for one or four fifths of their memory is held, one less when
    the others would not be half full."""
    pool = [r for r in cluster.replicas if cluster.place_class(r) == "pool"]
    used = sum(cluster.used(r, 1 if r.iteration_end is not None and r.with_decodes else 0) for r in pool)
    if any(r.waiting for r in pool) or 5 * used > 4 * len(pool) * cluster.capacity:
        return len(pool) + 1
    if len(pool) > 1 and 2 * used < (len(pool) - 1) * cluster.capacity:
        return len(pool) - 1
    return len(pool)


POLICIES: dict[str, Callable[[NaiveCluster, Request], Any]] = {
    "sjf": to_startable,
    "jsq_requests": to_least_loaded,
    "jsq_tokens": to_least_loaded,
    "srpt": to_least_loaded,
    "round_robin": to_next_in_turn,
    "random": to_any,
    "power_of_two": to_better_of_two,
    "fifo": in_arrival_order,
    "reservation": to_startable,
    "priority": to_startable,
    "pecsched": pecsched,
    "pecsched/PE": pecsched,
    "pecsched/Dis": pecsched,
    "pecsched/CoL": pecsched,
    "pecsched/FSP": pecsched,
    "pecsched_shortest_long": pecsched,
    "pecsched_adaptive_pool": pecsched,
    RESERVES_AT_RANDOM: to_startable,
}
STARTS: dict[str, Callable[[NaiveCluster, Request], Any]] = {
    "fifo": long_in_arrival_order,
    "priority": long_after_shorts,
}
POOLS: dict[str, Callable[[NaiveCluster], int]] = {
    "pecsched_adaptive_pool": pool_by_fill,
    RESERVES_AT_RANDOM: naive_any_number,
}
