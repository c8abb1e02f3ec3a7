"""Whole batches from outside (ASK_WHOLE): who is evicted, who is in the batch, and with how many new tokens.

Here a resident may stand idle in a batch, and decodes need not all run, so every resident is kept among the incomplete
prompts; one that decodes lacks one token (BY_PLAN). Of the engine's settings the limits hold: token budget, chunks,
mixing, batch slots and KV memory, of which each resident takes what it holds.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.batch_decisions import asking_replica, take_answer
from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.memory import blocks_of
from pecgym.engine.queues import queue_remove
from pecgym.engine.residents import admit, begin, evict, leave_queue
from pecgym.engine.state import ASK, BY_PLAN, DECISION, DONE, NONE, PLAN_BATCH, State

# What is wrong with a plan.
FINE, NOT_RESIDENT, NOT_HERE, NO_SLOT, WRONG_TOKENS, TOO_MANY_TOKENS, MIXED, OUT_OF_MEMORY = range(8)


@rule
def ask_for_plan(state: State, r: int) -> int:
    """DONE once the batch of replica r has been planned (plan_batch), DECISION before."""
    if take_answer(state, PLAN_BATCH) == ASK:
        state.cluster[0].asked_slot = state.replicas[r].queue
        return DECISION
    return DONE


@rule
def _place_among_residents(state: State, r: int, slot: int) -> int:
    for i in range(state.replicas[r].n_prefills):
        if state.prefills[r, i] == slot:
            return i
    return NONE


@rule
def decode_by_plan(state: State, r: int, slot: int) -> None:
    """A request that has emitted a token stays resident, and lacks the next."""
    request = state.requests[slot]
    replica = state.replicas[r]
    settings = state.settings[0]
    request.decoding = BY_PLAN
    replica.used_blocks -= blocks_of(settings, request.prompt_tokens)
    request.prompt_tokens += 1
    replica.used_blocks += blocks_of(settings, request.prompt_tokens)


@separate_rule
def plan_batch(state: State, evicted: Any, members: Any, tokens: Any) -> int:
    """Composes the batch that is asked for: evicts the slots `evicted`, then gives each of the slots `members` its
    `tokens` (int64 arrays). Returns FINE, or what is wrong; then the simulation cannot go on."""
    r = asking_replica(state)
    settings = state.settings[0]
    replica = state.replicas[r]
    for slot in evicted:
        i = _place_among_residents(state, r, slot)
        if i == NONE:
            return NOT_RESIDENT
        evict(state, r, i)
    total = 0
    prompts = 0
    for k in range(len(members)):
        slot = members[k]
        request = state.requests[slot]
        if request.replica != r or request.chunk_tokens != 0:
            return NOT_HERE
        if _place_among_residents(state, r, slot) == NONE:
            if replica.n_prefills == settings.slots:
                return NO_SLOT
            leave_queue(state, r, slot, queue_remove(state.requests, replica.queue, slot))
            admit(state, r, slot)
            begin(state, slot)
        wanted = request.prompt_tokens - request.computed_tokens
        if settings.chunk_tokens == 0 and tokens[k] != wanted:
            return WRONG_TOKENS
        if tokens[k] < 1 or tokens[k] > wanted or 0 < settings.chunk_tokens < tokens[k]:
            return WRONG_TOKENS
        request.chunk_tokens = tokens[k]
        total += tokens[k]
        prompts += request.decoding != BY_PLAN
    if total > settings.max_batch_tokens:
        return TOO_MANY_TOKENS
    if total == 0:
        return WRONG_TOKENS
    if settings.mixing == 0 and 0 < prompts < len(members):
        return MIXED
    held = 0
    for i in range(replica.n_prefills):
        request = state.requests[state.prefills[r, i]]
        held += blocks_of(settings, request.computed_tokens + request.chunk_tokens)
    if held > settings.capacity_blocks:
        return OUT_OF_MEMORY
    replica.with_prefills = prompts > 0
    replica.with_decodes = prompts < len(members)
    state.cluster[0].action = DONE
    return FINE
