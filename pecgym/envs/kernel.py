"""The compiled step of N copies of an environment: answers, lets the engine run to the next decision, and observes."""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.entry import RUN
from pecgym.engine.integrals import elapse
from pecgym.engine.reference import function_reader, state_at
from pecgym.engine.state import DECISION, DONE, NEED_SPACE, NONE, PAUSED, PHASE_DISPATCH, State
from pecgym.envs.actions import INVALID
from pecgym.envs.arrays import (
    BEGIN,
    FAILED,
    FINE,
    NEEDS_SPACE,
    REFUSED,
    REST,
    RUNNING,
    STEP,
    TERMINATED,
    TRUNCATED,
    cluster_arrays_at,
    replica_arrays_at,
)
from pecgym.envs.forms import (
    allow_one_each,
    consider,
    engine_action,
    instead_of_invalid,
    observe,
    reference_action,
    reference_answer,
    take_first_allowed,
)
from pecgym.envs.rewards import settle_account, start_account

_run_at = function_reader(RUN)


@rule
def ask_again(state: State, retry_ps: int, until_ps: int) -> bool:
    """Nothing will happen any more, and somebody waits: the policy is asked again after a while, or when the decode
    pool is decided, if that is sooner; False if the episode ends before, or nobody waits for a decision."""
    cluster = state.cluster[0]
    again_ps = min(cluster.now_ps + retry_ps, cluster.next_pool_ps)
    if cluster.n_queued + cluster.n_longs == 0 or again_ps > until_ps:
        elapse(state, max(until_ps, cluster.now_ps))
        return False
    cluster.changed = 1
    if again_ps == cluster.next_pool_ps:
        cluster.pool_changed = 1  # the engine goes there
        return True
    elapse(state, again_ps)
    cluster.phase = PHASE_DISPATCH
    return True


@rule
def _warming_up(c: Any, i: int, state: State) -> bool:
    """Whether the reference policy still decides; when it has ended, what it did is not charged."""
    copy = c.copies[i]
    if copy.warm_until_ps == NONE:
        return False
    if state.cluster[0].now_ps < copy.warm_until_ps:
        return True
    copy.warm_until_ps = NONE
    start_account(c, i, state)
    return False


@rule
def _end(c: Any, i: int, state: State, how: int) -> int:
    """The episode of copy i has ended; nothing of it is charged if the agent has never decided after the warm-up."""
    copy = c.copies[i]
    copy.ended = how
    if copy.warm_until_ps != NONE:
        start_account(c, i, state)
    return FINE


@separate_rule
def _to_next_decision(c: Any, i: int, state: State) -> int:
    """Runs copy i until its agent has something to decide, or its episode ends; the new status."""
    copy = c.copies[i]
    shared = c.shared[0]
    run = _run_at(shared.run)
    cluster = state.cluster[0]
    while True:
        outcome = run(copy.state, copy.asked_choose, copy.asked_start, copy.asked_pool, copy.until_ps, -1)
        if outcome == DECISION:
            kind = cluster.asked
            if _warming_up(c, i, state):
                cluster.action = reference_answer(c, i, state, kind)
            elif consider(c, i, state, kind) or shared.skip_forced == 0:
                if copy.decisions == shared.max_decisions and shared.max_decisions > 0:
                    return _end(c, i, state, TRUNCATED)
                copy.kind = kind
                return FINE
            else:
                take_first_allowed(c, i)
                cluster.action = engine_action(c, i, state, kind)
        elif outcome == DONE and cluster.n_live == 0:
            return _end(c, i, state, TERMINATED)
        elif outcome == PAUSED or (outcome == DONE and not ask_again(state, shared.retry_ps, copy.until_ps)):
            return _end(c, i, state, TRUNCATED)
        elif outcome != DONE:
            copy.outcome = outcome
            return NEEDS_SPACE if outcome == NEED_SPACE else FAILED


@rule
def _refuse_invalid(c: Any) -> int:
    """How many copies cannot do their actions, which are noted."""
    refused = 0
    for i in range(len(c.copies)):
        copy = c.copies[i]
        copy.status = FINE
        if copy.todo != STEP or copy.kind == NONE:
            continue
        if engine_action(c, i, state_at(copy.state), copy.kind) == INVALID:
            copy.status = REFUSED
            refused += 1
    return refused


@rule
def _answer(c: Any, i: int, state: State) -> None:
    """Gives the agent's action to the engine; an invalid one is to wait."""
    copy = c.copies[i]
    action = engine_action(c, i, state, copy.kind)
    if action == INVALID:
        copy.invalid += 1
        action = instead_of_invalid(c, i, state, copy.kind)
    copy.decisions += 1
    state.cluster[0].action = action


@rule
def _advance(c: Any) -> int:
    """Steps every copy that has something to do; returns how many need attention: they ended, or their status is not
    FINE. Strictly, an invalid action of one is refused before any of them does anything."""
    attention = 0
    if c.shared[0].strict == 1:
        attention = _refuse_invalid(c)
        if attention > 0:
            return attention
    for i in range(len(c.copies)):
        copy = c.copies[i]
        if copy.todo == REST:
            continue
        state = state_at(copy.state)
        copy.status = FINE
        if copy.todo == STEP and copy.kind != NONE:
            _answer(c, i, state)
        if copy.ended == RUNNING:
            copy.kind = NONE
            copy.status = _to_next_decision(c, i, state)
        if copy.status == FINE:
            if copy.ended != RUNNING:
                allow_one_each(c, i)
            observe(c, i, state)
            copy.now_ps = state.cluster[0].now_ps
            if copy.todo != BEGIN:
                settle_account(c, i, state)
        if copy.status != FINE or copy.ended != RUNNING:
            attention += 1
    return attention


@rule
def _imitate(c: Any, i: int) -> bool:
    """Writes what the reference policy would do now as the action of copy i; False if no action means the same.

    It is asked without consequences: its random numbers and its turn stay as they are. Where no decision is due, all
    that is allowed is the answer.
    """
    state = state_at(c.copies[i].state)
    if c.copies[i].kind == NONE:
        take_first_allowed(c, i)
        return True
    cluster = state.cluster[0]
    random_state, turn = cluster.random_state, cluster.round_robin
    found = reference_action(c, i, state, c.copies[i].kind)
    cluster.random_state, cluster.round_robin = random_state, turn
    return found


def advance_clusters(address: int) -> int:
    """Steps copies of Cluster-v0."""
    return _advance(cluster_arrays_at(address))


def imitate_cluster(address: int, i: int) -> bool:
    """The reference policy's action in a copy of Cluster-v0."""
    return _imitate(cluster_arrays_at(address), i)


def advance_replicas(address: int) -> int:
    """Steps copies of Replica-v0."""
    return _advance(replica_arrays_at(address))


def imitate_replica(address: int, i: int) -> bool:
    """The engine's own action in a copy of Replica-v0."""
    return _imitate(replica_arrays_at(address), i)
