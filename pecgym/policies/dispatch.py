"""Dispatch of shorts: the first goes to a replica at once, or waits for one that can start it."""

from __future__ import annotations

from pecgym.engine.compiled import rule
from pecgym.engine.state import State
from pecgym.policies.base import Policy
from pecgym.policies.view import (
    WAIT,
    can_start,
    first_open_from,
    least_loaded,
    load_of,
    n_replicas,
    next_in_turn,
    random_below,
)


@rule
def least_loaded_startable(state: State, slot: int) -> int:
    """The least loaded replica that could start the request at its next boundary; WAIT if there is none."""
    best = least_loaded(state)
    if best == WAIT or can_start(state, best, slot):
        return best
    best = WAIT
    for r in range(n_replicas(state)):
        if can_start(state, r, slot) and (best == WAIT or load_of(state, r) < load_of(state, best)):
            best = r
    return best


def to_startable(state, slot):  # type: ignore[no-untyped-def]
    """The least loaded replica that could start the request at its next boundary; none: wait, and all behind too."""
    return least_loaded_startable(state, slot)


def to_least_loaded(state, slot):  # type: ignore[no-untyped-def]
    """The least loaded replica without a long, whether it can start the request or not."""
    return least_loaded(state)


def to_next_in_turn(state, slot):  # type: ignore[no-untyped-def]
    """Each replica in turn."""
    return next_in_turn(state)


def to_any(state, slot):  # type: ignore[no-untyped-def]
    """A replica drawn at random, or the next one without a long."""
    return first_open_from(state, random_below(state, n_replicas(state)))


def to_better_of_two(state, slot):  # type: ignore[no-untyped-def]
    """The less loaded of two different replicas drawn at random; a tie goes to the first drawn."""
    replicas = n_replicas(state)
    first = first_open_from(state, random_below(state, replicas))
    if replicas == 1 or first == WAIT:
        return first
    second = first_open_from(state, (first + 1 + random_below(state, replicas - 1)) % replicas)
    if load_of(state, second) < load_of(state, first):
        return second
    return first


ROUND_ROBIN = Policy("round_robin", to_next_in_turn)
RANDOM = Policy("random", to_any)
JSQ_REQUESTS = Policy("jsq_requests", to_least_loaded, load="requests", source="join the shortest queue")
JSQ_TOKENS = Policy(
    "jsq_tokens", to_least_loaded, load="queued_tokens", source="PecSched, arXiv:2409.15104, for shorts"
)
POWER_OF_TWO = Policy(
    "power_of_two", to_better_of_two, load="requests", source="Mitzenmacher, IEEE TPDS 2001, the power of two choices"
)
