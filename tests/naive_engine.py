"""The simulator's specification in code: one iteration at a time, plain lists, no jumps, no heaps, no compilation.

`NaiveCluster` gives the same times and per-request results, bit for bit, as the compiled engine. A rule of the model
is written here first: what one replica does in this file, long requests, links and roles in naive_groups.py, orders in
naive_orders.py; what is known of a request and of a replica is in naive_records.py. Times are integer picoseconds. One
point in time has five phases: iterations end and pushed KV caches arrive, requests arrive, the decode pool may change,
the policy decides, batches start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pecgym.costs import GroupCosts, Profile
from pecgym.engine import EngineSettings, LongRules, Topology
from pecgym.engine.orders import OrderRules
from pecgym.units import PS_PER_S, seconds_to_ps
from pecgym.workload import ClosedLoop, Trace
from tests.naive_groups import WAIT, Groups, Placement
from tests.naive_orders import DYNAMIC, Orders
from tests.naive_records import Replica, Request


class NaiveCluster(Groups, Orders):
    """A cluster of equal replicas under a policy.

    `choose(cluster, request)` places a short: a replica's index, a Placement, or WAIT. `start(cluster, request)` starts
    a long: (anchor, degree, strategy), with a fourth number another of the waiting longs, or WAIT. `pool(cluster)` says
    how many decode replicas there should be. `join(cluster, replica, candidates)` says who of those who may joins the
    batch that is being composed, None: nobody more; without it nobody overtakes the head of the queue.
    `victim(cluster, replica, candidates)` chooses who is evicted, where there is a choice; without it the rule does.
    `plan(cluster, replica)` says whole batches, in place of all rules: who is evicted, and the members' new tokens.
    """

    def __init__(
        self,
        n_replicas: int,
        profile: Profile,
        settings: EngineSettings,
        choose: Callable[[Any, Request], int | Placement],
        load: str = "queued_tokens",
        global_order: str = "fcfs",
        random_state: int = 0,
        *,
        start: Callable[[Any, Request], Any] | None = None,
        pool: Callable[[Any], int] | None = None,
        join: Callable[[Any, Replica, list[Request]], Request | None] | None = None,
        victim: Callable[[Any, Replica, list[Request]], Request] | None = None,
        plan: Callable[[Any, Replica], tuple[list[Request], dict[Request, int]]] | None = None,
        order: OrderRules | None = None,
        rules: LongRules | None = None,
        topology: Topology | None = None,
        group_costs: GroupCosts | None = None,
    ) -> None:
        settings = settings.resolved(profile)
        assert settings.block_tokens is not None
        assert settings.kv_capacity_tokens is not None
        self.profile, self.settings, self.choose = settings.with_overhead(profile), settings, choose
        self.load_kind, self.global_order, self.random_state = load, global_order, random_state
        self.order = order or OrderRules()
        self.block_tokens = settings.block_tokens
        self.capacity = settings.kv_capacity_tokens // self.block_tokens
        self.watermark = int(settings.watermark * self.capacity)
        at_once = settings.slots if plan is None else settings.max_batch_requests
        self.slots = min(at_once, settings.kv_capacity_tokens)
        self.replicas = [Replica(i) for i in range(n_replicas)]
        self.queue: list[Request] = []  # shorts
        self.longs: list[Request] = []
        self.arrivals: list[Request] = []  # to come, sorted
        self.predicting: list[tuple[int, Request]] = []  # who has arrived, and when its length will be known
        self.dispatches = 0  # points in time at which the global queues were looked at
        self.unissued: list[Request] = []  # closed loop: rows that no user has sent yet
        self.think: int | None = None
        self.done: list[Request] = []
        self.now = 0
        self.sequence = 0
        self.evictions = 0
        self.changed = False  # has something happened that a waiting decision may depend on?
        self.turn = 0
        self.ready: list[Replica] = []  # they compose a batch at the end of this point in time
        self.start, self.pool, self.join, self.victim, self.plan = start, pool, join, victim, plan
        self.set_up_groups(rules or LongRules(), topology or Topology(n_replicas), group_costs)

    # -- workload ---------------------------------------------------------------------------------------------------

    def load_trace(self, trace: Trace) -> None:
        self.arrivals = _requests(trace, seconds_to_ps(trace.arrival_s).tolist(), self.columns(trace))

    def load_closed_loop(self, loop: ClosedLoop) -> None:
        rows = _requests(loop.lengths, [0] * len(loop.lengths), self.columns(loop.lengths))
        for user, request in enumerate(rows[: loop.users]):
            request.arrival = seconds_to_ps(user * loop.stagger_s)
        self.arrivals, self.unissued = rows[: loop.users], rows[loop.users :]
        self.think = seconds_to_ps(loop.think_s)

    def next_user_request(self) -> None:
        """A user was answered: after thinking, the workload's next row arrives."""
        if self.think is not None and self.unissued:
            request = self.unissued.pop(0)
            request.arrival = self.now + self.think
            self.arrivals.append(request)
            self.arrivals.sort(key=lambda q: (q.arrival, q.row))

    # -- the clock --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """One point in time."""
        times = [r.iteration_end for r in self.replicas if r.iteration_end is not None]
        times += [r.gathering_until for r in self.replicas if r.gathering_until is not None and r.iteration_end is None]
        times += [r.group.event for r in self.replicas if r.group is not None and r.group.event is not None]
        times += [q.pushed for q in self.pushes]
        times += [self.arrivals[0].arrival] if self.arrivals else []
        times += [due for due, _ in self.predicting]
        if not times and (self.queue or self.longs) and self.pool_changed:
            times = [self.next_pool_change]
        if not times:
            return False
        if min(times) <= self.next_pool_change < 2**62:
            self.pool_changed = True
        self.now = min([*times, self.next_pool_change])
        for replica in self.replicas:
            if replica.iteration_end == self.now:
                replica.last_iteration = (replica.iteration_start, self.now)
                self.end_iteration(replica)
                self.ready.append(replica)
            elif replica.iteration_end is None and replica.gathering_until == self.now:
                self.ready.append(replica)
            if replica.group is not None and replica.group.members[0] is replica and replica.group.event == self.now:
                self.group_event(replica.group)
        self.end_pushes()
        while self.arrivals and self.arrivals[0].arrival == self.now:
            self.arrive(self.arrivals.pop(0))
        for due, request in list(self.predicting):
            if due == self.now:
                self.predicting.remove((due, request))
                self.join_global_queue(request)
        if self.now == self.next_pool_change:
            self.change_pool()
        self.decide_and_start()
        while self.changed:  # a long has begun, which makes its members another class of replicas
            self.decide_and_start()
        return True

    def decide_and_start(self) -> None:
        if self.changed:
            self.dispatches += 1
            self.dispatch()
        self.changed = False
        for replica in self.replicas:
            if replica in self.ready:
                self.compose(replica)
        self.ready = []
        self.start_groups()

    def arrive(self, request: Request) -> None:
        """A request joins a global queue at once, or when its length has been predicted."""
        self.sequence += 1
        request.sequence = self.sequence
        if request.prediction:
            self.predicting.append((self.now + request.prediction, request))
        else:
            self.join_global_queue(request)

    def join_global_queue(self, request: Request) -> None:
        queue, order = (self.longs, self.rules.long_order) if request.is_long else (self.queue, self.global_order)
        request.key = (self.order_key(request, order), request.sequence)
        queue.append(request)
        queue.sort(key=lambda q: q.key)
        self.changed = True

    def dispatch(self) -> None:
        """The policy places the first short again and again until it waits, then is asked about the first long. Before
        it is asked anything, both queues are put in their order of this moment."""
        while True:
            self.reorder_global_queues()
            while self.queue:
                action = self.choose(self, self.queue[0])
                if action == WAIT:
                    break
                self.place(self.queue.pop(0), action if isinstance(action, Placement) else Placement(action))
                self.reorder_global_queues()
            if not self.longs or self.start is None:
                return
            group = self.start(self, self.longs[0])
            if group == WAIT:
                return
            anchor, degree, strategy, *index = group
            self.start_long(self.longs.pop(index[0] if index else 0), anchor, degree, strategy)

    def place(self, request: Request, placement: Placement) -> None:
        """A short goes to a replica; beside a long it may preempt it, or wait for what the long leaves it."""
        replica = self.replicas[placement.replica]
        request.replica, request.placed = replica.index, self.now
        if placement.decode >= 0:
            request.decode_replica = placement.decode
            self.replicas[placement.decode].incoming += 1
        request.promoted = 0
        self.wait_in_order(replica, request, request.sequence)
        if replica.iteration_end is None:
            self.ready.append(replica)
        request.preempts = placement.preempt
        if placement.preempt:
            self.preempt_at(replica)

    # -- queues -----------------------------------------------------------------------------------------------------

    def wait_at(self, replica: Replica, request: Request, key: int, sequence: int) -> None:
        request.key = (key, sequence)
        request.waits_from = None
        if self.settings.queue_order != "fcfs":
            request.sequence = sequence
        replica.waiting.append(request)
        replica.waiting.sort(key=lambda q: q.key)
        request.waiting_blocks = self.blocks_to_admit(replica, request)  # type: ignore[attr-defined]

    def wait_in_order(self, replica: Replica, request: Request, sequence: int) -> None:
        self.wait_at(replica, request, self.order_key(request, self.settings.queue_order), sequence)
        if self.settings.queue_order in DYNAMIC and self.settings.queue_order != "ltr":
            self.reorder_queue(replica)

    # -- memory -----------------------------------------------------------------------------------------------------

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_tokens)

    def used(self, replica: Replica, extra: int = 0) -> int:
        """Blocks held: incomplete prompts hold their whole prompt, decodes what they computed (+ `extra` tokens)."""
        held = sum(self.blocks(q.computed + extra) for q in replica.decodes)
        return held + sum(self.blocks(q.prompt) for q in replica.prefills) + self.guests(replica)

    def guests(self, replica: Replica) -> int:
        """Blocks of who is no member of the batch: a long that has started, and shorts whose KV is on its way."""
        blocks = sum(self.blocks(q.prompt) for q in replica.pushing)
        if replica.group is not None and replica.group.phase != "gathering":
            blocks += self.share(replica.group.request, len(replica.group.members))
        return blocks

    def reserved(self, replica: Replica, extra: int) -> int:
        """Blocks that admission must respect: what was set aside, or what is held if that is more."""
        if self.settings.reservation == "prompt":
            return self.used(replica, extra)
        if self.settings.reservation == "peak":
            set_aside = sum(self.blocks(q.reserved) for q in replica.residents) + self.guests(replica)
            return max(self.used(replica, extra), set_aside)
        held = sum(self.blocks(max(q.computed + extra, q.reserved)) for q in replica.decodes)
        return held + sum(self.blocks(max(q.prompt, q.reserved)) for q in replica.prefills) + self.guests(replica)

    def tokens_to_reserve(self, replica: Replica, request: Request) -> int:
        if request.decode_replica not in (-1, replica.index):
            return request.prompt  # it does not grow here
        if self.settings.reservation == "peak":
            return request.input + request.output - 1
        if self.settings.reservation == "history":
            peers = [q for q in replica.finished if q.input.bit_length() == request.input.bit_length()]
            if peers:
                return max(request.prompt, sum(q.input + q.output - 1 for q in peers) // len(peers))
        return request.prompt

    def blocks_to_admit(self, replica: Replica, request: Request) -> int:
        if not request.swapped and not request.from_push:
            return self.blocks(self.tokens_to_reserve(replica, request))
        held = request.computed + 1 if request.decoding else request.prompt
        return self.blocks(max(held, self.tokens_to_set_aside_again(replica, request)))

    def tokens_to_set_aside_again(self, replica: Replica, request: Request) -> int:
        """For a request whose KV is in host memory: what it had here, or, pushed from elsewhere, what it gets here."""
        return self.tokens_to_reserve(replica, request) if request.from_push else request.reserved

    def fits(self, replica: Replica, request: Request, extra: int) -> bool:
        """Whether a waiting request can become resident, with room for `extra` more tokens of every decode."""
        if not replica.residents and self.guests(replica) == 0:
            return True
        if len(replica.residents) >= self.slots:
            return False
        need = self.blocks_to_admit(replica, request)
        return self.reserved(replica, extra) + need + self.watermark <= self.capacity

    def can_start(self, replica: Replica, request: Request) -> bool:
        """Whether the replica could soon start the request, behind those that wait there already."""
        settings = self.settings
        if self.place_class(replica) != "open":
            return False
        if replica.n_requests == 0 and self.guests(replica) == 0:
            return True
        if replica.n_requests >= self.slots:
            return False
        if settings.batching == "static":
            return not replica.residents
        budget = settings.max_batch_tokens - replica.queued_tokens - (len(replica.decodes) if settings.mixing else 0)
        if self.chunk(request.prompt, budget, replica.queued_tokens == 0, settings.chunk_tokens) == 0:
            return False
        running = replica.iteration_end is not None and replica.with_decodes
        reserved = self.reserved(replica, 1 if running else 0)
        reserved += sum(q.waiting_blocks for q in replica.waiting)  # type: ignore[attr-defined]
        return reserved + self.blocks_to_admit(replica, request) + self.watermark <= self.capacity

    # -- composing a batch ------------------------------------------------------------------------------------------

    def compose(self, replica: Replica) -> None:
        """The replica's next iteration. One that serves a long composes only while the long waits or is suspended."""
        if replica.iteration_end is not None or (replica.group is not None and not replica.group.lets_others_run):
            return
        replica.chunks, replica.with_decodes, replica.swapped_tokens = {}, False, 0
        if replica.n_requests == 0:
            return
        if self.plan is not None:
            self.compose_planned(replica, *self.plan(self, replica))
        elif self.settings.batching == "static":
            if not self.compose_static(replica):
                return
        else:
            self.compose_continuous(replica)
        if not replica.chunks and not replica.with_decodes:
            return  # who waits does not fit beside the long
        decodes = [q.computed for q in replica.decodes] if replica.with_decodes else []
        decodes += [q.computed for q in replica.chunks if q.decoding]
        prefills = [(c, q.computed) for q, c in replica.chunks.items() if not q.decoding]
        duration = self.profile.iteration_ps(prefills, decodes)
        duration += self.swap_time(replica)
        replica.iteration_start, replica.iteration_end = self.now, self.now + duration
        replica.work(duration, prompt_tokens=bool(prefills))
        replica.iterations += 1
        held = sum(q.computed + replica.with_decodes for q in replica.decodes) + sum(q.prompt for q in replica.prefills)
        replica.kv_token_ps += held * duration

    def swap_time(self, replica: Replica) -> int:
        if self.settings.swap_gb_per_s is None:
            return 0
        per_token = round(self.profile.kv_bytes_per_token / (self.settings.swap_gb_per_s * 1e9) * PS_PER_S)
        return replica.swapped_tokens * per_token

    def compose_continuous(self, replica: Replica, colocated: bool = False) -> None:
        """colocated: beside the decode of a long, with at most `colocation_tokens` prompt tokens and all decodes."""
        settings = self.settings
        mixing = settings.mixing or colocated
        replica.seen_until = self.now if colocated else self.seen_until(replica)
        if settings.queue_order in DYNAMIC:
            self.reorder_queue(replica)
        if settings.preemptive:
            self.displace(replica)
        while replica.waiting and self.has_kv(replica.waiting[0]) and self.fits(replica, replica.waiting[0], 1):
            self.resume(replica)
        if settings.group_order == "decode_first":
            self.make_room_for_decodes(replica)
            replica.with_decodes = bool(replica.decodes)
            if mixing or not replica.with_decodes:
                self.schedule_prefills(replica, settings.max_batch_tokens - len(replica.decodes), 1, colocated)
                if replica.chunks and replica.with_decodes and not colocated:
                    self.wait_for_more(replica)
        else:
            budget = settings.max_batch_tokens - (len(replica.decodes) if mixing else 0)
            self.schedule_prefills(replica, budget, 0, colocated)
            if mixing or not replica.chunks:
                self.make_room_for_decodes(replica)
                replica.with_decodes = bool(replica.decodes)
        self.note_start(replica)

    def note_start(self, replica: Replica) -> None:
        for request in replica.chunks:
            if request.start < 0:
                request.start = self.now

    def wait_for_more(self, replica: Replica) -> None:
        """Batch waiting: beside decodes no prompt gets tokens until the iteration would have a share of the budget, or
        until prompts were held back in so many iterations since some last joined decodes (those that run alone do not
        count as that, nor do iterations beside a long, where none wait). Who is held back has been admitted: its memory
        and its slot are its own, and it may be evicted. What was evicted and is computed again is a prompt like any
        other; a KV cache that comes back from host memory, or from another replica, needs no prompt tokens and does
        not wait."""
        settings = self.settings
        tokens = sum(replica.chunks.values()) + len(replica.decodes)
        enough = tokens >= settings.batch_wait_ratio * settings.max_batch_tokens
        if enough or replica.held_back >= settings.batch_wait_iterations:
            replica.held_back = 0
        else:
            replica.held_back += 1
            replica.chunks = {}

    def seen_until(self, replica: Replica) -> int:
        """Asynchronous scheduling composes a batch while the one before it runs, from what was known when that began;
        a replica that stood idle, or has nobody left, composes from what it knows now."""
        started, ended = replica.last_iteration
        ahead = self.settings.async_scheduling and ended == self.now and replica.residents
        return started if ahead else self.now

    def has_kv(self, request: Request) -> bool:
        """Whether a waiting request's KV cache is in host memory: swapped out, or pushed from where it prefilled."""
        return request.swapped or request.from_push

    def schedule_prefills(self, replica: Replica, budget: int, extra: int, colocated: bool) -> None:
        """Incomplete prompts first, then new requests until one does not fit; nobody overtakes it, unless `join` says
        who is next: it is asked while somebody waits, and tokens and a batch slot are left. An empty replica never
        stays idle beside those who wait."""
        limit = self.settings.chunk_tokens
        if colocated:
            budget = limit = min(budget, self.rules.colocation_tokens)
            if limit <= 0:
                return
        left = budget
        for request in replica.prefills:
            chunk = self.chunk(request.prompt - request.computed, left, not replica.chunks, limit)
            if chunk:
                replica.chunks[request] = chunk
                left -= chunk

        def share(request: Request) -> int:
            """Prompt tokens for a waiting request; 0 if it may not join."""
            unknown = request.placed > replica.seen_until
            if unknown or self.has_kv(request) or not self.fits(replica, request, extra):
                return 0
            return self.chunk(request.prompt, left, not replica.chunks, limit)

        while replica.waiting and left > 0:
            newcomer: Request | None = replica.waiting[0]
            if self.join is not None:
                if len(replica.residents) >= self.slots:
                    break
                newcomer = self.join(self, replica, [q for q in replica.waiting if share(q)])
                assert newcomer is not None or replica.residents
            if newcomer is None or share(newcomer) == 0:
                break
            replica.chunks[newcomer] = chunk = share(newcomer)
            self.admit(replica, newcomer)
            left -= chunk

    def chunk(self, wanted: int, left: int, first: bool, limit: int) -> int:
        """Prompt tokens in this iteration; the first whole prompt of an iteration may exceed what is left."""
        if limit:
            return min(wanted, limit, max(left, 0))
        return wanted if wanted <= left or first else 0

    def admit(self, replica: Replica, request: Request) -> None:
        replica.waiting.remove(request)
        self.set_aside(replica, request, self.tokens_to_reserve(replica, request))
        request.leave_at = request.output
        replica.prefills.append(request)

    def set_aside(self, replica: Replica, request: Request, tokens: int) -> None:
        replica.admissions += 1
        request.reserved, request.admission = tokens, replica.admissions

    def compose_planned(self, replica: Replica, evicted: list[Request], tokens: dict[Request, int]) -> None:
        """A whole batch from outside. Every resident is an incomplete prompt; one that decodes lacks one token. Who has
        no tokens in the batch keeps its memory, which is counted by what it holds."""
        settings = self.settings
        for request in evicted:
            self.evict(replica, request)
        for request, count in tokens.items():
            if request in replica.waiting:
                self.admit(replica, request)
            wanted = request.prompt - request.computed
            assert count == wanted if settings.chunk_tokens == 0 else 0 < count <= min(wanted, settings.chunk_tokens)
            replica.chunks[request] = count
        assert sum(tokens.values()) <= settings.max_batch_tokens
        assert tokens
        assert len(replica.residents) <= self.slots
        assert settings.mixing or len({q.decoding for q in tokens}) == 1
        assert sum(self.blocks(q.computed + tokens.get(q, 0)) for q in replica.prefills) <= self.capacity
        self.note_start(replica)

    # -- eviction ---------------------------------------------------------------------------------------------------

    def make_room_for_decodes(self, replica: Replica) -> None:
        """Evicts until every decode can take one more token; prompts that are in this batch are safe."""
        while self.used(replica, 1) > self.capacity:
            victims = [q for q in replica.residents if q not in replica.chunks]
            victims.sort(key=lambda q: -q.admission)
            if self.victim is not None and len(victims) > 1:
                self.evict(replica, self.victim(self, replica, victims))
                continue
            rank = {
                "newest": lambda q: (0, q.admission),
                "fewest_computed": lambda q: (-q.computed, q.admission),
                "most_computed": lambda q: (q.computed, q.admission),
            }[self.settings.victim]
            self.evict(replica, max(victims, key=rank))

    def displace(self, replica: Replica) -> None:
        """Preemption by order: residents with larger keys than the head's go, largest first, if that makes it fit."""
        if not replica.waiting:
            return
        head = replica.waiting[0]
        kept = Replica(replica.index)
        kept.decodes = [q for q in replica.decodes if self.stays(q, head)]
        kept.prefills = [q for q in replica.prefills if self.stays(q, head)]
        kept.finished, kept.pushing, kept.group = replica.finished, replica.pushing, replica.group
        if not self.fits(kept, head, 1):
            return
        while not self.fits(replica, head, 1):
            leaves = [q for q in replica.residents if not self.stays(q, head)]
            self.evict(replica, max(leaves, key=lambda q: (self.order_key(q, self.settings.queue_order), q.admission)))

    def evict(self, replica: Replica, request: Request) -> None:
        request.evictions += 1
        (replica.decodes if request in replica.decodes else replica.prefills).remove(request)
        if self.settings.eviction == "swap":
            request.swapped = True
            replica.swapped_tokens += request.computed
        else:
            request.recomputed += request.computed
            request.prompt = request.input + request.emitted
            request.computed, request.decoding = 0, False
        self.evictions += 1
        if self.settings.queue_order == "fcfs":
            self.wait_at(replica, request, -1, -self.evictions)
        else:
            self.wait_in_order(replica, request, request.sequence)
        request.waits_from = replica.iterations  # it does not run in the batch that is being composed

    def resume(self, replica: Replica) -> None:
        request = replica.waiting.pop(0)
        self.set_aside(replica, request, self.tokens_to_set_aside_again(replica, request))
        (replica.decodes if request.decoding else replica.prefills).append(request)
        if request.swapped:
            replica.swapped_tokens += request.computed
        request.swapped = request.from_push = False

    # -- static batches ---------------------------------------------------------------------------------------------

    def compose_static(self, replica: Replica) -> bool:
        """Nobody joins a batch that runs. A new one starts when full (with bins: one of them), or when the first has
        waited the timeout."""
        settings = self.settings
        if replica.decodes:
            replica.with_decodes = True
            return True
        if settings.queue_order in DYNAMIC:
            self.reorder_queue(replica)
        if replica.gathering_until is None:
            waited_until = min(q.placed for q in replica.waiting) + seconds_to_ps(settings.static_timeout_s)
            replica.gathering_until = max(self.now, waited_until)
        bins = settings.queue_order == "bins"
        first_key = replica.waiting[0].key[0]
        is_full = first_key < 0 if bins else len(replica.waiting) >= self.slots
        if not is_full and self.now < replica.gathering_until:
            return False
        replica.gathering_until = None
        batch: list[Request] = []
        while replica.waiting and len(batch) < self.slots:
            if bins and replica.waiting[0].key[0] != first_key:
                break
            candidate = [*batch, replica.waiting[0]]
            longest = max(q.output for q in candidate)
            blocks = sum(self.blocks(q.input + longest - 1) for q in candidate)
            tokens = sum(q.input for q in candidate)
            if batch and (blocks > self.capacity or tokens > settings.max_batch_tokens):
                break
            batch = candidate
            self.admit(replica, batch[-1])
        longest = max(q.output for q in batch)
        for request in batch:
            request.leave_at = longest
            self.set_aside(replica, request, request.input + longest - 1)
            replica.chunks[request] = request.input
        self.note_start(replica)
        return True

    # -- after an iteration -----------------------------------------------------------------------------------------

    def end_iteration(self, replica: Replica) -> None:
        replica.iteration_end = None
        if replica.with_decodes:
            for request in list(replica.decodes):
                request.computed += 1
                request.emitted += 1
                request.promoted = max(request.promoted - 1, 0)
                if request.emitted == request.leave_at:
                    replica.decodes.remove(request)
                    self.finish(replica, request)
        for request, chunk in replica.chunks.items():
            self.changed = True
            request.computed += chunk
            request.promoted = max(request.promoted - 1, 0)
            if request.computed < request.prompt:
                continue
            request.emitted += 1
            if self.plan is None or request.emitted == request.leave_at:
                replica.prefills.remove(request)
            else:
                request.prompt += 1
            if request.first_token < 0:
                request.first_token = self.now
            if request.emitted == request.leave_at:
                self.finish(replica, request)
            elif self.plan is not None:
                request.decoding = True
            elif request.decode_replica in (-1, replica.index):
                request.decoding = True
                replica.decodes.append(request)
            else:
                self.push(replica, request)
        replica.chunks, replica.with_decodes = {}, False

    def finish(self, replica: Replica, request: Request) -> None:
        request.finish = self.now
        replica.finished.append(request)
        self.done.append(request)
        self.changed = True
        if request.decode_replica not in (-1, replica.index):
            self.replicas[request.decode_replica].incoming -= 1
            self.change_role_if_empty(self.replicas[request.decode_replica])
        self.change_role_if_empty(replica)
        self.next_user_request()

    # -- what policies ask ------------------------------------------------------------------------------------------

    def load(self, r: int) -> tuple[int, int]:
        replica = self.replicas[r]
        if self.load_kind == "none":
            return (0, 0)
        tokens = replica.queued_tokens if self.load_kind == "queued_tokens" else 0
        return (tokens, replica.n_requests + replica.incoming)

    def random_below(self, n: int) -> int:
        self.random_state = (self.random_state * 0x5DEECE66D + 0xB) % 2**48
        return ((self.random_state >> 17) * n) >> 31


def _requests(trace: Trace, arrivals: list[int], lengths: tuple[Any, Any, Any]) -> list[Request]:
    ranks, tails, predictions = (column.tolist() for column in lengths)
    columns = zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), trace.is_long.tolist(), strict=True)
    return [
        Request(
            row,
            arrivals[row],
            input_tokens,
            output_tokens,
            rank=ranks[row],
            tail=tails[row],
            prediction=predictions[row],
            is_long=is_long,
            prompt=input_tokens,
        )
        for row, (input_tokens, output_tokens, is_long) in enumerate(columns)
    ]
