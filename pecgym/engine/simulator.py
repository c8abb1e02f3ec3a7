"""The engine as a Python object: it owns the state, feeds it, and hands decisions out."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types

from pecgym.costs import GroupCosts, Profile
from pecgym.engine import state as layout
from pecgym.engine.arrivals import first_user_requests
from pecgym.engine.cluster import INDEX_BITS, run
from pecgym.engine.compiled import compile_cached
from pecgym.engine.long_rules import LongRules, Topology
from pecgym.engine.reference import STATE, state_at, table_of
from pecgym.engine.roles import classify
from pecgym.engine.settings import EngineSettings
from pecgym.errors import EngineError, SpecError
from pecgym.units import HORIZON_S, ps_to_seconds, seconds_to_ps
from pecgym.workload import ClosedLoop, Trace

LOADS = {"none": layout.LOAD_NONE, "requests": layout.LOAD_REQUESTS, "queued_tokens": layout.LOAD_QUEUED_TOKENS}
GLOBAL_ORDERS = {"fcfs": layout.ORDER_FCFS, "shortest": layout.ORDER_SHORTEST}
_KINDS = {layout.PLACE_SHORT: "place", layout.START_LONG: "start", layout.SET_POOL: "pool"}
_TOKEN_TABLE = 16384


@dataclass(frozen=True)
class Decision:
    """What must be chosen now: "place" the first short, "start" the first long, or the number of decode replicas
    ("pool"; slot, row and input_tokens are then -1, -1 and 0).

    Attributes:
        kind: "place", "start" or "pool".
        now_s: time of the decision, seconds.
        slot: row of the request in `state.requests`.
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


def ask_outside(state: layout.State, slot: int) -> int:
    """The policy that asks the caller of the engine."""
    return layout.ASK


@cache
def compile_policy(choose: Callable[..., Any]) -> Any:
    """The compiled form of `choose(state, slot) -> action, WAIT or ASK`; compiled once, then cached.

    Raises SpecError for a function that numba cannot compile.
    """
    try:
        return compile_cached(choose, types.int64(STATE, types.int64))
    except Exception as error:  # numba lets errors of many kinds through
        place = f"{choose.__code__.co_filename}, line {choose.__code__.co_firstlineno}"
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        raise SpecError(
            f"policy function {choose.__name__!r} ({place}) cannot be compiled: it must be in the subset of Python "
            f"that numba takes, use fields that exist, and give an integer (docs/policies.md). numba says: {said[:600]}"
        ) from error


def _run_at(
    address: int, choose: Any, start: Any, pool: Any, until_ps: int, max_points: int
) -> int:  # pragma: no cover - compiled
    return run(state_at(address), choose, start, pool, until_ps, max_points)


def _set_class_at(address: int, r: int) -> None:  # pragma: no cover - compiled
    classify(state_at(address), r)


def _first_user_requests_at(address: int, starts_ps: Any) -> None:  # pragma: no cover - compiled
    first_user_requests(state_at(address), starts_ps)


@cache
def _compiled_run() -> Any:
    policy = types.FunctionType(types.int64(STATE, types.int64))
    signature = types.int64(types.int64, policy, policy, policy, types.int64, types.int64)
    return compile_cached(_run_at, signature, "the engine")


@cache
def _compiled_classify() -> Any:
    return compile_cached(_set_class_at, types.void(types.int64, types.int64))


@cache
def _compiled_users() -> Any:
    return compile_cached(_first_user_requests_at, types.void(types.int64, types.int64[::1]))


