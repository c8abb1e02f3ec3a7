"""Watches one simulation from outside, and checks after every point in time what must always hold of shorts.

Everything is recomputed from the request table; group_checker.py does the same for longs, links and roles.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from pecgym.engine import Simulator
from pecgym.engine.state import (
    DECODE,
    DECODE_STALLED,
    GATHERING,
    IDLE,
    LOAD_NONE,
    LOAD_QUEUED_TOKENS,
    N_CLASSES,
    NEVER_PS,
    NONE,
    NOT_COMPOSING,
    PREFILL,
    PREFILL_STALLED,
    PUSHED,
    RUNNING,
    SERVING,
    SLICE_COLOCATED,
    SLICE_LONG_PREFILL,
    SLICE_MIXED,
    SLICE_PREFILL,
    SWAPPED,
    State,
)
from pecgym.workload import ClosedLoop
from tests.engine.cases import Case


def columns(table: Any) -> Any:
    """A table's columns as plain arrays: a namespace whose attributes are views, much faster to read than records."""
    plain = table.view(np.ndarray)
    return SimpleNamespace(**{name: plain[name] for name in plain.dtype.names})


def record(table: Any, index: int = 0) -> Any:
    """One row of a table as plain integers."""
    return SimpleNamespace(**dict(zip(table.dtype.names, table.view(np.ndarray)[index].item(), strict=True)))


def queue_slots(requests: Any, root: int) -> list[int]:
    """The slots in a pairing heap; checks that no child comes before its parent and that nobody is there twice."""
    found: list[int] = []
    todo = [] if root == NONE else [root]
    assert root == NONE or requests.sibling[root] == NONE
    while todo:
        slot = int(todo.pop())
        assert slot not in found
        found.append(slot)
        child = int(requests.child[slot])
        while child != NONE:
            assert (requests.key[slot], requests.sequence[slot]) < (requests.key[child], requests.sequence[child])
            todo.append(child)
            child = int(requests.sibling[child])
    return found


def assert_equal(found: Any, expected: Any) -> None:
    """np.testing.assert_array_equal takes ten times as long."""
    assert np.asarray(found).tolist() == np.asarray(expected).tolist()


class Rows:
    """Some rows of a table whose columns are given; a column is read when it is asked for."""

    def __init__(self, table: Any, rows: Any) -> None:
        self._table, self._rows = table, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)[self._rows]


