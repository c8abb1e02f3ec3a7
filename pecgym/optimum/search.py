"""The exact optimum of small cases: a shortest path over what the requests have reached together.

Requests of equal lengths are interchangeable, so a node is the sorted tuple of the requests' states. A* with the bound
of `Relaxation`, which never falls by more than a batch costs, takes each node once; who gives up memory is decided when
a batch needs it, and only as many as it needs. Any cost profile, whole prompts or chunks.

To order equal requests by their cumulative progress would not be valid: of two equal requests the one that is behind
may be the one that holds memory, and may go on. Only what is equal in everything, output and memory, is interchanged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np

from pecgym.engine.compiled import compile_cached
from pecgym.optimum import search_kernel as kernel
from pecgym.optimum.problem import Batch, Lengths, Problem, Progress, Schedule, Step
from pecgym.optimum.relaxation import Relaxation

MOST_REQUESTS = 16
MOST_STEPS = 2_000_000
MOST_BATCHES_OF_A_NODE = 1_000_000
MOST_BYTES = 2 * 2**30
_BATCHES_AT_ONCE = 50_000
_FIRST_WIDTH = 64


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        bound_ps: no schedule takes less.
        closed: whether nothing below `below_ps` is better than `schedule`.
        schedule: what was found; None if none takes less than `below_ps`, or the search was stopped.
        nodes: how many it looked at.
    """

    bound_ps: int
    closed: bool
    schedule: Schedule | None
    nodes: int


def too_large(problem: Problem) -> str:
    """Why the problem is beyond an exact search; empty if it is not."""
    if len(problem.requests) > MOST_REQUESTS:
        return f"{len(problem.requests)} requests, more than {MOST_REQUESTS}"
    steps, batches = 0, 1
    for lengths, n in problem.kinds.items():
        context = lengths.peak_tokens
        choices = min(context, problem.max_batch_tokens) if problem.chunked else 1
        steps += lengths.output_tokens * (context * choices if problem.chunked else 3)
        batches *= math.comb(n + choices, n)
    if steps > MOST_STEPS:
        return f"some {steps:,} steps of one request, more than {MOST_STEPS:,}"
    if batches > MOST_BATCHES_OF_A_NODE:
        return f"some {batches:,} possible batches at a time, more than {MOST_BATCHES_OF_A_NODE:,}"
    return ""


def beam_search(problem: Problem, below_ps: int, until_s: float) -> Schedule | None:
    """A good schedule that takes less than `below_ps`, or None: batch by batch only the best nodes go on, first few and
    then ever more of them, until time.monotonic() is `until_s`."""
    states = _States(problem)
    found = None
    width = _FIRST_WIDTH
    while time.monotonic() < until_s:
        graph = _begin(problem, states, below_ps)
        graph.counters[kernel.GOAL] = -1
        beam = np.zeros(1, np.int64)
        narrowed = False
        while len(beam) and time.monotonic() < until_s:
            graph.counters[kernel.N_HEAP] = 0
            done = 0
            while (done := _compiled().beam(states.tables, graph, beam, done)) < len(beam):
                graph = _larger(graph)
            n = int(graph.counters[kernel.N_HEAP])
            beam = np.unique(graph.heap_node[np.argsort(graph.heap_ps[:n], kind="stable")[:width]])
            narrowed |= n > width
        if (goal := int(graph.counters[kernel.GOAL])) >= 0:
            below_ps = int(graph.cost_ps[goal])
            found = _schedule(problem, states, graph, goal)
        if not narrowed:
            break
        width *= 4
    return found


def search(problem: Problem, below_ps: int, until_s: float) -> Searched:
    """Looks for the best schedule that takes less than `below_ps`, until time.monotonic() is `until_s`."""
    states = _States(problem)
    tables, graph = states.tables, _begin(problem, states, below_ps)
    bound_ps = 0
    while True:
        status = _compiled().expand(tables, graph, _BATCHES_AT_ONCE)
        counters = graph.counters
        if counters[kernel.N_HEAP]:
            bound_ps = max(bound_ps, int(graph.heap_ps[0]))
        if status == kernel.NO_ROOM:
            if sum(array.nbytes for array in graph) > MOST_BYTES:
                break
            graph = _larger(graph)
        elif status != kernel.PAUSED or time.monotonic() > until_s:
            break
    nodes = int(graph.counters[kernel.N_NODES])
    if status == kernel.FOUND:
        goal = int(graph.counters[kernel.GOAL])
        return Searched(int(graph.cost_ps[goal]), True, _schedule(problem, states, graph, goal), nodes)
    if status == kernel.CLOSED:
        return Searched(below_ps, True, None, nodes)
    return Searched(min(bound_ps, below_ps), False, None, nodes)


