"""The compiled part of the exact search: takes nodes off the queue and relaxes every batch that can follow.

All compiled code of the search is in this file, so that numba notices when it changes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pecgym.engine.compiled import separate_rule

IDLE = -1
PAUSED, NO_ROOM, CLOSED, FOUND = range(4)
"""How a call ends: it did its share of nodes; arrays are full; nothing is left; all requests are done."""

N_NODES, N_HEAP, GOAL, BELOW_PS, N_BATCHES = range(5)
N_COUNTERS = 5


class Tables(NamedTuple):
    """What does not change. S states, K steps, of all kinds of requests one after another; a request that is done is
    in a state without steps."""

    blocks: Any  # int64[S]: KV blocks held between batches
    evicted: Any  # int64[S]: the state after an eviction
    first_step: Any  # int64[S + 1]: its steps
    left_own_ps: Any  # int64[S]: what is left to do, at least (relaxation.Left)
    left_emissions: Any  # int64[S]
    left_blocks: Any  # int64[S]
    left_tokens: Any  # int64[S]
    left_prompt_blocks: Any  # int64[S]
    to: Any  # int64[K]: the state after a step
    tokens: Any  # int64[K]
    past: Any  # int64[K]: KV tokens held before it
    decodes: Any  # int64[K]: 1 for a decode
    during: Any  # int64[K]: KV blocks in the batch
    in_vain: Any  # int64[K]: 1 for who is computed anew, and would be as far by a decode, no dearer where others decode
    g_ps: Any  # int64[T]: the token term of 0..T-1 tokens
    costs: Any  # int64[N_COSTS], in the order of the names below


PREFILL_BASE, PREFILL_SEQ, PREFILL_KV, PAIRS_PS, DECODE_BASE, DECODE_SEQ, DECODE_KV = range(7)
CAPACITY, MOST_TOKENS, BASE, PREFILL_EXTRA, MAY_EVICT = range(7, 12)
N_COSTS = 12


class Graph(NamedTuple):
    """What grows. N requests."""

    states: Any  # int32[nodes, N]: sorted
    cost_ps: Any  # int64[nodes]: of the cheapest way to it so far
    parent: Any  # int64[nodes]
    closed: Any  # int8[nodes]
    table: Any  # int64[2^k]: open addressing; node + 1, 0: empty
    heap_ps: Any  # int64[heap]: cost so far + what is left at least
    heap_node: Any  # int64[heap]
    counters: Any  # int64[N_COUNTERS]
    scratch: Any  # int64[9, N + 1]: see the names below
    child: Any  # int32[N]
    wanted: Any  # int64[3, N + 1]: of a batch to be found again: choices, evictions, and whether it was


CHOICE, SUM_TOKENS, SUM_PREFILLS, SUM_PAST, SUM_PAIRS, SUM_DECODES, SUM_KV, SUM_BLOCKS, SUM_IN_VAIN = range(9)


@separate_rule
def _left_ps(tables: Any, states: Any) -> Any:
    """What is left to do at least, of requests in these states."""
    own = 0
    emissions = 0
    blocks = 0
    tokens = 0
    prompts = 0
    for i in range(len(states)):
        s = states[i]
        own += tables.left_own_ps[s]
        emissions = max(emissions, tables.left_emissions[s])
        blocks += tables.left_blocks[s]
        tokens += tables.left_tokens[s]
        prompts += tables.left_prompt_blocks[s]
    costs = tables.costs
    capacity = costs[CAPACITY]
    most = costs[MOST_TOKENS]
    batches = max(emissions, (blocks + capacity - 1) // capacity, (tokens + most - 1) // most)
    prefills = (prompts + capacity - 1) // capacity
    return own + batches * costs[BASE] + prefills * costs[PREFILL_EXTRA]


@separate_rule
def _push(graph: Any, f: int, node: int) -> None:
    """Of equal bounds the newest node comes first."""
    ps, nodes = graph.heap_ps, graph.heap_node
    i = graph.counters[N_HEAP]
    graph.counters[N_HEAP] = i + 1
    while i > 0:
        up = (i - 1) >> 1
        if ps[up] < f or (ps[up] == f and nodes[up] >= node):
            break
        ps[i] = ps[up]
        nodes[i] = nodes[up]
        i = up
    ps[i] = f
    nodes[i] = node


@separate_rule
def _pop(graph: Any) -> None:
    ps, nodes = graph.heap_ps, graph.heap_node
    n = graph.counters[N_HEAP] - 1
    graph.counters[N_HEAP] = n
    f = ps[n]
    node = nodes[n]
    i = 0
    while True:
        down = 2 * i + 1
        if down >= n:
            break
        right = down + 1
        if right < n and (ps[right] < ps[down] or (ps[right] == ps[down] and nodes[right] > nodes[down])):
            down = right
        if f < ps[down] or (f == ps[down] and node >= nodes[down]):
            break
        ps[i] = ps[down]
        nodes[i] = nodes[down]
        i = down
    ps[i] = f
    nodes[i] = node


@separate_rule
def _place_of(graph: Any, states: Any) -> Any:
    """Where in the table the node of these states is, or would be."""
    mask = np.uint64(len(graph.table) - 1)
    h = np.uint64(1469598103934665603)
    for i in range(len(states)):
        h = (h ^ np.uint64(states[i])) * np.uint64(1099511628211)
        h ^= h >> np.uint64(29)
    at = h & mask
    while True:
        node = graph.table[at] - 1
        if node < 0:
            return at
        same = True
        for i in range(len(states)):
            if graph.states[node, i] != states[i]:
                same = False
                break
        if same:
            return at
        at = (at + np.uint64(1)) & mask


@separate_rule
def _reach(tables: Any, graph: Any, parent: int, cost_ps: int) -> bool:
    """Notes a way to the node of the states in `graph.child`; False if there is no room."""
    counters = graph.counters
    left = _left_ps(tables, graph.child)
    if cost_ps + left >= counters[BELOW_PS]:
        return True
    n = counters[N_NODES]
    if n >= len(graph.cost_ps) or counters[N_HEAP] + 1 >= len(graph.heap_ps):
        return False
    at = _place_of(graph, graph.child)
    node = graph.table[at] - 1
    if node < 0:
        node = n
        counters[N_NODES] = n + 1
        graph.table[at] = n + 1
        for i in range(len(graph.child)):
            graph.states[n, i] = graph.child[i]
    elif graph.cost_ps[node] <= cost_ps:
        return True
    graph.cost_ps[node] = cost_ps
    graph.parent[node] = parent
    graph.closed[node] = 0
    _push(graph, cost_ps + left, node)
    return True


@separate_rule
def _follow(tables: Any, graph: Any, parent: int, batch_ps: int, evict: int, target: int) -> bool:
    """The batch of the choices in `scratch`, with the residents of the set `evict` evicted: notes where it leads."""
    n = graph.states.shape[1]
    child = graph.child
    for i in range(n):
        choice = graph.scratch[CHOICE, i]
        state = graph.states[parent, i]
        if choice != IDLE:
            state = tables.to[choice]
        elif (evict >> i) & 1:
            state = tables.evicted[state]
        j = i
        while j > 0 and child[j - 1] > state:
            child[j] = child[j - 1]
            j -= 1
        child[j] = state
    if target < 0:
        return _reach(tables, graph, parent, graph.cost_ps[parent] + batch_ps)
    if graph.cost_ps[parent] + batch_ps == graph.cost_ps[target]:
        for i in range(n):
            if child[i] != graph.states[target, i]:
                return True
        for i in range(n):
            graph.wanted[0, i] = graph.scratch[CHOICE, i]
            graph.wanted[1, i] = (evict >> i) & 1
        graph.wanted[2, 0] = 1
    return True


@separate_rule
def _batch_ps(tables: Any, graph: Any) -> Any:
    """The time of the batch of the choices in `scratch`: pecgym.costs.Profile.iteration_ps."""
    costs = tables.costs
    scratch = graph.scratch
    n = graph.states.shape[1]
    time = tables.g_ps[scratch[SUM_TOKENS, n]]
    if scratch[SUM_PREFILLS, n] > 0:
        time += costs[PREFILL_BASE] + scratch[SUM_PREFILLS, n] * costs[PREFILL_SEQ]
        time += scratch[SUM_PAST, n] * costs[PREFILL_KV] + ((scratch[SUM_PAIRS, n] * costs[PAIRS_PS]) >> 10)
    if scratch[SUM_DECODES, n] > 0:
        time += costs[DECODE_BASE] + scratch[SUM_DECODES, n] * costs[DECODE_SEQ] + scratch[SUM_KV, n] * costs[DECODE_KV]
    return time


@separate_rule
def _follow_with_evictions(tables: Any, graph: Any, parent: int, target: int) -> bool:
    """The batch of the choices in `scratch` with every smallest set of evictions that makes it fit."""
    n = graph.states.shape[1]
    capacity = tables.costs[CAPACITY]
    over = graph.scratch[SUM_BLOCKS, n] - capacity
    idle = 0
    graph.counters[N_BATCHES] += 1
    for i in range(n):
        if graph.scratch[CHOICE, i] == IDLE:
            blocks = tables.blocks[graph.states[parent, i]]
            over += blocks
            if blocks > 0:
                idle |= 1 << i
    if over > 0 and tables.costs[MAY_EVICT] == 0:
        return True
    batch_ps = _batch_ps(tables, graph)
    if over <= 0:
        return _follow(tables, graph, parent, batch_ps, 0, target)
    evict = idle
    while evict > 0:  # all subsets of those who hold memory and are not in the batch
        graph.counters[N_BATCHES] += 1
        freed = 0
        least = capacity + 1
        canonical = True
        for i in range(n):
            state = graph.states[parent, i]
            if (evict >> i) & 1:
                freed += tables.blocks[state]
                least = min(least, tables.blocks[state])
                if i > 0 and (idle >> (i - 1)) & 1 and not (evict >> (i - 1)) & 1:
                    canonical = canonical and graph.states[parent, i - 1] != state
        smallest = freed >= over and freed - least < over
        if smallest and canonical and not _follow(tables, graph, parent, batch_ps, evict, target):
            return False
        evict = (evict - 1) & idle
    return True


@separate_rule
def _take(tables: Any, graph: Any, parent: int, i: int, choice: int) -> Any:
    """Request i makes the choice, in the sums behind it; False if the batch breaks a limit, or another is as good."""
    scratch = graph.scratch
    scratch[CHOICE, i] = choice
    for k in range(SUM_TOKENS, SUM_IN_VAIN + 1):
        scratch[k, i + 1] = scratch[k, i]
    if choice == IDLE:
        return True
    tokens = tables.tokens[choice]
    past = tables.past[choice]
    scratch[SUM_TOKENS, i + 1] += tokens
    scratch[SUM_BLOCKS, i + 1] += tables.during[choice]
    if tables.decodes[choice] == 1:
        scratch[SUM_DECODES, i + 1] += 1
        scratch[SUM_KV, i + 1] += past
    else:
        scratch[SUM_PREFILLS, i + 1] += 1
        scratch[SUM_PAST, i + 1] += past
        scratch[SUM_PAIRS, i + 1] += tokens * tokens + 2 * tokens * past
    scratch[SUM_IN_VAIN, i + 1] += tables.in_vain[choice]
    if scratch[SUM_IN_VAIN, i + 1] > 0 and scratch[SUM_DECODES, i + 1] > 0:
        return False
    within = scratch[SUM_TOKENS, i + 1] <= tables.costs[MOST_TOKENS]
    return within and scratch[SUM_BLOCKS, i + 1] <= tables.costs[CAPACITY]


@separate_rule
def expand(tables: Any, graph: Any, parent: int, target: int) -> bool:
    """Every batch that can follow a node. False if there is no room for what they lead to.

    Of requests in the same state the earlier one has the smaller choice. target: a node that a batch of the cheapest
    way to it is to be found for (in `wanted`), in place of noting new ways; -1: none.
    """
    n = graph.states.shape[1]
    scratch = graph.scratch
    for k in range(SUM_TOKENS, SUM_IN_VAIN + 1):
        scratch[k, 0] = 0
    i = 0
    scratch[CHOICE, 0] = IDLE - 1
    while i >= 0:
        if i == n:
            if scratch[SUM_TOKENS, n] > 0 and not _follow_with_evictions(tables, graph, parent, target):
                return False
            i -= 1
            continue
        state = graph.states[parent, i]
        choice = scratch[CHOICE, i]
        if choice < IDLE:
            choice = IDLE
            if i > 0 and graph.states[parent, i - 1] == state:
                choice = scratch[CHOICE, i - 1]
        elif choice == IDLE:
            choice = tables.first_step[state]
        else:
            choice += 1
        if choice != IDLE and choice >= tables.first_step[state + 1]:
            i -= 1
            continue
        if _take(tables, graph, parent, i, choice):
            i += 1
            if i < n:
                scratch[CHOICE, i] = IDLE - 1
    return True


def expand_nodes(tables: Any, graph: Any, most: int) -> int:  # pragma: no cover - compiled
    """Takes nodes off the queue, those with the smallest bound first, until it has looked at some `most` batches."""
    counters = graph.counters
    counters[N_BATCHES] = 0
    while counters[N_BATCHES] < most:
        if counters[N_HEAP] == 0:
            return CLOSED
        node = graph.heap_node[0]
        if graph.closed[node] == 1:
            _pop(graph)
            continue
        if _left_ps(tables, graph.states[node]) == 0:
            counters[GOAL] = node
            return FOUND
        f = graph.heap_ps[0]
        _pop(graph)
        if not expand(tables, graph, node, -1):
            _push(graph, f, node)
            return NO_ROOM
        graph.closed[node] = 1
    return PAUSED


def expand_beam(tables: Any, graph: Any, nodes: Any, first: int) -> int:  # pragma: no cover - compiled
    """Notes every batch that can follow these nodes, from entry `first` on; returns the entry for which there was no
    room, or their number. A node in which all requests are done is the goal, if it is cheaper than the last."""
    counters = graph.counters
    for k in range(first, len(nodes)):
        node = nodes[k]
        if _left_ps(tables, graph.states[node]) > 0:
            if not expand(tables, graph, node, -1):
                return k
        elif graph.cost_ps[node] < counters[BELOW_PS]:
            counters[BELOW_PS] = graph.cost_ps[node]
            counters[GOAL] = node
    return len(nodes)


def number_nodes(graph: Any) -> None:  # pragma: no cover - compiled
    """Fills the table of nodes anew."""
    for at in range(len(graph.table)):
        graph.table[at] = 0
    for node in range(graph.counters[N_NODES]):
        graph.table[_place_of(graph, graph.states[node])] = node + 1


def find_batch(tables: Any, graph: Any, parent: int, target: int) -> None:  # pragma: no cover - compiled
    """Finds, into `wanted`, a batch of the cheapest way from a node to the next."""
    graph.wanted[2, 0] = 0
    expand(tables, graph, parent, target)
