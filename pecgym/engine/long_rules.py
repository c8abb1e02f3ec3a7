"""How long requests are served, and what shorts may do beside them: the parameters of PecSched and its rivals."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from pecgym.costs import Profile
from pecgym.costs.strategies import STRATEGIES
from pecgym.engine import state as layout
from pecgym.engine.orders import LONG_ORDERS
from pecgym.errors import SpecError
from pecgym.strict import check_types
from pecgym.units import HORIZON_S, PS_PER_S, seconds_to_ps

NODE, MEMORY = "node", "memory"


@dataclass(frozen=True)
class LongRules:
    """Rules for long requests. Source: PecSched, arXiv:2409.15104; where the paper is silent the default is ours.

    Attributes:
        sp_strategy: sequence parallelism of a long prefill: "ring", "ulysses", "megatron" or "fast".
        sp_degree: replicas of a long: "memory", the fewest that hold it; "node", those rounded up to whole nodes where
            whole nodes are free, else the fewest; or a number (at least the fewest).
        long_order: order in which longs wait: "fcfs", "shortest" (prompt), "shortest_job" (time that it would take
            alone, by the length that orders read), "ssjf", "ltr", "tie", "one_bit" or "skip_predict" (OrderRules).
        preemption: whether a short suspends a long prefill (PecSched's PE).
        colocation_tokens: prompt tokens of shorts per GPU in an iteration of a long decode; 0: none (CoL; ours: 1024).
            All GPUs of a replica compute the same tokens, so it is a cap per replica.
        decode_replicas: replicas for the decodes of shorts (Dis): a number, or a share of all if below 1; 0: none.
        reserved_replicas: replicas for longs only, counted alike.
        backfill: whether a short that will have ended before the last member of a group is ready may run on a member
            that waits.
        operators_per_layer: a prefill stops between two operators; of equal duration, so that the rest of the running
            one is 1 / (2 operators_per_layer) of a layer's time on average (ours: 2, a quarter of a layer).
        switch_s: from there until shorts can start (ours: 2 ms).
        push_visible_s: what remains visible of a KV push that is overlapped layer by layer (Splitwise, ISCA'24: about
            8 ms on A100).
        pool_interval_s: how often the number of decode replicas, or of reserved ones, is decided anew; 0: never.
    """

    sp_strategy: str = "ring"
    sp_degree: str | int = NODE
    long_order: str = "fcfs"
    preemption: bool = False
    colocation_tokens: int = 0
    decode_replicas: float = 0.0
    reserved_replicas: float = 0.0
    backfill: bool = False
    operators_per_layer: int = 2
    switch_s: float = 0.002
    push_visible_s: float = 0.008
    pool_interval_s: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "long", SpecError)
        degree_known = self.sp_degree in (NODE, MEMORY) or (type(self.sp_degree) is int and self.sp_degree > 0)
        for key, holds, remedy in (
            ("sp_strategy", self.sp_strategy in STRATEGIES, f"choose one of {', '.join(STRATEGIES)}"),
            ("sp_degree", degree_known, "choose node, memory or a number above 0"),
            ("long_order", self.long_order in LONG_ORDERS, f"choose one of {', '.join(LONG_ORDERS)}"),
            ("colocation_tokens", 0 <= self.colocation_tokens < 2**40, "must be 0 or more"),
            ("decode_replicas", _is_count(self.decode_replicas), "give a whole number, or a share below 1"),
            ("reserved_replicas", _is_count(self.reserved_replicas), "give a whole number, or a share below 1"),
            ("operators_per_layer", self.operators_per_layer >= 1, "must be 1 or more"),
            ("switch_s", 1e-12 <= self.switch_s <= HORIZON_S, "must be above 0"),
            ("push_visible_s", 1e-12 <= self.push_visible_s <= HORIZON_S, "must be above 0"),
            ("pool_interval_s", self.pool_interval_s == 0 or 1e-12 <= self.pool_interval_s <= HORIZON_S, "0 or more"),
        ):
            if not holds:
                raise SpecError(f"long.{key}={getattr(self, key)!r}: {remedy}")
        if self.decode_replicas and self.reserved_replicas:
            raise SpecError("long: decode_replicas and reserved_replicas cannot be combined; set one of them to 0")
        if self.pool_interval_s and not self.decode_replicas and not self.reserved_replicas:
            raise SpecError("long.pool_interval_s needs long.decode_replicas or .reserved_replicas: none are set apart")

    def with_changes(self, **changes: Any) -> LongRules:
        """A copy with some rules changed; an unknown one raises SpecError."""
        known = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise SpecError(f"long: unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")
        return replace(self, **changes)

    def write(self, record: Any, topology: Topology, profile: Profile) -> None:
        """Fills the kernel's SETTINGS record."""
        record.replicas_per_node = topology.replicas_per_node
        record.layers = topology.layers
        for key, gb_per_s in (("replica", topology.replica_gb_per_s), ("node", topology.node_gb_per_s)):
            record[f"{key}_push_ps_per_token"] = round(profile.kv_bytes_per_token / (gb_per_s * 1e9) * PS_PER_S)
        record.long_order = LONG_ORDERS[self.long_order]
        if isinstance(self.sp_degree, int):
            record.degree_rule = self.sp_degree
        else:
            record.degree_rule = layout.NONE if self.sp_degree == NODE else 0
        record.strategy = STRATEGIES.index(self.sp_strategy)
        record.preemption = self.preemption
        record.colocation_tokens = self.colocation_tokens
        record.backfill = self.backfill
        record.operators_per_layer = self.operators_per_layer
        record.switch_ps = seconds_to_ps(self.switch_s)
        record.push_visible_ps = seconds_to_ps(self.push_visible_s)
        record.pool_interval_ps = seconds_to_ps(self.pool_interval_s)

    @staticmethod
    def count_of_replicas(number_or_share: float, n_replicas: int) -> int:
        """That many of `n_replicas`: a share is rounded, and is at least one and leaves at least one."""
        if number_or_share >= 1 or number_or_share == 0:
            count = int(number_or_share)
        else:
            count = min(max(1, round(number_or_share * n_replicas)), n_replicas - 1)
        if count >= max(n_replicas, 1):
            raise SpecError(f"long: {count} replicas set apart of {n_replicas}: one at least must be left for shorts")
        return count


@dataclass(frozen=True)
class Topology:
    """Where replicas are, and the links between them.

    Attributes:
        replicas_per_node: replica r is on node r // replicas_per_node.
        layers: of the model.
        replica_gb_per_s: between replicas of one node, one way, of one replica (1e9 bytes per second).
        node_gb_per_s: between nodes, one way, of one node.
    """

    replicas_per_node: int
    layers: int = 1
    replica_gb_per_s: float = math.inf
    node_gb_per_s: float = math.inf

    def __post_init__(self) -> None:
        for key in ("replicas_per_node", "layers", "replica_gb_per_s", "node_gb_per_s"):
            if not getattr(self, key) > 0:
                raise SpecError(f"topology: {key}={getattr(self, key)}: must be above 0")


def _is_count(value: float) -> bool:
    return 0 <= value < 1 or (1 <= value < 2**20 and value == int(value))
