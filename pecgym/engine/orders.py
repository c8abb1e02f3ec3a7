"""The orders in which waiting requests are served, and their parameters: of a replica's queue, of the cluster's global
queue, and of the longs that wait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from pecgym.engine import state as layout
from pecgym.errors import EngineError, SpecError
from pecgym.strict import check_types
from pecgym.units import HORIZON_S, seconds_to_ps
from pecgym.workload import Trace

_EVERYWHERE = {
    "one_bit": layout.ORDER_ONE_BIT,
    "skip_predict": layout.ORDER_SKIP_PREDICT,
    "ssjf": layout.ORDER_SSJF,
    "ltr": layout.ORDER_LTR,
    "tie": layout.ORDER_TIE,
}
GLOBAL_ORDERS = {"fcfs": layout.ORDER_FCFS, "shortest": layout.ORDER_SHORTEST} | _EVERYWHERE
QUEUE_ORDERS = {
    "fcfs": layout.ORDER_FCFS,
    "shortest": layout.ORDER_SHORTEST,
    "shortest_remaining": layout.ORDER_SHORTEST_REMAINING,
    **_EVERYWHERE,
    "bins": layout.ORDER_BINS,
}
LONG_ORDERS = {
    "fcfs": layout.ORDER_FCFS,
    "shortest": layout.ORDER_SHORTEST_PROMPT,
    "shortest_job": layout.ORDER_SHORTEST,
} | _EVERYWHERE
PREEMPTIVE_ORDERS = ("shortest", "shortest_remaining", "one_bit", "skip_predict", "ltr")
"""The orders in which a waiting request may displace a running one."""
LENGTHS = ("exact", "predicted")
_LONGEST_TOKENS = 2**24


@dataclass(frozen=True)
class Readers:
    """Whose output lengths are read, by the orders of their queues or by something else, and whether tails are."""

    of_shorts: bool
    of_longs: bool
    of_tails: bool

    @staticmethod
    def of(orders: Sequence[str], long_order: str, by_others: bool) -> Readers:
        """orders, long_order: of the queues of shorts, and of longs. by_others: whether anything else reads lengths."""
        return Readers(
            by_others or any(order != "fcfs" for order in orders),
            by_others or long_order not in ("fcfs", "shortest"),
            "tie" in (*orders, long_order),
        )


@dataclass(frozen=True)
class OrderRules:
    """Which lengths the orders read, and the parameters of those that have some. docs/policies.md lists the orders.

    Attributes:
        lengths: the "exact" output lengths, an oracle, or the "predicted" ones of the workload (workload.predictor),
            which are known `prediction_s` after a request arrives: only then does it join a queue, if its order, or
            anything else, reads them.
        guard_wait_s: ssjf: when who waits longest has waited for more than this, the order is that of arrival (SSJF,
            arXiv:2404.08509: 100 s); .inf: never.
        guard_services: or for more than so many times the time that it would take alone (10); .inf: never.
        threshold_tokens: one_bit and skip_predict: outputs up to it are short (ours: the median of SSJF's requests).
        displace_share: who has emitted more than this share of its length is displaced no more (TRAIL,
            arXiv:2410.01035: c = 0.8); .inf: anybody may be, .0: nobody that has its first token.
        starving_steps: ltr: who has waited for so many steps (a replica's iterations; the points in time at which a
            global queue is looked at) goes before the others (vLLM-LTR: 200),
        promoted_steps: until it has run for so many iterations (10).
        tie_weight: tie: the tail counts tie_weight x waiting requests / batch slots (TIE, arXiv:2604.00499: 0.1),
        tie_least: but at least so much (0.1),
        tie_most: and at most so much (0.5).
        tie_decay: tie: the factor on the score of who has waited (0.9)
        tie_decay_s: for so long, seconds (30).
        bin_edges_tokens: bins: output lengths up to each of which one bin reaches, ascending; one more bin holds the
            longer ones (multi-bin batching, arXiv:2412.04504; ours: the quartiles of SSJF's requests).
    """

    lengths: str = "exact"
    guard_wait_s: float = 100.0
    guard_services: float = 10.0
    threshold_tokens: int = 141
    displace_share: float = math.inf
    starving_steps: int = 200
    promoted_steps: int = 10
    tie_weight: float = 0.1
    tie_least: float = 0.1
    tie_most: float = 0.5
    tie_decay: float = 0.9
    tie_decay_s: float = 30.0
    bin_edges_tokens: tuple[int, ...] = (42, 141, 294)

    def __post_init__(self) -> None:
        edges = self.bin_edges_tokens
        if not isinstance(edges, tuple | list) or not all(type(edge) is int for edge in edges):
            raise SpecError(f"order.bin_edges_tokens={edges!r}: give a list of whole numbers, as [42,141,294]")
        object.__setattr__(self, "bin_edges_tokens", tuple(edges))
        check_types(self, "order", SpecError)
        ascending = all(low < high for low, high in zip((0, *edges), edges, strict=False))
        for key, holds, remedy in (
            ("lengths", self.lengths in LENGTHS, f"choose one of {', '.join(LENGTHS)}"),
            ("guard_wait_s", self.guard_wait_s >= 0, "must be 0 or more seconds; .inf: no guard"),
            ("guard_services", _is_factor(self.guard_services), "must be 0 or more; .inf: no guard"),
            ("threshold_tokens", 0 <= self.threshold_tokens < 2**40, "must be 0 or more"),
            ("displace_share", _is_factor(self.displace_share), "must be 0 or more; .inf: anybody may be displaced"),
            ("starving_steps", 1 <= self.starving_steps < 2**40, "must be 1 or more"),
            ("promoted_steps", 1 <= self.promoted_steps < 2**40, "must be 1 or more"),
            ("tie_weight", 0 <= self.tie_weight < 1e6, "must be 0 or more"),
            ("tie_least", 0 <= self.tie_least < 1e6, "must be 0 or more"),
            ("tie_most", self.tie_least <= self.tie_most < 1e6, f"must be tie_least={self.tie_least} or more"),
            ("tie_decay", 0.01 <= self.tie_decay < 1, "must be 0.01 or more and below 1"),
            ("tie_decay_s", 1e-12 <= self.tie_decay_s <= HORIZON_S / 1000, f"must be above 0, to {HORIZON_S / 1000:g}"),
            ("bin_edges_tokens", ascending, "must be above 0 and ascending"),
        ):
            if not holds:
                raise SpecError(f"order.{key}={getattr(self, key)!r}: {remedy}")

    def with_changes(self, **changes: Any) -> OrderRules:
        """A copy with some parameters changed; an unknown one raises SpecError."""
        known = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise SpecError(f"order: unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")
        return replace(self, **changes)

    @property
    def tie_unit_ps(self) -> int:
        """How much earlier somebody must have come whose score is e times as high, to be served at the same time."""
        return round(seconds_to_ps(self.tie_decay_s) / -math.log(self.tie_decay))

    def write(self, record: Any) -> None:
        """Fills the kernel's SETTINGS record."""
        record.guard_wait_ps = seconds_to_ps(min(self.guard_wait_s, HORIZON_S))
        record.guard_permille = permille(self.guard_services)
        record.threshold_tokens = self.threshold_tokens
        record.displace_permille = permille(self.displace_share)
        record.starving_steps = self.starving_steps
        record.promoted_steps = self.promoted_steps
        for key in ("tie_weight", "tie_least", "tie_most"):
            record[f"{key}_permille"] = permille(getattr(self, key))
        record.tie_unit_ps = self.tie_unit_ps

    def columns(self, trace: Trace, readers: Readers) -> tuple[Any, Any, Any]:
        """What may be read of a trace, each int64[n]: the output lengths, the means of the worst tenth of what was
        predicted (the length itself if it is known), and the time that the prediction takes, picoseconds, for which
        only those wait whose lengths somebody reads.

        A prediction counts as 2^24 tokens at most, as no time overflows by it.
        Raises EngineError for a trace without predictions where these are read, or without what an order reads.
        """
        none = np.zeros(len(trace), np.int64)
        if self.lengths == "exact":
            return trace.output_tokens, trace.output_tokens, none
        if trace.predicted_tokens is None:
            raise EngineError(
                f"trace {trace.name!r} has no predicted output lengths, which the order reads: give "
                "workload.predictor (docs/predictors.md), a column predicted_tokens, or order.lengths=exact"
            )
        tails = trace.predicted_tail_tokens
        if tails is None and readers.of_tails:
            raise EngineError(
                f"trace {trace.name!r} has no column predicted_tail_tokens, the mean of the worst tenth of what was "
                "predicted, which the order tie reads: use a workload.predictor, or another order"
            )
        takes = none if trace.prediction_s is None else seconds_to_ps(trace.prediction_s)
        takes = np.where(trace.is_long, takes * readers.of_longs, takes * readers.of_shorts)
        means = np.minimum(trace.predicted_tokens, _LONGEST_TOKENS)
        return means, none if tails is None else np.minimum(tails, _LONGEST_TOKENS), takes


def permille(share: float) -> int:
    """Thousandths of a share; NONE for no limit."""
    return layout.NONE if math.isinf(share) else round(share * 1000)


def _is_factor(value: float) -> bool:
    return 0 <= value <= 1e6 or value == math.inf
