"""Clusters that do nothing but work, or serve one request: there the bounds are what is reached, or close to it, and
each thing that an iteration may share shows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pecgym.costs import GroupCosts
from pecgym.engine import EngineSettings, LongRules, Topology
from pecgym.units import PS_PER_S
from pecgym.workload import Trace
from tests.bounds.test_no_policy_beats_a_bound import check, served, work_of
from tests.engine.cases import Case, make_profile
from tests.engine.long_cases import make_group_costs

US = 10**6
PROFILE = {
    "g_tokens": (1, 1000),
    "g_ps": (1000 * US, 2000 * US),
    "prefill_base_ps": 50 * US,
    "prefill_seq_ps": 20 * US,
    "prefill_kv_ps": US // 10,
    "attn_ps_per_1024_pairs": 900 * US,
    "decode_base_ps": 80 * US,
    "decode_seq_ps": 10 * US,
    "decode_kv_ps": US // 3,
}


def crowd(n: int, inputs: int, outputs: int) -> Trace:
    """Equal requests, all at time zero."""
    return Trace(np.zeros(n), np.full(n, inputs), np.full(n, outputs), name="crowd")


def of_shorts(trace: Trace, **engine: object) -> Case:
    settings = EngineSettings(**{"block_tokens": 1, "kv_capacity_tokens": 100_000, "watermark": 0.0} | engine)  # type: ignore[arg-type]
    return Case(1, make_profile(**PROFILE), settings, "fifo", trace, 0)  # type: ignore[arg-type]


def slack(case: Case) -> float:
    """Replica-time that a run takes / the least work; the bounds hold."""
    check(case)
    return float(served(case).facts.busy_s.sum() * PS_PER_S / work_of(case).work_ps.sum())


@pytest.mark.parametrize(
    ("case", "most"),
    [
        pytest.param(of_shorts(crowd(400, 20, 200), max_batch_requests=16), 1.03, id="slots"),
        pytest.param(of_shorts(crowd(400, 100, 100), kv_capacity_tokens=1600, reservation="peak"), 1.20, id="memory"),
        pytest.param(of_shorts(crowd(50, 700, 5), batching="none"), 1.02, id="one at a time"),
        pytest.param(of_shorts(crowd(320, 10, 60), batching="static", static_batch_size=8), 1.03, id="static"),
        pytest.param(of_shorts(crowd(400, 250, 1), max_batch_tokens=1000), 1.02, id="whole prompts"),
        pytest.param(
            of_shorts(
                crowd(300, 100, 29),
                max_batch_requests=8,
                max_batch_tokens=32,
                chunk_tokens=32,
                mixing=True,
                group_order="decode_first",
            ),
            1.10,
            id="chunks beside decodes",
        ),
    ],
)
def test_a_replica_that_is_full_is_near_the_bound_of_work(case: Case, most: float) -> None:
    assert 1 <= slack(case) <= most


def test_a_request_alone_takes_its_bound() -> None:
    case = of_shorts(crowd(1, 700, 40))
    bounds, metrics = check(case), served(case).metrics()
    for key in ("makespan_s", "ttft_mean_s", "tpot_p50_s", "jct_p99_s", "throughput_tokens_per_s"):
        assert metrics[key] == pytest.approx(bounds[key], rel=1e-6), key


def test_who_is_evicted_may_get_its_next_token_from_a_prompt() -> None:
    """Where reading the cache takes far longer than computing it, recomputing is the faster way to the next token."""
    profile = make_profile(g_tokens=(1, 1000), g_ps=(1000, 1100), decode_kv_ps=1000)
    settings = EngineSettings(block_tokens=1, kv_capacity_tokens=60, watermark=0.0, max_batch_requests=2)
    case = Case(1, profile, settings, "fifo", crowd(6, 25, 30), 0)
    assert served(case).counts["evictions"].sum() > 0
    check(case)
    step = profile.g_ps(1) + 25 * profile.decode_kv_ps
    assert work_of(case).decode_ps.max() < 29 * step


def group_costs(longest: int) -> GroupCosts:
    """Groups of two take six tenths of the time of one replica."""
    knots = np.arange(longest // 512 + 2) * 512 * 1000 * US
    prefill = np.stack([knots, knots * 6 // 10])
    return make_group_costs(512, np.stack([prefill] * 4), 5 * US, US // 3)


def with_longs(trace: Trace, colocation_tokens: int, n_replicas: int = 1) -> Case:
    return Case(
        n_replicas,
        make_profile(**PROFILE),  # type: ignore[arg-type]
        EngineSettings(block_tokens=1, kv_capacity_tokens=20_000, watermark=0.0, max_batch_requests=1),
        "pecsched/Dis",
        trace,
        0,
        rules=LongRules(preemption=False, colocation_tokens=colocation_tokens, sp_degree="memory", switch_s=1e-12),
        topology=Topology(n_replicas, 1, math.inf, math.inf),
        group_costs=group_costs(int(trace.input_tokens[trace.is_long].max())),
    )


def test_a_long_alone_takes_its_bound() -> None:
    case = with_longs(Trace(np.zeros(1), np.array([9000]), np.array([50]), is_long=np.array([True])), 0)
    bounds, metrics = check(case), served(case).metrics()
    for key in ("long_jct_mean_s", "ttft_mean_s", "makespan_s"):
        assert metrics[key] == pytest.approx(bounds[key], rel=1e-6), key


def test_a_long_takes_the_faster_group_and_the_cheaper_one_s_work() -> None:
    trace = Trace(np.zeros(1), np.array([9000]), np.array([1]), is_long=np.array([True]))
    work = work_of(with_longs(trace, 0, n_replicas=2))
    assert work.prefill_work_ps[0] / work.prefill_ps[0] == pytest.approx(10 / 6, rel=1e-6)


def test_shorts_share_the_iterations_of_a_long() -> None:
    """One slot for shorts, and a long, 0.6 s of prefill, whose iterations each carry one of them: two in the time of
    one."""
    shorts = 40
    trace = Trace(
        np.array([0.0] + [0.6] * shorts),
        np.array([600] + [2] * shorts),
        np.array([1200] + [40] * shorts),
        is_long=np.array([True] + [False] * shorts),
    )
    case = with_longs(trace, colocation_tokens=64)
    assert slack(case) < 1.35
    apart = work_of(case).of_class_ps
    assert served(case).facts.busy_s.sum() * PS_PER_S < apart[0] + work_of(with_slot(case)).work_ps[1:].sum()


def with_slot(case: Case) -> Case:
    """The case without its longs."""
    trace = case.workload
    assert isinstance(trace, Trace)
    return Case(case.n_replicas, case.profile, case.settings, "fifo", trace.take(~trace.is_long), 0)
