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

from pecgym.costs import Profile
from pecgym.engine import state as layout
from pecgym.engine.cluster import run
from pecgym.engine.compiled import compile_cached
from pecgym.engine.settings import EngineSettings
from pecgym.errors import EngineError, SpecError
from pecgym.units import HORIZON_S, ps_to_seconds, seconds_to_ps
from pecgym.workload import ClosedLoop, Trace

LOADS = {"none": layout.LOAD_NONE, "requests": layout.LOAD_REQUESTS, "queued_tokens": layout.LOAD_QUEUED_TOKENS}
GLOBAL_ORDERS = {"fcfs": layout.ORDER_FCFS, "shortest": layout.ORDER_SHORTEST}
_TOKEN_TABLE = 16384


@dataclass(frozen=True)
class Decision:
    """A request at the head of the global queue for which a replica must be chosen.

    Attributes:
        now_s: time of the decision, seconds.
        slot: row of the request in `state.requests`.
        row: number of the request in its workload.
        input_tokens: its prompt.
        state: the simulator's state (pecgym.engine.state), to read and not to write.
    """

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
    configuration: tuple[bytes, bytes]


def ask_outside(state: layout.State, slot: int) -> int:
    """The policy that asks the caller of the engine."""
    return layout.ASK


@cache
def _state_type() -> Any:
    return numba.typeof(layout.allocate(1, 1, 1))


@cache
def compile_policy(choose: Callable[..., Any]) -> Any:
    """The compiled form of `choose(state, slot) -> replica, WAIT or ASK`; compiled once, then cached.

    Raises SpecError for a function that numba cannot compile.
    """
    try:
        return compile_cached(choose, types.int64(_state_type(), types.int64))
    except Exception as error:  # numba lets errors of many kinds through
        place = f"{choose.__code__.co_filename}, line {choose.__code__.co_firstlineno}"
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        raise SpecError(
            f"policy function {choose.__name__!r} ({place}) cannot be compiled: it must be in the subset of Python "
            f"that numba takes, use fields that exist, and give an integer (docs/policies.md). numba says: {said[:600]}"
        ) from error


@cache
def _compiled_run() -> Any:
    policy = types.FunctionType(types.int64(_state_type(), types.int64))
    return compile_cached(run, types.int64(_state_type(), policy, types.int64, types.int64), "the engine")


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
        load: str = "queued_tokens",
        global_order: str = "fcfs",
        policy_stream: np.random.Generator | None = None,
    ) -> None:
        """`choose`: a policy to be compiled, None: decisions come back to the caller. load, global_order: as in
        pecgym.policies.Policy. policy_stream: the policy's own random numbers."""
        if n_replicas < 1:
            raise EngineError(f"a cluster needs at least 1 replica, got {n_replicas}")
        self.settings = settings = settings.resolved(profile)
        self.profile = profile
        assert settings.block_tokens is not None
        assert settings.kv_capacity_tokens is not None
        state = layout.allocate(n_replicas, min(settings.slots, settings.kv_capacity_tokens), settings.block_tokens)
        settings.write(state.settings[0], profile)
        state.settings[0].load = LOADS[load]
        state.settings[0].global_order = GLOBAL_ORDERS[global_order]
        if policy_stream is not None:
            state.cluster[0].random_state = policy_stream.integers(2**48)
        self.state = state._replace(
            costs=_costs(profile),
            token_ps=profile.token_table_ps(_TOKEN_TABLE),
            token_knots=np.stack([profile.g_knots_tokens, profile.g_knots_ps], axis=1),
        )
        self._choose = compile_policy(choose or ask_outside)
        self._run = _compiled_run()
        self._chunks: Iterator[Trace] = iter(())
        self._sink: Callable[[Any], None] | None = None
        self._decision_due = False
        self._last_arrival_ps = 0
        self._has_workload = False

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
        _compiled_users()(state, starts)

    def run(self, until_s: float = math.inf) -> bool:
        """Runs until everything is served, or to `until_s`; True if nothing is left to happen."""
        return self._advance(until_s, -1) == layout.DONE

    def step(self) -> bool:
        """Runs one point in time; False if there was none."""
        return self._advance(math.inf, 1) == layout.PAUSED

    def next_decision(self, until_s: float = math.inf) -> Decision | None:
        """Runs to the next decision that is left to the caller; None when there is none (or none before `until_s`)."""
        if self._advance(until_s, -1) != layout.DECISION:
            return None
        slot = int(self.state.cluster[0].queue)
        request = self.state.requests[slot]
        self._decision_due = True
        return Decision(self.now_s, slot, int(request.row), int(request.input_tokens), self.state)

    def apply(self, action: int) -> None:
        """Answers the decision that is due: a replica, or WAIT (it is asked again when something has changed)."""
        if not self._decision_due:
            raise EngineError("no decision is due: call next_decision() first")
        try:
            action = operator.index(action)
        except TypeError:
            raise EngineError(f"the answer must be a replica's index or WAIT ({layout.WAIT}), got {action!r}") from None
        if not (action == layout.WAIT or 0 <= action < len(self.state.replicas)):
            raise EngineError(
                f"action {action}: give a replica 0..{len(self.state.replicas) - 1}, or WAIT ({layout.WAIT})"
            )
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

    def _configuration(self) -> tuple[bytes, bytes]:
        return self.state.settings.tobytes(), self.state.costs.tobytes() + self.state.token_knots.tobytes()

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
        running = (replicas.status == layout.RUNNING) & (replicas.started_ps < now)
        return replicas.busy_ps + np.where(running, now - replicas.started_ps, 0)

    def _advance(self, until_s: float, max_points: int) -> int:
        until_ps = layout.NEVER_PS if math.isinf(until_s) else seconds_to_ps(until_s)
        while True:
            status = int(self._run(self.state, self._choose, until_ps, max_points))
            if status == layout.NEED_ROWS:
                self._feed_next()
            elif status == layout.NEED_SPACE:
                self._make_space()
            elif status == layout.BAD_ACTION:
                raise EngineError(f"the policy answered a replica outside 0..{len(self.state.replicas) - 1}")
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
        too_large = np.flatnonzero(-(-peak // record.block_tokens) > record.capacity_blocks)
        if len(too_large):
            i = int(too_large[0])
            row = int(self.state.cluster[0].row_offset + self.state.cluster[0].n_rows) + i
            raise EngineError(
                f"trace {trace.name!r}: {len(too_large)} of {len(trace)} requests exceed a replica's KV memory; "
                f"the first is request {row} (counted from 0) with {int(peak[i]):,} tokens (input + output - 1) "
                f"against {int(record.capacity_blocks * record.block_tokens):,}; use more GPUs per replica, or "
                "remove or shorten such requests"
            )
        largest = int(peak.max(initial=0))
        batch = max(self.settings.max_batch_tokens, largest)
        if batch * (batch + 2 * largest) > self.profile.max_pairs:
            raise EngineError(
                f"trace {trace.name!r}: prefills of up to {batch:,} tokens per iteration overflow 64-bit time with "
                f"profile {self.profile.name}; lower engine.max_batch_tokens or shorten the prompts"
            )


@cache
def _compiled_users() -> Any:
    from pecgym.engine.arrivals import first_user_requests

    return compile_cached(first_user_requests, types.void(_state_type(), types.int64[::1]))


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