class Checker:
    """Watches one simulation from outside: what each request received, and how long each replica was busy."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.simulator: Simulator = case.fast(record=True)
        n = case.n_replicas
        self.points = 0
        self.now_ps = 0
        self.busy_ps = np.zeros(n, np.int64)
        self.prefill_ps = np.zeros(n, np.int64)
        self.idle_ps = np.zeros(n, np.int64)
        self.with_prompts = np.zeros(n, bool)
        self.works_until_ps = np.zeros(n, np.int64)
        self.decode_steps = np.zeros(n, np.int64)
        self.decoding_rows: list[list[int]] = [[] for _ in range(n)]
        self.computed: Counter[int] = Counter()  # tokens of KV that have been computed for each row
        self.leaves_at: dict[int, int] = {}
        self.n_logged = 0

    @property
    def block(self) -> int:
        return self.case.settings.block_tokens

    def blocks(self, tokens: Any) -> int:
        return int(np.sum(-(-np.asarray(tokens) // self.block)))

    def check(self) -> None:
        state = self.simulator.state
        self.read(state)
        self.check_clock()
        self.check_nobody_lost(state)
        for r in range(self.case.n_replicas):
            self.check_counters(r)
            self.check_memory(state, r)
            self.check_decode_heap(state, r)
            self.check_status(state, r)
            self.check_tokens(r)
        self.check_trees(state)
        self.check_work_conservation()
        self.check_new_log_rows()
        self.check_more(state)
        self.observe()

    def read(self, state: State) -> None:
        """What the checks look at."""
        self.cluster, self.engine = record(state.cluster), record(state.settings)
        self.requests, self.log = columns(state.requests), columns(self.simulator.finished())
        self.replicas = [record(state.replicas, r) for r in range(self.case.n_replicas)]
        self.groups = [record(state.groups, r) for r in range(self.case.n_replicas)]
        self.pushing = queue_slots(self.requests, self.cluster.pushing)
        self.members = [
            (
                queue_slots(self.requests, replica.queue),
                state.prefills[r, : replica.n_prefills].tolist(),
                state.decodes.view(np.ndarray)["slot"][r, : replica.n_decodes].tolist(),
            )
            for r, replica in enumerate(self.replicas)
        ]

    def check_more(self, state: State) -> None:
        """For subclasses."""

    def group_of(self, r: int) -> Any:
        """The group that replica r is in, or None."""
        lead = self.replicas[r].lead
        return None if lead == NONE else self.groups[lead]

    def runs_batch(self, r: int) -> bool:
        """Whether replica r is in an iteration of shorts, alone or beside the decode of a long."""
        status, group = self.replicas[r].status, self.group_of(r)
        return status == RUNNING or (status == SERVING and group.phase == DECODE)

    def at(self, slots: Any) -> Any:
        """The columns of some requests."""
        return Rows(self.requests, slots)

    def check_clock(self) -> None:
        """The clock goes forward only; every replica has been either busy or idle, and switches kernels idly."""
        now_ps = self.cluster.now_ps
        passed = now_ps - self.now_ps
        assert passed > 0 or (passed == 0 and self.points == 0)
        self.points += 1
        busy_ps = np.clip(self.works_until_ps - self.now_ps, 0, passed)
        self.busy_ps += busy_ps
        self.prefill_ps += busy_ps * self.with_prompts
        self.idle_ps += passed - busy_ps
        self.now_ps = now_ps
        assert_equal(self.simulator.busy_ps(), self.busy_ps)
        assert_equal(self.simulator.prefill_ps(), self.prefill_ps)
        assert np.all(self.busy_ps + self.idle_ps == now_ps)

    def check_nobody_lost(self, state: State) -> None:
        """Every slot is free or holds one request, which is in one place; every row so far is live or logged, once."""
        cluster, requests = self.cluster, self.requests
        free = state.free_slots[: cluster.n_free].tolist()
        queued = queue_slots(requests, cluster.queue)
        longs = queue_slots(requests, cluster.longs)
        thinking = queue_slots(requests, cluster.thinking)
        predicting = queue_slots(requests, cluster.predicting)
        served = [group.slot for r, group in enumerate(self.groups) if self.replicas[r].lead == r]
        placed = [slot for groups in self.members for group in groups for slot in group]
        live = queued + longs + thinking + predicting + served + placed + self.pushing
        assert_equal(np.sort(free + live), np.arange(len(state.requests)))
        assert (cluster.n_queued, cluster.n_longs) == (len(queued), len(longs))
        assert np.all(requests.is_long[longs + served] == 1)
        assert not np.any(requests.is_long[queued + placed + self.pushing])
        assert cluster.n_live == len(live)
        rows = requests.row[live].tolist() + self.log.row.tolist()
        assert sorted(rows) == list(range(cluster.row_offset + cluster.next_row))
        assert np.all(requests.replica[queued + longs + thinking] == NONE)
        assert np.all(requests.arrival_ps[queued + longs + served + placed] <= cluster.now_ps)
        assert np.all(requests.arrival_ps[thinking] > cluster.now_ps)
        for r, groups in enumerate(self.members):
            for slots in groups:
                moved = requests.pushed_ps[slots] != NONE
                place = np.where(moved, requests.decode_replica[slots], requests.replica[slots])
                assert np.all(place == r)

    def check_counters(self, r: int) -> None:
        replica, requests = self.replicas[r], self.requests
        waiting, prefills, decodes = self.members[r]
        assert replica.n_waiting == len(waiting)
        assert replica.n_requests == len(waiting) + len(prefills) + len(decodes)
        assert len(prefills) + len(decodes) <= self.engine.slots
        to_compute = [s for s in waiting + prefills if requests.decoding[s] == 0]
        still_to_compute = requests.prompt_tokens[to_compute] - requests.computed_tokens[to_compute]
        assert replica.queued_tokens == still_to_compute.sum()
        assert replica.waiting_blocks == np.sum(requests.waiting_blocks[waiting])
        assert replica.reserved_blocks == self.blocks(requests.reserved_tokens[prefills + decodes])
        assert not np.any(requests.swapped[prefills + decodes])
        if self.case.settings.reservation != "history":
            assert requests.waiting_blocks[waiting].tolist() == [self.blocks_to_admit(r, slot) for slot in waiting]

    def blocks_to_admit(self, r: int, slot: int) -> int:
        """What must be free for a waiting request to become resident; by history: what is known now."""
        q, reservation = self.at(slot), self.case.settings.reservation
        need = q.prompt_tokens
        if q.decode_replica not in (NONE, r):
            pass  # it does not grow here
        elif reservation == "peak":
            need = q.input_tokens + q.output_tokens - 1
        elif reservation == "history":
            count, tokens = self.simulator.state.history[r, int(q.input_tokens).bit_length() - 1]
            need = max(need, tokens // count) if count else need
        if q.swapped == SWAPPED:
            need = max(q.computed_tokens + 1 if q.decoding else q.prompt_tokens, q.reserved_tokens)
        elif q.swapped == PUSHED:
            need = max(q.computed_tokens + 1, need)
        return self.blocks(need)

    def kv_tokens(self, r: int) -> Any:
        """int64[n]: what each decode of replica r held at its last boundary."""
        decodes, requests = self.members[r][2], self.requests
        return requests.computed_tokens[decodes] + self.replicas[r].decode_steps - requests.join_step[decodes]

    def check_memory(self, state: State, r: int) -> None:
        """KV in use is the sum over the residents, and neither now nor at the end of the run above the capacity."""
        replica, capacity = self.replicas[r], self.engine.capacity_blocks
        held = self.kv_tokens(r)
        prompts = self.blocks(self.requests.prompt_tokens[self.members[r][1]])
        assert replica.kv_tokens == held.sum()
        assert replica.held_blocks == self.guest_blocks(r)
        prompts += replica.held_blocks
        assert replica.used_blocks == self.blocks(held) + prompts <= capacity
        phases = np.bincount((held - replica.decode_steps) % self.block, minlength=self.block)
        assert_equal(state.phases[r], phases)
        if self.runs_batch(r) and replica.with_decodes:
            assert self.blocks(held + replica.n_iterations) + prompts <= capacity

    def guest_blocks(self, r: int) -> int:
        """Blocks of who is not in the batch of replica r: nobody, where there are only shorts that decode there."""
        return 0

    def check_decode_heap(self, state: State, r: int) -> None:
        replica = self.replicas[r]
        heap = state.decodes.view(np.ndarray)[r, : replica.n_decodes]
        q = self.at(self.members[r][2])
        assert_equal(heap["step"], q.join_step + q.leave_tokens - q.emitted_tokens)
        assert np.all(heap["step"] > replica.decode_steps)
        entries = heap.tolist()
        assert all(entries[(i - 1) // 2] < entries[i] for i in range(1, len(entries)))

    def check_status(self, state: State, r: int) -> None:
        """No replica idles while somebody is there who could run; its event is the end of its run."""
        replica = self.replicas[r]
        assert replica.in_ready == 0
        if replica.status == IDLE:
            assert state.event_ps[r] == NEVER_PS
            assert replica.n_prefills == replica.n_decodes == 0
            if replica.n_waiting:
                need = self.blocks_to_admit(r, int(replica.queue))
                assert need + self.engine.watermark_blocks > self.engine.capacity_blocks - replica.held_blocks
                assert replica.held_blocks > 0
        elif replica.status == SERVING:
            self.check_serving(state, r)
        elif replica.status == GATHERING:
            assert self.case.settings.batching == "static"
            assert replica.n_decodes == replica.n_prefills == 0 < replica.n_waiting
            if self.case.settings.queue_order == "bins":
                assert self.requests.key[replica.queue] > 0  # no bin is full
            else:
                assert replica.n_waiting < self.engine.static_size
            assert state.event_ps[r] == replica.gathering_until_ps > self.now_ps
        else:
            k = replica.n_iterations
            assert k >= 1
            assert k == 1 or (replica.with_decodes and not np.any(self.requests.chunk_tokens[self.members[r][1]]))
            duration = sum(replica.base_ps + i * replica.slope_ps for i in range(k)) + replica.first_extra_ps
            assert state.event_ps[r] == replica.started_ps + duration > self.now_ps
            assert self.running_tokens(r) > 0

    def check_serving(self, state: State, r: int) -> None:
        """A replica that works for a long, which without longs none does."""
        raise AssertionError(f"replica {r} works for a long")

    def running_tokens(self, r: int) -> int:
        """New tokens in the iteration under way, which the token budget bounds unless one long prompt runs alone."""
        replica, engine = self.replicas[r], self.case.settings
        chunks = self.requests.chunk_tokens[self.members[r][1]]
        decodes = replica.n_decodes if replica.with_decodes else 0
        whole_prompts = engine.chunk_tokens == 0 or engine.batching == "static"
        alone = np.count_nonzero(chunks) == 1 and whole_prompts
        assert chunks.sum() + decodes <= engine.max_batch_tokens or alone
        if not engine.mixing or engine.batching == "static":
            assert not (decodes and np.any(chunks))
        return int(chunks.sum()) + decodes

    def check_tokens(self, r: int) -> None:
        """A decode holds input + emitted - 1 tokens; a prompt is the input and what was emitted before an eviction."""
        waiting, prefills, decodes = (self.at(group) for group in self.members[r])
        replica = self.replicas[r]
        emitted = decodes.emitted_tokens + replica.decode_steps - decodes.join_step
        assert_equal(self.kv_tokens(r), decodes.input_tokens + emitted - 1)
        assert np.all((emitted > 0) & (emitted < decodes.leave_tokens))
        assert np.all(decodes.decoding == 1)
        assert np.all(prefills.decoding == 0)
        assert np.all(prefills.prompt_tokens == prefills.input_tokens + prefills.emitted_tokens)
        assert np.all((prefills.computed_tokens >= 0) & (prefills.computed_tokens < prefills.prompt_tokens))
        assert np.all(prefills.computed_tokens + prefills.chunk_tokens <= prefills.prompt_tokens)
        lost = self.at([slot for slot in self.members[r][0] if self.requests.swapped[slot] == 0])
        assert not np.any(lost.computed_tokens)
        assert np.all(lost.prompt_tokens == lost.input_tokens + lost.emitted_tokens)
        if self.case.settings.eviction == "swap":
            assert not np.any(lost.evictions)
        else:
            assert set(waiting.swapped.tolist()) <= {0, PUSHED}
        q = self.at([slot for group in self.members[r] for slot in group])
        started, answered = q.start_ps != NONE, q.first_token_ps != NONE
        assert np.all((q.arrival_ps <= q.placed_ps) & (q.placed_ps <= self.now_ps))
        assert np.all((q.placed_ps <= q.start_ps) & (q.start_ps <= self.now_ps) | ~started)
        assert np.all((q.start_ps < q.first_token_ps) & (q.first_token_ps <= self.now_ps) | ~answered)
        assert np.all(answered == (q.emitted_tokens > 0))
        held_back = prefills.start_ps == NONE
        assert not np.any(held_back) or self.case.settings.batch_wait_iterations > 0
        assert not np.any(prefills.chunk_tokens[held_back]) or replica.composing != NOT_COMPOSING
        assert not np.any(prefills.computed_tokens[held_back])

    def check_trees(self, state: State) -> None:
        """The tournaments name the first of the least keys; the load is what the policy declared, in the row of the
        replica's class."""
        n, by_tokens = self.case.n_replicas, self.engine.load == LOAD_QUEUED_TOKENS
        classes = [replica.place_class for replica in self.replicas]
        assert_equal(state.class_counts, np.bincount(classes, minlength=N_CLASSES))
        load = [q.n_requests + q.incoming + (q.queued_tokens << 24 if by_tokens else 0) for q in self.replicas]
        if self.engine.load == LOAD_NONE:
            load = [0] * n
        loads, trees = state.loads.tolist(), state.load_trees[:, 1].tolist()
        for c in range(N_CLASSES):
            expected = [key if of_class == c else NEVER_PS for key, of_class in zip(load, classes, strict=True)]
            assert loads[c] == expected + [NEVER_PS] * (len(loads[c]) - n)
            assert trees[c] == loads[c].index(min(loads[c]))
        assert np.all(state.event_ps[n:] == NEVER_PS)
        assert state.event_tree[1] == np.argmin(state.event_ps)
        assert self.cluster.n_ready == self.cluster.n_check == 0

    def check_work_conservation(self) -> None:
        """Nobody stays in the global queue while a replica is empty; policies that never wait leave nobody there."""
        if self.cluster.queue != NONE:
            assert self.case.policy in ("fifo", "sjf")
            assert all(replica.n_requests > 0 for replica in self.replicas)

    def check_new_log_rows(self) -> None:
        n_logged = len(self.log.row)
        assert n_logged >= self.n_logged
        for i in range(self.n_logged, n_logged):
            row = SimpleNamespace(**{name: int(column[i]) for name, column in vars(self.log).items()})
            assert row.arrival_ps <= row.placed_ps <= row.start_ps < row.first_token_ps <= row.finish_ps == self.now_ps
            assert 0 <= row.replica < self.case.n_replicas
            assert row.output_tokens == 1 or row.first_token_ps < row.finish_ps
            assert row.pushed_ps == NONE or row.first_token_ps < row.pushed_ps < row.finish_ps
        self.n_logged = n_logged

    def observe(self) -> None:
        """Counts tokens: decodes that were there advanced with the replica; chunks that start now will be computed."""
        for r, replica in enumerate(self.replicas):
            steps = replica.decode_steps - int(self.decode_steps[r])
            for row in self.decoding_rows[r]:
                self.computed[row] += steps
            self.decode_steps[r] += steps
            _, prefills, decodes = self.members[r]
            self.decoding_rows[r] = self.requests.row[decodes].tolist()
            self.works_until_ps[r] = NEVER_PS if replica.status in (RUNNING, SERVING) else 0
            group = self.group_of(r)
            if replica.status == SERVING and group.phase in (PREFILL_STALLED, DECODE_STALLED):
                self.works_until_ps[r] = group.stop_ps
            if replica.status == SERVING and group.phase in (PREFILL, PREFILL_STALLED):
                self.with_prompts[r] = True
            if self.runs_batch(r) and replica.started_ps == self.now_ps:
                self.with_prompts[r] = bool(np.any(self.requests.chunk_tokens[prefills] > 0))
                for slot in prefills:
                    row = int(self.requests.row[slot])
                    self.computed[row] += int(self.requests.chunk_tokens[slot])
                    self.leaves_at[row] = int(self.requests.leave_tokens[slot])

    def check_end(self) -> None:
        """Everybody was served, with input + output - 1 tokens computed for each, and once more what evictions lost."""
        workload, replicas, log = self.case.workload, self.simulator.state.replicas, self.simulator.finished()
        trace = workload.lengths if isinstance(workload, ClosedLoop) else workload
        log = log[np.argsort(log.row)]
        assert_equal(log.row, np.arange(len(trace)))
        assert_equal(log.input_tokens, trace.input_tokens)
        assert_equal(log.output_tokens, trace.output_tokens)
        static = self.case.settings.batching == "static"
        for row in log[~trace.is_long]:
            emitted = self.leaves_at[int(row.row)]
            assert emitted == row.output_tokens or (static and emitted > row.output_tokens)
            assert self.computed[int(row.row)] == row.input_tokens + emitted - 1 + row.recomputed_tokens
        assert np.all(replicas.used_blocks == 0)
        assert np.all(replicas.held_blocks == 0)
        assert np.all(replicas.reserved_blocks == 0)
        assert np.sum(log.evictions) == np.sum(replicas.evictions)
        assert np.all(log.recomputed_tokens[log.evictions == 0] == 0)
        if self.case.settings.eviction == "swap":
            assert not np.any(log.recomputed_tokens)
            assert np.sum(replicas.swapped_tokens) % 2 == 0
        if self.case.settings.reservation == "peak" and not self.case.settings.preemptive:
            assert not np.any(log.evictions)
        self.check_timeline()

    def check_timeline(self) -> None:
        """The slices of a replica never overlap, and they add up to the time that it was busy, by kind: only those of
        shorts beside a long's decode do not say whether they have prompt tokens."""
        slices = columns(self.simulator.timeline())
        for r in range(self.case.n_replicas):
            start_ps, end_ps = slices.start_ps[slices.replica == r], slices.end_ps[slices.replica == r]
            assert np.all(start_ps < end_ps)
            assert np.all(end_ps[:-1] <= start_ps[1:])
            assert np.sum(end_ps - start_ps) == self.busy_ps[r]
            kind = slices.kind[slices.replica == r]
            prompts = np.isin(kind, (SLICE_PREFILL, SLICE_MIXED, SLICE_LONG_PREFILL))
            certain_ps = np.sum((end_ps - start_ps)[prompts])
            possible_ps = certain_ps + np.sum((end_ps - start_ps)[kind == SLICE_COLOCATED])
            assert certain_ps <= self.prefill_ps[r] <= possible_ps
