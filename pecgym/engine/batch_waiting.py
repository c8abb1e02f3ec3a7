"""Batch waiting: beside decodes prompts wait for more of them, and then share an iteration.

Who is held back has been admitted: its memory and its slot are its own, it may be evicted, and it gets no tokens yet.
Source: TensorRT-LLM, batch_wait_timeout_iters and batch_wait_max_tokens_ratio of its PyTorch executor.
"""

from __future__ import annotations

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.residents import begin
from pecgym.engine.state import State


@separate_rule
def begin_or_hold_back(state: State, r: int, colocated: int) -> None:
    """The prompts of the batch that replica r composes begin, or give their tokens back; never beside a long."""
    replica = state.replicas[r]
    if colocated == 0 and replica.with_decodes == 1 and replica.with_prefills == 1:
        if _waits_for_more(state, r):
            replica.holding_back = 1
            replica.with_prefills = 0
            for i in range(replica.n_prefills):
                state.requests[state.prefills[r, i]].chunk_tokens = 0
            return
        replica.held_back = 0
    for i in range(replica.n_prefills):
        slot = state.prefills[r, i]
        if state.requests[slot].chunk_tokens > 0:
            begin(state, slot)


@rule
def _waits_for_more(state: State, r: int) -> bool:
    """Whether the batch has too few tokens, and its prompts have not waited long enough."""
    settings = state.settings[0]
    replica = state.replicas[r]
    tokens = replica.n_decodes
    for i in range(replica.n_prefills):
        tokens += state.requests[state.prefills[r, i]].chunk_tokens
    return tokens < settings.batch_wait_tokens and replica.held_back < settings.batch_wait_iterations
