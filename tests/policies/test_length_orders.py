"""What orders by predicted lengths have in common: what predictions cost, whom the guard saves, and which of them are
the same where their parameters or perfect predictions leave no difference."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pecgym import make_cluster
from pecgym.configs import WorkloadConfig
from pecgym.costs import Profile
from pecgym.engine import EngineSettings, load_engine
from pecgym.policies import load_policy, policy_names
from pecgym.predictors import load_predictor, with_predictions
from pecgym.units import seconds_to_ps
from pecgym.workload import ClosedLoop, Trace, draw_chat
from tests.engine.cases import make_profile

EVEN = make_profile(g_tokens=(1, 2), g_ps=(2 * 10**10, 2 * 10**10), kv_capacity_tokens=10**9)
"""20 ms per iteration, whatever is in it."""
FOUR_SLOTS = EngineSettings(max_batch_requests=4, mixing=True, group_order="decode_first", watermark=0.0)
ENGINES: dict[str, tuple[EngineSettings, str | Profile]] = {
    "none": (load_engine("one_at_a_time"), "ssjf-linear"),
    "static": (load_engine("static", static_batch_size=4), "ssjf-linear"),
    "slots": (load_engine("slots", max_batch_requests=4), "ssjf-slots"),
    "even": (FOUR_SLOTS, EVEN),
}
CONTINUOUS = ("none", "slots", "even")
READ_PREDICTIONS = sorted(
    policy.name
    for policy in map(load_policy, policy_names())
    if policy.order.lengths == "predicted" and (policy.global_order, policy.queue_order or "fcfs") != ("fcfs", "fcfs")
)
"""Those that order shorts by them."""


def run(policy: str, workload: Trace | ClosedLoop, setting: str = "none", cluster: str = "a100_x1") -> Any:
    engine, profile = ENGINES[setting]
    return make_cluster("llama-3.1-8b", cluster, policy, workload, engine, profile=profile).run()


def same(first: str, second: str, trace: Trace, setting: str, cluster: str = "a100_x1") -> bool:
    """Whether two policies do the same, to the picosecond."""
    ours, theirs = (run(policy, trace, setting, cluster) for policy in (first, second))
    return all(np.array_equal(column, theirs.ps[event]) for event, column in ours.ps.items())


def chat(seed: int, requests: int = 120, rate_rps: float = 4.0, predictor: str = "ssjf_proxy{latency_s:0}") -> Trace:
    trace = draw_chat(requests, "poisson", rate_rps, seed=seed)
    return with_predictions(trace, load_predictor(predictor), seed)


def lone() -> Trace:
    """Two requests, far apart, whose predictions take 0.3 and 0.05 s."""
    return Trace(
        np.array([1.0, 50.0]),
        np.array([6, 6]),
        np.array([10, 20]),
        predicted_tokens=np.array([12, 9]),
        predicted_tail_tokens=np.array([30, 40]),
        prediction_s=np.array([0.3, 0.05]),
    )


# -- what a prediction costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [name for name in READ_PREDICTIONS if name != "multi_bin"])
def test_a_request_starts_once_its_length_is_predicted(policy: str) -> None:
    log = run(policy, lone())
    assert log.ps["arrival"].tolist() == [10**12, 50 * 10**12]
    assert log.ps["placed"].tolist() == log.ps["start"].tolist() == [13 * 10**11, 5005 * 10**10]
    jct_s = log.seconds("finish") - log.seconds("arrival")
    np.testing.assert_allclose(jct_s, [0.3 + 0.1 + 10 * 0.02, 0.05 + 0.1 + 20 * 0.02])
    assert log.metrics()["jct_mean_s"] == pytest.approx(jct_s.mean())


@pytest.mark.parametrize("policy", ["fifo", "priority", "round_robin", "jsq_tokens", "sjf", "srpt"])
def test_who_reads_no_predictions_does_not_wait_for_them(policy: str) -> None:
    assert run(policy, lone()).ps["start"].tolist() == [10**12, 50 * 10**12]


def test_of_nobody_there_is_no_accuracy() -> None:
    assert run("ssjf", lone()).metrics()["predictor"] == "column predicted_tokens"
    assert run("ssjf", lone().slice(0, 0)).metrics()["predictor"] is None


def test_predictions_are_made_beside_the_work_and_beside_each_other() -> None:
    """Each takes its time from the arrival on, whoever else is predicted or served meanwhile."""
    trace = Trace(
        np.array([0.0, 0.1, 0.1]),
        np.full(3, 6),
        np.array([100, 50, 10]),
        predicted_tokens=np.array([100, 50, 10]),
        prediction_s=np.array([0.0, 1.0, 2.5]),
    )
    # The first is served until 2.1 s; by then the second is ready, and the shorter third is not.
    assert run("spjf", trace).ps["start"].tolist() == [0, 21 * 10**11, 32 * 10**11]


def test_users_of_a_closed_loop_wait_for_predictions_too() -> None:
    n = 30
    lengths = with_predictions(draw_chat(n, "burst", seed=3), load_predictor("ssjf_proxy{latency_s:0.25}"), 3)
    loop = ClosedLoop(lengths, users=3, think_s=1.0)
    log = run("spjf", loop)
    ready_ps = log.ps["arrival"] + seconds_to_ps(0.25)
    assert np.all(log.ps["start"] >= ready_ps)
    assert np.any(log.ps["start"] == ready_ps)
    assert np.any(log.ps["start"] > ready_ps)
    asked_again_ps = np.sort(log.ps["finish"])[: n - 3] + seconds_to_ps(1.0)
    np.testing.assert_array_equal(np.sort(log.ps["arrival"])[3:], asked_again_ps)


@pytest.mark.parametrize("policy", ["spjf", "sprpt", "ltr", "tie"])
def test_a_run_may_stop_while_predictions_are_made(policy: str) -> None:
    """A snapshot in between keeps them, and what comes after is the same."""
    trace = chat(1, 60, 20.0, "ssjf_proxy{latency_s:0.3}")
    engine, profile = ENGINES["slots"]
    cluster = make_cluster("llama-3.1-8b", "a100_x1", policy, trace, engine, profile=profile)
    cluster.run(1.0)
    snapshot = cluster.snapshot()
    whole = cluster.run().digest()
    cluster.restore(snapshot)
    assert cluster.run().digest() == whole == run(policy, trace, "slots").digest()


# -- the guard ------------------------------------------------------------------------------------------------------


def one_long(predicted_tokens: int) -> Trace:
    """Row 3 has 500 tokens, all others 15, which takes 0.4 s; there is always another of them."""
    rows = np.arange(400)
    predicted = np.where(rows == 3, predicted_tokens, 15)
    return Trace(
        np.maximum(rows - 9, 0) * 0.35, np.full(400, 6), np.where(rows == 3, 500, 15), predicted_tokens=predicted
    )


def test_the_guard_saves_who_starves() -> None:
    """Without the guard the long job is served last, with it at the first decision after it has waited too long."""
    trace = one_long(500)

    def waited_s(policy: str) -> float:
        log = run(policy, trace)
        return float((log.seconds("start") - log.seconds("arrival"))[3])

    assert waited_s("spjf") > 140
    assert 100 < waited_s("ssjf") <= 100.4  # 10 x its 10.1 s is later
    assert 50.5 < waited_s("ssjf{guard_services:5.0}") <= 50.9
    assert 20 < waited_s("ssjf{guard_wait_s:20.0}") <= 20.4
    assert waited_s("ssjf{guard_wait_s:.inf,guard_services:.inf}") == waited_s("spjf")


def test_the_guard_knows_predictions_only() -> None:
    """Who is predicted to be short is saved early, whatever its true length is."""
    log = run("ssjf", one_long(20))
    assert 5.0 < (log.seconds("start") - log.seconds("arrival"))[3] <= 5.4  # 10 x (0.1 + 20 x 0.02)


# -- the same policy under two names --------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ENGINES)
@pytest.mark.parametrize("seed", range(3))
def test_an_oracle_predictor_makes_oracles(seed: int, setting: str) -> None:
    trace = chat(seed, predictor="oracle")
    assert same("spjf", "sjf", trace, setting)
    if setting in CONTINUOUS:
        assert same("sprpt", "srpt", trace, setting)
    if setting != "none" or seed:
        assert not same("spjf", "sjf", chat(seed), setting)


@pytest.mark.parametrize("setting", ENGINES)
@pytest.mark.parametrize("seed", range(3))
def test_parameters_that_leave_no_difference(seed: int, setting: str) -> None:
    trace = chat(seed)
    for threshold in (0, 10_000):
        assert same(f"one_bit{{threshold_tokens:{threshold}}}", "fifo", trace, setting)
    assert not same("one_bit", "fifo", trace, setting)
    assert same("ssjf{guard_wait_s:.inf,guard_services:.inf}", "spjf", trace, setting)
    assert same("ssjf{guard_wait_s:0.0}", "fifo", trace, setting)
    assert same("fifo{global_order:ltr,lengths:predicted,starving_steps:1000000}", "spjf", trace, setting)


@pytest.mark.parametrize("setting", CONTINUOUS)
@pytest.mark.parametrize("seed", range(3))
def test_preemptive_parameters_that_leave_no_difference(seed: int, setting: str) -> None:
    trace = chat(seed)
    assert same("trail{displace_share:.inf}", "sprpt", trace, setting)
    ltr = "ltr{starving_steps:1000000}"
    if setting == "even":
        assert not same("ltr{starving_steps:3}", ltr, trace, setting)
        assert not same("trail{displace_share:0.2}", "sprpt", trace, setting)
    assert same("skip_predict{threshold_tokens:0}", "sprpt", trace, setting)
    if setting != "slots":  # there prompts take several iterations: they have emitted nothing, and LTR finishes them
        assert same(ltr, "sprpt{queue_order:shortest}", trace, setting)
        assert same("trail{displace_share:0.0}", "sprpt{preemptive:false}", trace, setting)


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("cluster", ["a100_x1", "p4de_x1"])
def test_one_bin_is_first_come_first_served(size: int, cluster: str) -> None:
    trace = chat(2, rate_rps=12.0)
    engine = load_engine("static", static_batch_size=size, static_timeout_s=0.7)

    def finish_ps(policy: str) -> Any:
        return make_cluster("llama-3.1-8b", cluster, policy, trace, engine, profile="ssjf-linear").run().ps["finish"]

    for one_bin in ("multi_bin{bin_edges_tokens:[]}", "multi_bin{bin_edges_tokens:[100000]}"):
        np.testing.assert_array_equal(finish_ps(one_bin), finish_ps("jsq_requests"))
    if size > 1 and cluster == "a100_x1":
        assert not np.array_equal(finish_ps("multi_bin"), finish_ps("jsq_requests"))


# -- one seed, one result -------------------------------------------------------------------------------------------


def test_policies_meet_the_same_predictions() -> None:
    config = WorkloadConfig(name="chat", requests=200, rate_rps=5.0, predictor="ssjf_proxy")
    trace, again, other, slower = (
        replace(config, rate_rps=rate_rps).load(seed) for seed, rate_rps in ((5, 5.0), (5, 5.0), (6, 5.0), (5, 1.0))
    )
    assert trace.equals(again)
    predicted, others, slowers = (np.asarray(each.predicted_tokens).tolist() for each in (trace, other, slower))
    assert predicted != others
    assert predicted == slowers
    accuracies = {run(policy, trace).metrics()["predictor_kendall_tau"] for policy in ("spjf", "sprpt", "tie")}
    assert len(accuracies) == 1


SCRIPT = """
from tests.policies.test_length_orders import chat, run
for policy in ("ssjf", "tie", "ltr", "skip_predict"):
    print(run(policy, chat(7, predictor="lognormal{sigma:0.75}"), "slots").digest())
"""


def test_another_process_agrees() -> None:
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    trace = chat(7, predictor="lognormal{sigma:0.75}")
    assert told == [run(policy, trace, "slots").digest() for policy in ("ssjf", "tie", "ltr", "skip_predict")]
    assert len(set(told)) == 4


@pytest.mark.parametrize("policy", [name for name in READ_PREDICTIONS if name != "multi_bin"])
def test_a_stream_is_served_like_the_whole(policy: str) -> None:
    trace = chat(4, 90, 6.0, "ssjf_proxy{latency_s:0.1}")
    engine, profile = ENGINES["slots"]
    cluster = make_cluster("llama-3.1-8b", "a100_x1", policy, trace, engine, profile=profile)
    parts: list[Any] = []
    cluster.run_stream((trace.slice(i, i + 7) for i in range(0, 90, 7)), lambda rows: parts.append(rows.copy()))
    rows = np.concatenate(parts)
    finish_ps = rows["finish_ps"][np.argsort(rows["row"])]
    np.testing.assert_array_equal(finish_ps, cluster.run().ps["finish"])
