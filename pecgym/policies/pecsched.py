"""PecSched: preemptive scheduling of shorts and longs on one cluster (arXiv:2409.15104), its ablations, and variants.

Every switch of the paper is one of the policy's LongRules, so an ablation is PecSched with one rule changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pecgym.engine.long_rules import MEMORY, LongRules
from pecgym.engine.orders import OrderRules
from pecgym.policies.base import Policy
from pecgym.policies.long_requests import when_free
from pecgym.policies.view import (
    DECODING_LONG,
    GATHERING_LONG,
    OPEN,
    POOL,
    PREFILLING_LONG,
    SUSPENDED_LONG,
    WAIT,
    count_of,
    least_loaded_of,
    load_of,
    placement,
    pool_fill,
)


def place_short(state, slot):  # type: ignore[no-untyped-def]
    """Of the least loaded: (a) a replica without a long; else (b) beside a long that decodes; else (c) in front of a
    long that has not begun, with one that is suspended, or in place of one that prefills (ties in this order). It
    decodes on a decode replica, if there are any."""
    settings = state.settings[0]
    decode = least_loaded_of(state, POOL)
    free = least_loaded_of(state, OPEN)
    if free != WAIT:
        return placement(free, decode, False)
    beside = least_loaded_of(state, DECODING_LONG)
    if beside != WAIT:
        return placement(beside, decode, settings.colocation_tokens == 0)
    best = WAIT
    for place_class in (GATHERING_LONG, SUSPENDED_LONG, PREFILLING_LONG):
        r = least_loaded_of(state, place_class)
        if r != WAIT and (best == WAIT or load_of(state, r) < load_of(state, best)):
            best = r
    if best == WAIT:
        return WAIT
    return placement(best, decode, settings.preemption == 1)


def pool_by_fill(state, slot):  # type: ignore[no-untyped-def]
    """One more decode replica when somebody waits for one or four fifths of their memory are in use; one less when the
    others would then not be half full."""
    waits, used, capacity = pool_fill(state)
    replicas = count_of(state, POOL)
    if waits or 5 * used > 4 * replicas * capacity:
        return replicas + 1
    if replicas > 1 and 2 * used < (replicas - 1) * capacity:
        return replicas - 1
    return replicas


PECSCHED = Policy(
    "pecsched",
    place_short,
    start=when_free,
    load="queued_tokens",
    rules=LongRules(sp_strategy="fast", preemption=True, colocation_tokens=1024, decode_replicas=0.125),
    source="PecSched, arXiv:2409.15104: 4, 4, 1, 1 decode replicas of 32, 32, 8, 8",
)


def _variant(name: str, source: str, pool: Callable[..., Any] | None = None, **changes: Any) -> Policy:
    return replace(PECSCHED, name=name, source=source, pool=pool, rules=PECSCHED.rules.with_changes(**changes))


NO_PREEMPTION = _variant("pecsched/PE", "ablation: a short waits for the long prefill", preemption=False)
NO_DISAGGREGATION = _variant("pecsched/Dis", "ablation: shorts decode where they prefilled", decode_replicas=0.0)
NO_COLOCATION = _variant("pecsched/CoL", "ablation: a short preempts a long decode as well", colocation_tokens=0)
NO_FAST_SP = _variant("pecsched/FSP", "ablation: ring attention only", sp_strategy="ring")

SHORTEST_LONG = _variant("pecsched_shortest_long", "variant: the shortest waiting long first", long_order="shortest")
FEWEST_REPLICAS = _variant("pecsched_fewest", "variant: the fewest replicas that hold a long", sp_degree=MEMORY)
ADAPTIVE_POOL = _variant(
    "pecsched_adaptive_pool", "variant: decode replicas by their load", pool=pool_by_fill, pool_interval_s=10.0
)
PREDICTED_LONG = replace(
    _variant("pecsched_ssjf_long", "variant: longs by SSJF, by the time that they would take alone", long_order="ssjf"),
    order=OrderRules(lengths="predicted"),
)
