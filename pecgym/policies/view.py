"""What a compiled policy may ask about the cluster, and answer.

A policy places shorts, `choose(state, slot) -> replica | placement(...) | WAIT`, and may start longs,
`start(state, slot) -> group(...) | WAIT`; `slot` is the first request of its global queue. These rules read the state
as it is at the decision's time, although busy replicas are simulated in runs.
"""

from __future__ import annotations

from pecgym.engine.cluster import INDEX_BITS, STRATEGY_BITS
from pecgym.engine.compiled import question, rule
from pecgym.engine.iteration import iterations_within, steps_started
from pecgym.engine.memory import blocks_to_admit, growth_blocks, prompt_share, reserved_now, resident, steps_since_join
from pecgym.engine.service import lone_decode_ps, lone_prefill_ps
from pecgym.engine.state import (
    DECODING_LONG,
    GATHERING_LONG,
    NONE,
    OPEN,
    POOL,
    PREFILLING_LONG,
    RESERVED,
    RUNNING,
    STATIC,
    SUSPENDED_LONG,
    WAIT,
    State,
)

__all__ = [
    "DECODING_LONG",
    "GATHERING_LONG",
    "OPEN",
    "POOL",
    "PREFILLING_LONG",
    "RESERVED",
    "SUSPENDED_LONG",
    "WAIT",
    "arrived_before",
    "best_anchor",
    "can_start",
    "count_of",
    "degree_of_long",
    "ends_before_group_is_ready",
    "enough_for_long",
    "fewest_replicas",
    "first_open_from",
    "group",
    "least_loaded",
    "least_loaded_of",
    "length_of",
    "load_of",
    "n_replicas",
    "next_in_turn",
    "placement",
    "pool_fill",
    "random_below",
]


# -- answers --------------------------------------------------------------------------------------------------------


@question
def placement(replica: int, decode: int, preempt: bool) -> int:
    """A short prefills on `replica` and decodes on the decode replica `decode` (NONE: where it prefilled); preempt:
    whether it stops a long that runs there. A replica's index alone is a placement without either."""
    action = replica | ((decode + 1) << INDEX_BITS)
    if preempt:
        action |= 1 << (2 * INDEX_BITS)
    return action


@question
def group(anchor: int, degree: int, strategy: int, index: int = 0) -> int:
    """A long is served by `degree` replicas that are grown from the anchor, with a strategy of sequence parallelism
    (index in pecgym.costs.parallel.STRATEGIES). index: which of the waiting longs, in their order."""
    later = (strategy | (index << STRATEGY_BITS)) << (2 * INDEX_BITS)
    return anchor | (degree << INDEX_BITS) | later


# -- replicas -------------------------------------------------------------------------------------------------------


@question
def n_replicas(state: State) -> int:
    """The number of replicas."""
    return len(state.replicas)


@question
def count_of(state: State, place_class: int) -> int:
    """Replicas of a class: OPEN (general, without a long), GATHERING_LONG, SUSPENDED_LONG (its prefill is),
    PREFILLING_LONG, DECODING_LONG (general, serve one), POOL (decode shorts), RESERVED (for longs, without one)."""
    return state.class_counts[place_class]


@question
def least_loaded_of(state: State, place_class: int) -> int:
    """The replica of a class with the least of the load that the policy declared, ties: the lowest index; NONE, which
    is WAIT, if there is none."""
    if state.class_counts[place_class] == 0:
        return NONE
    return state.load_trees[place_class, 1]


@question
def least_loaded(state: State) -> int:
    """The least loaded replica without a long; NONE, which is WAIT, if there is none."""
    return least_loaded_of(state, OPEN)


@question
def load_of(state: State, r: int) -> int:
    """The load of replica r, as the policy declared it."""
    return state.loads[state.replicas[r].place_class, r]


@question
def first_open_from(state: State, first: int) -> int:
    """The first replica without a long at or after `first`, around the end; NONE, which is WAIT, if there is none."""
    n = len(state.replicas)
    for step in range(n):
        r = (first + step) % n
        if state.replicas[r].place_class == OPEN:
            return r
    return NONE


