"""Random small clusters that serve longs beside shorts, busy enough that shorts and longs meet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pecgym.costs import GroupCosts, Profile
from pecgym.costs.parallel import STRATEGIES
from pecgym.engine import EngineSettings, LongRules, Topology
from pecgym.engine.orders import LONG_ORDERS
from pecgym.policies import load_policy
from pecgym.workload import ClosedLoop, Trace
from tests.engine.cases import Case, continuous, engines, global_orders, make_profile, order_rules
from tests.engine.role_policies import RESERVES_AT_RANDOM
from tests.naive_policies import POLICIES

PECSCHED = sorted(name for name in POLICIES if name.startswith("pecsched"))
OTHERS = sorted(name for name in POLICIES if not name.startswith("pecsched"))


def make_group_costs(step_tokens: int, prefill_ps: np.ndarray, sync_ps: int, decode_kv_ps: int) -> GroupCosts:
    """Costs of groups of up to D replicas; prefill_ps: int64[strategies, D, knots], a tenth more for each more node."""
    n_degrees = prefill_ps.shape[1]
    shapes = [(d, k) for d in range(1, n_degrees + 1) for k in range(1, d + 1)]
    shape_index = np.full((n_degrees + 1, n_degrees + 1), -1, np.int64)
    for i, (d, k) in enumerate(shapes):
        shape_index[d, k] = i
    table = np.stack([prefill_ps[:, d - 1] * (9 + k) // 10 for d, k in shapes], axis=1)
    return GroupCosts(
        step_tokens=step_tokens,
        shape_index=shape_index,
        prefill_table_ps=np.ascontiguousarray(table),
        decode_sync_ps=np.array([sync_ps * (d > 1) * k for d, k in shapes], np.int64),
        decode_kv_ps=np.array([0] + [decode_kv_ps // d for d in range(1, n_degrees + 1)], np.int64),
    )


@st.composite
def busy_profiles(draw: Any) -> Profile:
    """Iterations of about 50 to 400 ps, which grow with their tokens."""
    base = draw(st.integers(1, 200))
    return make_profile(
        g_tokens=(1, 8, 64),
        g_ps=(base, base + draw(st.integers(0, 100)), base + 100 + draw(st.integers(0, 300))),
        prefill_seq_ps=draw(st.integers(0, 20)),
        prefill_kv_ps=draw(st.integers(0, 3)),
        attn_ps_per_1024_pairs=draw(st.integers(0, 5000)),
        decode_base_ps=draw(st.integers(0, 50)),
        decode_seq_ps=draw(st.integers(0, 9)),
        decode_kv_ps=draw(st.sampled_from([0, 1, 3])),
    )


@st.composite
def long_rules(draw: Any, policy: str, n_replicas: int, unit_ps: int) -> LongRules:
    """The policy's own rules with random parameters, times of the order of an iteration."""
    times = st.sampled_from([1, 20, unit_ps])
    colocation = draw(st.sampled_from([0, 1, 5, 40])) if policy != "pecsched/CoL" else 0
    rules = load_policy(policy).rules.with_changes(
        sp_strategy=draw(st.sampled_from(STRATEGIES)),
        sp_degree=draw(st.sampled_from(["node", "node", "memory", 1, 2, 2])),
        long_order=draw(st.sampled_from(["fcfs", "shortest"] * 2 + sorted(LONG_ORDERS))),
        colocation_tokens=colocation,
        preemption=policy != "pecsched/PE" and draw(st.sampled_from([True, True, True, False])),
        backfill=draw(st.booleans()),
        operators_per_layer=draw(st.integers(1, 9)),
        switch_s=draw(times) * 1e-12,
        push_visible_s=draw(times) * 1e-12,
        decode_replicas=0.0,
        pool_interval_s=0.0,
    )
    if policy in ("reservation", RESERVES_AT_RANDOM) and n_replicas > 1:
        interval = draw(st.sampled_from([1, 4, 20])) * unit_ps * 1e-12 if policy == RESERVES_AT_RANDOM else 0.0
        reserved = float(draw(st.integers(1, n_replicas - 1)))
        return rules.with_changes(reserved_replicas=reserved, pool_interval_s=interval)
    adaptive = policy == "pecsched_adaptive_pool"
    if n_replicas > 1 and (adaptive or draw(st.booleans())):
        most = n_replicas - 1 if draw(st.booleans()) else 1
        interval = draw(st.sampled_from([1, 4, 20])) * unit_ps * 1e-12 if adaptive else 0.0
        return rules.with_changes(decode_replicas=float(draw(st.integers(1, most))), pool_interval_s=interval)
    return rules


def replicas_for_longs(rules: LongRules, n_replicas: int) -> int:
    """How many replicas may serve one long; an adaptive pool may take all but one, or leave one reserved."""
    if rules.pool_interval_s:
        return 1
    return int(rules.reserved_replicas) or n_replicas - int(rules.decode_replicas)


