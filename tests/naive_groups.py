"""The specification of long requests, KV pushes and replica roles, in plain code: a part of NaiveCluster.

A long is served by a group of replicas, each of which holds an equal share of its KV cache. Phases of a group:

    gathering          the members finish what they have begun; no member works for the long yet
    prefill            all members compute the long's prompt, until it is done or a short preempts it
    prefill_stalled    the running operator ends and the kernels are switched
    prefill_suspended  the members serve shorts; when none of them has any that it can run, the prefill goes on
    decode             all members step together; shorts beside the decode share its iterations
    decode_stalled, decode_suspended   the same as for the prefill, at the boundary of an iteration
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pecgym.costs import GroupCosts
from pecgym.engine import LongRules, Topology
from pecgym.units import PS_PER_S, seconds_to_ps

WAIT = -1


@dataclass(frozen=True)
class Placement:
    """Where a short prefills, where it decodes (-1: there), and whether it preempts a long that runs there."""

    replica: int
    decode: int = -1
    preempt: bool = False


@dataclass(eq=False)
class Group:
    """The replicas that serve one long request. The first member leads: its place orders simultaneous events."""

    request: Any
    members: list[Any]
    nodes: int
    work: int  # duration of the prefill
    operator: int  # duration of one of its operators
    phase: str = "gathering"
    done: int = 0  # part of the work that is done
    started: int = 0  # when the segment of prefill, or the iteration, began
    event: int | None = None  # when it ends
    suspend_wanted: bool = False

    @property
    def lets_others_run(self) -> bool:
        return self.phase in ("gathering", "prefill_suspended", "decode_suspended")


class Groups:
    """What NaiveCluster knows about longs, links and roles."""

    def set_up_groups(self: Any, rules: LongRules, topology: Topology, costs: GroupCosts | None) -> None:
        self.rules, self.topology, self.costs = rules, topology, costs
        n = len(self.replicas)
        for r in range(n - rules.count_of_replicas(rules.decode_replicas, n), n):
            self.replicas[r].role = "decode"
        for r in range(n - rules.count_of_replicas(rules.reserved_replicas, n), n):
            self.replicas[r].role = "long"
        self.pushes: list[Any] = []
        self.link_free: dict[tuple[str, int], int] = {}
        interval = seconds_to_ps(rules.pool_interval_s)
        self.next_pool_change = interval if interval else 2**62
        self.pool_changed = interval > 0  # may the next decision about the pool free replicas for who waits?

    def node(self: Any, replica: Any) -> int:
        return replica.index // self.topology.replicas_per_node

    def place_class(self: Any, replica: Any) -> str:
        """What a policy may do with the replica."""
        if replica.next_role:
            return "closed"
        if replica.role == "decode":
            return "pool"
        if replica.group is None:
            return "open" if replica.role == "general" else "reserved"
        if replica.role == "long":
            return "closed"
        if replica.group.phase in ("prefill_stalled", "prefill_suspended"):
            return "suspended"
        return replica.group.phase.split("_")[0]

    # -- the life of a long -----------------------------------------------------------------------------------------

    def share(self: Any, request: Any, degree: int) -> int:
        """KV blocks of a long on every member: an equal share of its prompt and its output."""
        return self.blocks(-(-(request.input + request.output - 1) // degree))

    def grow(self: Any, anchor: int, degree: int) -> list[Any]:
        """The members of a group: the anchor, then replicas of its class by load; its own node first, then the nodes
        that have most of them."""
        lead = self.replicas[anchor]
        peers = [r for r in self.replicas if r is not lead and self.place_class(r) == self.place_class(lead)]
        on_node = [self.node(r) for r in peers]
        peers.sort(
            key=lambda r: (
                self.node(r) != self.node(lead),
                -on_node.count(self.node(r)),
                self.node(r),
                self.load(r.index),
                r.index,
            )
        )
        return [lead, *peers[: degree - 1]]

    def start_long(self: Any, request: Any, anchor: int, degree: int, strategy: int) -> None:
        """A long joins the local queue of every member, behind what is there."""
        members = self.grow(anchor, degree)
        nodes = len({self.node(r) for r in members})
        work = max(1, self.costs.prefill_ps(strategy, degree, nodes, request.input))
        operator = max(1, work // (self.topology.layers * self.rules.operators_per_layer))
        request.replica, request.placed, request.degree = anchor, self.now, degree
        group = Group(request, members, nodes, work, operator)
        for replica in members:
            replica.group = group

    def preempt_at(self: Any, replica: Any) -> None:
        """A short that has come, or has got memory, stops the long on its replica, if the first in the queue there
        could run beside it: a prefill after the running operator, a decode after the running iteration. What was
        computed stays."""
        group = replica.group
        if group is None or not self.fits(replica, replica.waiting[0], 1):
            return
        if group.phase == "decode":
            group.suspend_wanted = True
        if group.phase != "prefill":
            return
        done = group.done + self.now - group.started
        boundary = -(-done // group.operator) * group.operator
        if boundary < group.work:
            for member in group.members:
                member.work(boundary - group.done, prompt_tokens=True)
            group.done = boundary
            self.stall(group, self.now + boundary - done)

    def stall(self: Any, group: Group, stop: int) -> None:
        group.phase += "_stalled"
        group.event = stop + seconds_to_ps(self.rules.switch_s)
        group.suspend_wanted = False
        group.request.preemptions += 1

    def group_event(self: Any, group: Group) -> None:
        group.event = None
        request = group.request
        if group.phase.endswith("_stalled"):
            group.phase = group.phase.replace("stalled", "suspended")
            self.ready += group.members
        elif group.phase == "prefill":
            for member in group.members:
                member.work(self.now - group.started, prompt_tokens=True)
            request.first_token, request.emitted, request.computed = self.now, 1, request.prompt
            group.phase = "decode"
            self.changed = True
            if request.output == 1:
                self.finish_long(group)
        else:
            for member in group.members:
                self.end_iteration(member)
            request.emitted += 1
            request.computed += 1
            if request.emitted == request.output:
                self.finish_long(group)

    def finish_long(self: Any, group: Group) -> None:
        group.request.finish = self.now
        self.done.append(group.request)
        self.changed = True
        for member in group.members:
            member.group = None
            self.ready.append(member)
            self.change_role_if_empty(member)
        self.next_user_request()

    def start_groups(self: Any) -> None:
        """At the end of a point in time: groups whose members are free start or go on."""
        for lead in self.replicas:
            group = lead.group
            if group is None or group.members[0] is not lead or group.event is not None:
                continue
            if group.lets_others_run and any(r.iteration_end is not None for r in group.members):
                continue
            if group.phase == "gathering":
                if not all(self.has_room_for_long(group, r) for r in group.members):
                    continue
                group.request.start = self.now
                self.changed = True
            if group.phase in ("gathering", "prefill_suspended"):
                group.phase, group.started = "prefill", self.now
                group.event = self.now + group.work - group.done
            else:
                group.phase = "decode"
                self.step_together(group)

    def has_room_for_long(self: Any, group: Group, replica: Any) -> bool:
        return self.guests(replica) + self.share(group.request, len(group.members)) <= self.capacity

    def step_together(self: Any, group: Group) -> None:
        """One iteration of a sharded decode: every member reads its share and may run shorts beside it; the slowest
        decides, and the partial outputs are reduced."""
        if group.suspend_wanted or self.somebody_preempts_decode(group):
            self.stall(group, self.now)
            return
        degree = len(group.members)
        slowest = 0
        for replica in group.members:
            replica.chunks, replica.with_decodes, replica.swapped_tokens = {}, False, 0
            self.compose_continuous(replica, colocated=True)
            chunks = [(c, q.computed) for q, c in replica.chunks.items()]
            decodes = [q.computed for q in replica.decodes] if replica.with_decodes else []
            duration = self.profile.iteration_ps(chunks, [*decodes, 0]) + self.swap_time(replica)
            duration += group.request.computed * int(self.costs.decode_kv_ps[degree])
            slowest = max(slowest, duration)
            replica.iteration_start = self.now
        duration = slowest + int(self.costs.decode_sync_ps[self.costs.shape_index[degree, group.nodes]])
        for replica in group.members:
            replica.work(duration, prompt_tokens=bool(replica.chunks))
            replica.iterations += 1
        group.started, group.event = self.now, self.now + duration

    def time_left(self: Any, replica: Any) -> int:
        """A lower bound on the time until the residents of a replica have gone, by the lengths that rules may read."""
        return max(
            (
                self.lone_decode(q.rank - q.emitted - 1, q.computed if q.decoding else q.prompt)
                for q in replica.residents
            ),
            default=0,
        )

    def lone_decode(self: Any, iterations: int, context: int) -> int:
        """The time of that many decode iterations of a request that is alone on a replica."""
        return sum(self.profile.iteration_ps([], [context + i]) for i in range(iterations))

    def somebody_preempts_decode(self: Any, group: Group) -> bool:
        """Without colocation, a short that preempts and could run on a member stops the decode before it goes on."""
        heads = [(r, r.waiting[0]) for r in group.members if r.waiting]
        return not self.rules.colocation_tokens and any(q.preempts and self.fits(r, q, 1) for r, q in heads)

    # -- KV pushes --------------------------------------------------------------------------------------------------

    def push(self: Any, replica: Any, request: Any) -> None:
        """The KV cache of a short goes to where it decodes, layer by layer since its prefill's last iteration began.

        A link carries one transfer at a time, at its full bandwidth. Inside a node a push takes the two replicas' own
        links, between nodes the two nodes' links.
        """
        target = self.replicas[request.decode_replica]
        if self.node(replica) == self.node(target):
            links = ("from replica", replica.index), ("to replica", target.index)
            gb_per_s = self.topology.replica_gb_per_s
        else:
            links = ("from node", self.node(replica)), ("to node", self.node(target))
            gb_per_s = self.topology.node_gb_per_s
        per_token = round(self.profile.kv_bytes_per_token / (gb_per_s * 1e9) * PS_PER_S)
        begin = max([replica.iteration_start] + [self.link_free.get(link, 0) for link in links])
        end = begin + request.prompt * per_token
        for link in links:
            self.link_free[link] = end
        self.sequence += 1
        request.push_number = self.sequence
        request.pushed = max(self.now, end) + seconds_to_ps(self.rules.push_visible_s)
        request.decoding = True
        replica.pushing.append(request)
        self.pushes.append(request)

    def end_pushes(self: Any) -> None:
        """KV caches that have arrived wait in host memory until they fit where they decode."""
        for request in sorted((q for q in self.pushes if q.pushed == self.now), key=lambda q: q.push_number):
            self.pushes.remove(request)
            source, target = self.replicas[request.replica], self.replicas[request.decode_replica]
            source.pushing.remove(request)
            target.incoming -= 1
            request.from_push = True
            request.promoted = 0
            self.wait_in_order(target, request, request.push_number)
            self.ready += [source] + ([target] if target.iteration_end is None else [])
            if source.waiting and source.waiting[0].preempts:
                self.preempt_at(source)
            self.change_role_if_empty(source)
            self.changed = True

    # -- roles ------------------------------------------------------------------------------------------------------

    def change_pool(self: Any) -> None:
        """Replicas change their role until as many as the policy asks for decode or, where some are reserved for longs,
        are reserved, or are on their way to it."""
        self.next_pool_change += seconds_to_ps(self.rules.pool_interval_s)
        role, its_class = ("long", "reserved") if self.rules.reserved_replicas else ("decode", "pool")
        wanted = self.pool(self)
        self.pool_changed = False
        if wanted == WAIT:
            return
        target = max(1, wanted)
        while self.count_becoming(role) < target and self.count_becoming("general") > 1:
            if not self.change_least_loaded("open", role):
                break
        while self.count_becoming(role) > target:
            if not self.change_least_loaded(its_class, "general"):
                break

    def count_becoming(self: Any, role: str) -> int:
        return sum((r.next_role or r.role) == role for r in self.replicas)

    def change_least_loaded(self: Any, place_class: str, role: str) -> bool:
        able = [r for r in self.replicas if self.place_class(r) == place_class]
        if not able:
            return False
        replica = min(able, key=lambda r: (self.load(r.index), r.index))
        replica.next_role = role
        self.changed = self.pool_changed = True
        self.change_role_if_empty(replica)
        return True

    def change_role_if_empty(self: Any, replica: Any) -> None:
        """A replica that drains has its new role once nothing is on it or on its way to it."""
        busy = replica.n_requests or replica.incoming or replica.pushing or replica.group
        if replica.next_role and not busy:
            replica.role, replica.next_role = replica.next_role, ""
            self.changed = True
