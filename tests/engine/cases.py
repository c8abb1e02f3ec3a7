"""Random small clusters: cost profiles, engine settings, workloads and policies for the engine's property tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pecgym.costs import GroupCosts, Profile
from pecgym.engine import EngineSettings, LongRules, Simulator, Topology
from pecgym.engine.orders import GLOBAL_ORDERS, PREEMPTIVE_ORDERS, QUEUE_ORDERS, OrderRules
from pecgym.policies import load_policy
from pecgym.policies.long_requests import when_free as start_when_free
from pecgym.workload import ClosedLoop, Trace
from tests.naive_engine import NaiveCluster
from tests.naive_policies import POLICIES, POOLS, STARTS, when_free


@dataclass(frozen=True)
class Case:
    """One simulation, for both engines."""

    n_replicas: int
    profile: Profile
    settings: EngineSettings
    policy: str
    workload: Trace | ClosedLoop
    random_state: int
    rules: LongRules = field(default_factory=LongRules)
    topology: Topology | None = None
    group_costs: GroupCosts | None = None
    ask_batches: bool = False
    plan_batches: bool = False
    order: OrderRules = field(default_factory=OrderRules)
    global_order: str | None = None

    def fast(self, record: bool = False) -> Simulator:
        policy = load_policy(self.policy)
        simulator = Simulator(
            self.n_replicas,
            self.profile,
            self.settings,
            choose=policy.choose,
            start=policy.start or start_when_free,
            pool=policy.pool,
            load=policy.load,
            global_order=self.global_order or policy.global_order,
            order=self.order,
            rules=self.rules,
            topology=self.topology,
            group_costs=self.group_costs,
            record=record,
            ask_batches=self.ask_batches,
            plan_batches=self.plan_batches,
        )
        simulator.state.cluster[0].random_state = self.random_state
        if isinstance(self.workload, ClosedLoop):
            simulator.load_closed_loop(self.workload)
        else:
            simulator.load_trace(self.workload)
        return simulator

    def naive(self, join: Any = None, victim: Any = None, plan: Any = None) -> NaiveCluster:
        policy = load_policy(self.policy)
        cluster = NaiveCluster(
            self.n_replicas,
            self.profile,
            self.settings,
            POLICIES[self.policy],
            load=policy.load,
            global_order=self.global_order or policy.global_order,
            order=self.order,
            random_state=self.random_state,
            start=STARTS.get(self.policy, when_free),
            pool=POOLS.get(self.policy),
            join=join,
            victim=victim,
            plan=plan,
            rules=self.rules,
            topology=self.topology,
            group_costs=self.group_costs,
        )
        if isinstance(self.workload, ClosedLoop):
            cluster.load_closed_loop(self.workload)
        else:
            cluster.load_trace(self.workload)
        return cluster


def make_profile(
    *,
    g_tokens: tuple[int, ...] = (1, 1000),
    g_ps: tuple[int, ...] = (1000, 10_000),
    kv_capacity_tokens: int = 10_000,
    **coefficients: int,
) -> Profile:
    """A profile with the coefficients given in ps, all others 0."""
    zero = dict.fromkeys(
        (
            "prefill_base_ps",
            "prefill_seq_ps",
            "prefill_kv_ps",
            "attn_ps_per_1024_pairs",
            "decode_base_ps",
            "decode_seq_ps",
            "decode_kv_ps",
        ),
        0,
    )
    return Profile(
        name="test",
        model="any",
        gpu="any",
        tp=1,
        engine="test",
        precision="bf16",
        kv_capacity_tokens=kv_capacity_tokens,
        kv_bytes_per_token=1000,
        block_tokens=16,
        idle_w=0.0,
        decode_w=0.0,
        prefill_w=0.0,
        power_source="",
        fitted_range=None,
        fit={},
        source="test",
        licence="",
        g_knots_tokens=np.array(g_tokens, np.int64),
        g_knots_ps=np.array(g_ps, np.int64),
        rounding_error=0.0,
        **{**zero, **coefficients},
    )


@st.composite
def profiles(draw: Any) -> Profile:
    """Coefficients of every size, among them zeros, so that ties and overflows of a batch's time happen."""
    small = st.integers(0, 50)
    knots = draw(st.sampled_from([(1, 100), (1, 8, 64), (1, 2, 3, 1000)]))
    times = np.cumsum(draw(st.lists(st.integers(0, 400), min_size=len(knots), max_size=len(knots)))) + 1
    return make_profile(
        g_tokens=knots,
        g_ps=tuple(int(t) for t in times),
        prefill_base_ps=draw(small),
        prefill_seq_ps=draw(small),
        prefill_kv_ps=draw(small),
        attn_ps_per_1024_pairs=draw(st.integers(0, 5000)),
        decode_base_ps=draw(small),
        decode_seq_ps=draw(small),
        decode_kv_ps=draw(st.sampled_from([0, 1, 7])),
    )


