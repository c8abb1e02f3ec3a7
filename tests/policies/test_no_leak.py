"""What a policy decides says nothing of lengths that nobody knows yet.

Two runs differ in the true output lengths alone, after prediction: arrivals, prompts and predictions are the same. As
long as the same requests have been completed in both, every decision (who is placed where, who starts, who is evicted)
must be the same. Oracles, which read the truth and say so, must be caught.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pecgym import make_cluster
from pecgym.engine import EngineSettings, load_engine
from pecgym.policies import Policy, load_policy, policy_names
from pecgym.policies.view import least_loaded
from pecgym.units import ps_to_seconds
from pecgym.workload import Trace

ORACLES = {"sjf", "srpt", "planner"}
"""They read true lengths, and say so."""
SCARCE = {"kv_capacity_tokens": 6_000}  # so that decodes outgrow memory and requests are evicted
ENGINES = {
    "vllm": load_engine("vllm", max_batch_tokens=2_048),  # prompts queue for tokens long before anybody is done
    "scarce": load_engine("vllm", **SCARCE),
    "hybrid": load_engine("vllm_v1", **SCARCE),
    "async": load_engine("vllm_v1_async", **SCARCE),
    "history": load_engine("sarathi_hist_srf", **SCARCE),
    "swap": load_engine("sarathi", eviction="swap", swap_gb_per_s=20.0, **SCARCE),
    "few_slots": load_engine("vllm", max_batch_requests=3),
    "static": load_engine("static", static_batch_size=4, static_timeout_s=0.5),
    "one_at_a_time": load_engine("one_at_a_time"),
}


def crowded(seed: int, n: int = 160, longs: int = 0) -> Trace:
    """More work than eight replicas keep up with: two thirds come in the first 0.2 s. Outputs are noisily predicted and
    long enough for many decisions before the first of them ends."""
    random = np.random.default_rng(seed)
    outputs = random.integers(60, 400, n)
    inputs = random.integers(20, 1_500, n)
    is_long = np.zeros(n, np.bool_)
    is_long[random.choice(n, longs, replace=False)] = True
    inputs[is_long] = 100_000  # so that their outputs alone tell them apart
    predicted = np.maximum(1, np.rint(outputs * np.exp(0.8 * random.normal(size=n)))).astype(np.int64)
    return Trace(
        np.cumsum(random.exponential(np.where(np.arange(n) < 2 * n // 3, 0.002, 0.1))),
        inputs,
        outputs,
        is_long=is_long,
        predicted_tokens=predicted,
        predicted_tail_tokens=predicted + random.integers(0, 400, n),
        prediction_s=random.choice([0.0, 0.008, 0.3], n),
        name="crowded",
    )


def events(policy: str | Policy, engine: EngineSettings, trace: Trace, until_s: float = np.inf) -> dict[str, Any]:
    """Everything that the log says of the requests, int64[n] each, but for their true length."""
    model, cluster = ("llama-3.1-70b", "p4de_x4") if trace.is_long.any() else ("llama-3.1-8b", "p4de_x1")
    log = make_cluster(model, cluster, policy, trace, engine).run(until_s)
    return log.ps | {name: column for name, column in log.counts.items() if name != "output_tokens"}


def same_until_completions_differ(policy: str | Policy, engine: EngineSettings, trace: Trace, seed: int) -> int:
    """Runs the trace, and again with the true lengths shuffled; how many decisions came before the first completion
    that is not in both. Raises AssertionError where they differ."""
    order = np.random.default_rng(seed).permutation(len(trace))
    first, second = (events(policy, engine, each) for each in (trace, with_lengths(trace, trace.output_tokens[order])))
    differ = first["finish"] != second["finish"]
    ends = np.concatenate([run["finish"][differ] for run in (first, second)])
    horizon = ends[ends >= 0].min(initial=np.iinfo(np.int64).max)
    decisions = 0
    for event, what in (("placed", "replica"), ("placed", "decode_replica"), ("start", "row")):
        known = [(run[event] >= 0) & (run[event] < horizon) for run in (first, second)]
        np.testing.assert_array_equal(known[0], known[1], err_msg=event)
        for column in (event, what):
            np.testing.assert_array_equal(first[column][known[0]], second[column][known[0]], err_msg=column)
        decisions += int(known[0].sum())
    return decisions


def same_while_nothing_is_known(policy: str | Policy, engine: EngineSettings, trace: Trace, share: float) -> None:
    """Runs the trace until a share of the requests is done, and again with all other requests longer and in another
    order of length: what is known by then is the same, so everything that has happened must be."""
    finish = np.sort(events(policy, engine, trace)["finish"])
    until_s = float(ps_to_seconds(finish[int(share * len(finish))])) + 1e-6
    first = events(policy, engine, trace, until_s)
    open_rows = np.ones(len(trace), np.bool_)
    open_rows[first["row"][first["finish"] >= 0]] = False
    outputs = trace.output_tokens.copy()
    outputs[open_rows] = 2_001 - outputs[open_rows]
    second = events(policy, engine, with_lengths(trace, outputs), until_s)
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name], err_msg=name)


def with_lengths(trace: Trace, outputs: Any) -> Trace:
    return replace(trace, output_tokens=outputs)


def possible(policy: Policy, engine: EngineSettings) -> bool:
    """Bins make static batches. Nobody is displaced from those, or for who is not known yet, and they are not
    disaggregated."""
    if policy.queue_order == "bins":
        return engine.batching == "static"
    if engine.batching == "static":
        return not policy.preemptive and not policy.rules.decode_replicas
    return not (engine.async_scheduling and policy.preemptive)


HONEST = [
    (policy, engine)
    for policy in sorted(set(policy_names()) - ORACLES)
    for engine in ENGINES
    if possible(load_policy(policy), ENGINES[engine])
]


# Every order anywhere, beside the policies that are named after them.
EVERYWHERE = ("ssjf", "ltr", "tie", "one_bit", "skip_predict")
PREDICTED = [
    *(f"fifo{{global_order:{order},lengths:predicted}}" for order in ("shortest", *EVERYWHERE)),
    *(
        f"jsq_tokens{{queue_order:{order},lengths:predicted}}"
        for order in ("shortest", "shortest_remaining", *EVERYWHERE)
    ),
    "jsq_tokens{queue_order:ltr,preemptive:true,lengths:predicted,starving_steps:5,promoted_steps:3}",
    "jsq_tokens{queue_order:one_bit,preemptive:true,lengths:predicted,displace_share:0.5}",
    "jsq_tokens{queue_order:ssjf,lengths:predicted,guard_services:1.0,guard_wait_s:1.0}",
    "fifo{global_order:ltr,lengths:predicted,starving_steps:5,promoted_steps:3}",
    "fifo{global_order:ssjf,queue_order:shortest,lengths:predicted,guard_services:0.5}",
]
HONEST += [(policy, engine) for policy in PREDICTED for engine in ("vllm", "scarce", "few_slots")]


@pytest.mark.parametrize(("policy", "engine"), HONEST)
def test_shuffled_lengths_change_nothing_before_a_completion(policy: str, engine: str) -> None:
    assert same_until_completions_differ(policy, ENGINES[engine], crowded(1), seed=2) > 15


@pytest.mark.parametrize(("policy", "engine"), HONEST)
def test_what_is_not_done_yet_has_no_length(policy: str, engine: str) -> None:
    for share in (0.1, 0.6):
        same_while_nothing_is_known(policy, ENGINES[engine], crowded(3), share)


PECSCHED = [f"pecsched{{long_order:{order},lengths:predicted}}" for order in ("shortest_job", *EVERYWHERE)]


@pytest.mark.parametrize("policy", ["pecsched", "pecsched_fewest", "pecsched_ssjf_long", "fifo", "ssjf", *PECSCHED])
def test_the_same_among_longs(policy: str) -> None:
    """Memory that longs share is set aside for their true outputs, as documented; there is enough of it here."""
    trace = crowded(4, n=240, longs=24)
    assert same_until_completions_differ(policy, load_engine("vllm"), trace, seed=2) > 50
    for share in (0.3, 0.95):
        same_while_nothing_is_known(policy, load_engine("vllm"), trace, share)


def by_true_length(state: Any, slot: int) -> int:
    """It peeks: long answers to replica 0, if that is not the least loaded one anyway."""
    if state.requests[slot].output_tokens > 300:
        return 0
    return least_loaded(state)


class Peeking:
    """The same from Python."""

    def act(self, decision: Any) -> int:
        return int(decision.state.requests[decision.slot].output_tokens) % 2


CHEATS: dict[str, str | Policy] = {
    "sjf": "sjf",
    "srpt": "srpt",
    "global": "fifo{global_order:ssjf}",
    "replica": "jsq_tokens{queue_order:skip_predict}",
    "compiled": Policy("peeking", by_true_length, load="requests"),
    "python": Policy("peeking", actor=Peeking()),
}


@pytest.mark.parametrize("policy", CHEATS)
def test_who_peeks_is_caught(policy: str) -> None:
    with pytest.raises(AssertionError):
        same_until_completions_differ(CHEATS[policy], ENGINES["vllm"], crowded(1), seed=2)
    with pytest.raises(AssertionError):
        same_while_nothing_is_known(CHEATS[policy], ENGINES["few_slots"], crowded(3), 0.3)


@pytest.mark.parametrize("order", ["shortest_job", "ssjf", "one_bit", "skip_predict", "tie"])
def test_who_peeks_at_longs_is_caught(order: str) -> None:
    with pytest.raises(AssertionError):
        same_while_nothing_is_known(
            f"pecsched{{long_order:{order},threshold_tokens:230}}",
            load_engine("vllm"),
            crowded(4, n=240, longs=24),
            0.95,
        )


def test_memory_set_aside_for_the_true_peak_is_caught_too() -> None:
    """`reservation=peak` is an oracle of the engine, and documented as one."""
    with pytest.raises(AssertionError):
        same_while_nothing_is_known("fifo", load_engine("sarathi_no_evict", **SCARCE), crowded(3), 0.3)
