"""What an agent may do at a decision of Cluster-v0 (masks), and what it then means to the engine.

A decision reads some components of the action: a placement the target, and, as far as the agent controls them, the
modes of prefill and decode; a start the target (the anchor of the group), the long, the degree and the strategy; a
decision about roles the target (a number of replicas). A component that is not read may have any value; its mask allows
one, so that it adds nothing to an entropy. Components that are read can be combined freely: every combination of
values that the masks allow is valid.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.cluster import INDEX_BITS, STRATEGY_BITS
from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.entry import POLICY
from pecgym.engine.queues import queue_first
from pecgym.engine.reference import function_reader
from pecgym.engine.state import (
    DECODING_LONG,
    NONE,
    OPEN,
    PLACE_SHORT,
    POOL,
    SET_POOL,
    START_LONG,
    WAIT,
    State,
)
from pecgym.policies.view import degree_of_long, fewest_replicas, group, least_loaded_of, placement

INVALID = -3
_MASK = (1 << INDEX_BITS) - 1
_policy_at = function_reader(POLICY)


@rule
def first_of_mode(c: Any) -> int:
    """Where the component prefill_mode begins in a mask; those after it follow."""
    return c.shared[0].n_replicas + 1


@rule
def first_of_index(c: Any) -> int:
    """Where the component long_index begins in a mask."""
    return c.shared[0].n_replicas + 5


@rule
def first_of_degree(c: Any) -> int:
    """Where the component sp_degree begins in a mask."""
    return first_of_index(c) + c.shared[0].n_longs


@rule
def first_of_strategy(c: Any) -> int:
    """Where the component sp_strategy begins in a mask."""
    return first_of_degree(c) + c.shared[0].n_degrees


@rule
def allow_one_each(c: Any, i: int) -> None:
    """No decision is due: to wait, and the first value of every other component."""
    mask = c.mask[i]
    for k in range(len(mask)):
        mask[k] = 0
    mask[c.shared[0].n_replicas] = 1
    mask[first_of_mode(c)] = 1
    mask[first_of_mode(c) + 2] = 1
    mask[first_of_index(c)] = 1
    mask[first_of_degree(c)] = 1
    mask[first_of_strategy(c)] = 1


@separate_rule
def reference_answer(c: Any, i: int, state: State, kind: int) -> int:
    """What the reference policy answers to the decision that is due; its random numbers go on."""
    copy = c.copies[i]
    if kind == PLACE_SHORT:
        return _policy_at(copy.reference_choose)(state, state.cluster[0].queue)
    if kind == START_LONG:
        return _policy_at(copy.reference_start)(state, state.cluster[0].longs)
    return _policy_at(copy.reference_pool)(state, NONE)


@separate_rule
def consider(c: Any, i: int, state: State, kind: int) -> bool:
    """Writes the mask of the decision that is due; whether it allows more than one action."""
    allow_one_each(c, i)
    if kind == PLACE_SHORT:
        return _consider_placement(c, i, state)
    if kind == START_LONG:
        return _consider_start(c, i, state)
    mask = c.mask[i]
    n_replicas = c.shared[0].n_replicas
    for count in range(1, n_replicas):
        mask[count] = 1
    if c.shared[0].allow_wait == 0 and n_replicas > 1:
        mask[n_replicas] = 0
    return n_replicas - 1 + mask[n_replicas] > 1


# -- where a short goes ---------------------------------------------------------------------------------------------


@rule
def takes_shorts(place_class: int) -> bool:
    """Whether a short may be placed on a replica of that class."""
    return place_class <= DECODING_LONG


@rule
def _serves_long(place_class: int) -> bool:
    return OPEN < place_class <= DECODING_LONG


@rule
def _consider_placement(c: Any, i: int, state: State) -> bool:
    shared = c.shared[0]
    mask = c.mask[i]
    n_replicas = shared.n_replicas
    targets = 0
    beside_long = False
    if shared.controls_placement == 1:
        for r in range(n_replicas):
            place_class = state.replicas[r].place_class
            if takes_shorts(place_class):
                mask[r] = 1
                targets += 1
                beside_long = beside_long or _serves_long(place_class)
        if shared.allow_wait == 0 and targets > 0:
            mask[n_replicas] = 0
    else:
        answer = reference_answer(c, i, state, PLACE_SHORT)
        c.copies[i].answer = answer
        if answer != WAIT:
            mask[n_replicas] = 0
            mask[answer & _MASK] = 1
            targets = 1
            beside_long = _serves_long(state.replicas[answer & _MASK].place_class)
    choices = targets + mask[n_replicas]
    if targets > 0 and shared.controls_preemption == 1 and beside_long:
        mask[first_of_mode(c) + 1] = 1
        choices += 1
    if targets > 0 and shared.controls_disaggregation == 1 and state.class_counts[POOL] > 0:
        mask[first_of_mode(c) + 3] = 1
        choices += 1
    return choices > 1


@rule
def _preempts_by_rule(state: State, r: int) -> bool:
    """Whether a short that goes to replica r stops its long, by the rules of the reference policy: beside a decode if
    nothing may run beside it, else where preemption is on."""
    settings = state.settings[0]
    if state.replicas[r].place_class == DECODING_LONG:
        return settings.colocation_tokens == 0
    return settings.preemption == 1


@rule
def _placement_of(c: Any, i: int, state: State) -> int:
    """The engine's action for the action of copy i; INVALID if the masks do not allow it."""
    shared = c.shared[0]
    mask = c.mask[i]
    action = c.actions[i]
    answer = c.copies[i].answer
    if shared.controls_placement == 1:
        r = action[0]
        if r < 0 or r > shared.n_replicas or mask[r] == 0:
            return INVALID
        if r == shared.n_replicas:
            return WAIT
        decode = least_loaded_of(state, POOL)
        preempts = _preempts_by_rule(state, r)
    else:
        if answer == WAIT:
            return WAIT
        r = answer & _MASK
        decode = ((answer >> INDEX_BITS) & _MASK) - 1
        preempts = (answer >> (2 * INDEX_BITS)) & 1 == 1
    if shared.controls_preemption == 1:
        if action[1] < 0 or action[1] > 1 or mask[first_of_mode(c) + action[1]] == 0:
            return INVALID
        preempts = action[1] == 1
    if shared.controls_disaggregation == 1:
        if action[2] < 0 or action[2] > 1 or mask[first_of_mode(c) + 2 + action[2]] == 0:
            return INVALID
        decode = least_loaded_of(state, POOL) if action[2] == 1 else NONE
    return placement(r, decode, preempts and _serves_long(state.replicas[r].place_class))


