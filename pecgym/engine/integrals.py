"""Sums over time that rewards are made of: kept in step with every advance of the clock (Little's law).

The waiting shorts integrated over time are their queueing delays summed up; the open longs, their completion times. Of
shorts whose wait is past a target, and of those without a first token at another, the engine knows by a list of the
shorts that have no first token yet, in order of arrival: who passes a target next is found in one step.
"""

from __future__ import annotations

from pecgym.engine.compiled import rule
from pecgym.engine.state import LATE_S, MISSED, NONE, OPEN_LONGS_S, SECONDS_PER_PS, WAITING_S, State


@rule
def elapse(state: State, to_ps: int) -> None:
    """The clock advances to `to_ps`: everybody who waits has waited so much longer."""
    cluster = state.cluster[0]
    seconds = (to_ps - cluster.now_ps) * SECONDS_PER_PS
    state.sums[WAITING_S] += cluster.n_unstarted * seconds
    state.sums[OPEN_LONGS_S] += cluster.n_open_longs * seconds
    if state.settings[0].watch == 1:
        state.sums[LATE_S] += cluster.n_late * seconds
        _pass_targets(state, to_ps)
    cluster.now_ps = to_ps


@rule
def _pass_targets(state: State, to_ps: int) -> None:
    """Who has waited longer than `tail_ps` by now was late since then; who has no first token after `slo_ps` has missed
    it."""
    cluster = state.cluster[0]
    settings = state.settings[0]
    while cluster.next_late != NONE:
        request = state.requests[cluster.next_late]
        late_ps = request.arrival_ps + settings.tail_ps
        if late_ps >= to_ps:
            break
        if request.start_ps == NONE:
            cluster.n_late += 1
            state.sums[LATE_S] += (to_ps - late_ps) * SECONDS_PER_PS
        cluster.next_late = request.newer
    while cluster.next_missed != NONE:
        request = state.requests[cluster.next_missed]
        if request.arrival_ps + settings.slo_ps >= to_ps:
            break
        state.sums[MISSED] += 1.0
        cluster.next_missed = request.newer


@rule
def note_short_arrives(state: State, slot: int) -> None:
    """A short waits, and has no first token."""
    cluster = state.cluster[0]
    cluster.n_unstarted += 1
    if state.settings[0].watch == 0:
        return
    request = state.requests[slot]
    request.newer = NONE
    request.older = cluster.newest
    if cluster.newest == NONE:
        cluster.oldest = slot
    else:
        state.requests[cluster.newest].newer = slot
    cluster.newest = slot
    if cluster.next_late == NONE:
        cluster.next_late = slot
    if cluster.next_missed == NONE:
        cluster.next_missed = slot


@rule
def note_short_starts(state: State, slot: int) -> None:
    """A short waits no longer."""
    cluster = state.cluster[0]
    settings = state.settings[0]
    cluster.n_unstarted -= 1
    if settings.watch == 1 and state.requests[slot].arrival_ps + settings.tail_ps < cluster.now_ps:
        cluster.n_late -= 1


@rule
def note_short_answered(state: State, slot: int) -> None:
    """A short has its first token."""
    if state.settings[0].watch == 0:
        return
    cluster = state.cluster[0]
    request = state.requests[slot]
    if request.older == NONE:
        cluster.oldest = request.newer
    else:
        state.requests[request.older].newer = request.newer
    if request.newer == NONE:
        cluster.newest = request.older
    else:
        state.requests[request.newer].older = request.older
    if cluster.next_late == slot:
        cluster.next_late = request.newer
    if cluster.next_missed == slot:
        cluster.next_missed = request.newer
