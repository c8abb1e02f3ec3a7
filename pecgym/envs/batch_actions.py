"""What an agent may do at a decision of Replica-v0 (masks), and what it then means to the engine.

"join" reads the component 0: who of those that wait joins the batch next, or nobody more in this iteration. "evict"
reads the component 1: which resident gives up its memory. The other component may have any value.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.batch_decisions import (
    asking_replica,
    evictable_in_order,
    may_join,
    may_wait,
    own_answer,
    waiting_in_order,
)
from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.state import JOIN_BATCH, WAIT, State
from pecgym.envs.actions import INVALID


@rule
def allow_one_each(c: Any, i: int) -> None:
    """No decision is due: nobody joins, and the first value of the other component."""
    mask = c.mask[i]
    for k in range(len(mask)):
        mask[k] = 0
    mask[c.shared[0].n_waiting] = 1
    mask[c.shared[0].n_waiting + 1] = 1


@rule
def take_first_allowed(c: Any, i: int) -> None:
    """Writes the first value that the mask allows of both components as the action of copy i."""
    mask = c.mask[i]
    n_waiting = c.shared[0].n_waiting
    for k in range(n_waiting, -1, -1):
        if mask[k] == 1:
            c.actions[i, 0] = k
    for k in range(c.shared[0].n_residents - 1, -1, -1):
        if mask[n_waiting + 1 + k] == 1:
            c.actions[i, 1] = k


@separate_rule
def reference_answer(c: Any, i: int, state: State, kind: int) -> int:
    """What the engine's own rules say: the head of the queue if it fits, and the victim rule."""
    return own_answer(state)


@separate_rule
def consider(c: Any, i: int, state: State, kind: int) -> bool:
    """Writes the mask of the decision that is due; whether it allows more than one action."""
    shared = c.shared[0]
    copy = c.copies[i]
    mask = c.mask[i]
    r = asking_replica(state)
    allow_one_each(c, i)
    copy.n_shown = waiting_in_order(state, r, c.waiting_slots[i], shared.n_waiting)
    copy.n_residents = evictable_in_order(state, r, c.resident_slots[i], shared.n_residents)
    if kind != JOIN_BATCH:
        for k in range(copy.n_residents):
            mask[shared.n_waiting + 1 + k] = 1
        return copy.n_residents > 1
    choices = 0
    for k in range(copy.n_shown):
        if may_join(state, r, c.waiting_slots[i, k]):
            mask[k] = 1
            choices += 1
    if choices > 0 and (shared.allow_wait == 0 or not may_wait(state, r)):
        mask[shared.n_waiting] = 0
    return choices + mask[shared.n_waiting] > 1


@separate_rule
def engine_action(c: Any, i: int, state: State, kind: int) -> int:
    """What the action of copy i means to the engine; INVALID if the masks do not allow it."""
    n_waiting, n_residents = c.shared[0].n_waiting, c.shared[0].n_residents
    if kind == JOIN_BATCH:
        k = c.actions[i, 0]
        if k < 0 or k > n_waiting or c.mask[i, k] == 0:
            return INVALID
        return WAIT if k == n_waiting else k
    k = c.actions[i, 1]
    if k < 0 or k >= n_residents or c.mask[i, n_waiting + 1 + k] == 0:
        return INVALID
    return k


@rule
def instead_of_invalid(c: Any, i: int, state: State, kind: int) -> int:
    """What an invalid action counts as: nobody more or, where somebody must be chosen, the first who may be."""
    if kind == JOIN_BATCH and may_wait(state, asking_replica(state)):
        return WAIT
    take_first_allowed(c, i)
    return engine_action(c, i, state, kind)


@separate_rule
def reference_action(c: Any, i: int, state: State, kind: int) -> bool:
    """Writes the engine's own answer as the action of copy i; False if it is not among those shown."""
    answer = own_answer(state)
    take_first_allowed(c, i)
    if kind == JOIN_BATCH:
        c.actions[i, 0] = c.shared[0].n_waiting if answer == WAIT else answer
    elif answer >= c.shared[0].n_residents:
        return False
    else:
        c.actions[i, 1] = answer
    return engine_action(c, i, state, kind) == answer