# -- whether a long starts ------------------------------------------------------------------------------------------


@rule
def list_longs(c: Any, i: int, state: State) -> None:
    """Keeps the slots of the first of the waiting longs of copy i."""
    copy = c.copies[i]
    cluster = state.cluster[0]
    if copy.longs_version == cluster.longs_version:
        return
    copy.longs_version = cluster.longs_version
    copy.n_shown, cluster.longs = queue_first(state.requests, cluster.longs, c.slots[i], c.shared[0].n_longs)


@rule
def _largest_group(state: State) -> int:
    """The most replicas that could form a group now."""
    return min(state.class_counts[state.settings[0].long_class], len(state.shape_index) - 1)


@rule
def _consider_start(c: Any, i: int, state: State) -> bool:
    shared = c.shared[0]
    copy = c.copies[i]
    mask = c.mask[i]
    index, degree, strategy = first_of_index(c), first_of_degree(c), first_of_strategy(c)
    shown = c.slots[i]
    list_longs(c, i, state)
    n = copy.n_shown if shared.controls_order == 1 else 1
    copy.answer = WAIT
    largest = _largest_group(state)
    by_rule = state.settings[0].degree_rule <= largest or shared.controls_start == 0
    startable = 0
    for k in range(n):
        if shared.controls_start == 1:
            may = fewest_replicas(state, shown[k]) <= largest and (by_rule or shared.controls_sp_degree == 1)
        else:
            answer = _policy_at(copy.reference_start)(state, shown[k])
            may = answer != WAIT
            if may and copy.answer == WAIT:
                copy.answer = answer
        mask[index + k] = may
        startable += may
    if shared.controls_start == 0 and startable > 0 and mask[index] == 0 and shared.allow_wait == 1:
        mask[index] = 1  # the first in order, which the reference policy lets wait
        startable += 1
    if startable == 0:
        mask[index] = 1
        return False
    choices = startable
    if shared.controls_start == 1:
        for r in range(shared.n_replicas):
            if state.replicas[r].place_class == state.settings[0].long_class:
                mask[r] = 1
                choices += 1
        if shared.allow_wait == 0:
            mask[shared.n_replicas] = 0
    else:
        mask[shared.n_replicas] = 0
        mask[copy.answer & _MASK] = 1
        choices += 1
    choices += mask[shared.n_replicas]
    if shared.controls_sp_degree == 1:
        mask[degree] = by_rule
        choices -= 1 - mask[degree]
        for j in range(1, shared.n_degrees):
            mask[degree + j] = c.degrees[j] <= largest
            choices += mask[degree + j]
    if shared.controls_sp_strategy == 1:
        for j in range(len(state.prefill_table_ps)):
            mask[strategy + j] = 1
        choices += len(state.prefill_table_ps) - 1
    return choices > 2


