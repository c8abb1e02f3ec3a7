"""When a long starts: on replicas that serve no other long, as many as the rule for the degree says."""

from __future__ import annotations

from pecgym.engine.compiled import rule
from pecgym.engine.state import State
from pecgym.policies.view import (
    WAIT,
    arrived_before,
    best_anchor,
    degree_of_long,
    enough_for_long,
    fewest_replicas,
    group,
)


@rule
def start_on_free(state: State, slot: int, idle_only: bool) -> int:
    """A group for the long if enough replicas are able to serve it; else it waits."""
    if not enough_for_long(state, fewest_replicas(state, slot), idle_only):
        return WAIT
    degree = degree_of_long(state, slot, idle_only)
    if not enough_for_long(state, degree, idle_only):
        return WAIT
    anchor = best_anchor(state, degree, idle_only)
    if anchor == WAIT:
        return WAIT
    return group(anchor, degree, state.settings[0].strategy)


def when_free(state, slot):  # type: ignore[no-untyped-def]
    """As soon as enough replicas serve no long; what shorts have begun there ends first."""
    return start_on_free(state, slot, False)


def in_arrival_order(state, slot):  # type: ignore[no-untyped-def]
    """When free, and not before a short that came earlier."""
    if arrived_before(state, state.cluster[0].queue, slot):
        return WAIT
    return start_on_free(state, slot, False)


def after_all_shorts(state, slot):  # type: ignore[no-untyped-def]
    """Only while no short waits, on replicas that have none."""
    if state.cluster[0].n_queued > 0:
        return WAIT
    return start_on_free(state, slot, True)