@st.composite
def traces(draw: Any, capacity_tokens: int, max_requests: int = 40) -> Trace:
    """Requests that fit in memory; arrivals with ties, all at once, or spread out. One time unit is a picosecond."""
    n = draw(st.integers(1, max_requests))
    gap = draw(st.sampled_from([0, 3, 100, 3000]))
    gaps = np.array(draw(st.lists(st.integers(0, gap), min_size=n, max_size=n)))
    longest = draw(st.sampled_from([2, 12, 60]))
    outputs = np.array(draw(st.lists(st.integers(1, min(longest, capacity_tokens)), min_size=n, max_size=n)))
    sizes = np.array(draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
    most = np.maximum(1, np.minimum(capacity_tokens - outputs + 1, draw(st.sampled_from([4, 40, 10_000]))))
    inputs = 1 + np.floor(sizes * (most - 1)).astype(np.int64)
    return Trace(arrival_s=np.cumsum(gaps) * 1e-12, input_tokens=inputs, output_tokens=outputs, name="random")


@st.composite
def engines(draw: Any) -> EngineSettings:
    """Every switch, in every combination that is allowed."""
    order = draw(st.sampled_from(["fcfs"] * 5 + sorted(QUEUE_ORDERS)))
    block = draw(st.sampled_from([1, 3, 16]))
    batching = draw(st.sampled_from(["continuous", "continuous", "continuous", "static", "none"]))
    batching = "static" if order == "bins" else batching
    static = batching == "static"
    eviction = draw(st.sampled_from(["recompute", "swap"]))
    preemptive = order in PREEMPTIVE_ORDERS and not static and draw(st.sampled_from([True, True, False]))
    group_order = draw(st.sampled_from(["prefill_first", "decode_first"]))
    mixing = not static and draw(st.booleans())
    waits = batching == "continuous" and mixing and group_order == "decode_first" and not preemptive
    wait_iterations = draw(st.sampled_from([0, 1, 2, 5, 40])) if waits else 0
    return EngineSettings(
        name="random",
        batching=batching,
        static_batch_size=draw(st.integers(1, 6)),
        static_timeout_s=draw(st.sampled_from([0.0, 5e-10, 1e-8])) if static else 0.0,
        max_batch_requests=draw(st.sampled_from([1, 2, 5, 64])),
        max_batch_tokens=draw(st.sampled_from([1, 4, 20, 100, 16384])),
        group_order=group_order,
        mixing=mixing,
        chunk_tokens=0 if static else draw(st.sampled_from([0, 0, 1, 7, 50])),
        reservation="peak" if static else draw(st.sampled_from(["prompt", "prompt", "peak", "history"])),
        victim=draw(st.sampled_from(["newest", "fewest_computed", "most_computed"])),
        eviction=eviction,
        swap_gb_per_s=draw(st.sampled_from([math.inf, 1e5, 1e3])) if eviction == "swap" else None,
        queue_order=order,
        preemptive=preemptive,
        block_tokens=block,
        watermark=draw(st.sampled_from([0.0, 0.01, 0.2])),
        kv_capacity_tokens=block * draw(st.sampled_from([5, 20, 60, 1000])),
        async_scheduling=not (static or preemptive) and draw(st.booleans()),
        batch_wait_iterations=wait_iterations,
        batch_wait_ratio=draw(st.sampled_from([0.01, 0.3, 0.9, 1.0])) if wait_iterations else 1.0,
        step_overhead_us=draw(st.sampled_from([0.0, 7e-6])),
        step_overhead_per_request_us=draw(st.sampled_from([0.0, 3e-6])),
        prefill_overhead_us=draw(st.sampled_from([0.0, 11e-6])),
    )


def continuous(engine: EngineSettings, **changes: Any) -> EngineSettings:
    """The engine; a static one with continuous batches and other changes in its place."""
    if engine.batching != "static":
        return engine
    order = "fcfs" if engine.queue_order == "bins" else engine.queue_order
    return engine.with_changes(batching="continuous", static_timeout_s=0.0, queue_order=order, **changes)


@st.composite
def order_rules(draw: Any, trace: Trace) -> tuple[OrderRules, Trace]:
    """Orders that read true lengths, or predictions that are somewhat wrong and may take some time; limits that are
    passed now and then."""
    rules = OrderRules(
        lengths=draw(st.sampled_from(["exact", "predicted"])),
        guard_wait_s=draw(st.sampled_from([1e-10, 1e-8, 1e-6, math.inf])),
        guard_services=draw(st.sampled_from([0.0, 0.5, 3.0, 10.0, math.inf])),
        threshold_tokens=draw(st.sampled_from([0, 1, 5, 20])),
        displace_share=draw(st.sampled_from([0.0, 0.25, 0.8, math.inf, math.inf])),
        starving_steps=draw(st.sampled_from([1, 3, 10, 200])),
        promoted_steps=draw(st.sampled_from([1, 4, 10])),
        tie_weight=draw(st.sampled_from([0.0, 0.1, 2.0])),
        tie_decay_s=draw(st.sampled_from([1e-12, 1e-9, 1e-6])),
        bin_edges_tokens=draw(st.sampled_from([(), (1,), (5, 20), (2, 3, 8, 40)])),
    )
    if rules.lengths == "exact":
        return rules, trace
    seed, most = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0, 50, 2000]))
    random = np.random.default_rng(seed)
    predicted = np.maximum(1, trace.output_tokens + random.integers(-5, 6, len(trace)))
    tails = predicted + random.integers(0, 9, len(trace))
    takes = random.integers(0, most + 1, len(trace)) * 1e-12
    return rules, replace(trace, predicted_tokens=predicted, predicted_tail_tokens=tails, prediction_s=takes)


