"""The state of a simulated cluster: record layouts, constants, and their allocation.

All times are int64 picoseconds, all sizes are tokens or KV blocks. The request table holds only requests that are
in the system: a row ("slot") is taken at arrival and freed at completion, when one row is appended to the log.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

NEVER_PS = 2**62
HORIZON_PS = 4 * 10**18  # the latest time that the engine takes, pecgym.units.HORIZON_S
NONE = -1

# What a policy may answer instead of a replica's index.
WAIT = -1
ASK = -2

# Why the kernel came back.
DONE, DECISION, NEED_ROWS, NEED_SPACE, PAUSED, BAD_ACTION, TOO_LATE = range(7)

# Where the kernel is inside one point in time.
PHASE_NEXT, PHASE_END, PHASE_ARRIVE, PHASE_DISPATCH, PHASE_START = range(5)

# What a replica is doing.
IDLE, RUNNING, GATHERING = range(3)

CONTINUOUS, STATIC = range(2)
PREFILL_FIRST, DECODE_FIRST = range(2)
RESERVE_PROMPT, RESERVE_PEAK, RESERVE_HISTORY = range(3)
VICTIM_NEWEST, VICTIM_FEWEST_COMPUTED, VICTIM_MOST_COMPUTED = range(3)
EVICT_RECOMPUTE, EVICT_SWAP = range(2)
ORDER_FCFS, ORDER_SHORTEST, ORDER_SHORTEST_REMAINING = range(3)
LOAD_NONE, LOAD_REQUESTS, LOAD_QUEUED_TOKENS = range(3)

HISTORY_BUCKETS = 40


def _layout(*names: str) -> np.dtype[Any]:
    return np.dtype([(name, np.int64) for name in names], align=True)


TRACE_ROW = _layout("arrival_ps", "input_tokens", "output_tokens", "rank_tokens")
"""One request as it arrives. rank_tokens: the output length that order rules may read (true or predicted)."""

REQUEST = _layout(
    "row",  # number of the request in its workload
    "arrival_ps",
    "input_tokens",
    "output_tokens",
    "rank_tokens",
    "placed_ps",  # when a replica was chosen
    "start_ps",  # first execution, NONE before
    "first_token_ps",
    "replica",
    "prompt_tokens",  # what its prefill must compute: input, plus tokens emitted before an eviction
    "computed_tokens",  # KV tokens held; for a decode, at `join_step`
    "emitted_tokens",  # the same for output tokens
    "join_step",  # the replica's decode step at which it joined the decodes
    "leave_tokens",  # number of emitted tokens at which it leaves the batch
    "chunk_tokens",  # prefill tokens in the iteration under way
    "decoding",  # 1 once its prompt is computed
    "swapped",  # 1 while its KV is in host memory
    "reserved_tokens",  # KV tokens that admission set aside
    "waiting_blocks",  # the blocks counted for it while it waits at the replica
    "admission",  # sequence number of its latest admission
    "evictions",
    "recomputed_tokens",
    "key",  # queue order: smaller first, then smaller sequence
    "sequence",
    "child",  # links of the queue that it is in (queues.py)
    "sibling",
)

REPLICA = _layout(
    "status",
    "queue",  # root of its waiting queue
    "n_requests",  # placed here and not finished
    "n_waiting",
    "queued_tokens",  # prompt tokens placed here and not yet computed
    "waiting_blocks",
    "n_prefills",  # residents whose prompt is not complete
    "n_decodes",
    "used_blocks",  # KV blocks held at the last iteration boundary
    "reserved_blocks",  # RESERVE_PEAK: blocks set aside for all residents
    "decode_steps",  # decode iterations done so far
    "kv_tokens",  # sum of context over the decodes
    "started_ps",  # start of the run of iterations under way
    "n_iterations",  # its length
    "with_decodes",  # 1 if the decodes take part in it
    "first_extra_ps",  # time that only the first of them takes (swaps)
    "base_ps",  # duration of the first, without the extra
    "slope_ps",  # how much longer each next one is
    "gathering_until_ps",  # static batching: when the batch starts even if not full, NEVER_PS if nothing waits
    "in_ready",
    "admissions",
    "busy_ps",
    "iterations",
    "evictions",
    "swapped_tokens",
)

CLUSTER = _layout(
    "now_ps",
    "phase",
    "changed",  # 1 if something happened that a waiting decision may depend on
    "queue",  # root of the global queue
    "n_queued",
    "thinking",  # closed loop: root of the queue of users that think
    "next_row",
    "n_rows",  # rows in the trace chunk
    "row_offset",  # number of the chunk's first row
    "more_rows",  # 1 while another chunk will follow
    "closed_loop",
    "think_ps",
    "sequence",
    "eviction_sequence",
    "random_state",
    "round_robin",
    "n_free",
    "n_live",
    "n_logged",
    "n_ready",
    "action",  # the outside answer to the decision that is due, ASK if none
)

SETTINGS = _layout(
    "batching",
    "static_size",
    "static_timeout_ps",
    "slots",
    "max_batch_tokens",
    "chunk_tokens",  # 0: whole prompts
    "mixing",
    "group_order",
    "reservation",
    "victim",
    "eviction",
    "swap_ps_per_token",
    "queue_order",
    "preemptive",
    "block_tokens",
    "capacity_blocks",
    "watermark_blocks",
    "global_order",
    "load",
)

COSTS = _layout(
    "prefill_base_ps",
    "prefill_seq_ps",
    "prefill_kv_ps",
    "attention_ps_per_1024_pairs",
    "decode_base_ps",
    "decode_seq_ps",
    "decode_kv_ps",
)

LOG_ROW = _layout(
    "row",
    "arrival_ps",
    "placed_ps",
    "start_ps",
    "first_token_ps",
    "finish_ps",
    "input_tokens",
    "output_tokens",
    "replica",
    "evictions",
    "recomputed_tokens",
)

HEAP_ENTRY = _layout("step", "slot")


class State(NamedTuple):
    """All that the kernel reads and writes: R replicas of B slots, S request slots, N trace rows, P = 2^k >= R."""

    cluster: Any  # CLUSTER[1]
    settings: Any  # SETTINGS[1]
    costs: Any  # COSTS[1]
    token_ps: Any  # int64[T]: time of the token term for 0..T-1 tokens
    token_knots: Any  # int64[K, 2]: the knots (tokens, time) of the token term, for more tokens than the table holds
    trace: Any  # TRACE_ROW[N]
    requests: Any  # REQUEST[S]
    free_slots: Any  # int64[S], a stack
    replicas: Any  # REPLICA[R]
    decodes: Any  # HEAP_ENTRY[R, B]: heap on the decode step at which a request leaves
    prefills: Any  # int64[R, B]: slots of incomplete prompts, oldest first
    phases: Any  # int64[R, block]: decodes by (computed - decode_steps) mod block
    history: Any  # int64[R, HISTORY_BUCKETS, 2]: count and summed KV peak of finished requests
    event_ps: Any  # int64[P]: when each replica's run of iterations ends
    event_tree: Any  # int64[2P] (tournament.py)
    load: Any  # int64[P]: the load that the policy routes by
    load_tree: Any  # int64[2P]
    ready: Any  # int64[R]: replicas that compose a batch at the end of this point in time
    log: Any  # LOG_ROW[L]


MUTABLE = tuple(f for f in State._fields if f not in ("settings", "costs", "token_ps", "token_knots", "trace"))
"""The arrays that a snapshot must hold."""


def _zeros(n: int | tuple[int, ...], layout: np.dtype[Any]) -> Any:
    return np.zeros(n, layout).view(np.recarray)


def allocate(n_replicas: int, slots: int, block_tokens: int, request_slots: int = 1024) -> State:
    """An empty state for `n_replicas` replicas of `slots` batch slots; settings, costs and trace still to be set."""
    padded = 1 << max(0, (n_replicas - 1).bit_length())
    event_ps = np.full(padded, NEVER_PS, np.int64)
    load = np.full(padded, NEVER_PS, np.int64)
    load[:n_replicas] = 0
    state = State(
        cluster=_zeros(1, CLUSTER),
        settings=_zeros(1, SETTINGS),
        costs=_zeros(1, COSTS),
        token_ps=np.zeros(1, np.int64),
        token_knots=np.zeros((2, 2), np.int64),
        trace=_zeros(0, TRACE_ROW),
        requests=_zeros(request_slots, REQUEST),
        free_slots=np.arange(request_slots, dtype=np.int64)[::-1].copy(),
        replicas=_zeros(n_replicas, REPLICA),
        decodes=_zeros((n_replicas, slots), HEAP_ENTRY),
        prefills=np.zeros((n_replicas, slots), np.int64),
        phases=np.zeros((n_replicas, block_tokens), np.int64),
        history=np.zeros((n_replicas, HISTORY_BUCKETS, 2), np.int64),
        event_ps=event_ps,
        event_tree=_empty_tree(padded),
        load=load,
        load_tree=_empty_tree(padded),
        ready=np.zeros(n_replicas, np.int64),
        log=_zeros(request_slots, LOG_ROW),
    )
    cluster = state.cluster[0]
    cluster.queue = cluster.thinking = NONE
    cluster.n_free = request_slots
    cluster.action = ASK
    state.replicas.queue[:] = NONE
    state.replicas.gathering_until_ps[:] = NEVER_PS
    return state


def _empty_tree(padded: int) -> np.ndarray:
    """A tournament over equal keys: the lowest index wins everywhere."""
    tree = np.zeros(2 * padded, np.int64)
    tree[padded:] = np.arange(padded)
    for node in range(padded - 1, 0, -1):
        tree[node] = tree[2 * node]
    return tree


def with_room(state: State, request_slots: int, log_rows: int) -> State:
    """A copy of `state` whose request table and log are larger; slots keep their numbers."""
    old = len(state.requests)
    requests = _zeros(request_slots, REQUEST)
    requests[:old] = state.requests
    cluster = state.cluster[0]
    n_free = int(cluster.n_free)
    free = np.zeros(request_slots, np.int64)
    added = request_slots - old
    free[:added] = np.arange(request_slots - 1, old - 1, -1)
    free[added : added + n_free] = state.free_slots[:n_free]
    cluster.n_free = n_free + added
    log = _zeros(log_rows, LOG_ROW)
    log[: cluster.n_logged] = state.log[: cluster.n_logged]
    return state._replace(requests=requests, free_slots=free, log=log)
