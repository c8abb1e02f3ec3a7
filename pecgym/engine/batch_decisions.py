"""Decisions from outside about the batch that a replica composes (`ask_batches`): who joins it, and who is evicted.

"join": somebody waits, and prompt tokens and a batch slot are left. The answer is a place in the queue, 0 the head, or
WAIT: nobody more in this iteration. It may be anybody whom the engine would admit at the head of the queue. Where
nobody is resident WAIT is refused, so that no replica idles beside those who wait.
"evict": the decodes need memory, and there is a choice. The answer is a place among the residents that have no tokens
in this batch, 0 the newest admitted.

The questions below are for while such a decision is due, which is about the batch of `asking_replica(state)`.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import question, rule, separate_rule
from pecgym.engine.memory import resident, share_on_joining
from pecgym.engine.queues import queue_first, queue_push, queue_take
from pecgym.engine.residents import admit, leave_queue
from pecgym.engine.state import (
    ASK,
    BAD_ACTION,
    DECISION,
    DONE,
    EVICT_ONE,
    JOIN_BATCH,
    NONE,
    WAIT,
    State,
)


@rule
def take_answer(state: State, kind: int) -> int:
    """The answer from outside to a decision of this kind, ASK if there is none; it is taken once."""
    cluster = state.cluster[0]
    action = cluster.action
    cluster.action = ASK
    cluster.asked = kind
    return action


# -- who joins ------------------------------------------------------------------------------------------------------


@rule
def asks_who_joins(state: State, r: int) -> bool:
    """Whether somebody waits at replica r, and the batch has prompt tokens and a slot left."""
    replica = state.replicas[r]
    free_slots = state.settings[0].slots - replica.n_decodes - replica.n_prefills
    return replica.queue != NONE and replica.left_tokens > 0 and free_slots > 0


@rule
def _share(state: State, r: int, slot: int) -> int:
    """Prompt tokens that a waiting request would get if it were chosen now; 0 if it may not be."""
    replica = state.replicas[r]
    chunk_tokens = state.settings[0].chunk_tokens
    return share_on_joining(state, r, slot, chunk_tokens, replica.left_tokens, replica.with_prefills == 0)


@question
def may_join(state: State, r: int, slot: int) -> bool:
    """Whether the waiting request `slot` may be the answer to the due decision "join" of replica r."""
    return _share(state, r, slot) > 0


@question
def may_wait(state: State, r: int) -> bool:
    """Whether WAIT may be the answer to the due decision "join" of replica r: somebody is resident, who runs."""
    replica = state.replicas[r]
    return replica.n_decodes + replica.n_prefills > 0


@question
def waiting_in_order(state: State, r: int, out: Any, n: int) -> int:
    """Writes the slots of the first n who wait at replica r, or of all, into `out` (int64[>= n]), and returns how many:
    entry k is who joins by the answer k."""
    replica = state.replicas[r]
    count, replica.queue = queue_first(state.requests, replica.queue, out, n)
    return count


@separate_rule
def admit_chosen(state: State, r: int, left: int) -> int:
    """Admits whom the answers say while `left` prompt tokens, slots and waiting requests last, and nobody says WAIT.

    Returns DONE; DECISION if an answer is missing, BAD_ACTION for one that is not allowed.
    """
    cluster = state.cluster[0]
    replica = state.replicas[r]
    replica.left_tokens = left
    while asks_who_joins(state, r):
        k = take_answer(state, JOIN_BATCH)
        if k == ASK:
            cluster.asked_slot = replica.queue
            return DECISION
        if k == WAIT and replica.n_decodes + replica.n_prefills > 0:
            return DONE
        if k < 0 or k >= replica.n_waiting:
            return BAD_ACTION
        slot, rest = queue_take(state.requests, replica.queue, k)
        request = state.requests[slot]
        share = _share(state, r, slot)
        if share == 0:
            replica.queue = queue_push(state.requests, rest, slot, request.key, request.sequence)
            return BAD_ACTION
        leave_queue(state, r, slot, rest)
        admit(state, r, slot)
        request.chunk_tokens = share
        replica.left_tokens -= share
        replica.with_prefills = 1
    return DONE


# -- who is evicted -------------------------------------------------------------------------------------------------


@rule
def _next_evictable(state: State, r: int, admission: int) -> int:
    """The resident, as its index, that has no tokens in this batch and was the last to be admitted before `admission`;
    NONE if there is none."""
    replica = state.replicas[r]
    best = NONE
    best_admission = 0
    for i in range(replica.n_decodes + replica.n_prefills):
        request = state.requests[resident(state, r, i)]
        if request.chunk_tokens == 0 and best_admission < request.admission < admission:
            best = i
            best_admission = request.admission
    return best


@rule
def _n_evictable(state: State, r: int, admission: int) -> int:
    """Residents without tokens in this batch that were admitted after `admission`."""
    replica = state.replicas[r]
    count = 0
    for i in range(replica.n_decodes + replica.n_prefills):
        request = state.requests[resident(state, r, i)]
        if request.chunk_tokens == 0 and request.admission > admission:
            count += 1
    return count


@question
def evictable_in_order(state: State, r: int, out: Any, n: int) -> int:
    """Writes the slots of the first n residents of replica r that may be evicted, or of all, into `out` (int64[>= n]),
    and returns how many: entry k is who goes by the answer k."""
    requests = state.requests
    replica = state.replicas[r]
    count = 0
    for i in range(replica.n_decodes + replica.n_prefills):
        slot = resident(state, r, i)
        admission = requests[slot].admission
        if requests[slot].chunk_tokens > 0 or (count == n and admission < requests[out[n - 1]].admission):
            continue
        place = min(count, n - 1)
        while place > 0 and requests[out[place - 1]].admission < admission:
            out[place] = out[place - 1]
            place -= 1
        out[place] = slot
        count = min(count + 1, n)
    return count


@separate_rule
def chosen_victim(state: State, r: int, own: int) -> int:
    """The resident, as its index, that the answer says; without a choice `own`, that of the engine's rule.

    ASK if the answer is missing, NONE for one that is not allowed.
    """
    cluster = state.cluster[0]
    n = _n_evictable(state, r, 0)
    if n == 1:
        return own
    k = take_answer(state, EVICT_ONE)
    if k == ASK:
        cluster.asked_slot = resident(state, r, own)
        return ASK
    if k < 0 or k >= n:
        return NONE
    admission = state.replicas[r].admissions + 1
    i = NONE
    for _ in range(k + 1):
        i = _next_evictable(state, r, admission)
        admission = state.requests[resident(state, r, i)].admission
    return i


# -- the decision that is due ---------------------------------------------------------------------------------------


@question
def asking_replica(state: State) -> int:
    """The replica whose batch the due decision is about."""
    return state.ready[state.cluster[0].composed]


@question
def own_answer(state: State) -> int:
    """The answer that the engine would give to the due decision by its own rules, without `ask_batches`."""
    cluster = state.cluster[0]
    r = asking_replica(state)
    if cluster.asked == EVICT_ONE:
        return _n_evictable(state, r, state.requests[cluster.asked_slot].admission)
    if may_join(state, r, cluster.asked_slot):
        return 0
    return WAIT
