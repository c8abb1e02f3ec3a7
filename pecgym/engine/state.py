"""The state of a simulated cluster: record layouts, constants, and their allocation.

All times are int64 picoseconds, all sizes are tokens or KV blocks. The request table holds only requests that are
in the system: a row ("slot") is taken at arrival and freed at completion, when one row is appended to the log.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

NEVER_PS = 2**62
SECONDS_PER_PS = 1e-12
HORIZON_PS = 4 * 10**18  # the latest time that the engine takes, pecgym.units.HORIZON_S
NONE = -1

# What a policy may answer instead of a replica's index.
WAIT = -1
ASK = -2

# Why the kernel came back.
DONE, DECISION, NEED_ROWS, NEED_SPACE, PAUSED, BAD_ACTION, TOO_LATE = range(7)

# Which decision is due.
PLACE_SHORT, START_LONG, SET_POOL, JOIN_BATCH, EVICT_ONE, PLAN_BATCH = range(6)

# What is asked outside about batches: nothing, who joins and who is evicted, or all of it (planned_batches.py).
ASK_NOTHING, ASK_MEMBERS, ASK_WHOLE = range(3)

# Where the kernel is inside one point in time.
PHASE_NEXT, PHASE_END, PHASE_ARRIVE, PHASE_POOL, PHASE_DISPATCH, PHASE_START = range(6)

# What a replica is doing. SERVING: it works for its long; the event is that of the group's lead.
IDLE, RUNNING, GATHERING, SERVING = range(4)

# How far a replica is with its next batch (batch.choose_batch): who gets memory first, and who gets what is left.
NOT_COMPOSING, FIRST_GROUP, SECOND_GROUP = range(3)

# What a replica is for.
GENERAL, DECODE_ROLE, LONG_ROLE = range(3)

# What a policy may do with a replica: each is in one class. CLOSED: it drains before it changes its role.
OPEN, GATHERING_LONG, SUSPENDED_LONG, PREFILLING_LONG, DECODING_LONG, POOL, RESERVED, CLOSED = range(8)
N_CLASSES = 8

# Where a group is in the life of its long (groups.py).
GROUP_GATHERING, PREFILL, PREFILL_STALLED, PREFILL_SUSPENDED, DECODE, DECODE_STALLED, DECODE_SUSPENDED = range(7)

# What a slice of the timeline shows (pecgym.analysis.timeline).
SLICE_PREFILL, SLICE_DECODE, SLICE_MIXED, SLICE_LONG_PREFILL, SLICE_LONG_DECODE, SLICE_COLOCATED = range(6)

BY_PLAN = 2  # how a request decodes that is not among the decodes
SWAPPED, PUSHED = 1, 2  # why the KV of a waiting request is in host memory

CONTINUOUS, STATIC = range(2)
PREFILL_FIRST, DECODE_FIRST = range(2)
RESERVE_PROMPT, RESERVE_PEAK, RESERVE_HISTORY = range(3)
VICTIM_NEWEST, VICTIM_FEWEST_COMPUTED, VICTIM_MOST_COMPUTED = range(3)
EVICT_RECOMPUTE, EVICT_SWAP = range(2)

# How requests are ordered (ordering.py). From ORDER_LTR on, keys change while requests wait.
ORDER_FCFS, ORDER_SHORTEST, ORDER_SHORTEST_REMAINING, ORDER_SHORTEST_PROMPT = range(4)
ORDER_ONE_BIT, ORDER_SKIP_PREDICT = range(4, 6)
ORDER_LTR, ORDER_SSJF, ORDER_TIE, ORDER_BINS = range(6, 10)
LOAD_NONE, LOAD_REQUESTS, LOAD_QUEUED_TOKENS = range(3)

HISTORY_BUCKETS = 40

# Sums over time (integrals.py): waiting shorts, open longs and late shorts x seconds; shorts that missed a target.
WAITING_S, OPEN_LONGS_S, LATE_S, MISSED = range(4)
N_SUMS = 4


def _layout(*names: str) -> np.dtype[Any]:
    return np.dtype([(name, np.int64) for name in names], align=True)


TRACE_ROW = _layout(
    "arrival_ps", "input_tokens", "output_tokens", "rank_tokens", "tail_tokens", "prediction_ps", "is_long"
)
"""One request as it arrives. rank_tokens: the output length that order rules may read (true or predicted); tail_tokens:
the mean of the worst tenth of what was predicted; prediction_ps: time after which it is known."""

REQUEST = _layout(
    "row",  # number of the request in its workload
    "arrival_ps",
    "input_tokens",
    "output_tokens",
    "rank_tokens",
    "tail_tokens",
    "prediction_ps",
    "is_long",
    "placed_ps",  # when a replica was chosen
    "start_ps",  # first execution, NONE before
    "first_token_ps",
    "replica",  # where it prefills; of a long: the lead of its group
    "decode_replica",  # where a short is to decode, NONE: where it prefilled
    "pushed_ps",  # when its KV cache had arrived there, NONE: not yet
    "sp_degree",  # replicas that serve it
    "preemptions",
    "preempts",  # 1: a short that stops a long as soon as it could run beside it
    "prompt_tokens",  # what its prefill must compute: input, plus tokens emitted before an eviction
    "computed_tokens",  # KV tokens held; for a decode, at `join_step`
    "emitted_tokens",  # the same for output tokens
    "join_step",  # the replica's decode step at which it joined the decodes
    "leave_tokens",  # number of emitted tokens at which it leaves the batch
    "chunk_tokens",  # prefill tokens in the iteration under way
    "decoding",  # 1 once its prompt is computed; BY_PLAN in batches from outside, where it stays among the prompts
    "swapped",  # SWAPPED or PUSHED while its KV waits in host memory, else 0
    "reserved_tokens",  # KV tokens that admission set aside
    "waiting_blocks",  # the blocks counted for it while it waits at the replica
    "admission",  # sequence number of its latest admission
    "evictions",
    "recomputed_tokens",
    "waits_from_step",  # ORDER_LTR: the step at which it was first seen to wait, NONE: not yet
    "promoted_steps",  # for how many iterations of its own it goes before the others; of a decode, at `join_step`
    "key",  # queue order: smaller first, then smaller sequence
    "sequence",
    "child",  # links of the queue that it is in (queues.py)
    "sibling",
    "older",  # links among the shorts without a first token (integrals.py)
    "newer",
)

REPLICA = _layout(
    "status",
    "role",
    "next_role",  # what it becomes once it is empty, NONE: no change
    "place_class",
    "lead",  # of the group of its long, NONE: no long
    "next_member",  # of that group
    "held_blocks",  # KV blocks of who is not in the batch: its long, and shorts whose KV is on its way
    "n_pushing",  # those shorts
    "incoming",  # requests that will decode here and are elsewhere yet
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
    "with_prefills",  # 1 if prompt tokens are computed in it
    "holding_back",  # 1 if prompts are held back in it
    "held_back",  # iterations that ended in which they were, since some last joined decodes
    "first_extra_ps",  # time that only the first of them takes (swaps)
    "base_ps",  # duration of the first, without the extra
    "slope_ps",  # how much longer each next one is
    "last_started_ps",  # start of the last iteration that ended
    "last_ended_ps",  # and its end
    "seen_ps",  # who was placed after that is not known to the batch that is being composed
    "composing",  # how far it is with its next batch
    "left_tokens",  # ask_batches: prompt tokens that this batch can still take
    "evictions_before",  # evictions when it began
    "gathering_until_ps",  # static batching: when the batch starts even if not full, NEVER_PS if nothing waits
    "in_ready",
    "admissions",
    "busy_ps",
    "prefill_ps",  # of it, in iterations with prompt tokens
    "iterations",
    "evictions",
    "swapped_tokens",
)

GROUP = _layout(
    "slot",  # the long
    "phase",
    "degree",
    "share_blocks",  # of its KV cache on every member
    "work_ps",  # duration of its prefill
    "operator_ps",  # of one of its operators
    "done_ps",  # the part of the work that is done
    "stop_ps",  # stalled: when the running operator ends
    "kv_ps",  # sharded decode: time per token of context
    "sync_ps",  # and of the reduction in each iteration
    "suspend_wanted",  # a short preempts its decode at the next boundary
    "in_check",
)
"""The replicas that serve a long; the table has one row per replica, that of the lead is used."""

LINK = _layout("free_ps", "carried_tokens", "busy_ps")

SLICE = _layout("replica", "kind", "start_ps", "end_ps", "row")
"""What a replica did in a part of its time."""

CLUSTER = _layout(
    "now_ps",
    "phase",
    "changed",  # 1 if something happened that a waiting decision may depend on
    "queue",  # root of the global queue of shorts
    "n_queued",
    "n_unstarted",  # shorts that have arrived and not been executed
    "n_open_longs",  # longs that have arrived and not finished
    "longs",  # root of the global queue of longs
    "n_longs",
    "longs_version",  # changes whenever a long begins or ceases to wait
    "oldest",  # of the shorts without a first token
    "newest",
    "next_late",  # the oldest of them that has not been there for the target of the tail
    "next_missed",  # the same for the target of the first token
    "n_late",  # shorts that wait, for longer than the target
    "shorts_wait",  # 1 if the policy lets the first short wait at this point in time
    "asked",  # which decision is due outside
    "asked_slot",  # of a batch: whom the engine's own rules look at, the head of the queue or their victim
    "predicting",  # root of the queue of requests whose length is being predicted
    "dispatches",  # points in time at which the global queues were looked at
    "pushing",  # root of the queue of KV pushes under way
    "next_pool_ps",  # when the number of decode replicas is decided next
    "pool_changed",  # 1 while the next decision about it may free replicas for who waits
    "n_check",
    "n_slices",
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
    "composed",  # how many of them have their batch, while a decision about the next one's is due
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
    "async_scheduling",
    "batch_wait_iterations",
    "batch_wait_tokens",  # with so many new tokens an iteration waits for no more
    "block_tokens",
    "capacity_blocks",
    "watermark_blocks",
    "global_order",
    "guard_wait_ps",  # these ten: of orders (orders.py)
    "guard_permille",
    "threshold_tokens",
    "displace_permille",
    "starving_steps",
    "promoted_steps",
    "tie_weight_permille",
    "tie_least_permille",
    "tie_most_permille",
    "tie_unit_ps",
    "load",
    "replicas_per_node",
    "layers",
    "long_order",
    "degree_rule",  # 0: by memory, NONE: whole nodes, else the number
    "strategy",
    "preemption",
    "colocation_tokens",
    "backfill",
    "operators_per_layer",
    "switch_ps",
    "push_visible_ps",
    "replica_push_ps_per_token",
    "node_push_ps_per_token",
    "pool_interval_ps",
    "knot_tokens",  # distance of the knots of the prefill table
    "long_class",  # of the replicas that serve longs: OPEN or RESERVED
    "record",  # 1: the timeline is kept
    "ask_batches",  # what about batches is decided outside
    "watch",  # 1: shorts are compared with the next two targets
    "tail_ps",  # of the wait
    "slo_ps",  # of the first token
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
    "decode_replica",
    "pushed_ps",
    "sp_degree",
    "preemptions",
)

HEAP_ENTRY = _layout("step", "slot")


class State(NamedTuple):
    """All that the kernel reads and writes: R replicas of B slots, S request slots, N trace rows, P = 2^k >= R, C
    classes, M nodes."""

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
    loads: Any  # int64[C, P]: the load that the policy routes by, in the row of the replica's class, else NEVER_PS
    load_trees: Any  # int64[C, 2P]
    class_counts: Any  # int64[C]: replicas in each class
    ready: Any  # int64[R]: replicas that compose a batch at the end of this point in time
    groups: Any  # GROUP[R]
    check: Any  # int64[R]: leads of groups that may start or go on at the end of this point in time
    links: Any  # LINK[2M + 2R]: out of nodes, into nodes, out of replicas, into replicas
    shape_index: Any  # int64[D + 1, K + 1]: row of a group of D replicas on K nodes in the next two (GroupCosts)
    prefill_table_ps: Any  # int64[strategies, shapes, knots]
    decode_sync_ps: Any  # int64[shapes]
    decode_kv_ps: Any  # int64[D + 1]
    bin_edges: Any  # int64[k]: output lengths up to which requests are in bins 0..k-1, longer ones in bin k
    sums: Any  # float64[N_SUMS]
    kv_token_s: Any  # float64[R]: KV tokens held in iterations that have ended, apart from those beside a long, x time
    slices: Any  # SLICE[T]: the timeline
    log: Any  # LOG_ROW[L]


CONSTANT = (
    "settings",
    "costs",
    "token_ps",
    "token_knots",
    "trace",
    "shape_index",
    "prefill_table_ps",
    "decode_sync_ps",
    "decode_kv_ps",
    "bin_edges",
)
MUTABLE = tuple(f for f in State._fields if f not in CONSTANT)
"""The arrays that a snapshot must hold."""


def _zeros(n: int | tuple[int, ...], layout: np.dtype[Any]) -> Any:
    return np.zeros(n, layout).view(np.recarray)


def allocate(
    n_replicas: int, slots: int, block_tokens: int, request_slots: int = 1024, replicas_per_node: int | None = None
) -> State:
    """An empty state for `n_replicas` replicas of `slots` batch slots; settings, costs and trace still to be set."""
    padded = 1 << max(0, (n_replicas - 1).bit_length())
    n_nodes = -(-n_replicas // (replicas_per_node or n_replicas))
    event_ps = np.full(padded, NEVER_PS, np.int64)
    loads = np.full((N_CLASSES, padded), NEVER_PS, np.int64)
    loads[OPEN, :n_replicas] = 0
    class_counts = np.zeros(N_CLASSES, np.int64)
    class_counts[OPEN] = n_replicas
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
        loads=loads,
        load_trees=np.tile(_empty_tree(padded), (N_CLASSES, 1)),
        class_counts=class_counts,
        ready=np.zeros(n_replicas, np.int64),
        groups=_zeros(n_replicas, GROUP),
        check=np.zeros(n_replicas, np.int64),
        links=_zeros(2 * n_nodes + 2 * n_replicas, LINK),
        shape_index=np.full((1, 1), NONE, np.int64),
        prefill_table_ps=np.zeros((1, 1, 1), np.int64),
        decode_sync_ps=np.zeros(1, np.int64),
        decode_kv_ps=np.zeros(1, np.int64),
        bin_edges=np.zeros(0, np.int64),
        sums=np.zeros(N_SUMS),
        kv_token_s=np.zeros(n_replicas),
        slices=_zeros(0, SLICE),
        log=_zeros(request_slots, LOG_ROW),
    )
    cluster = state.cluster[0]
    roots = ("queue", "longs", "thinking", "predicting", "pushing")
    for link in (*roots, "oldest", "newest", "next_late", "next_missed"):
        cluster[link] = NONE
    cluster.next_pool_ps = NEVER_PS
    cluster.n_free = request_slots
    cluster.action = ASK
    for link in ("queue", "lead", "next_member", "next_role"):
        state.replicas[link][:] = NONE
    state.replicas.gathering_until_ps[:] = NEVER_PS
    return state


def _empty_tree(padded: int) -> np.ndarray:
    """A tournament over equal keys: the lowest index wins everywhere."""
    tree = np.zeros(2 * padded, np.int64)
    tree[padded:] = np.arange(padded)
    for node in range(padded - 1, 0, -1):
        tree[node] = tree[2 * node]
    return tree


def with_slices(state: State, n: int) -> State:
    """A copy of `state` whose timeline has room for n slices."""
    slices = _zeros(n, SLICE)
    slices[: state.cluster[0].n_slices] = state.slices[: state.cluster[0].n_slices]
    return state._replace(slices=slices)


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
