"""Orders by length on one replica that serves one request at a time: 0.1 s + 0.02 s for each output token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pecgym import make_cluster
from pecgym.engine import load_engine
from pecgym.engine.orders import OrderRules
from pecgym.errors import EngineError, SpecError
from pecgym.policies import load_policy
from pecgym.workload import Trace


def trace_of(*jobs: tuple[float, int, int], tail: int | None = None, takes_s: float = 0.0, **columns: Any) -> Trace:
    """Jobs as (arrival in seconds, output tokens, predicted tokens)."""
    arrival_s, outputs, predicted = (np.array(column) for column in zip(*jobs, strict=True))
    return Trace(
        arrival_s.astype(float),
        np.ones(len(jobs), np.int64),
        outputs,
        predicted_tokens=predicted,
        predicted_tail_tokens=predicted if tail is None else np.full(len(jobs), tail),
        prediction_s=np.full(len(jobs), takes_s),
        **columns,
    )


def started(policy: str, trace: Trace, engine: str = "one_at_a_time", **changes: Any) -> list[int]:
    """The rows in the order in which they start."""
    cluster = make_cluster(
        cluster="a100_x1",
        model="llama-3.1-8b",
        profile="ssjf-linear",
        policy=policy,
        workload=trace,
        engine=load_engine(engine, **changes),
    )
    return [int(row) for row in np.argsort(cluster.run().ps["start"], kind="stable")]


# A server that is busy for 1.1 s, then four jobs; by predicted length their order is 3, 2, 1, 4.
BUSY = (0.0, 50, 50)
FOUR = ((0.1, 20, 30), (0.2, 5, 20), (0.3, 10, 10), (0.4, 40, 40))


def test_true_and_predicted_lengths_give_the_orders_that_they_say() -> None:
    trace = trace_of(BUSY, *FOUR)
    assert started("fifo", trace) == [0, 1, 2, 3, 4]
    assert started("sjf", trace) == [0, 2, 3, 1, 4]
    assert started("spjf", trace) == [0, 3, 2, 1, 4]
    assert started("spjf{lengths:exact}", trace) == started("sjf", trace)
    assert started("jsq_tokens{queue_order:shortest,lengths:predicted}", trace) == [0, 3, 2, 1, 4]


def test_the_guard_looks_at_who_waits_longest() -> None:
    """At 1.1 s job 1 has waited 1.0 s, and would take 0.7 s by its prediction."""
    trace = trace_of(BUSY, *FOUR)
    assert started("ssjf{guard_services:2.0}", trace) == [0, 3, 2, 1, 4]
    assert started("ssjf{guard_services:1.4}", trace)[:2] == [0, 1]
    assert started("ssjf{guard_wait_s:0.9}", trace) == [0, 1, 2, 3, 4]


def test_a_long_prediction_does_not_overflow_the_guard() -> None:
    for longest in (40_000, 60_000, 200_000, 2**31 - 1):
        trace = trace_of((0.0, 50, 50), (0.1, 50, longest), (0.2, 10, 10), (0.3, 10, 10))
        assert started("ssjf", trace) == [0, 2, 3, 1]
        assert started("tie", trace) == [0, 2, 3, 1]


def test_one_bit_keeps_the_order_of_arrival_in_each_class() -> None:
    assert started("one_bit{threshold_tokens:20}", trace_of(BUSY, *FOUR)) == [0, 2, 3, 1, 4]


def test_the_tail_counts_for_tie() -> None:
    sure, unsure = (0.1, 10, 12), (0.2, 10, 10)
    trace = trace_of(BUSY, sure, unsure)
    tails = np.array([50, 12, 400])
    assert started("tie", trace) == [0, 2, 1]
    unsure_trace = Trace(
        trace.arrival_s,
        trace.input_tokens,
        trace.output_tokens,
        predicted_tokens=trace.predicted_tokens,
        predicted_tail_tokens=tails,
    )
    assert started("tie", unsure_trace) == [0, 1, 2]


def test_tie_serves_who_has_waited_for_long() -> None:
    """A score falls by a tenth in 30 s: a job twice as long overtakes after 30 s x log(2) / -log(0.9), 197 s."""
    busy = (0.0, 12_000, 12_000)  # 240 s
    assert started("tie", trace_of(busy, (1.0, 20, 20), (150.0, 10, 10))) == [0, 2, 1]
    assert started("tie", trace_of(busy, (1.0, 20, 20), (205.0, 10, 10))) == [0, 1, 2]


def test_bins_wait_for_a_full_batch_of_one_bin() -> None:
    """Edges 42, 141, 294: jobs 0, 2 and 3 are of the first bin, 1 and 4 of the second; batches of two."""
    trace = trace_of((0.0, 5, 5), (0.1, 5, 100), (0.2, 5, 5), (0.3, 5, 5), (0.4, 5, 100))
    order = started("multi_bin", trace, engine="static", static_batch_size=2, static_timeout_s=50.0)
    assert order == [0, 2, 1, 4, 3]


def test_who_starves_is_promoted_and_finishes_its_prompt() -> None:
    """Always shorter jobs arrive: without promotion the long one would be last."""
    shorts = [(0.05 + 0.11 * i, 3, 3) for i in range(40)]
    trace = trace_of((0.0, 100, 100), *shorts)
    patient = started("ltr{starving_steps:1000000}", trace)
    eager = started("ltr{starving_steps:20}", trace)
    assert patient[0] == eager[0] == 0
    log = make_cluster(
        cluster="a100_x1",
        model="llama-3.1-8b",
        profile="ssjf-linear",
        policy="ltr{starving_steps:1,promoted_steps:1}",
        workload=trace,
        engine=load_engine("one_at_a_time"),
    ).run()
    assert np.all(log.ps["finish"] > 0)  # with prompts that can be lost this never ended


def test_a_prediction_takes_its_time_and_only_those_who_need_it_wait_for_it() -> None:
    trace = trace_of((0.0, 5, 5), (10.0, 5, 5), takes_s=0.25)

    def delays(policy: str) -> list[float]:
        cluster = make_cluster(
            cluster="a100_x1",
            model="llama-3.1-8b",
            profile="ssjf-linear",
            policy=policy,
            workload=trace,
            engine=load_engine("one_at_a_time"),
        )
        log = cluster.run()
        return [float(each) for each in log.seconds("start") - log.seconds("arrival")]

    assert delays("fifo") == delays("sjf") == [0.0, 0.0]
    assert delays("spjf") == pytest.approx([0.25, 0.25])
    assert delays("pecsched{long_order:ssjf,lengths:predicted}") == [0.0, 0.0]
    assert delays("fifo{lengths:predicted}") == [0.0, 0.0]
    assert delays("fifo{lengths:predicted,backfill:true}") == pytest.approx([0.25, 0.25])


def test_predictions_that_are_not_there_are_an_error_that_says_so() -> None:
    bare = Trace(np.zeros(2), np.ones(2, np.int64), np.array([3, 4]), name="bare")
    with pytest.raises(EngineError, match=r"'bare' has no predicted output lengths.*workload.predictor"):
        started("spjf", bare)
    means_only = Trace(np.zeros(2), np.ones(2, np.int64), np.array([3, 4]), predicted_tokens=np.array([3, 4]))
    assert started("spjf", means_only) == [0, 1]
    with pytest.raises(EngineError, match="predicted_tail_tokens"):
        started("tie", means_only)


@pytest.mark.parametrize(
    ("changes", "what", "remedy"),
    [
        ({"lengths": "guessed"}, "order.lengths='guessed'", "exact, predicted"),
        ({"guard_wait_s": -1.0}, "order.guard_wait_s=-1.0", "0 or more"),
        ({"threshold_tokens": -1}, "order.threshold_tokens=-1", "0 or more"),
        ({"starving_steps": 0}, "order.starving_steps=0", "1 or more"),
        ({"promoted_steps": 0}, "order.promoted_steps=0", "1 or more"),
        ({"displace_share": -0.5}, "order.displace_share=-0.5", ".inf"),
        ({"tie_decay": 1.0}, "order.tie_decay=1.0", "below 1"),
        ({"tie_most": 0.01}, "order.tie_most=0.01", "tie_least=0.1"),
        ({"bin_edges_tokens": (5, 5)}, "bin_edges_tokens=(5, 5)", "ascending"),
        ({"bin_edges_tokens": ("5",)}, "bin_edges_tokens=('5',)", "whole numbers"),
        ({"bins": 3}, "unknown key bins", "bin_edges_tokens"),
    ],
)
def test_parameters_that_cannot_be_are_refused(changes: dict[str, Any], what: str, remedy: str) -> None:
    with pytest.raises(SpecError) as error:
        OrderRules().with_changes(**changes)
    assert what in str(error.value)
    assert remedy in str(error.value)


def test_orders_are_parameters_of_policies() -> None:
    policy = load_policy("pecsched{long_order:ssjf,lengths:predicted,guard_wait_s:50.0}")
    assert (policy.rules.long_order, policy.order.lengths, policy.order.guard_wait_s) == ("ssjf", "predicted", 50.0)
    with pytest.raises(SpecError, match=r"sets guard_wait_s: leave order.guard_wait_s out"):
        policy.order_with(guard_wait_s=1.0)
    for key, value in (("global_order", "longest"), ("global_order", "[ssjf]"), ("queue_order", "longest")):
        with pytest.raises(SpecError, match=rf"^policy 'ssjf{{.*{key}=.*choose one of fcfs"):
            load_policy(f"ssjf{{{key}:{value}}}")
    with pytest.raises(SpecError, match=r"batching=static"):
        started("multi_bin", trace_of(BUSY))
