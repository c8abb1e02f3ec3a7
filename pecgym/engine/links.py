"""KV pushes: the cache of a short goes from where it prefilled to where it decodes, over links that contend."""

from __future__ import annotations

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.memory import blocks_of
from pecgym.engine.queues import queue_pop, queue_push
from pecgym.engine.residents import enqueue_in_order, note_load
from pecgym.engine.roles import change_role_if_empty, no_longer_expected
from pecgym.engine.state import NEVER_PS, NONE, PUSHED, State


@rule
def next_push_ps(state: State) -> int:
    """When the next KV cache arrives; NEVER_PS if none is on its way."""
    pushing = state.cluster[0].pushing
    return NEVER_PS if pushing == NONE else state.requests[pushing].pushed_ps


@separate_rule
def push(state: State, r: int, slot: int) -> None:
    """Sends the KV cache of a short that has prefilled on replica r, layer by layer since its last iteration began.

    A link carries one transfer at a time, at its full bandwidth. Inside a node a push takes the two replicas' own
    links, between nodes the two nodes' links. Its blocks stay held until it has arrived.
    """
    settings = state.settings[0]
    cluster = state.cluster[0]
    replica = state.replicas[r]
    request = state.requests[slot]
    replicas = len(state.replicas)
    nodes = len(state.links) // 2 - replicas
    target = request.decode_replica
    from_node, to_node = r // settings.replicas_per_node, target // settings.replicas_per_node
    if from_node == to_node:
        out, into = 2 * nodes + r, 2 * nodes + replicas + target
        ps_per_token = settings.replica_push_ps_per_token
    else:
        out, into = from_node, nodes + to_node
        ps_per_token = settings.node_push_ps_per_token
    begin = max(replica.started_ps, state.links[out].free_ps, state.links[into].free_ps)
    duration = request.prompt_tokens * ps_per_token
    for i in (out, into):
        link = state.links[i]
        link.free_ps = begin + duration
        link.carried_tokens += request.prompt_tokens
        link.busy_ps += duration
    cluster.sequence += 1
    request.pushed_ps = max(cluster.now_ps, begin + duration) + settings.push_visible_ps
    request.decoding = 1
    replica.reserved_blocks -= blocks_of(settings, request.reserved_tokens)
    replica.held_blocks += blocks_of(settings, request.prompt_tokens)
    replica.n_pushing += 1
    replica.n_requests -= 1
    note_load(state, r)
    cluster.pushing = queue_push(state.requests, cluster.pushing, slot, request.pushed_ps, cluster.sequence)


@separate_rule
def end_push(state: State) -> int:
    """The next KV cache has arrived: it waits in host memory until it fits where it decodes. Returns its slot."""
    cluster = state.cluster[0]
    slot = cluster.pushing
    request = state.requests[slot]
    cluster.pushing = queue_pop(state.requests, slot)
    source = state.replicas[request.replica]
    blocks = blocks_of(state.settings[0], request.prompt_tokens)
    source.held_blocks -= blocks
    source.used_blocks -= blocks
    source.n_pushing -= 1
    target = request.decode_replica
    state.replicas[target].n_requests += 1
    request.swapped = PUSHED
    request.promoted_steps = 0
    enqueue_in_order(state, target, slot)
    no_longer_expected(state, slot)
    change_role_if_empty(state, request.replica)
    cluster.changed = 1
    return slot
