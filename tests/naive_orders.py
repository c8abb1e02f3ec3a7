"""The specification of orders in plain code: a part of NaiveCluster. Smaller keys go first, ties by sequence number.

An order by length counts the output tokens of a short, and the time that a long would take alone. Where keys change
while requests wait (DYNAMIC), a replica's queue is put in order when a batch is composed and, unless its steps are what
counts, when somebody joins it; the global queues, before the policy is asked.
"""

from __future__ import annotations

import math
from typing import Any

from pecgym.costs.strategies import STRATEGIES
from pecgym.engine.orders import Readers
from pecgym.workload import Trace

DYNAMIC = ("ssjf", "ltr", "tie", "bins")


class Orders:
    """What NaiveCluster knows about orders."""

    def columns(self: Any, trace: Trace) -> tuple[Any, Any, Any]:
        """What orders may read of the requests: lengths, tails, and the time that predictions take."""
        orders = (self.settings.queue_order, self.global_order)
        readers = Readers.of(orders, self.rules.long_order, self.rules.backfill)
        columns: tuple[Any, Any, Any] = self.order.columns(trace, readers)
        return columns

    def order_key(self: Any, request: Any, order: str) -> int:
        """The key, apart from what depends on who else waits."""
        size = request.rank if not request.is_long else self.service(request, request.rank)
        left = max(request.rank - request.emitted, 0)
        is_short = request.rank <= self.order.threshold_tokens
        first = 2**62 * (request.promoted > 0)
        return int(
            {
                "fcfs": lambda: 0,
                "bins": lambda: 0,
                "shortest": lambda: request.input if request.is_long else size,
                "shortest_job": lambda: size,
                "shortest_remaining": lambda: left,
                "one_bit": lambda: not is_short,
                "skip_predict": lambda: 0 if is_short else self.size_of(request, max(left, 1)),
                "ltr": lambda: size - first,
                "ssjf": lambda: size,
                "tie": lambda: size,
            }[order]()
        )

    def size_of(self: Any, request: Any, tokens: int) -> int:
        return self.service(request, tokens) if request.is_long else tokens

    def service(self: Any, request: Any, output_tokens: int) -> int:
        """The time that a request with so many output tokens would take alone; a long on the fewest replicas that would
        hold it, in as few nodes as these need."""
        steps = output_tokens - 1
        if not request.is_long:
            settings = self.settings
            most = min(settings.chunk_tokens, settings.max_batch_tokens) or request.input
            starts = range(0, request.input, most)
            chunks = [self.profile.iteration_ps([(min(most, request.input - past), past)], []) for past in starts]
            return sum(chunks) + self.lone_decode(steps, request.input)
        degree = min(-(-(request.input + steps) // (self.capacity * self.block_tokens)), self.costs.max_degree)
        nodes = -(-degree // self.topology.replicas_per_node)
        if nodes > self.costs.max_nodes or self.costs.shape_index[degree, nodes] < 0:
            degree = nodes = 1
        strategy = STRATEGIES.index(self.rules.sp_strategy)
        sync = int(self.costs.decode_sync_ps[self.costs.shape_index[degree, nodes]])
        step = self.profile.iteration_ps([], [0]) + sync
        read = sum(request.input + i for i in range(steps))
        prefill = self.costs.prefill_ps(strategy, degree, nodes, request.input)
        return int(prefill) + steps * step + read * int(self.costs.decode_kv_ps[degree])

    # -- queues whose order changes with time -----------------------------------------------------------------------

    def reorder_queue(self: Any, replica: Any) -> None:
        self.reorder(replica.waiting, self.settings.queue_order, replica.iterations, self.slots)

    def reorder_global_queues(self: Any) -> None:
        n = len(self.replicas)
        if self.global_order in DYNAMIC:
            self.reorder(self.queue, self.global_order, self.dispatches, n * self.slots)
        if self.rules.long_order in DYNAMIC:
            self.reorder(self.longs, self.rules.long_order, self.dispatches, n)

    def reorder(self: Any, queue: list[Any], order: str, step: int, places: int) -> None:
        """step: iterations that its replica has done, or times that the global queues were looked at. places: requests
        that can be served at once by who takes from this queue."""
        if order == "ltr":
            for request in queue:
                self.promote_if_starving(request, step)
        keys = [self.order_key(request, order) for request in queue]
        if order == "ssjf" and queue and self.starves(min(queue, key=lambda q: q.sequence)):
            keys = [0] * len(queue)
        if order == "tie":
            keys = [self.tie_key(request, len(queue), places) for request in queue]
        if order == "bins":
            keys = self.bin_keys(queue, places)
        for request, key in zip(queue, keys, strict=True):
            request.key = (key, request.sequence)
        queue.sort(key=lambda q: q.key)

    def starves(self: Any, request: Any) -> bool:
        """SSJF's guard: who waits longest has waited too long, or too long for its length; then the order is that of
        arrival."""
        waited = self.now - request.arrival
        wait_s, services = self.order.guard_wait_s, self.order.guard_services
        if waited > min(wait_s, 4e6) * 10**12:
            return True
        alone = float(self.service(request, request.rank))
        return services < math.inf and waited * 1000.0 > round(services * 1000) * alone

    def promote_if_starving(self: Any, request: Any, step: int) -> None:
        """LTR: who has waited for `starving_steps` goes before the others until it has run for `promoted_steps`."""
        if request.waits_from is None:
            request.waits_from = step
        if step - request.waits_from >= self.order.starving_steps:
            request.promoted = self.order.promoted_steps

    def tie_key(self: Any, request: Any, waiting: int, places: int) -> int:
        """TIE: least (E + beta CVaR) x decay^(wait / decay_s), beta = clip(weight x waiting / places, least, most). Its
        logarithm, as a time: s x decay^(-arrival / decay_s) has the same order at every moment."""
        rules = self.order
        weight, least, most = (round(1000 * each) for each in (rules.tie_weight, rules.tie_least, rules.tie_most))
        beta = min(max(weight * waiting // places, least), most)
        score = 1000.0 * self.size_of(request, request.rank) + beta * float(self.size_of(request, request.tail))
        return request.arrival + int(rules.tie_unit_ps * math.log(score))

    def bin_keys(self: Any, queue: list[Any], places: int) -> list[int]:
        """Multi-bin batching: in each bin every `places` requests in turn are a batch; full ones go first, as they
        became full, and then the bin of the oldest."""
        bins: dict[int, list[Any]] = {}
        for request in sorted(queue, key=lambda q: q.sequence):
            bins.setdefault(sum(request.rank > edge for edge in self.order.bin_edges_tokens), []).append(request)
        keys = {}
        for members in bins.values():
            for first in range(0, len(members), places):
                batch = members[first : first + places]
                full = len(batch) == places
                keys |= dict.fromkeys(batch, batch[-1].sequence - 2**62 if full else batch[0].sequence)
        return [keys[request] for request in queue]

    # -- who may be displaced ---------------------------------------------------------------------------------------

    def stays(self: Any, request: Any, head: Any) -> bool:
        """Whether a resident keeps its place against the head of the queue: its key is not larger, or it has emitted
        more than `displace_share` of its length. Where who starves is promoted, a prompt that was begun is finished:
        else two that start anew each time could displace each other for ever."""
        if self.settings.queue_order == "ltr" and not request.decoding:
            return True
        share = self.order.displace_share
        is_past = share < math.inf and 1000 * request.emitted > round(1000 * share) * request.rank
        return is_past or bool(self.order_key(request, self.settings.queue_order) <= head.key[0])
