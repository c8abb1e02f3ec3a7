"""The engine as a Python object: it owns the state, feeds it, and hands decisions out."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pecgym.costs import GroupCosts, Profile
from pecgym.engine import state as layout
from pecgym.engine.activity import work_until_now
from pecgym.engine.cluster import INDEX_BITS
from pecgym.engine.entry import (
    POLICY,
    ask_outside,
    compile_policy,
    compiled_answer,
    compiled_classify,
    compiled_plan,
    compiled_run,
    compiled_users,
)
from pecgym.engine.long_rules import LongRules, Topology
from pecgym.engine.orders import GLOBAL_ORDERS, OrderRules, Readers
from pecgym.engine.planned_batches import (
    FINE,
    MIXED,
    NO_SLOT,
    NOT_HERE,
    NOT_RESIDENT,
    OUT_OF_MEMORY,
    TOO_MANY_TOKENS,
    WRONG_TOKENS,
)
from pecgym.engine.reference import address_of, reference_to, table_of
from pecgym.engine.settings import EngineSettings
from pecgym.engine.workload_checks import check_batches_can_be_asked, check_sizes
from pecgym.errors import EngineError
from pecgym.units import HORIZON_S, ps_to_seconds, seconds_to_ps
from pecgym.workload import ClosedLoop, Trace

LOADS = {"none": layout.LOAD_NONE, "requests": layout.LOAD_REQUESTS, "queued_tokens": layout.LOAD_QUEUED_TOKENS}
_KINDS = {
    layout.PLACE_SHORT: "place",
    layout.START_LONG: "start",
    layout.SET_POOL: "pool",
    layout.JOIN_BATCH: "join",
    layout.EVICT_ONE: "evict",
    layout.PLAN_BATCH: "batch",
}
_WRONG_PLANS = {
    NOT_RESIDENT: "it evicts a request that holds no memory",
    NOT_HERE: "it names a request twice, or one that is elsewhere",
    NO_SLOT: "it has more residents than engine.max_batch_requests",
    WRONG_TOKENS: "it has no tokens, or a request gets others than it lacks (in parts only with engine.chunk_tokens)",
    TOO_MANY_TOKENS: "it has more new tokens than engine.max_batch_tokens",
    MIXED: "it mixes prompts and decodes, which engine.mixing=false does not",
    OUT_OF_MEMORY: "its residents hold more KV memory than there is",
}
_TOKEN_TABLE = 16384
_MOST_SLOTS = 4096  # that a restart allocates ahead
_RESTARTED = (
    "cluster",
    "replicas",
    "phases",
    "history",
    "event_ps",
    "event_tree",
    "loads",
    "load_trees",
    "class_counts",
    "groups",
    "links",
    "sums",
    "kv_token_s",
)
"""What the beginning of a run must find as it was made; of the rest only what is written then is read."""
_OF_THIS_PROCESS = ("_table", "_compiled", "_policy", "_run")


@dataclass(frozen=True)
class Decision:
    """What must be chosen now: "place" the first short, "start" the first long, or the number of decode replicas
    ("pool"; slot, row and input_tokens are then -1, -1 and 0); with `ask_batches` who is to "join" a batch, or whom to
    "evict" for it (pecgym.engine.batch_decisions); with `plan_batches` the whole "batch" (`Simulator.apply_batch`).

    Attributes:
        kind: "place", "start", "pool", "join", "evict" or "batch".
        now_s: time of the decision, seconds.
        slot: row of the request in `state.requests`; of a batch: that of the first who waits, or of the victim by the
            engine's rule, NONE if nobody waits.
        row: number of the request in its workload.
        input_tokens: its prompt.
        state: the simulator's state (pecgym.engine.state), to read and not to write; only until the decision is
            answered, then its arrays may be replaced by larger ones.
    """

    kind: str
    now_s: float
    slot: int
    row: int
    input_tokens: int
    state: layout.State = field(repr=False)


@dataclass(frozen=True)
class Snapshot:
    """Everything that changes, at one moment; see `Simulator.snapshot`."""

    arrays: dict[str, Any]
    trace: Any
    configuration: tuple[bytes, ...]


class Simulator:
    """A cluster of equal replicas under one workload.

    Either call `run()` with a policy that decides by itself, or drive it by hand: `next_decision()`, `apply(action)`.
    """

    def __init__(
        self,
        n_replicas: int,
        profile: Profile,
        settings: EngineSettings,
        *,
        choose: Callable[..., Any] | None = None,
        start: Callable[..., Any] | None = None,
        pool: Callable[..., Any] | None = None,
        load: str = "queued_tokens",
        global_order: str = "fcfs",
        order: OrderRules | None = None,
        reads_lengths: bool = False,
        rules: LongRules | None = None,
        topology: Topology | None = None,
        group_costs: GroupCosts | None = None,
        policy_stream: np.random.Generator | None = None,
        record: bool = False,
        tail_s: float | None = None,
        slo_ttft_s: float | None = None,
        ask_batches: bool = False,
        plan_batches: bool = False,
    ) -> None:
        """`choose`, `start`, `pool`: the policy's functions, to be compiled; None: decisions come back to the caller.
        load, global_order, order, reads_lengths, rules: as of pecgym.policies.Policy. topology: None: one node and free
        links. group_costs: needed for longs. policy_stream: the policy's own random numbers. record: whether the
        timeline is kept. tail_s, slo_ttft_s: targets of shorts' wait and TTFT, by which `state.sums` counts
        (integrals.py). ask_batches: who joins a batch and who is evicted are decisions too, which come back to the
        caller (batch_decisions.py). plan_batches: whole batches are (planned_batches.py)."""
        if n_replicas < 1:
            raise EngineError(f"a cluster needs at least 1 replica, got {n_replicas}")
        for key, value, values in (("load", load, LOADS), ("global_order", global_order, GLOBAL_ORDERS)):
            if value not in values:
                raise EngineError(f"{key}={value!r}: choose one of {', '.join(values)}")
        self.settings = settings = settings.resolved(profile)
        self.profile = profile = settings.with_overhead(profile)
        assert settings.block_tokens is not None
        assert settings.kv_capacity_tokens is not None
        self.rules = rules = rules or LongRules()
        topology = topology or Topology(n_replicas)
        self.max_degree = group_costs.max_degree if group_costs is not None else 0
        # a resident that stands idle in a planned batch takes none of its tokens
        slots = min(settings.max_batch_requests if plan_batches else settings.slots, settings.kv_capacity_tokens)
        state = layout.allocate(
            n_replicas,
            slots,
            settings.block_tokens,
            replicas_per_node=topology.replicas_per_node,
        )
        settings.write(state.settings[0], profile)
        state.settings[0].slots = slots
        rules.write(state.settings[0], topology, profile)
        if rules.decode_replicas and settings.batching == "static":
            raise EngineError("static batches are not disaggregated: use another engine, or long.decode_replicas=0")
        if ask_batches or plan_batches:
            check_batches_can_be_asked(settings, rules)
        state.settings[0].ask_batches = layout.ASK_WHOLE if plan_batches else layout.ASK_MEMBERS * ask_batches
        state.settings[0].record = record
        state.settings[0].watch = tail_s is not None or slo_ttft_s is not None
        state.settings[0].tail_ps = seconds_to_ps(HORIZON_S if tail_s is None else tail_s)
        state.settings[0].slo_ps = seconds_to_ps(HORIZON_S if slo_ttft_s is None else slo_ttft_s)
        state.settings[0].load = LOADS[load]
        state.settings[0].global_order = GLOBAL_ORDERS[global_order]
        self.order = order = order or OrderRules()
        by_others = reads_lengths or rules.backfill
        self.readers = Readers.of((settings.queue_order, global_order), rules.long_order, by_others)
        order.write(state.settings[0])
        if policy_stream is not None:
            state.cluster[0].random_state = policy_stream.integers(2**48)
        self.state = state._replace(
            costs=_costs(profile),
            token_ps=profile.token_table_ps(_TOKEN_TABLE),
            token_knots=np.stack([profile.g_knots_tokens, profile.g_knots_ps], axis=1),
            bin_edges=np.array(order.bin_edges_tokens, np.int64),
        )
        if group_costs is not None:
            self._set_group_costs(group_costs)
        self._set_roles(rules)
        self._functions = (choose, start, pool)
        self._compile()
        self._chunks: Iterator[Trace] = iter(())
        self._sink: Callable[[Any], None] | None = None
        self._decision_due = False
        self._last_arrival_ps = 0
        self._has_workload = False
        self._rows: Any = None
        self._pristine: dict[str, Any] | None = None

    @property
    def state(self) -> layout.State:
        """The arrays that the engine reads and writes."""
        return self._state

    @state.setter
    def state(self, state: layout.State) -> None:
        self._state, self._table = state, table_of(state)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles, with a table of their own arrays. Not for a workload in chunks."""
        if self._sink is not None:
            raise EngineError("a simulator of a streamed workload cannot be copied: load it as one trace")
        return {name: value for name, value in vars(self).items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self.state = self._state
        self._compile()

    def _compile(self) -> None:
        self._compiled = tuple(compile_policy(function or ask_outside) for function in self._functions)
        self._policy = tuple(address_of(function, POLICY) for function in self._compiled)
        self._run = compiled_run()

    @property
    def reference(self) -> Any:
        """What compiled code takes for the state (state_at): the address of its table, until an array is replaced."""
        return reference_to(self._state, self._table)

    def _set_group_costs(self, costs: GroupCosts) -> None:
        self.state.settings[0].knot_tokens = costs.step_tokens
        self.state = self.state._replace(
            shape_index=costs.shape_index.copy(),
            prefill_table_ps=costs.prefill_table_ps.copy(),
            decode_sync_ps=costs.decode_sync_ps.copy(),
            decode_kv_ps=costs.decode_kv_ps.copy(),
        )

    def _set_roles(self, rules: LongRules) -> None:
        """The last replicas decode shorts, or are reserved for longs."""
        state, n = self.state, len(self.state.replicas)
        n_pool = rules.count_of_replicas(rules.decode_replicas, n)
        n_reserved = rules.count_of_replicas(rules.reserved_replicas, n)
        state.settings[0].long_class = layout.RESERVED if n_reserved else layout.OPEN
        if rules.pool_interval_s:
            state.cluster[0].next_pool_ps = state.settings[0].pool_interval_ps
            state.cluster[0].pool_changed = 1
        for count, role in ((n_pool, layout.DECODE_ROLE), (n_reserved, layout.LONG_ROLE)):
            for r in range(n - count, n):
                state.replicas[r].role = role
                compiled_classify()(self.reference, r)

    def load_trace(self, trace: Trace) -> None:
        """The workload: a whole trace."""
        self._begin()
        self._pristine = {name: getattr(self.state, name).copy() for name in _RESTARTED}
        self._feed(trace, more=False)
        self._rows = self.state.trace

    def twin(self, **functions: Callable[..., Any] | None) -> Simulator:
        """Another simulator in the same state, which shares what never changes with this one. functions: `choose`,
        `start` and `pool` in place of this one's."""
        other = copy.copy(self)
        other.state = self.state._replace(**{name: getattr(self.state, name).copy() for name in layout.MUTABLE})
        if functions:
            other._functions = functions["choose"], functions["start"], functions["pool"]
            other._compile()
        return other

    def follow(self, other: Simulator) -> None:
        """Takes over the state of its twin, or of the one whose twin it is, where that is now: a cheaper `restore`."""
        mine, theirs = self._state, other._state
        if any(getattr(mine, name).shape != getattr(theirs, name).shape for name in ("requests", "log", "slices")):
            self.state = theirs._replace(**{name: getattr(theirs, name).copy() for name in layout.MUTABLE})
        else:
            for name in layout.MUTABLE:
                getattr(mine, name).view(np.uint8)[...] = getattr(theirs, name).view(np.uint8)
            if mine.trace is not theirs.trace:
                self.state = mine._replace(trace=theirs.trace)
        self._decision_due = other._decision_due

    def answer(self, function: Callable[..., Any], slot: int) -> int:
        """What a function of a policy (`function(state, slot)`, compiled) says now of the request in that slot."""
        address = address_of(compile_policy(function), POLICY)
        return int(compiled_answer()(self.reference, address, slot))

    def restart(self, first: int, stop: int, start_s: float, random_state: int) -> None:
        """Begins anew at `start_s` with rows first..stop-1 of the loaded trace, which arrive at their own times.

        random_state: of the policy's own numbers, 0..2**48-1.
        """
        if self._rows is None or self._pristine is None:
            raise EngineError("only a simulator of one whole trace can begin anew")
        n = stop - first
        slots = len(self.state.requests)
        if slots < min(n, _MOST_SLOTS):
            self.state = layout.with_room(self.state, min(n, _MOST_SLOTS), max(n, len(self.state.log)))
            slots = len(self.state.requests)
        for name, array in self._pristine.items():
            np.copyto(getattr(self.state, name), array)
        self.state.free_slots[:] = np.arange(slots - 1, -1, -1)
        cluster = self.state.cluster[0]
        cluster.n_free, cluster.row_offset, cluster.n_rows = slots, first, n
        cluster.now_ps, cluster.random_state = seconds_to_ps(start_s), random_state
        if cluster.next_pool_ps != layout.NEVER_PS:
            cluster.next_pool_ps += cluster.now_ps
        self.state = self.state._replace(trace=self._rows[first:stop])
        self._decision_due = False

    def load_stream(self, chunks: Iterator[Trace], sink: Callable[[Any], None]) -> None:
        """The workload: chunks of a trace, in bounded memory; `sink` gets the log rows of finished requests in parts.

        The rows that `sink` gets (LOG_ROW[n], see pecgym.engine.state) are its own.
        """
        self._begin()
        self._chunks, self._sink = chunks, sink
        self._feed_next()

    def load_closed_loop(self, loop: ClosedLoop) -> None:
        """The workload: users who send their next request when they have been answered."""
        self._begin()
        self._feed(loop.lengths, more=False)
        state, n_users = self.state, min(loop.users, len(loop.lengths))
        if n_users >= len(state.requests):
            self.state = state = layout.with_room(state, 2 * n_users, 2 * n_users)
        if len(state.log) < len(loop.lengths) + n_users:
            self.state = state = layout.with_room(state, len(state.requests), len(loop.lengths) + n_users)
        cluster = state.cluster[0]
        cluster.closed_loop = 1
        cluster.think_ps = seconds_to_ps(loop.think_s)
        starts = seconds_to_ps(np.arange(n_users) * loop.stagger_s)
        compiled_users()(self.reference, starts)

    def run(self, until_s: float = math.inf) -> bool:
        """Runs until everything is served, or to `until_s`; True if nothing is left to happen."""
        return self._undecided(self._advance(until_s, -1)) == layout.DONE

    def step(self) -> bool:
        """Runs one point in time; False if there was none."""
        return self._undecided(self._advance(math.inf, 1)) == layout.PAUSED

    def _undecided(self, status: int) -> int:
        """The status, unless the run has come to a decision that nobody here can take."""
        if status == layout.DECISION:
            kind = _KINDS[int(self.state.cluster[0].asked)]
            raise EngineError(f"a decision ({kind!r}) is due and the policy does not take it: use next_decision()")
        return status

    def next_decision(self, until_s: float = math.inf) -> Decision | None:
        """Runs to the next decision that is left to the caller; None when there is none (or none before `until_s`)."""
        if self._advance(until_s, -1) != layout.DECISION:
            return None
        cluster = self.state.cluster[0]
        self._decision_due = True
        kind = _KINDS[int(cluster.asked)]
        if kind == "pool":
            return Decision(kind, self.now_s, layout.NONE, layout.NONE, 0, self.state)
        slot = int({"place": cluster.queue, "start": cluster.longs}.get(kind, cluster.asked_slot))
        if slot == layout.NONE:
            return Decision(kind, self.now_s, slot, layout.NONE, 0, self.state)
        request = self.state.requests[slot]
        return Decision(kind, self.now_s, slot, int(request.row), int(request.input_tokens), self.state)

    def apply(self, action: int) -> None:
        """Answers the decision that is due: a placement (a replica's index is one), a group, a number of decode
        replicas, or WAIT (it is asked again when something has changed); of a batch: a place in the queue or WAIT, a
        place among those who may be evicted."""
        if not self._decision_due:
            raise EngineError("no decision is due: call next_decision() first")
        try:
            action = operator.index(action)
        except TypeError:
            raise EngineError(f"the answer must be a replica's index or WAIT ({layout.WAIT}), got {action!r}") from None
        kind = _KINDS[int(self.state.cluster[0].asked)]
        if kind == "batch":
            raise EngineError("a whole batch is due: answer with apply_batch(tokens, evicted)")
        last = len(self.state.replicas) - 1
        replica = action & ((1 << INDEX_BITS) - 1)
        on_replica = kind in ("place", "start")
        if action < layout.WAIT or action >= 1 << 62 or (on_replica and action >= 0 and replica > last):
            wanted = {
                "place": f"a replica 0..{last}, pecgym.policies.view.placement(...)",
                "start": "pecgym.policies.view.group(anchor, degree, strategy)",
                "pool": "a number of decode replicas, or of reserved ones",
                "join": "a place in the queue",
                "evict": "a place among those who may be evicted",
            }[kind]
            raise EngineError(f"action {action}: give {wanted}, or WAIT ({layout.WAIT})")
        self.state.cluster[0].action = action
        self._decision_due = False

    def apply_batch(self, tokens: Mapping[int, int], evicted: Iterable[int] = ()) -> None:
        """Answers the decision "batch" (`plan_batches`): the new tokens of each member, and who is evicted before, by
        their rows in the workload. Raises EngineError for a plan that breaks a limit; then the run is at its end."""
        if not self._decision_due or _KINDS[int(self.state.cluster[0].asked)] != "batch":
            raise EngineError("no batch is due: call next_decision() first, of a simulator with plan_batches=True")
        evicted = tuple(evicted)
        slots = {int(self.state.requests[slot].row): slot for slot in self._live_slots()}
        wrong = NOT_HERE
        if {*tokens, *evicted} <= slots.keys():
            plan = ([slots[row] for row in evicted], [slots[row] for row in tokens], list(tokens.values()))
            wrong = compiled_plan()(self.reference, *(np.array(part, np.int64) for part in plan))
        if wrong != FINE:
            raise EngineError(f"the batch planned at {self.now_s:.6f} s cannot be done: {_WRONG_PLANS[int(wrong)]}")
        self._decision_due = False

    @property
    def now_s(self) -> float:
        """Time of the latest event, seconds."""
        return float(ps_to_seconds(self.state.cluster[0].now_ps))

    def snapshot(self) -> Snapshot:
        """A copy of everything that changes in the engine, not of a Python policy. Not for a workload in chunks."""
        if self._sink is not None:
            raise EngineError("a streamed workload cannot be snapshotted: load it as one trace")
        arrays = {name: getattr(self.state, name).copy() for name in layout.MUTABLE}
        return Snapshot({**arrays, "decision_due": self._decision_due}, self.state.trace, self._configuration())

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back (or on) to a snapshot of a simulator with the same configuration; continues bit for bit."""
        arrays = {name: snapshot.arrays[name].copy() for name in layout.MUTABLE}
        same_size = len(arrays["replicas"]) == len(self.state.replicas)
        if not same_size or snapshot.configuration != self._configuration():
            raise EngineError("the snapshot is of a cluster of another size, or with other settings or costs")
        self.state = self.state._replace(trace=snapshot.trace, **arrays)
        self._decision_due = bool(snapshot.arrays["decision_due"])

    def _configuration(self) -> tuple[bytes, ...]:
        constant = (name for name in layout.CONSTANT if name not in ("token_ps", "trace"))
        return tuple(getattr(self.state, name).tobytes() for name in constant)

    def finished(self) -> Any:
        """LOG_ROW[n]: one row for each finished request, in order of completion (those not handed to a sink)."""
        return self.state.log[: self.state.cluster[0].n_logged]

    def unfinished(self) -> Any:
        """REQUEST[n]: the requests that are in the system, in order of arrival."""
        return self.state.requests[self._live_slots()]

    def _live_slots(self) -> Any:
        """int64[n]: where they are in `state.requests`."""
        cluster, requests = self.state.cluster[0], self.state.requests
        live = np.ones(len(requests), bool)
        live[self.state.free_slots[: cluster.n_free]] = False
        slots = np.flatnonzero(live & (requests.arrival_ps <= cluster.now_ps))
        return slots[np.argsort(requests.row[slots])]

    def busy_ps(self) -> Any:
        """int64[R]: time that each replica has spent in iterations, up to now."""
        return self._work_ps()[:, 0]

    def prefill_ps(self) -> Any:
        """int64[R]: of it, the time in iterations with prompt tokens."""
        return self._work_ps()[:, 1]

    def _work_ps(self) -> Any:
        return np.array([work_until_now(self.state, r) for r in range(len(self.state.replicas))], np.int64)

    def iterations(self) -> int:
        """Iterations of all replicas that have ended; one of a group counts on each of its members."""
        return int(self.state.replicas.iterations.sum())

    def kv_token_s(self) -> float:
        """KV tokens held in the iterations that have ended, apart from those beside a long, times their seconds."""
        return float(self.state.kv_token_s.sum())

    def timeline(self) -> Any:
        """SLICE[n]: what each replica did, in order of the ends; what runs at this moment is not in it. Empty unless
        recorded."""
        return self.state.slices[: self.state.cluster[0].n_slices]

    def _advance(self, until_s: float, max_points: int) -> int:
        until_ps = layout.NEVER_PS if math.isinf(until_s) else seconds_to_ps(until_s)
        while True:
            status = int(self._run(self.reference, *self._policy, until_ps, max_points))
            if status == layout.NEED_ROWS:
                self._feed_next()
            elif status == layout.NEED_SPACE:
                self.make_space()
            elif status in (layout.BAD_ACTION, layout.TOO_LATE):
                raise self.failure(status)
            else:
                return status
            if self.state.cluster[0].phase != layout.PHASE_NEXT and max_points > 0:
                max_points -= 1  # the point in time that needed room is under way, and counts

    def failure(self, status: int) -> EngineError:
        """What has gone wrong when the engine came back with this status."""
        if status == layout.BAD_ACTION:
            what = self._what_can_be_done()
            return EngineError(f"the policy's answer at {self.now_s:.3f} s cannot be done: {what}")
        return EngineError(
            f"{int(self.state.cluster[0].n_live)} requests are unfinished after {HORIZON_S:.0f} s (46 days), where the "
            "engine's time ends: use a shorter workload, or more replicas"
        )

    def _what_can_be_done(self) -> str:
        kind = _KINDS[int(self.state.cluster[0].asked)]
        if kind == "join":
            return (
                "who joins a batch is said by a place in the queue, 0 the head, of a request that fits in memory and "
                "the token budget (batch_decisions.may_join), or by WAIT (-1), nobody more, if somebody is resident"
            )
        if kind == "evict":
            return (
                "who is evicted is said by a place among the residents without tokens in this batch, 0 the newest "
                "admitted (batch_decisions.evictable_in_order)"
            )
        return (
            f"a short goes to a replica 0..{len(self.state.replicas) - 1} that is not set apart for decodes or for "
            "longs, and decodes there or on a decode replica; a long goes to as many free replicas as hold it"
        )

    def make_space(self) -> None:
        """Larger arrays where the engine has run out of room."""
        cluster = self.state.cluster[0]
        if self._sink is not None and cluster.n_logged:
            self._sink(self.finished().copy())
            cluster.n_logged = 0
        if self.state.settings[0].record == 1:
            room = 2 * len(self.state.slices) + 4 * len(self.state.replicas)
            if len(self.state.slices) - cluster.n_slices < 2 * len(self.state.replicas):
                self.state = layout.with_slices(self.state, room)
                if cluster.phase == layout.PHASE_NEXT:
                    return
        slots = len(self.state.requests) * (2 if cluster.n_free == 0 else 1)
        log = len(self.state.log)
        if log - cluster.n_logged <= cluster.n_live:
            log *= 2
        self.state = layout.with_room(self.state, slots, log)

    def _feed_next(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self.state.cluster[0].more_rows = 0
            return
        self._feed(chunk, more=True)
        if self._sink is not None and len(self.state.log) < 1 << 16:
            self.state = layout.with_room(self.state, max(len(self.state.requests), 1 << 14), 1 << 16)

    def drain(self) -> None:
        """Hands the last log rows of a streamed workload to its sink."""
        if self._sink is not None:
            self._sink(self.finished().copy())
            self.state.cluster[0].n_logged = 0

    def _begin(self) -> None:
        if self._has_workload:
            raise EngineError("this simulator has a workload already: make another one")
        self._has_workload = True

    def _feed(self, trace: Trace, more: bool) -> None:
        rows: Any = np.zeros(len(trace), layout.TRACE_ROW).view(np.recarray)
        if len(trace) and trace.arrival_s[-1] > HORIZON_S:
            raise EngineError(
                f"trace {trace.name!r}: arrivals reach {trace.arrival_s[-1]:.0f} s, and the engine's time ends at "
                f"{HORIZON_S:.0f} s (46 days); if they are dates, subtract the first arrival from all"
            )
        rows.arrival_ps = seconds_to_ps(trace.arrival_s)
        rows.input_tokens = trace.input_tokens
        rows.output_tokens = trace.output_tokens
        rows.rank_tokens, rows.tail_tokens, rows.prediction_ps = self.order.columns(trace, self.readers)
        rows.is_long = trace.is_long
        check_sizes(self, trace)
        if len(rows) and rows.arrival_ps[0] < self._last_arrival_ps:
            raise EngineError(
                f"trace {trace.name!r}: a chunk begins at {trace.arrival_s[0]} s, before the last arrival of the chunk "
                f"before it ({ps_to_seconds(self._last_arrival_ps)} s); chunks must follow one another in time"
            )
        if len(rows):
            self._last_arrival_ps = int(rows.arrival_ps[-1])
        cluster = self.state.cluster[0]
        cluster.row_offset += cluster.n_rows
        cluster.next_row = 0
        cluster.n_rows = len(rows)
        cluster.more_rows = more
        self.state = self.state._replace(trace=rows)


def _costs(profile: Profile) -> Any:
    costs = np.zeros(1, layout.COSTS).view(np.recarray)
    costs.prefill_base_ps = profile.prefill_base_ps
    costs.prefill_seq_ps = profile.prefill_seq_ps
    costs.prefill_kv_ps = profile.prefill_kv_ps
    costs.attention_ps_per_1024_pairs = profile.attn_ps_per_1024_pairs
    costs.decode_base_ps = profile.decode_base_ps
    costs.decode_seq_ps = profile.decode_seq_ps
    costs.decode_kv_ps = profile.decode_kv_ps
    return costs
