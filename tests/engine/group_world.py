"""A world for examples worked by hand: round costs of iterations, of long prefills and of links. Times in picoseconds.

An iteration of t new tokens takes 100 + 10 t. A long prefill on one node takes 60 per token, divided by the number of
replicas, twice that by ring attention, and a tenth more for a second node; it has three operators. An iteration of a
long decode takes 4 per token of context, divided by the number of replicas, more than one of shorts, and 7 for each
node if several replicas take part. Switching takes 10, and 5 of a KV push remain visible. KV blocks hold one token.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pecgym.costs import STRATEGIES
from pecgym.engine import EngineSettings, LongRules, Simulator, Topology
from pecgym.policies import load_policy
from pecgym.workload import Trace
from tests.engine.cases import make_profile
from tests.engine.long_cases import make_group_costs

PS = 1e-12
SHORT, LONG = False, True
RING, FAST = STRATEGIES.index("ring"), STRATEGIES.index("fast")
Request = tuple[int, int, int, bool]  # arrival, input tokens, output tokens, whether it is long
RULES: dict[str, Any] = {
    "sp_strategy": "fast",
    "operators_per_layer": 3,
    "switch_s": 10 * PS,
    "push_visible_s": 5 * PS,
    "decode_replicas": 0.0,
}


def group_costs(max_degree: int = 3, max_tokens: int = 600) -> Any:
    """The world's costs of groups."""
    tokens = np.arange(0, max_tokens + 1, 10)
    per_degree = np.stack([60 * tokens // d for d in range(1, max_degree + 1)])
    table = np.stack([per_degree * (2 if strategy == "ring" else 1) for strategy in STRATEGIES])
    return make_group_costs(10, table, sync_ps=7, decode_kv_ps=4)


def link(per_token_ps: int) -> float:
    """The bandwidth, in GB/s, at which one token's 1000 bytes take that long."""
    return 1e6 / per_token_ps if per_token_ps else math.inf


def make_empty(
    *,
    policy: str | None = "pecsched",
    replicas: int = 1,
    per_node: int | None = None,
    rules: dict[str, Any] | None = None,
    replica_token_ps: int = 0,
    node_token_ps: int = 0,
    record: bool = False,
    functions: dict[str, Any] | None = None,
    **engine: Any,
) -> Simulator:
    """A cluster of that world without a workload. policy: None if all decisions are taken by hand. functions: in place
    of the policy's `choose`, `start` or `pool`."""
    base, taken = LongRules(preemption=True), {}
    if policy is not None:
        loaded = load_policy(policy)
        base = loaded.rules
        taken = {"choose": loaded.choose, "start": loaded.start_rule, "pool": loaded.pool}
        taken |= {"load": loaded.load, "global_order": loaded.global_order}
    return Simulator(
        replicas,
        make_profile(g_tokens=(1, 2), g_ps=(110, 120)),
        EngineSettings(**{"block_tokens": 1, "watermark": 0.0, **engine}),
        rules=base.with_changes(**{**RULES, **(rules or {})}),
        topology=Topology(per_node or replicas, 1, link(replica_token_ps), link(node_token_ps)),
        group_costs=group_costs(),
        record=record,
        **{**taken, **(functions or {})},
    )


def make(requests: list[Request], **options: Any) -> Simulator:
    """A cluster of that world with those requests to serve."""
    simulator = make_empty(**options)
    arrivals, inputs, outputs, is_long = (np.array(column) for column in zip(*requests, strict=True))
    simulator.load_trace(Trace(arrivals * PS, inputs, outputs, is_long=is_long, name="example"))
    return simulator


def serve(requests: list[Request], **options: Any) -> Any:
    """The log of a run to the end, in order of the requests."""
    simulator = make(requests, **options)
    assert simulator.run()
    return by_row(simulator)


def by_row(simulator: Simulator) -> Any:
    log = simulator.finished()
    return log[np.argsort(log.row)]