@question
def next_in_turn(state: State) -> int:
    """Replica 0, 1, ..., R-1, 0, ... at successive calls, those with a long left out."""
    cluster = state.cluster[0]
    chosen = first_open_from(state, cluster.round_robin)
    if chosen != NONE:
        cluster.round_robin = (chosen + 1) % len(state.replicas)
    return chosen


@question
def random_below(state: State, n: int) -> int:
    """A uniform integer in 0..n-1 from the policy's own stream (a 48-bit linear congruential generator, as drand48)."""
    cluster = state.cluster[0]
    cluster.random_state = (cluster.random_state * 0x5DEECE66D + 0xB) & 0xFFFFFFFFFFFF
    return ((cluster.random_state >> 17) * n) >> 31


# -- shorts ---------------------------------------------------------------------------------------------------------


@question
def can_start(state: State, r: int, slot: int) -> bool:
    """Whether replica r, which must be OPEN, could soon start the request, behind all that wait there already.

    It needs a batch slot, KV memory above the watermark, and room in the token budget of one iteration beside all
    prompt tokens that the replica has yet to compute; an empty replica takes any request.
    """
    settings = state.settings[0]
    replica = state.replicas[r]
    if replica.place_class != OPEN:
        return False
    if replica.n_requests == 0 and replica.held_blocks == 0:
        return True
    if replica.n_requests >= settings.slots:
        return False
    if settings.batching == STATIC:
        return replica.n_waiting == replica.n_requests
    request = state.requests[slot]
    budget = settings.max_batch_tokens - replica.queued_tokens
    if settings.mixing == 1:
        budget -= replica.n_decodes
    if prompt_share(settings.chunk_tokens, request.prompt_tokens, budget, replica.queued_tokens == 0) == 0:
        return False
    reserved = reserved_now(state, r, steps_started(state, r)) + replica.waiting_blocks
    return reserved + blocks_to_admit(state, r, request) + settings.watermark_blocks <= settings.capacity_blocks


@question
def length_of(state: State, slot: int) -> int:
    """The output length, in tokens, that rules may read of a request: with order.lengths=exact the true one, else the
    predicted one."""
    return state.requests[slot].rank_tokens


@question
def arrived_before(state: State, queue: int, slot: int) -> bool:
    """Whether somebody waits at the head of a global queue (state.cluster.queue or .longs) who came before `slot`."""
    return queue != NONE and state.requests[queue].sequence < state.requests[slot].sequence


@question
def _time_left_ps(state: State, r: int) -> int:
    """A lower bound on the time until the residents of replica r have gone, by the lengths that rules may read."""
    replica = state.replicas[r]
    done = 0
    if replica.status == RUNNING and replica.with_decodes == 1:
        done = iterations_within(replica, state.cluster[0].now_ps - replica.started_ps)
    longest = 0
    for i in range(replica.n_decodes + replica.n_prefills):
        request = state.requests[resident(state, r, i)]
        emitted = request.emitted_tokens
        context = request.prompt_tokens
        if request.decoding == 1:
            decoded = steps_since_join(replica, request) + done
            emitted += decoded
            context = request.computed_tokens + decoded
        longest = max(longest, lone_decode_ps(state, request.rank_tokens - emitted - 1, context))
    return longest


@question
def ends_before_group_is_ready(state: State, r: int, slot: int) -> bool:
    """Whether the request, alone on member r of a group that gathers, would end before its last member can be ready."""
    replica = state.replicas[r]
    if replica.n_requests > 0 or replica.held_blocks > 0:
        return False
    request = state.requests[slot]
    prompt = request.prompt_tokens
    alone = lone_prefill_ps(state, prompt) + lone_decode_ps(state, request.rank_tokens - 1, prompt)
    member = replica.lead
    while member != NONE:
        if alone <= _time_left_ps(state, member):
            return True
        member = state.replicas[member].next_member
    return False


@question
def pool_fill(state: State) -> tuple[bool, int, int]:
    """Of the decode replicas: whether some request waits for one of them, KV blocks in use, and KV blocks of each."""
    waits = False
    used = 0
    for r in range(len(state.replicas)):
        replica = state.replicas[r]
        if replica.place_class == POOL:
            waits = waits or replica.n_waiting > 0
            used += replica.used_blocks + growth_blocks(state, r, steps_started(state, r))
    return waits, used, state.settings[0].capacity_blocks


