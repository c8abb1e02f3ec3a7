"""What could be decided in place of a policy's answer, one lever at a time: the candidates of the planner.

The levers are the controls of the environments (docs/environment.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pecgym.costs.strategies import STRATEGIES
from pecgym.engine import Decision, Simulator
from pecgym.engine.cluster import INDEX_BITS, STRATEGY_BITS
from pecgym.engine.state import NONE, RESERVED, State
from pecgym.policies.view import (
    DECODING_LONG,
    OPEN,
    POOL,
    WAIT,
    best_anchor,
    degree_of_long,
    fewest_replicas,
    group,
    least_loaded_of,
    placement,
)

OF_SHORTS = ("placement", "preemption", "disaggregation")
OF_LONGS = ("start", "order", "sp_degree", "sp_strategy")
OF_ROLES = ("roles",)
_MASK = (1 << INDEX_BITS) - 1


def fewest(state, slot):  # type: ignore[no-untyped-def]
    """The fewest replicas that hold the long."""
    return fewest_replicas(state, slot)


def by_rule(state, slot):  # type: ignore[no-untyped-def]
    """How many replicas serve the long by the rule `sp_degree`."""
    return degree_of_long(state, slot, False)


def anchor_of(state, degree):  # type: ignore[no-untyped-def]
    """Where a group of that many replicas is best begun."""
    return best_anchor(state, degree, False)


def decode_replica(state, slot):  # type: ignore[no-untyped-def]
    """The least loaded decode replica; WAIT, which is NONE, if there is none."""
    return least_loaded_of(state, POOL)


# -- where a short goes ---------------------------------------------------------------------------------------------


def placements(simulator: Simulator, decision: Decision, answer: int, controls: frozenset[str]) -> Iterator[int]:
    """Other placements of the first short than a policy's `answer`: first the best replica of every class."""
    state = decision.state
    decode = simulator.answer(decode_replica, decision.slot)
    if answer != WAIT and "preemption" in controls and _serves_long(state, answer & _MASK):
        yield answer ^ (1 << (2 * INDEX_BITS))
    if answer != WAIT and "disaggregation" in controls and decode != NONE:
        keeps = (answer >> INDEX_BITS) & _MASK == 0
        yield placement(answer & _MASK, decode if keeps else NONE, bool(answer >> (2 * INDEX_BITS)))
    if "placement" in controls:
        for r in _unlike_replicas(state):
            preempts = _preempts_by_rule(state, r)
            yield placement(r, decode, preempts)
            if "preemption" in controls and _serves_long(state, r):
                yield placement(r, decode, not preempts)
        yield WAIT


def _serves_long(state: State, r: int) -> bool:
    return bool(OPEN < state.replicas[r].place_class <= DECODING_LONG)


def _preempts_by_rule(state: State, r: int) -> bool:
    """As in the environments: beside a decode if nothing may run there, else where preemption is on."""
    settings = state.settings[0]
    if state.replicas[r].place_class == DECODING_LONG:
        return bool(settings.colocation_tokens == 0)
    return bool(settings.preemption == 1 and _serves_long(state, r))


def _unlike_replicas(state: State) -> list[int]:
    """Replicas that take shorts, one of those that are alike (class, long, load): the best of every class first, then
    the second best."""
    kinds: dict[tuple[int, int, int], int] = {}
    for r, place_class in enumerate(state.replicas["place_class"].tolist()):
        if place_class <= DECODING_LONG:
            kinds.setdefault((place_class, int(state.loads[place_class, r]), int(state.replicas["lead"][r])), r)
    ranked: dict[int, list[int]] = {}
    for kind in sorted(kinds):
        ranked.setdefault(kind[0], []).append(kinds[kind])
    most = max(map(len, ranked.values()), default=0)
    return [of_class[rank] for rank in range(most) for _, of_class in sorted(ranked.items()) if rank < len(of_class)]


# -- whether, which and how a long starts ---------------------------------------------------------------------------


