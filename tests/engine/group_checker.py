"""Checks after every point in time what must always hold of longs, KV pushes, links and roles."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from pecgym.engine.state import (
    CLOSED,
    DECODE,
    DECODE_ROLE,
    DECODE_STALLED,
    DECODE_SUSPENDED,
    DECODING_LONG,
    GATHERING_LONG,
    GENERAL,
    GROUP_GATHERING,
    LONG_ROLE,
    NEVER_PS,
    NONE,
    OPEN,
    POOL,
    PREFILL,
    PREFILL_STALLED,
    PREFILL_SUSPENDED,
    PREFILLING_LONG,
    RESERVED,
    RUNNING,
    SERVING,
    SLICE_LONG_PREFILL,
    SUSPENDED_LONG,
    State,
)
from pecgym.units import PS_PER_S
from tests.engine.cases import Case
from tests.engine.checker import Checker, columns
from tests.engine.role_policies import RESERVES_AT_RANDOM

WAITS = (GROUP_GATHERING, PREFILL_SUSPENDED, DECODE_SUSPENDED)
STALLED = (PREFILL_STALLED, DECODE_STALLED)


class GroupChecker(Checker):
    """A Checker of clusters that serve longs: it remembers each long's work and group, and each link's transfers."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        n = case.n_replicas
        self.roles = sorted(self.simulator.state.replicas.role.tolist())
        self.work_ps: dict[int, int] = {}  # by row of a long
        self.members_of: dict[int, list[int]] = {}
        self.done_ps: dict[int, int] = {}
        self.stalls: dict[int, int] = {}
        self.phases: dict[int, int] = {}
        self.started_ps = [0] * n  # of each replica's batch, as of the point in time before
        self.sent: set[int] = set()
        self.transfers: dict[int, list[tuple[int, int, int]]] = {}  # by link: (begin, end, tokens)

    def check_more(self, state: State) -> None:
        for r in range(self.case.n_replicas):
            self.check_class(r)
            self.check_incoming(r)
            if self.replicas[r].lead == r:
                self.check_group(state, r)
        in_groups = sum(self.groups[r].degree for r in range(self.case.n_replicas) if self.replicas[r].lead == r)
        assert in_groups == sum(replica.lead != NONE for replica in self.replicas)
        self.check_roles()
        self.check_links(state)
        self.started_ps = [replica.started_ps for replica in self.replicas]

    # -- groups -----------------------------------------------------------------------------------------------------

    def chain(self, lead: int) -> list[int]:
        """The members of a group, from its lead on."""
        found = []
        r = lead
        while r != NONE:
            assert r not in found
            found.append(r)
            r = self.replicas[r].next_member
        return found

    def check_group(self, state: State, lead: int) -> None:
        """The members know their lead, hold equal shares, and do together what the phase says."""
        group, members = self.groups[lead], self.chain(lead)
        q = self.at(group.slot)
        row = int(q.row)
        assert len(members) == group.degree == q.sp_degree
        assert sorted(members) == [r for r, replica in enumerate(self.replicas) if replica.lead == lead]
        assert group.share_blocks == self.blocks(-(-(q.input_tokens + q.output_tokens - 1) // group.degree))
        assert group.in_check == 0
        assert q.replica == lead
        assert self.members_of.setdefault(row, members) == members
        assert self.work_ps.setdefault(row, group.work_ps) == group.work_ps
        assert self.done_ps.get(row, 0) <= group.done_ps <= group.work_ps
        assert group.done_ps % group.operator_ps == 0
        self.done_ps[row] = group.done_ps
        if group.phase in STALLED and self.phases.get(row) != group.phase:
            self.stalls[row] = self.stalls.get(row, 0) + 1
        self.phases[row] = group.phase
        assert q.preemptions == self.stalls.get(row, 0)
        assert (q.start_ps != NONE) == (group.phase != GROUP_GATHERING)
        assert (q.first_token_ps != NONE) == (group.phase >= DECODE)
        if group.phase in (PREFILL, *STALLED) or group.phase == DECODE:
            assert all(self.replicas[r].status == SERVING for r in members)
        else:
            self.check_that_it_must_wait(state, lead, members)

    def check_that_it_must_wait(self, state: State, lead: int, members: list[int]) -> None:
        """A group gathers, or is suspended, only while a member runs shorts or lacks memory for the long's share."""
        group = self.groups[lead]
        assert group.phase in WAITS
        busy = [self.replicas[r].status == RUNNING for r in members]
        assert not any(self.replicas[r].status == SERVING for r in members)
        needed = group.share_blocks if group.phase == GROUP_GATHERING else 0
        assert any(busy) or any(self.replicas[r].used_blocks + needed > self.engine.capacity_blocks for r in members)

    def check_serving(self, state: State, r: int) -> None:
        """All members began together; shorts are resident only beside a decode; the lead carries the event."""
        lead = self.replicas[r].lead
        replica, leader, group = self.replicas[r], self.replicas[lead], self.groups[lead]
        assert replica.started_ps == leader.started_ps
        if group.phase in (PREFILL, PREFILL_STALLED):
            assert replica.n_prefills == replica.n_decodes == 0
        if group.phase == DECODE:
            chunks = int(self.requests.chunk_tokens[self.members[r][1]].sum())
            assert chunks <= self.engine.colocation_tokens
            assert chunks + replica.n_decodes * replica.with_decodes <= self.engine.max_batch_tokens
            assert replica.n_decodes == 0 or replica.with_decodes == 1
            assert leader.n_iterations == 1 or (chunks == replica.n_decodes == 0)
        if r != lead:
            assert state.event_ps[r] == NEVER_PS
        elif group.phase in STALLED:
            assert state.event_ps[r] == group.stop_ps + self.engine.switch_ps > self.now_ps
        elif group.phase == PREFILL:
            assert state.event_ps[r] == replica.started_ps + group.work_ps - group.done_ps > self.now_ps
        else:
            assert group.phase == DECODE
            iterations = range(replica.n_iterations)
            duration = sum(replica.base_ps + i * replica.slope_ps for i in iterations) + replica.first_extra_ps
            assert state.event_ps[r] == replica.started_ps + duration > self.now_ps

    # -- memory, pushes and links -----------------------------------------------------------------------------------

    def guest_blocks(self, r: int) -> int:
        """The share of a long that has started, and prompts whose KV is on its way elsewhere."""
        pushing = [slot for slot in self.pushing if self.requests.replica[slot] == r]
        assert self.replicas[r].n_pushing == len(pushing)
        group = self.group_of(r)
        share = group.share_blocks if group is not None and group.phase != GROUP_GATHERING else 0
        return self.blocks(self.requests.prompt_tokens[pushing]) + share

    def check_incoming(self, r: int) -> None:
        """Counts who will decode on replica r; a short that has a decode replica decodes nowhere else."""
        elsewhere = [slot for other, groups in enumerate(self.members) if other != r for g in groups for slot in g]
        expected = self.requests.decode_replica[elsewhere + self.pushing] == r
        assert self.replicas[r].incoming == np.count_nonzero(expected)
        decoding_here = self.requests.decode_replica[self.members[r][2]]
        assert np.all((decoding_here == NONE) | (decoding_here == r))

    def check_links(self, state: State) -> None:
        """A push begins with its prefill's last iteration, or when both links are free; no two overlap on a link."""
        settings, requests = self.engine, self.requests
        n, per_node = self.case.n_replicas, settings.replicas_per_node
        nodes = -(-n // per_node)
        for slot in sorted(self.pushing, key=lambda slot: requests.sequence[slot]):
            row, tokens = int(requests.row[slot]), int(requests.prompt_tokens[slot])
            if row in self.sent:
                continue
            self.sent.add(row)
            source, target = int(requests.replica[slot]), int(requests.decode_replica[slot])
            inside = source // per_node == target // per_node
            links = [2 * nodes + source, 2 * nodes + n + target]
            if not inside:
                links = [source // per_node, nodes + target // per_node]
            begin = max([self.started_ps[source]] + [self.transfers.get(i, [(0, 0, 0)])[-1][1] for i in links])
            end = begin + tokens * (settings.replica_push_ps_per_token if inside else settings.node_push_ps_per_token)
            assert requests.pushed_ps[slot] == max(self.now_ps, end) + settings.push_visible_ps
            for i in links:
                self.transfers.setdefault(i, []).append((begin, end, tokens))
        for i, transfers in self.transfers.items():
            assert all(a[1] <= b[0] for a, b in pairwise(transfers))
            busy_ps = sum(end - begin for begin, end, _ in transfers)
            assert state.links[i].busy_ps == busy_ps <= state.links[i].free_ps == transfers[-1][1]
            assert state.links[i].carried_tokens == sum(tokens for _, _, tokens in transfers)
            gb_per_s = self.case.topology.node_gb_per_s if i < 2 * nodes else self.case.topology.replica_gb_per_s
            per_token = round(self.case.profile.kv_bytes_per_token / (gb_per_s * 1e9) * PS_PER_S)
            assert state.links[i].carried_tokens * per_token == busy_ps

    # -- roles ------------------------------------------------------------------------------------------------------

    def check_class(self, r: int) -> None:
        """What a policy may do with a replica follows from its role and its long."""
        replica, group = self.replicas[r], self.group_of(r)
        if replica.next_role != NONE:
            expected = CLOSED
        elif replica.role == DECODE_ROLE:
            expected = POOL
        elif group is None:
            expected = OPEN if replica.role == GENERAL else RESERVED
        elif replica.role == LONG_ROLE:
            expected = CLOSED
        elif group.phase == GROUP_GATHERING:
            expected = GATHERING_LONG
        elif group.phase == PREFILL:
            expected = PREFILLING_LONG
        else:
            expected = DECODING_LONG if group.phase >= DECODE else SUSPENDED_LONG
        assert replica.place_class == expected
        if replica.role == DECODE_ROLE or replica.next_role != NONE:
            assert group is None

    def check_roles(self) -> None:
        """Who drains has something on it or on its way; roles change only where the number of them is decided anew."""
        for replica in self.replicas:
            if replica.next_role != NONE:
                assert replica.next_role != replica.role
                assert replica.n_requests + replica.incoming + replica.n_pushing > 0
        roles = [replica.role for replica in self.replicas]
        if not self.case.rules.pool_interval_s:
            assert sorted(roles) == self.roles
        else:
            apart, never = (LONG_ROLE, DECODE_ROLE) if self.case.rules.reserved_replicas else (DECODE_ROLE, LONG_ROLE)
            assert never not in roles
            becoming = [q.role if q.next_role == NONE else q.next_role for q in self.replicas]
            assert becoming.count(GENERAL) >= 1
            assert becoming.count(apart) >= 1

    # -- the global queues ------------------------------------------------------------------------------------------

    def check_work_conservation(self) -> None:
        """Nobody stays in a global queue who may go somewhere by the policy's rule."""
        policy, classes = self.case.policy, [replica.place_class for replica in self.replicas]
        if self.cluster.queue != NONE:
            if policy.startswith("pecsched"):
                assert not {OPEN, GATHERING_LONG, SUSPENDED_LONG, PREFILLING_LONG, DECODING_LONG} & set(classes)
            elif policy not in ("fifo", "sjf", "reservation", "priority", RESERVES_AT_RANDOM):
                assert OPEN not in classes
            elif policy != "fifo":
                assert all(q.n_requests or q.held_blocks for q in self.replicas if q.place_class == OPEN)
        if self.cluster.longs != NONE and policy not in ("fifo", "priority"):
            q = self.at(self.cluster.longs)
            memory = self.engine.capacity_blocks * self.block
            needed = -(-(q.input_tokens + q.output_tokens - 1) // memory)
            if isinstance(self.case.rules.sp_degree, int):
                needed = max(needed, self.case.rules.sp_degree)
            assert classes.count(self.engine.long_class) < needed

    # -- the end ----------------------------------------------------------------------------------------------------

    def check_end(self) -> None:
        super().check_end()
        slices, log = columns(self.simulator.timeline()), self.simulator.finished()
        trace: Any = getattr(self.case.workload, "lengths", self.case.workload)
        for row in log[trace.is_long[log.row]]:
            members = self.members_of[int(row.row)]
            for r in members:
                mine = (slices.kind == SLICE_LONG_PREFILL) & (slices.row == row.row) & (slices.replica == r)
                assert np.sum(slices.end_ps[mine] - slices.start_ps[mine]) == self.work_ps[int(row.row)]
            assert row.preemptions == self.stalls.get(int(row.row), 0)
            assert row.sp_degree == len(members)
            assert row.evictions == row.recomputed_tokens == 0
            if row.preemptions == 0:
                assert row.first_token_ps - row.start_ps == self.work_ps[int(row.row)]
