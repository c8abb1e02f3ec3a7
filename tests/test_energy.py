"""The energy of a run is power x time: by its timeline, by the specification in plain code, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

import pecgym
from pecgym.analysis.timeline import COLOCATED, DECODE, LONG_DECODE, LONG_PREFILL, MIXED, PREFILL
from pecgym.costs import find_profile
from pecgym.engine import load_engine
from pecgym.units import J_PER_KWH, PS_PER_S
from pecgym.workload import Trace
from tests.naive_engine import NaiveCluster

PROFILE = find_profile("llama-3.1-8b", "a100-80gb", 1)


def trace_of(rows: list[tuple[float, int, int]]) -> Trace:
    """Requests: (arrival in seconds, input tokens, output tokens)."""
    arrival_s, inputs, outputs = (np.array(column) for column in zip(*rows, strict=True))
    return Trace(arrival_s, inputs, outputs, name="by hand")


def random_trace(n: int, n_longs: int = 0) -> Trace:
    """Shorts of all sizes, five a second on average, and longs among them."""
    random = np.random.default_rng(5)
    arrival_s = np.cumsum(random.exponential(0.2, n))
    inputs, outputs = random.integers(1, 3000, n), random.integers(1, 200, n)
    is_long = np.zeros(n, bool)
    is_long[:n_longs] = True
    random.shuffle(is_long)
    inputs[is_long] = 100_000
    return Trace(arrival_s, inputs, outputs, is_long=is_long, name="random")


def joules(prefill_s: float, decode_s: float, idle_s: float) -> float:
    """Of one GPU of the profile."""
    return prefill_s * PROFILE.prefill_w + decode_s * PROFILE.decode_w + idle_s * PROFILE.idle_w


def run_on_one_gpu(trace: Trace) -> pecgym.analysis.RequestLog:
    """A log of vLLM on one A100."""
    return pecgym.make_cluster("llama-3.1-8b", "a100_x1", workload=trace, policy="fifo").run()


@pytest.mark.parametrize("policy", ["fifo", "pecsched"])
def test_totals_agree_with_the_timeline(policy: str) -> None:
    """Every slice's duration x the GPUs of its replica x the watts of its kind, and idle GPUs otherwise."""
    cluster = pecgym.make_cluster(
        workload=random_trace(300, n_longs=4), policy=policy, record=True, rules={"colocation_tokens": 0}
    )
    log = cluster.run()
    row, watts, tp = log.metrics(), cluster.profile, log.facts.gpus_per_replica
    by_kind_s = log.timeline.seconds_by_kind().sum(axis=0)
    assert by_kind_s[COLOCATED] == 0
    assert by_kind_s[LONG_PREFILL] > 0
    prefill_gpu_s = tp * by_kind_s[[PREFILL, MIXED, LONG_PREFILL]].sum()
    decode_gpu_s = tp * by_kind_s[[DECODE, LONG_DECODE]].sum()
    idle_gpu_s = row["gpu_hours"] * 3600 - prefill_gpu_s - decode_gpu_s
    expected = prefill_gpu_s * watts.prefill_w + decode_gpu_s * watts.decode_w + idle_gpu_s * watts.idle_w
    assert row["energy_kwh"] == pytest.approx(expected / J_PER_KWH, rel=1e-9)
    assert row["energy_per_request_j"] * 300 == pytest.approx(expected, rel=1e-9)


def test_totals_agree_with_the_specification() -> None:
    trace = random_trace(60)
    naive = NaiveCluster(1, PROFILE, load_engine("vllm"), choose=lambda cluster, request: 0)
    naive.load_trace(trace)
    naive.run()
    replica = naive.replicas[0]
    end_ps = max(q.finish for q in naive.done)
    parts_ps = replica.prefill_busy, replica.busy - replica.prefill_busy, end_ps - replica.busy
    assert min(parts_ps) > 0
    expected = joules(*(ps / PS_PER_S for ps in parts_ps))
    assert run_on_one_gpu(trace).metrics()["energy_kwh"] * J_PER_KWH == pytest.approx(expected, rel=1e-12)


def test_a_run_of_prefills_only() -> None:
    """One output token comes out of the prefill."""
    row = run_on_one_gpu(trace_of([(0.0, 2000, 1), (0.0, 3000, 1), (0.0, 500, 1)])).metrics()
    assert row["idle_rate"] == pytest.approx(0)
    assert row["energy_per_request_j"] == pytest.approx(joules(row["makespan_s"], 0, 0) / 3)


def test_a_run_of_decodes_and_of_idle_time() -> None:
    """A prompt of one token and a long answer; an hour later another one."""
    context = range(1, 500)
    prefill_s = PROFILE.prefill_ps(1) / PS_PER_S
    decode_s = sum(PROFILE.iteration_ps([], [tokens]) for tokens in context) / PS_PER_S
    row = run_on_one_gpu(trace_of([(0.0, 1, 500), (3600.0, 1, 500)])).metrics()
    idle_s = 3600 - prefill_s - decode_s
    assert row["energy_kwh"] * J_PER_KWH == pytest.approx(joules(2 * prefill_s, 2 * decode_s, idle_s), rel=1e-9)
    assert row["energy_per_output_token_j"] == pytest.approx(row["energy_kwh"] * J_PER_KWH / 1000)


def test_what_runs_when_a_run_is_stopped_counts_as_far_as_it_has_come() -> None:
    """A prompt whose iteration takes longer than the run."""
    cluster = pecgym.make_cluster("llama-3.1-8b", "a100_x1", workload=trace_of([(0.0, 100_000, 1), (0.5, 1, 1)]))
    row = cluster.run(until_s=0.7).metrics()
    assert row["energy_kwh"] * J_PER_KWH == pytest.approx(joules(0.7, 0, 0))
    assert row["energy_per_request_j"] is None