# -- longs ----------------------------------------------------------------------------------------------------------


@question
def fewest_replicas(state: State, slot: int) -> int:
    """The fewest replicas whose KV memories hold a long."""
    settings = state.settings[0]
    request = state.requests[slot]
    tokens = request.input_tokens + request.output_tokens - 1
    capacity = settings.capacity_blocks * settings.block_tokens
    return (tokens + capacity - 1) // capacity


@rule
def _is_able(state: State, r: int, idle_only: bool) -> bool:
    replica = state.replicas[r]
    return replica.place_class == state.settings[0].long_class and (not idle_only or replica.n_requests == 0)


@rule
def _able_on_node(state: State, node: int, idle_only: bool) -> int:
    per_node = state.settings[0].replicas_per_node
    count = 0
    for r in range(node * per_node, min((node + 1) * per_node, len(state.replicas))):
        if _is_able(state, r, idle_only):
            count += 1
    return count


@rule
def _n_nodes(state: State) -> int:
    per_node = state.settings[0].replicas_per_node
    return (len(state.replicas) + per_node - 1) // per_node


@question
def enough_for_long(state: State, wanted: int, idle_only: bool) -> bool:
    """Whether `wanted` replicas may join a group: reserved ones, or without any those that are open; idle_only: without
    shorts."""
    able = state.class_counts[state.settings[0].long_class]
    if able < wanted or not idle_only:
        return able >= wanted
    able = 0
    for node in range(_n_nodes(state)):
        able += _able_on_node(state, node, idle_only)
        if able >= wanted:
            return True
    return False


@question
def degree_of_long(state: State, slot: int, idle_only: bool) -> int:
    """How many replicas serve a long by `sp_degree`: the fewest that hold it, a number, or whole nodes where free."""
    settings = state.settings[0]
    fewest = fewest_replicas(state, slot)
    if settings.degree_rule == 0:
        return fewest
    if settings.degree_rule > 0:
        return max(fewest, settings.degree_rule)
    per_node = settings.replicas_per_node
    nodes = (fewest + per_node - 1) // per_node
    if nodes * per_node >= len(state.shape_index) or not enough_for_long(state, nodes * per_node, idle_only):
        return fewest
    whole = 0
    for node in range(_n_nodes(state)):
        if _able_on_node(state, node, idle_only) == per_node:
            whole += 1
            if whole == nodes:
                return nodes * per_node
    return fewest


@rule
def _next_able(state: State, node: int, previous: int, idle_only: bool) -> int:
    """The replica of a node that comes after `previous` in order of (load, index), NONE: the first."""
    per_node = state.settings[0].replicas_per_node
    best = NONE
    for r in range(node * per_node, min((node + 1) * per_node, len(state.replicas))):
        if not _is_able(state, r, idle_only):
            continue
        load = load_of(state, r)
        if previous != NONE:
            before = load_of(state, previous)
            if load < before or (load == before and r <= previous):
                continue
        if best == NONE or load < load_of(state, best):
            best = r
    return best


@question
def best_anchor(state: State, degree: int, idle_only: bool) -> int:
    """The least loaded replica of the node whose `degree` least loaded ones have the least load together; if no node
    has so many, of the node that has most of them. NONE if there is none."""
    best = NONE
    best_total = 0
    fullest = NONE
    most = 0
    for node in range(_n_nodes(state)):
        able = _able_on_node(state, node, idle_only)
        if able > most:
            most = able
            fullest = node
        if able < degree:
            continue
        total = 0
        r = NONE
        for _ in range(degree):
            r = _next_able(state, node, r, idle_only)
            total += load_of(state, r)
        if best == NONE or total < best_total:
            best = node
            best_total = total
        if best_total == 0:
            break
    if best == NONE:
        all_idle = enough_for_long(state, state.class_counts[state.settings[0].long_class], idle_only)
        if idle_only and (degree <= state.settings[0].replicas_per_node or not all_idle):
            return NONE
        best = fullest
    if best == NONE:
        return NONE
    return _next_able(state, best, NONE, idle_only)
