"""What a compiled policy may ask about the cluster, and answer.

A policy is a function `choose(state, slot) -> replica | WAIT`; `slot` is the request at the head of the global queue.
These rules read the state as it is at the decision's time, although busy replicas are simulated in runs.
"""

from __future__ import annotations

from pecgym.engine.compiled import rule
from pecgym.engine.iteration import steps_started
from pecgym.engine.memory import blocks_to_admit, prompt_share, reserved_now
from pecgym.engine.state import STATIC, WAIT, State

__all__ = ["WAIT", "can_start", "least_loaded", "n_replicas", "next_in_turn", "random_below"]


@rule
def n_replicas(state: State) -> int:
    """The number of replicas."""
    return len(state.replicas)


@rule
def least_loaded(state: State) -> int:
    """The replica with the least of the load that the policy declared; ties: the lowest index."""
    return state.load_tree[1]


@rule
def next_in_turn(state: State) -> int:
    """Replica 0, 1, ..., R-1, 0, ... at successive calls."""
    cluster = state.cluster[0]
    turn = cluster.round_robin
    cluster.round_robin = (turn + 1) % len(state.replicas)
    return turn


@rule
def random_below(state: State, n: int) -> int:
    """A uniform integer in 0..n-1 from the policy's own stream (a 48-bit linear congruential generator, as drand48)."""
    cluster = state.cluster[0]
    cluster.random_state = (cluster.random_state * 0x5DEECE66D + 0xB) & 0xFFFFFFFFFFFF
    return ((cluster.random_state >> 17) * n) >> 31


@rule
def can_start(state: State, r: int, slot: int) -> bool:
    """Whether replica r could soon start the request, behind all that wait there already.

    It needs a batch slot, KV memory above the watermark, and room in the token budget of one iteration beside all
    prompt tokens that the replica has yet to compute; an empty replica takes any request.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    if replica.n_requests == 0:
        return True
    if replica.n_requests >= settings.slots:
        return False
    if settings.batching == STATIC:
        return replica.n_waiting == replica.n_requests
    request = state.requests[slot]
    budget = settings.max_batch_tokens - replica.queued_tokens
    if settings.mixing == 1:
        budget -= replica.n_decodes
    if prompt_share(settings, request.prompt_tokens, budget, replica.queued_tokens == 0) == 0:
        return False
    reserved = reserved_now(state, r, steps_started(state, r)) + replica.waiting_blocks
    return reserved + blocks_to_admit(state, r, request) + settings.watermark_blocks <= settings.capacity_blocks