def warm_up(choices: Iterable[Callable[..., Any] | None]) -> None:
    """Compiles the engine and these policies (None: decisions from outside), for other processes to find cached."""
    for choose in choices:
        compile_policy(choose or ask_outside)
    _compiled_run()


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
        rules: LongRules | None = None,
        topology: Topology | None = None,
        group_costs: GroupCosts | None = None,
        policy_stream: np.random.Generator | None = None,
        record: bool = False,
    ) -> None:
        """`choose`, `start`, `pool`: the policy's functions, to be compiled; None: decisions come back to the caller.
        load, global_order, rules: as in pecgym.policies.Policy. topology: None: one node and free links. group_costs:
        needed for longs. policy_stream: the policy's own random numbers. record: whether the timeline is kept."""
        if n_replicas < 1:
            raise EngineError(f"a cluster needs at least 1 replica, got {n_replicas}")
        for key, value, values in (("load", load, LOADS), ("global_order", global_order, GLOBAL_ORDERS)):
            if value not in values:
                raise EngineError(f"{key}={value!r}: choose one of {', '.join(values)}")
        self.settings = settings = settings.resolved(profile)
        self.profile = profile
        assert settings.block_tokens is not None
        assert settings.kv_capacity_tokens is not None
        self.rules = rules = rules or LongRules()
        topology = topology or Topology(n_replicas)
        self._max_degree = group_costs.max_degree if group_costs is not None else 0
        state = layout.allocate(
            n_replicas,
            min(settings.slots, settings.kv_capacity_tokens),
            settings.block_tokens,
            replicas_per_node=topology.replicas_per_node,
        )
        settings.write(state.settings[0], profile)
        rules.write(state.settings[0], topology, profile)
        if rules.decode_replicas and settings.batching == "static":
            raise EngineError("static batches are not disaggregated: use another engine, or long.decode_replicas=0")
        state.settings[0].record = record
        state.settings[0].load = LOADS[load]
        state.settings[0].global_order = GLOBAL_ORDERS[global_order]
        if policy_stream is not None:
            state.cluster[0].random_state = policy_stream.integers(2**48)
        self.state = state._replace(
            costs=_costs(profile),
            token_ps=profile.token_table_ps(_TOKEN_TABLE),
            token_knots=np.stack([profile.g_knots_tokens, profile.g_knots_ps], axis=1),
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
        return {name: value for name, value in vars(self).items() if name not in ("_table", "_policy", "_run")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self.state = self._state
        self._compile()

    def _compile(self) -> None:
        self._policy = tuple(compile_policy(function or ask_outside) for function in self._functions)
        self._run = _compiled_run()

    @property
    def _reference(self) -> Any:
        """What compiled code takes for the state: the address of its table."""
        return self._state if numba.config.DISABLE_JIT else self._table.ctypes.data

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
                _compiled_classify()(self._reference, r)

    def load_trace(self, trace: Trace) -> None:
        """The workload: a whole trace."""
        self._begin()
        self._feed(trace, more=False)

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
        _compiled_users()(self._reference, starts)

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
        slot = int(cluster.queue if kind == "place" else cluster.longs)
        request = self.state.requests[slot]
        return Decision(kind, self.now_s, slot, int(request.row), int(request.input_tokens), self.state)

    def apply(self, action: int) -> None:
        """Answers the decision that is due: a placement (a replica's index is one), a group, a number of decode
        replicas, or WAIT (it is asked again when something has changed)."""
        if not self._decision_due:
            raise EngineError("no decision is due: call next_decision() first")
        try:
            action = operator.index(action)
        except TypeError:
            raise EngineError(f"the answer must be a replica's index or WAIT ({layout.WAIT}), got {action!r}") from None
        kind = _KINDS[int(self.state.cluster[0].asked)]
        last = len(self.state.replicas) - 1
        replica = action & ((1 << INDEX_BITS) - 1)
        if action < layout.WAIT or action >= 1 << 62 or (kind != "pool" and action >= 0 and replica > last):
            wanted = {
                "place": f"a replica 0..{last}, pecgym.policies.view.placement(...)",
                "start": "pecgym.policies.view.group(anchor, degree, strategy)",
                "pool": "a number of decode replicas",
            }[kind]
            raise EngineError(f"action {action}: give {wanted}, or WAIT ({layout.WAIT})")
        self.state.cluster[0].action = action
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
        cluster = self.state.cluster[0]
        live = np.ones(len(self.state.requests), bool)
        live[self.state.free_slots[: cluster.n_free]] = False
        requests = self.state.requests[live]
        requests = requests[requests.arrival_ps <= cluster.now_ps]
        return requests[np.argsort(requests.row)]

    def busy_ps(self) -> Any:
        """int64[R]: time that each replica has spent in iterations, up to now."""
        now, replicas = self.state.cluster[0].now_ps, self.state.replicas
        groups = self.state.groups[replicas.lead]
        stalled = (groups.phase == layout.PREFILL_STALLED) | (groups.phase == layout.DECODE_STALLED)
        serving = replicas.status == layout.SERVING
        until = np.where(serving & stalled, np.minimum(now, groups.stop_ps), now)
        working = serving | (replicas.status == layout.RUNNING)
        return replicas.busy_ps + np.where(working, np.maximum(until - replicas.started_ps, 0), 0)

    def timeline(self) -> Any:
        """SLICE[n]: what each replica did, in order of the ends; what runs at this moment is not in it. Empty unless
        recorded."""
        return self.state.slices[: self.state.cluster[0].n_slices]

    def _advance(self, until_s: float, max_points: int) -> int:
        until_ps = layout.NEVER_PS if math.isinf(until_s) else seconds_to_ps(until_s)
        while True:
            status = int(self._run(self._reference, *self._policy, until_ps, max_points))
            if status == layout.NEED_ROWS:
                self._feed_next()
            elif status == layout.NEED_SPACE:
                self._make_space()
            elif status == layout.BAD_ACTION:
                raise EngineError(
                    f"the policy's answer at {self.now_s:.3f} s cannot be done: a short goes to a replica "
                    f"0..{len(self.state.replicas) - 1} that is not set apart for decodes or for longs, and decodes "
                    "there or on a decode replica; a long goes to as many free replicas as hold it"
                )
            elif status == layout.TOO_LATE:
                raise EngineError(
                    f"{int(self.state.cluster[0].n_live)} requests are unfinished after {HORIZON_S:.0f} s (46 days), "
                    "where the engine's time ends: use a shorter workload, or more replicas"
                )
            else:
                return status
            if self.state.cluster[0].phase != layout.PHASE_NEXT and max_points > 0:
                max_points -= 1  # the point in time that needed room is under way, and counts

    def _make_space(self) -> None:
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
        rows.rank_tokens = trace.output_tokens
        rows.is_long = trace.is_long
        self._check_sizes(trace)
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

    def _check_sizes(self, trace: Trace) -> None:
        """A request that no replica can hold would wait for ever: it is refused here."""
        record = self.state.settings[0]
        peak = trace.input_tokens + trace.output_tokens - 1
        too_large = np.flatnonzero((-(-peak // record.block_tokens) > record.capacity_blocks) & ~trace.is_long)
        if len(too_large):
            i = int(too_large[0])
            row = int(self.state.cluster[0].row_offset + self.state.cluster[0].n_rows) + i
            raise EngineError(
                f"trace {trace.name!r}: {len(too_large)} of {len(trace)} requests exceed a replica's KV memory; "
                f"the first is request {row} (counted from 0) with {int(peak[i]):,} tokens (input + output - 1) "
                f"against {int(record.capacity_blocks * record.block_tokens):,}; use more GPUs per replica, or "
                "remove or shorten such requests, or mark them as long"
            )
        if trace.is_long.any():
            self._check_longs(trace, int(peak[trace.is_long].max()))
            peak = peak[~trace.is_long]
        largest = int(peak.max(initial=0))
        batch = max(self.settings.max_batch_tokens, largest)
        if batch * (batch + 2 * largest) > self.profile.max_pairs:
            raise EngineError(
                f"trace {trace.name!r}: prefills of up to {batch:,} tokens per iteration overflow 64-bit time with "
                f"profile {self.profile.name}; lower engine.max_batch_tokens or shorten the prompts"
            )

    def _check_longs(self, trace: Trace, largest: int) -> None:
        """Longs that could never start are refused here."""
        record = self.state.settings[0]
        if self._max_degree == 0:
            raise EngineError(
                f"trace {trace.name!r} has long requests, and there are no costs of groups: of a stream, say how long "
                "its prompts may be (longest_long_tokens)"
            )
        if self.settings.batching == "static":
            raise EngineError(f"trace {trace.name!r} has long requests, which static batches cannot serve")
        fewest = -(-largest // int(record.capacity_blocks * record.block_tokens))
        needed = max(fewest, self.rules.sp_degree if isinstance(self.rules.sp_degree, int) else 1)
        roles = self.state.replicas.role
        able = int(np.count_nonzero(roles == layout.LONG_ROLE)) or int(np.count_nonzero(roles == layout.GENERAL))
        if self.rules.pool_interval_s:
            able = len(roles) - 1  # the pool gives back all replicas but one when nothing else is to be done
        if needed > min(able, self._max_degree):
            raise EngineError(
                f"trace {trace.name!r}: its largest long request ({largest:,} tokens) needs {needed} replicas, and "
                f"{able} may serve longs (at most {self._max_degree} together); use a larger cluster or more GPUs per "
                "replica, lower long.sp_degree, or change long.decode_replicas or long.reserved_replicas"
            )
        longest = int(trace.input_tokens[trace.is_long].max())
        reach = record.knot_tokens * (self.state.prefill_table_ps.shape[2] - 1)
        if longest > reach:
            raise EngineError(
                f"trace {trace.name!r}: its longest prompt has {longest:,} tokens, and the costs of groups reach to "
                f"{reach:,}; of a stream, say how long its prompts may be (longest_long_tokens)"
            )


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