class _States:
    """The states of all requests, numbered, and the steps between them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.of: dict[tuple[Lengths, Progress], int] = {}
        self.known: list[tuple[Lengths, Progress]] = []
        for lengths in problem.kinds:
            self._reach(lengths)
        self.tables = self._tables()

    def _reach(self, lengths: Lengths) -> None:
        """All states of a request of these lengths."""
        pending = [Progress()]
        self._number(lengths, pending[0])
        while pending:
            progress = pending.pop()
            following = [step.after for step in self.problem.steps(lengths, progress)]
            for after in [*following, progress.evicted]:
                if (lengths, after) not in self.of:
                    self._number(lengths, after)
                    pending.append(after)

    def _number(self, lengths: Lengths, progress: Progress) -> None:
        self.of[lengths, progress] = len(self.known)
        self.known.append((lengths, progress))

    def _tables(self) -> kernel.Tables:
        problem, relaxation = self.problem, Relaxation(self.problem)
        p = problem.profile
        least_slope_ps = _least_slope_ps(problem)
        steps: list[tuple[int, ...]] = []
        first_step = [0]
        left = []
        for lengths, progress in self.known:
            for step in problem.steps(lengths, progress):
                saved_ps = self._saved_by_decode_ps(progress, step)
                if saved_ps is not None and saved_ps + least_slope_ps * (step.tokens - 1) > p.decode_base_ps:
                    continue  # even where nobody else decodes
                to = self.of[lengths, step.after]
                during = problem.blocks_during(lengths, step.before.held + step.tokens)
                in_vain = saved_ps is not None and saved_ps >= 0
                steps.append((to, step.tokens, step.before.held, step.before.decoding, during, in_vain))
            first_step.append(len(steps))
            left.append(relaxation.left(lengths, progress))
        to, tokens, past, decodes, during, in_vain = np.array(steps, np.int64).T.copy()
        most_tokens = min(problem.max_batch_tokens, sum(n * k.peak_tokens for k, n in problem.kinds.items()))
        costs = np.zeros(kernel.N_COSTS, np.int64)
        costs[kernel.PREFILL_BASE], costs[kernel.PREFILL_SEQ] = p.prefill_base_ps, p.prefill_seq_ps
        costs[kernel.PREFILL_KV], costs[kernel.PAIRS_PS] = p.prefill_kv_ps, p.attn_ps_per_1024_pairs
        costs[kernel.DECODE_BASE], costs[kernel.DECODE_SEQ] = p.decode_base_ps, p.decode_seq_ps
        costs[kernel.DECODE_KV], costs[kernel.CAPACITY] = p.decode_kv_ps, problem.kv_blocks
        costs[kernel.MOST_TOKENS], costs[kernel.BASE] = problem.max_batch_tokens, relaxation.batch_base_ps
        costs[kernel.PREFILL_EXTRA] = relaxation.prefill_extra_ps
        costs[kernel.MAY_EVICT] = problem.eviction == "free"

        def column(values: Iterator[Any]) -> Any:
            return np.array(list(values), np.int64)

        return kernel.Tables(
            blocks=column(problem.blocks_during(lengths, at.held) for lengths, at in self.known),
            evicted=column(self.of[lengths, at.evicted] for lengths, at in self.known),
            first_step=np.array(first_step, np.int64),
            left_own_ps=column(each.own_ps for each in left),
            left_emissions=column(each.emissions for each in left),
            left_blocks=column(each.block_batches for each in left),
            left_tokens=column(each.tokens for each in left),
            left_prompt_blocks=column(each.prompt_blocks for each in left),
            to=to,
            tokens=tokens,
            past=past,
            decodes=decodes,
            during=during,
            in_vain=in_vain,
            g_ps=p.token_table_ps(most_tokens + 1),
            costs=costs,
        )

    def _saved_by_decode_ps(self, progress: Progress, step: Step) -> int | None:
        """What a request that is computed anew saves of its own cost if it decodes, which brings it as far; None for
        any other step."""
        if not progress.decoding or step.before == progress or step.after.emitted == progress.emitted:
            return None
        return self.problem.own_ps(step.before, step.tokens) - self.problem.own_ps(progress, 1)


def _least_slope_ps(problem: Problem) -> int:
    """What g grows by from one token to the next, at least, on average over any number of them."""
    p = problem.profile
    knots = pairwise(int(knot) for knot in p.g_knots_tokens)
    return min((p.g_ps(high) - p.g_ps(low)) // (high - low) for low, high in knots)


def _begin(problem: Problem, states: _States, below_ps: int) -> kernel.Graph:
    """A graph of one node: nobody has begun."""
    n, room = len(problem.requests), 1 << 12
    graph = kernel.Graph(
        states=np.zeros((room, n), np.int32),
        cost_ps=np.zeros(room, np.int64),
        parent=np.full(room, -1, np.int64),
        closed=np.zeros(room, np.int8),
        table=np.zeros(4 * room, np.int64),
        heap_ps=np.zeros(4 * room, np.int64),
        heap_node=np.zeros(4 * room, np.int64),
        counters=np.zeros(kernel.N_COUNTERS, np.int64),
        scratch=np.zeros((9, n + 1), np.int64),
        child=np.zeros(n, np.int32),
        wanted=np.zeros((3, n + 1), np.int64),
    )
    graph.states[0] = sorted(states.of[lengths, Progress()] for lengths in problem.requests)
    graph.counters[kernel.N_NODES] = graph.counters[kernel.N_HEAP] = 1
    graph.counters[kernel.BELOW_PS] = below_ps
    _compiled().number(graph)
    return graph


def _larger(graph: kernel.Graph) -> kernel.Graph:
    """The same graph with twice the room."""

    def doubled(array: Any) -> Any:
        larger = np.zeros((2 * len(array), *array.shape[1:]), array.dtype)
        larger[: len(array)] = array
        return larger

    growing = ("states", "cost_ps", "parent", "closed", "heap_ps", "heap_node")
    graph = graph._replace(**{name: doubled(getattr(graph, name)) for name in growing})
    graph = graph._replace(table=np.zeros(2 * len(graph.table), np.int64))
    _compiled().number(graph)
    return graph


def _schedule(problem: Problem, states: _States, graph: kernel.Graph, goal: int) -> Schedule:
    """The batches of the cheapest way to a node. Who is who: entry i of a node stands for request `who[i]`."""
    way = [goal]
    while (parent := int(graph.parent[way[-1]])) >= 0:
        way.append(parent)
    way.reverse()
    first = [states.of[lengths, Progress()] for lengths in problem.requests]
    who = sorted(range(len(first)), key=lambda i: (first[i], i))
    batches = []
    for parent, node in pairwise(way):
        _compiled().find(states.tables, graph, parent, node)
        assert graph.wanted[2, 0] == 1
        tokens: dict[int, int] = {}
        evicted, after = [], []
        for i, request in enumerate(who):
            state, choice = int(graph.states[parent, i]), int(graph.wanted[0, i])
            if choice != kernel.IDLE:
                if states.tables.past[choice] < states.known[state][1].held:
                    evicted.append(request)
                tokens[request] = int(states.tables.tokens[choice])
                state = int(states.tables.to[choice])
            elif graph.wanted[1, i]:
                evicted.append(request)
                state = int(states.tables.evicted[state])
            after.append((state, request))
        who = [request for _, request in sorted(after)]
        batches.append(Batch(dict(sorted(tokens.items())), tuple(sorted(evicted))))
    return Schedule(tuple(batches))


@dataclass(frozen=True)
class _Compiled:
    """The functions of the kernel."""

    expand: Any
    beam: Any
    find: Any
    number: Any


@cache
def _compiled() -> _Compiled:
    ints, small, states = numba.types.int64[::1], numba.types.int8[::1], numba.types.int32[:, ::1]
    tables = numba.types.NamedUniTuple(ints, len(kernel.Tables._fields), kernel.Tables)
    of_graph = dict.fromkeys(kernel.Graph._fields, ints) | {
        "states": states,
        "closed": small,
        "scratch": numba.types.int64[:, ::1],
        "child": numba.types.int32[::1],
        "wanted": numba.types.int64[:, ::1],
    }
    graph = numba.types.NamedTuple(list(of_graph.values()), kernel.Graph)
    integer, nothing = numba.types.int64, numba.types.void
    return _Compiled(
        compile_cached(
            kernel.expand_nodes, integer(tables, graph, integer), "the search for the optimum", "some ten seconds"
        ),
        compile_cached(kernel.expand_beam, integer(tables, graph, ints, integer)),
        compile_cached(kernel.find_batch, nothing(tables, graph, integer, integer)),
        compile_cached(kernel.number_nodes, nothing(graph)),
    )