@rule
def _start_of(c: Any, i: int, state: State) -> int:
    """The engine's action for the action of copy i; INVALID if the masks do not allow it."""
    shared = c.shared[0]
    mask = c.mask[i]
    action = c.actions[i]
    n_replicas = shared.n_replicas
    if shared.controls_start == 1:
        if action[0] < 0 or action[0] > n_replicas or mask[action[0]] == 0:
            return INVALID
        if action[0] == n_replicas:
            return WAIT
    elif mask[n_replicas] == 1:
        return WAIT
    index = 0
    if shared.controls_order == 1:
        index = action[3]
        if index < 0 or index >= shared.n_longs or mask[first_of_index(c) + index] == 0:
            return INVALID
    slot = c.slots[i, index]
    if shared.controls_start == 1:
        anchor = action[0]
        degree = degree_of_long(state, slot, False)
        strategy = state.settings[0].strategy
    else:
        answer = _policy_at(c.copies[i].reference_start)(state, slot)
        if answer == WAIT:
            return WAIT
        anchor = answer & _MASK
        degree = (answer >> INDEX_BITS) & _MASK
        strategy = (answer >> (2 * INDEX_BITS)) & ((1 << STRATEGY_BITS) - 1)
    if shared.controls_sp_degree == 1:
        if action[4] < 0 or action[4] >= shared.n_degrees or mask[first_of_degree(c) + action[4]] == 0:
            return INVALID
        if action[4] > 0:
            degree = max(c.degrees[action[4]], fewest_replicas(state, slot))
    if shared.controls_sp_strategy == 1:
        if action[5] < 0 or action[5] >= len(state.prefill_table_ps):
            return INVALID
        strategy = action[5]
    return group(anchor, degree, strategy, index)


# -- the engine's action, and back ----------------------------------------------------------------------------------


@separate_rule
def engine_action(c: Any, i: int, state: State, kind: int) -> int:
    """What the action of copy i means to the engine; INVALID if the masks do not allow it."""
    if kind == PLACE_SHORT:
        return _placement_of(c, i, state)
    if kind == START_LONG:
        return _start_of(c, i, state)
    count = c.actions[i, 0]
    if count < 0 or count > c.shared[0].n_replicas or c.mask[i, count] == 0:
        return INVALID
    return WAIT if count == c.shared[0].n_replicas else count


@rule
def instead_of_invalid(c: Any, i: int, state: State, kind: int) -> int:
    """What an invalid action counts as: to wait."""
    return WAIT


@rule
def take_first_allowed(c: Any, i: int) -> None:
    """Writes the first value that the mask allows of every component as the action of copy i."""
    mask = c.mask[i]
    action = c.actions[i]
    component = 0
    first = 0
    sizes = (c.shared[0].n_replicas + 1, 2, 2, c.shared[0].n_longs, c.shared[0].n_degrees, 4)
    for component in range(6):
        for k in range(sizes[component]):
            if mask[first + k] == 1:
                action[component] = k
                break
        first += sizes[component]


@separate_rule
def reference_action(c: Any, i: int, state: State, kind: int) -> bool:
    """Writes the reference policy's answer as the action of copy i; False if no action means the same."""
    shared = c.shared[0]
    if kind == PLACE_SHORT and shared.controls_placement == 0:
        answer = c.copies[i].answer
    else:
        answer = reference_answer(c, i, state, kind)
    take_first_allowed(c, i)
    action = c.actions[i]
    if kind == SET_POOL:
        if answer != WAIT:
            answer = min(max(answer, 1), shared.n_replicas - 1)
        action[0] = shared.n_replicas if answer == WAIT else answer
        return engine_action(c, i, state, kind) == answer
    chooses_target = shared.controls_placement if kind == PLACE_SHORT else shared.controls_start
    if chooses_target == 1:
        action[0] = shared.n_replicas if answer == WAIT else answer & _MASK
    if answer == WAIT:
        return engine_action(c, i, state, kind) == WAIT
    if kind == PLACE_SHORT:
        return _imitate_placement(c, i, state, answer)
    return _imitate_start(c, i, state, answer)


@rule
def _imitate_placement(c: Any, i: int, state: State, answer: int) -> bool:
    action = c.actions[i]
    decode = ((answer >> INDEX_BITS) & _MASK) - 1
    preempts = (answer >> (2 * INDEX_BITS)) & 1
    if c.shared[0].controls_preemption == 1:
        action[1] = preempts
    if c.shared[0].controls_disaggregation == 1:
        action[2] = decode != NONE
    return engine_action(c, i, state, PLACE_SHORT) == placement(answer & _MASK, decode, preempts == 1)


@rule
def _imitate_start(c: Any, i: int, state: State, answer: int) -> bool:
    action = c.actions[i]
    if c.shared[0].controls_order == 1:
        action[3] = answer >> (2 * INDEX_BITS + STRATEGY_BITS)
    if c.shared[0].controls_sp_strategy == 1:
        action[5] = (answer >> (2 * INDEX_BITS)) & ((1 << STRATEGY_BITS) - 1)
    for option in range(c.shared[0].n_degrees):
        action[4] = option
        if c.mask[i, first_of_degree(c) + option] == 1 and engine_action(c, i, state, START_LONG) == answer:
            return True
    return False