@st.composite
def global_orders(draw: Any) -> str | None:
    """An order of the global queue in place of the policy's own, in some of the cases."""
    return draw(st.sampled_from([None] * 4 + sorted(GLOBAL_ORDERS)))  # type: ignore[no-any-return]


@st.composite
def cases(draw: Any, max_requests: int = 40) -> Case:
    """A cluster of 1 to 5 replicas under a random policy and workload, open or closed loop."""
    settings = draw(engines())
    capacity, block = settings.kv_capacity_tokens, settings.block_tokens
    assert capacity is not None
    assert block is not None
    order, trace = draw(order_rules(draw(traces(capacity // block * block, max_requests))))
    workload: Trace | ClosedLoop = trace
    if draw(st.integers(0, 3)) == 0:
        workload = ClosedLoop(
            trace,
            users=draw(st.integers(1, min(6, len(trace)))),
            think_s=draw(st.sampled_from([0.0, 4e-10])),
            stagger_s=draw(st.sampled_from([0.0, 1e-10])),
        )
    return Case(
        n_replicas=draw(st.integers(1, 5)),
        profile=draw(profiles()),
        settings=settings,
        policy=draw(st.sampled_from(DISPATCH)),
        workload=workload,
        random_state=draw(st.integers(0, 2**48 - 1)),
        order=order,
        global_order=draw(global_orders()),
    )


DISPATCH = ["fifo", "sjf", "jsq_requests", "jsq_tokens", "srpt", "round_robin", "random", "power_of_two"]
