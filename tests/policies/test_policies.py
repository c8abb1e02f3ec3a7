"""Each reference policy routes as its rule says, and a user's own policy is found and obeyed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from pecgym import WAIT, EngineSettings, Policy, make_cluster
from pecgym.engine import Simulator
from pecgym.errors import EngineError, SpecError
from pecgym.policies import load_policy, policy_names
from pecgym.predictors import load_predictor, with_predictions
from pecgym.workload import Trace
from tests.engine.cases import make_profile

PROFILE = make_profile(g_tokens=(1, 2), g_ps=(110, 120))


def serve(
    policy: Policy | str,
    arrivals_ps: Any,
    inputs: Any,
    outputs: Any,
    *,
    replicas: int = 3,
    seed: int = 0,
    **engine: Any,
) -> Any:
    policy = load_policy(policy)
    simulator = Simulator(
        replicas,
        PROFILE,
        EngineSettings(**engine),
        choose=policy.choose,
        load=policy.load,
        global_order=policy.global_order,
        policy_stream=np.random.default_rng(seed),
    )
    simulator.load_trace(Trace(np.asarray(arrivals_ps) * 1e-12, np.asarray(inputs), np.asarray(outputs)))
    assert simulator.run()
    log = simulator.finished()
    return log[np.argsort(log.row)]


def test_round_robin_takes_each_in_turn() -> None:
    log = serve("round_robin", [0] * 8, [900, 1, 1, 900, 1, 1, 900, 1], [1] * 8)
    assert log.replica.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_join_the_shortest_queue_counts_requests_or_prompt_tokens() -> None:
    """The long prompt counts as one request, or as 900 tokens."""
    arrivals, inputs, outputs = [0] * 6, [900, 10, 20, 30, 1, 1], [5] * 6
    assert serve("jsq_requests", arrivals, inputs, outputs).replica.tolist() == [0, 1, 2, 0, 1, 2]
    # Tokens queued: 900 / 10 / 20, then 40 on replica 1; the next go to replica 2 with 20, then 21.
    assert serve("jsq_tokens", arrivals, inputs, outputs).replica.tolist() == [0, 1, 2, 1, 2, 2]


def test_equal_tokens_are_told_apart_by_requests() -> None:
    log = serve("jsq_tokens", [0, 0, 0], [2, 1, 1], [1, 1, 1], replicas=2)
    assert log.replica.tolist() == [0, 1, 1]
    log = serve("jsq_tokens", [0, 0, 0, 0], [2, 1, 1, 1], [1] * 4, replicas=2)
    assert log.replica.tolist() == [0, 1, 1, 0]


def test_random_is_uniform_and_follows_the_seed() -> None:
    """Chi-squared over 7 replicas, false alarm 0.1% (and the seed is fixed)."""
    n = 7000
    log = serve("random", np.arange(n), np.ones(n, int), np.ones(n, int), replicas=7)
    assert stats.chisquare(np.bincount(log.replica, minlength=7)).pvalue > 0.001
    again = serve("random", np.arange(n), np.ones(n, int), np.ones(n, int), replicas=7)
    other = serve("random", np.arange(n), np.ones(n, int), np.ones(n, int), replicas=7, seed=1)
    np.testing.assert_array_equal(log.replica, again.replica)
    assert np.mean(log.replica != other.replica) > 0.8


def test_power_of_two_takes_the_less_loaded_of_two_draws() -> None:
    """Nobody leaves before all have come, so the loads are counts that the test can keep itself."""
    n, replicas = 400, 5
    log = serve("power_of_two", [0] * n, [1] * n, [3] * n, replicas=replicas, seed=3)
    state = int(np.random.default_rng(3).integers(2**48))

    def draw(below: int) -> int:
        nonlocal state
        state = (state * 0x5DEECE66D + 0xB) % 2**48
        return ((state >> 17) * below) >> 31

    load = [0] * replicas
    for replica in log.replica:
        first = draw(replicas)
        second = (first + 1 + draw(replicas - 1)) % replicas
        assert replica == (second if load[second] < load[first] else first)
        load[replica] += 1
    assert max(load) - min(load) < np.ptp(np.bincount(serve("random", [0] * n, [1] * n, [3] * n, replicas=5).replica))
    assert set(serve("power_of_two", [0] * 9, [1] * 9, [3] * 9, replicas=1).replica) == {0}


def test_fifo_keeps_who_cannot_start_in_one_global_queue() -> None:
    """Two replicas of two slots; the long requests hold replica 0, and the fifth goes where a slot is free first."""
    log = serve("fifo", [0] * 5, [1] * 5, [90, 2, 90, 2, 1], replicas=2, max_batch_requests=2)
    assert log.placed_ps[:4].tolist() == [0] * 4
    assert log.placed_ps[4] == min(log.finish_ps[1], log.finish_ps[3]) == log.start_ps[4]


def test_fifo_lets_nobody_overtake_a_head_that_does_not_fit() -> None:
    """60 of 100 tokens are held until the first leaves; the second needs 50, the third would fit."""
    engine = {"block_tokens": 1, "watermark": 0.0, "kv_capacity_tokens": 100}
    log = serve("fifo", [0, 1, 2], [60, 50, 5], [30, 1, 1], replicas=1, **engine)
    assert log.placed_ps.tolist() == [0, log.finish_ps[0], log.finish_ps[0]]


def test_sjf_takes_the_shortest_output_of_the_global_queue() -> None:
    log = serve("sjf", [0, 1, 2, 3], [5] * 4, [9, 7, 3, 5], replicas=1, batching="none")
    assert np.argsort(log.start_ps).tolist() == [0, 2, 3, 1]
    log = serve("fifo", [0, 1, 2, 3], [5] * 4, [9, 7, 3, 5], replicas=1, batching="none")
    assert np.argsort(log.start_ps).tolist() == [0, 1, 2, 3]


def test_srpt_asks_for_preemption_by_what_remains() -> None:
    policy = load_policy("srpt")
    assert (policy.queue_order, policy.preemptive, policy.load) == ("shortest_remaining", True, "requests")


@pytest.mark.parametrize("name", policy_names())
@pytest.mark.parametrize("engine", ["vllm", "sarathi", "static"])
def test_every_policy_serves_everybody(name: str, engine: str) -> None:
    n, policy = 300, load_policy(name)
    trace = Trace(np.arange(n) * 0.01, 1 + np.arange(n) * 37 % 2000, 1 + np.arange(n) * 11 % 90)
    trace = with_predictions(trace, load_predictor("ssjf_proxy"), seed=0)
    refused = {
        "nobody is displaced from a static batch": engine == "static" and policy.preemptive,
        r"static batches are not disaggregated.*long\.decode_replicas=0": (
            engine == "static" and policy.rules.decode_replicas
        ),
        "queue_order=bins makes batches out of bins: batching=static": (
            engine != "static" and policy.queue_order == "bins"
        ),
    }
    for message, holds in refused.items():
        if holds:
            with pytest.raises((SpecError, EngineError), match=message):
                make_cluster(policy=name, workload=trace, engine=engine)
            return
    log = make_cluster(policy=name, workload=trace, engine=engine).run()
    assert np.all(log.ps["finish"] > 0)
    assert log.facts.labels["policy"] == name


class Chooser:
    """A policy as an object: least requests, and nobody before 1 us."""

    name = "chooser"

    def act(self, decision: Any) -> int:
        if decision.now_s < 1e-6 and decision.row == 0:
            return WAIT
        return int(np.argmin(decision.state.replicas.n_requests))


def to_nowhere(state: Any, slot: int) -> int:
    return 99


def to_the_last(state: Any, slot: int) -> int:
    return len(state.replicas) - 1


NOWHERE = Policy("nowhere", to_nowhere)
LAST = Policy("last", to_the_last)
NOT_A_POLICY = 3


def test_a_policy_of_ones_own_by_object_class_or_import_path() -> None:
    assert load_policy("tests.policies.test_policies:LAST") is LAST
    assert load_policy(LAST) is LAST
    for given in (Chooser, Chooser(), "tests.policies.test_policies:Chooser"):
        policy = load_policy(given)
        assert policy.name == "chooser"
        assert isinstance(policy.actor, Chooser)
    assert set(serve(LAST, [0] * 4, [1] * 4, [1] * 4).replica) == {2}


def test_an_object_policy_takes_the_decisions_of_a_cluster() -> None:
    n = 60
    trace = Trace(np.arange(n) * 1e-5, np.full(n, 50), np.full(n, 20))
    own = make_cluster(policy=Chooser(), workload=trace).run()
    shipped = make_cluster(policy="jsq_requests", workload=trace).run()
    assert own.ps["placed"][0] == 10_000_000
    np.testing.assert_array_equal(own.counts["replica"][1:], shipped.counts["replica"][1:])


def test_a_compiled_policy_that_names_no_replica_is_an_error() -> None:
    with pytest.raises(EngineError, match=r"cannot be done: a short goes to a replica 0\.\.2"):
        serve(NOWHERE, [0], [1], [1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shortest", "policy 'shortest' does not exist; choose one of fifo.*import path"),
        ("no.such.module:Policy", "cannot be imported"),
        ("tests.policies.test_policies:absent", "cannot be imported"),
        ("tests.policies.test_policies:NOT_A_POLICY", "method act"),
        (object(), "method act"),
    ],
)
def test_what_is_no_policy_is_refused_with_the_remedy(given: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_policy(given)