def starts(
    simulator: Simulator,
    decision: Decision,
    answer: int,
    controls: frozenset[str],
    start: Callable[..., Any],
    n_longs: int,
) -> Iterator[int]:
    """Other starts of a long than a policy's `answer`. start: the policy's function. n_longs: how many of the waiting
    longs are looked at."""
    state = decision.state
    largest = min(int(state.class_counts[state.settings[0].long_class]), simulator.max_degree)
    first, *later = waiting_longs(simulator)[: n_longs if "order" in controls else 1]
    for index, slot in enumerate(later, 1):
        other = simulator.answer(start, slot)
        if other != WAIT:
            yield other | (index << (2 * INDEX_BITS + STRATEGY_BITS))
    if answer != WAIT:
        yield from _other_groups(simulator, answer, controls, simulator.answer(fewest, first), largest)
        if "start" in controls:
            yield WAIT
    elif "start" in controls:
        strategy = int(state.settings[0].strategy)
        for index, slot in enumerate((first, *later)):
            degrees = {simulator.answer(by_rule, slot)}
            if "sp_degree" in controls:
                degrees |= set(_degrees(state, simulator.answer(fewest, slot), largest))
            for degree in sorted(degrees):
                if degree <= largest:
                    yield group(simulator.answer(anchor_of, degree), degree, strategy, index)


def _other_groups(
    simulator: Simulator, answer: int, controls: frozenset[str], fewest_of_long: int, largest: int
) -> Iterator[int]:
    """Other groups for the first long than that of `answer`."""
    state = simulator.state
    anchor, degree = answer & _MASK, (answer >> INDEX_BITS) & _MASK
    strategy = (answer >> (2 * INDEX_BITS)) & ((1 << STRATEGY_BITS) - 1)
    if "sp_degree" in controls:
        for other in _degrees(state, fewest_of_long, largest):
            if other != degree:
                yield group(simulator.answer(anchor_of, other), other, strategy)
    if "sp_strategy" in controls:
        for other in range(len(STRATEGIES)):
            if other != strategy:
                yield group(anchor, degree, other)
    if "start" in controls:
        for r in _best_of_nodes(state):
            if r != anchor:
                yield group(r, degree, strategy)


def _degrees(state: State, fewest_of_long: int, largest: int) -> list[int]:
    """Degrees that are tried: the fewest, powers of two, whole nodes, and all that are free."""
    per_node = int(state.settings[0].replicas_per_node)
    powers = {1 << j for j in range(largest.bit_length())}
    tried = powers | set(range(per_node, largest + 1, per_node)) | {fewest_of_long, largest}
    return sorted(degree for degree in tried if fewest_of_long <= degree <= largest)


def _best_of_nodes(state: State) -> list[int]:
    """Of every node, the least loaded replica that serves longs and has none."""
    long_class, per_node = int(state.settings[0].long_class), int(state.settings[0].replicas_per_node)
    able = np.flatnonzero(state.replicas["place_class"] == long_class)
    best: dict[int, int] = {}
    for r in able[np.argsort(state.loads[long_class, able], kind="stable")].tolist():
        best.setdefault(r // per_node, r)
    return list(best.values())


def waiting_longs(simulator: Simulator) -> list[int]:
    """Slots of the longs that wait for a group, in their order."""
    state = simulator.state
    cluster, requests = state.cluster[0], state.requests
    waits = (requests["is_long"] == 1) & (requests["placed_ps"] == NONE) & (requests["arrival_ps"] <= cluster.now_ps)
    waits[state.free_slots[: cluster.n_free]] = False
    slots = np.flatnonzero(waits)
    order = np.lexsort((requests["sequence"][slots], requests["key"][slots]))
    return [int(slot) for slot in slots[order]]


# -- how many replicas are set apart --------------------------------------------------------------------------------


def pools(decision: Decision, answer: int) -> Iterator[int]:
    """One replica more or less that decodes (or is reserved) than a policy's `answer`, or than now."""
    state = decision.state
    apart = RESERVED if state.settings[0].long_class == RESERVED else POOL
    count = int(state.class_counts[apart]) if answer == WAIT else answer
    for other in (count - 1, count + 1):
        if 1 <= other < len(state.replicas):
            yield other
