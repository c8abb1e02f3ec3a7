"""PecSched's rivals: FIFO, Reservation and Priority (arXiv:2409.15104)."""

from __future__ import annotations

from pecgym.engine.long_rules import LongRules
from pecgym.policies.base import Policy
from pecgym.policies.dispatch import least_loaded_startable, to_startable
from pecgym.policies.long_requests import after_all_shorts, in_arrival_order, when_free
from pecgym.policies.view import (
    GATHERING_LONG,
    WAIT,
    arrived_before,
    ends_before_group_is_ready,
    least_loaded_of,
)


def not_before_a_long(state, slot):  # type: ignore[no-untyped-def]
    """The least loaded replica that could start the short, if no long came earlier and still waits.

    With backfill also a member of a group that gathers, if the short ends before the last member can be ready.
    """
    if arrived_before(state, state.cluster[0].longs, slot):
        return WAIT
    chosen = least_loaded_startable(state, slot)
    if chosen == WAIT and state.settings[0].backfill == 1:
        waiting = least_loaded_of(state, GATHERING_LONG)
        if waiting != WAIT and ends_before_group_is_ready(state, waiting, slot):
            return waiting
    return chosen


FIFO = Policy(
    "fifo",
    not_before_a_long,
    start=in_arrival_order,
    load="queued_tokens",
    rules=LongRules(sp_strategy="ring"),
    source="vLLM in PecSched, arXiv:2409.15104: strict arrival order; longs by ring attention",
)
RESERVATION = Policy(
    "reservation",
    to_startable,
    start=when_free,
    load="queued_tokens",
    rules=LongRules(sp_strategy="ring"),
    reserves=True,
    source="Llumnix as a static split in PecSched: some replicas for longs only, the rest for shorts",
)
PRIORITY = Policy(
    "priority",
    to_startable,
    start=after_all_shorts,
    load="queued_tokens",
    rules=LongRules(sp_strategy="ring"),
    source="Past-Future in PecSched: shorts first, a long starts only when no short waits; nothing is preempted",
)
