"""What each replica is for: its role, which may change once it is empty, and what a policy may do with it (class)."""

from __future__ import annotations

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.residents import note_load
from pecgym.engine.state import (
    CLOSED,
    DECODE,
    DECODE_ROLE,
    DECODING_LONG,
    GATHERING_LONG,
    GENERAL,
    GROUP_GATHERING,
    LONG_ROLE,
    NEVER_PS,
    NONE,
    OPEN,
    POOL,
    PREFILL,
    PREFILLING_LONG,
    RESERVED,
    SUSPENDED_LONG,
    WAIT,
    State,
)
from pecgym.engine.tournament import update_key


@rule
def _class_of(state: State, r: int) -> int:
    """The class of replica r by its role and its long."""
    replica = state.replicas[r]
    if replica.next_role != NONE:
        return CLOSED
    if replica.role == DECODE_ROLE:
        return POOL
    if replica.lead == NONE:
        return OPEN if replica.role == GENERAL else RESERVED
    if replica.role == LONG_ROLE:
        return CLOSED
    phase = state.groups[replica.lead].phase
    if phase == GROUP_GATHERING:
        return GATHERING_LONG
    if phase == PREFILL:
        return PREFILLING_LONG
    return DECODING_LONG if phase >= DECODE else SUSPENDED_LONG


@separate_rule
def classify(state: State, r: int) -> None:
    """Moves replica r to the class that it is in now."""
    replica = state.replicas[r]
    before, after = replica.place_class, _class_of(state, r)
    if before == after:
        return
    load = state.loads[before, r]
    update_key(state.loads[before], state.load_trees[before], r, NEVER_PS)
    update_key(state.loads[after], state.load_trees[after], r, load)
    state.class_counts[before] -= 1
    state.class_counts[after] += 1
    replica.place_class = after


@rule
def change_role_if_empty(state: State, r: int) -> None:
    """A replica that drains has its new role once nothing is on it or on its way to it."""
    replica = state.replicas[r]
    if replica.next_role == NONE:
        return
    if replica.n_requests == 0 and replica.incoming == 0 and replica.n_pushing == 0 and replica.lead == NONE:
        replica.role = replica.next_role
        replica.next_role = NONE
        classify(state, r)
        state.cluster[0].changed = 1


@rule
def no_longer_expected(state: State, slot: int) -> None:
    """The replica on which a short was to decode need not wait for it any more: it has come, or was done before."""
    target = state.requests[slot].decode_replica
    state.replicas[target].incoming -= 1
    note_load(state, target)
    change_role_if_empty(state, target)


@rule
def _count_becoming(state: State, role: int) -> int:
    """Replicas that have a role and keep it, or are on their way to it."""
    count = 0
    for r in range(len(state.replicas)):
        replica = state.replicas[r]
        now_or_next = replica.role if replica.next_role == NONE else replica.next_role
        if now_or_next == role:
            count += 1
    return count


@rule
def _change_least_loaded(state: State, place_class: int, role: int) -> bool:
    """The least loaded replica of a class begins to drain for another role; False if there is none."""
    if state.class_counts[place_class] == 0:
        return False
    r = state.load_trees[place_class, 1]
    state.replicas[r].next_role = role
    classify(state, r)
    state.cluster[0].changed = 1
    state.cluster[0].pool_changed = 1
    change_role_if_empty(state, r)
    return True


@separate_rule
def change_pool(state: State, wanted: int) -> None:
    """Replicas change their role until `wanted` (WAIT: no change) decode or, where some are reserved for longs, are
    reserved, or are on their way to it; one at least stays general."""
    state.cluster[0].pool_changed = 0
    if wanted == WAIT:
        return
    role, its_class = DECODE_ROLE, POOL
    if state.settings[0].long_class == RESERVED:
        role, its_class = LONG_ROLE, RESERVED
    target = max(1, wanted)
    count = _count_becoming(state, role)
    general = _count_becoming(state, GENERAL)
    while count < target and general > 1:
        if not _change_least_loaded(state, OPEN, role):
            break
        count += 1
        general -= 1
    while count > target:
        if not _change_least_loaded(state, its_class, GENERAL):
            break
        count -= 1