@st.composite
def mixed_traces(draw: Any, capacity_tokens: int, able: int, unit_ps: int, max_requests: int) -> Trace:
    """Shorts of a few iterations, and longs that need up to all the memory of `able` replicas; arrivals in bursts, or
    some iterations apart. The rows come from a seed, so that fewer requests are the first of more."""
    n = draw(st.one_of(st.integers(2, max_requests), st.integers(max_requests // 2, max_requests)))
    seed = draw(st.integers(0, 2**32 - 1))
    gap = draw(st.sampled_from([unit_ps // 2, 4 * unit_ps, 12 * unit_ps, 40 * unit_ps])) // able
    share_of_longs = draw(st.sampled_from([0.1, 0.2, 0.4]))
    longest_decodes = draw(st.sampled_from([(1, 3), (12, 1), (12, 3), (40, 3), (120, 12), (40, 30)]))
    largest_short = min(draw(st.sampled_from([4, 20, 60])), capacity_tokens)
    room = draw(st.sampled_from([1, 2, 2, 4]))  # a long leaves shorts nothing, a half or three quarters of the memory
    largest_long = max(min(able * capacity_tokens // room, 3000), 1)
    is_first, kind, wait, size, decode = np.random.default_rng(seed).random((n, 5)).T
    is_long = kind < share_of_longs
    is_long[0] |= is_first[0] < 0.7
    outputs = 1 + np.floor(decode * np.minimum(np.where(is_long, *longest_decodes), capacity_tokens)).astype(np.int64)
    outputs = np.minimum(outputs, capacity_tokens)
    most = np.where(is_long, largest_long, largest_short) - outputs
    inputs = 1 + np.floor(size * np.maximum(most, 0)).astype(np.int64)
    inputs = np.minimum(inputs, np.where(is_long, able, 1) * capacity_tokens + 1 - outputs)
    waits = np.floor(np.maximum(wait - 0.2, 0) * gap)
    return Trace(np.cumsum(waits) * 1e-12, inputs, outputs, is_long=is_long, name="random")


@st.composite
def cases_with_longs(draw: Any, max_requests: int = 40, policies: Any = None) -> Case:
    """PecSched, its ablations, or any other policy, on 1 to 7 replicas on one or more nodes."""
    policy = draw(
        st.sampled_from(
            policies
            or ["pecsched"] * 3
            + ["pecsched_adaptive_pool"] * 3
            + PECSCHED * 2
            + ["fifo"] * 3
            + OTHERS
            + [RESERVES_AT_RANDOM]
        )
    )
    settings: EngineSettings = continuous(draw(engines()))
    block = settings.block_tokens
    assert block is not None
    # One token per iteration would only make everything longer.
    settings = settings.with_changes(
        max_batch_tokens=max(settings.max_batch_tokens, 4),
        kv_capacity_tokens=block * draw(st.sampled_from([20, 60, 60, 200])),
    )
    profile: Profile = draw(busy_profiles())
    unit_ps = profile.iteration_ps([(10, 0)], [])
    fewest = 2 if policy in ("reservation", "pecsched_adaptive_pool", RESERVES_AT_RANDOM) else 1
    n_replicas = draw(st.sampled_from([fewest, fewest, fewest + 1, fewest + 1, 3, 4, 7]))
    rules: LongRules = draw(long_rules(policy, n_replicas, unit_ps))
    able = replicas_for_longs(rules, n_replicas)
    if isinstance(rules.sp_degree, int) and rules.sp_degree > able:
        rules = rules.with_changes(sp_degree=able)
    capacity = settings.kv_capacity_tokens
    assert capacity is not None
    order, trace = draw(order_rules(draw(mixed_traces(capacity, able, unit_ps, max_requests))))
    workload: Trace | ClosedLoop = trace
    if draw(st.integers(0, 4)) == 0:
        think, stagger = draw(st.sampled_from([0, unit_ps])), draw(st.sampled_from([0, unit_ps // 2]))
        workload = ClosedLoop(trace, draw(st.integers(1, min(9, len(trace)))), think * 1e-12, stagger * 1e-12)
    per_token_ps = st.sampled_from([0, 1, 7, unit_ps // 4])
    return Case(
        n_replicas=n_replicas,
        profile=profile,
        settings=settings,
        policy=policy,
        workload=workload,
        random_state=draw(st.integers(0, 2**48 - 1)),
        rules=rules,
        topology=Topology(
            draw(st.integers(1, n_replicas)),
            layers=draw(st.integers(1, 4)),
            replica_gb_per_s=_bandwidth(profile, draw(per_token_ps)),
            node_gb_per_s=_bandwidth(profile, draw(per_token_ps)),
        ),
        group_costs=draw(random_group_costs(int(trace.input_tokens[trace.is_long].max(initial=1)), unit_ps)),
        order=order,
        global_order=draw(global_orders()),
    )


@st.composite
def random_group_costs(draw: Any, longest: int, unit_ps: int) -> GroupCosts:
    """Tables in which the longest prefill takes some, or some dozens, of iterations of shorts; longs of one case
    differ."""
    step = draw(st.sampled_from([7, 50, 512]))
    knots = longest // step + 2
    rises = np.array(draw(st.lists(st.integers(1, 9), min_size=8, max_size=8)))
    growth = np.cumsum(np.resize(rises, (len(STRATEGIES), 7, knots)), axis=2)
    iterations = draw(st.sampled_from([5, 20, 100, 400]))
    growth = growth * (iterations * unit_ps) // (5 * knots) + step * np.arange(knots)  # a token takes 1 ps at least
    growth[:, :, 0] = 0
    return make_group_costs(step, growth, draw(st.integers(0, 9)), draw(st.sampled_from([0, 1, 7])))


def _bandwidth(profile: Profile, per_token_ps: int) -> float:
    """The bandwidth, in GB/s, at which one token's KV takes that long."""
    return profile.kv_bytes_per_token * 1000 / per_token_ps if per_token_ps else math.inf
