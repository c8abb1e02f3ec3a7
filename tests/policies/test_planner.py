"""The planner: better choices where they are known, never worse than its base, within its budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pecgym import Cluster, make_cluster
from pecgym.engine.state import LATE_S, OPEN_LONGS_S, WAITING_S
from pecgym.envs.config import CONTROLS as ENV_CONTROLS
from pecgym.envs.config import DEFAULT_CONTROLS, RewardConfig
from pecgym.errors import EngineError, SpecError
from pecgym.policies import load_policy
from pecgym.policies.planner import CONTROLS, Planner, PlannerConfig, planner
from pecgym.workload import Trace
from tests.engine.group_world import LONG, SHORT, Request, by_row, make


def plan(requests: list[Request], base: str = "pecsched", *, replicas: int = 1, **given: Any) -> Any:
    """The log of a planned run in the world of group_world; rules: of the cluster, the rest is PlannerConfig's."""
    rules = given.pop("rules", {})
    config = PlannerConfig(base=base, **given)
    policy = planner(config, load_policy(base))
    functions = {"choose": policy.choose, "start": policy.start, "pool": policy.pool}
    simulator = make(requests, policy=base, replicas=replicas, rules=rules, functions=functions)
    plans = Planner(config, load_policy(base), simulator)
    asked = {"place": plans.act, "start": plans.start_long, "pool": plans.pool}
    while (decision := simulator.next_decision()) is not None:
        simulator.apply(asked[decision.kind](decision))
    return by_row(simulator)


# -- choices that are known -----------------------------------------------------------------------------------------

ALMOST_THERE: list[Request] = [(0, 30, 1, LONG), (1150, 5, 1, SHORT)]
"""The short stops the prefill at 1200 and runs from 1210 on, and the long ends 160 later; or it waits until 1800."""


@pytest.mark.parametrize(("weight", "preemptions", "start"), [(0.1, 1, 1210), (10.0, 0, 1800)])
def test_preempts_if_that_is_worth_its_price(weight: float, preemptions: int, start: int) -> None:
    log = plan(ALMOST_THERE, controls=("preemption",), long=weight)
    assert (log.preemptions[0], log.start_ps[1]) == (preemptions, start)


def test_takes_the_shorter_long_first() -> None:
    """At 1800 the replica is free; the long of 3600 came before that of 600."""
    requests: list[Request] = [(0, 30, 1, LONG), (10, 60, 1, LONG), (20, 10, 1, LONG)]
    assert plan(requests, controls=("sp_strategy",)).start_ps.tolist() == [0, 1800, 5400]
    assert plan(requests, controls=("order",)).start_ps.tolist() == [0, 2400, 1800]


def test_looks_no_further_than_it_is_told() -> None:
    """With both longs waiting beyond the horizon, to change their order changes nothing."""
    requests: list[Request] = [(0, 30, 1, LONG), (10, 60, 1, LONG), (20, 10, 1, LONG)]
    for horizon_ps, starts in ((500, [0, 1800, 5400]), (700, [0, 2400, 1800])):
        assert plan(requests, controls=("order",), horizon_s=horizon_ps * 1e-12).start_ps.tolist() == starts


def test_chooses_the_degree() -> None:
    """Two replicas halve the prefill."""
    log = plan([(0, 30, 1, LONG)], replicas=2, controls=("sp_degree",), rules={"sp_degree": "memory"})
    assert (log.sp_degree[0], log.finish_ps[0]) == (2, 900)


def test_chooses_the_strategy() -> None:
    log = plan([(0, 30, 1, LONG)], controls=("sp_strategy",), rules={"sp_strategy": "ring"})
    assert log.finish_ps[0] == 1800


def test_lets_a_long_wait_for_the_next() -> None:
    """One that has come would be in the way of one that comes at once, and is far shorter."""
    log = plan([(0, 60, 1, LONG), (1, 10, 1, LONG)], controls=("start",), rules={"long_order": "shortest"})
    assert log.start_ps.tolist() == [601, 1]


def test_places_a_short_elsewhere() -> None:
    """FIFO puts the short of 2 on the empty replica, where the next one, of 3, is better off: weights by the wait."""
    requests: list[Request] = [(0, 50, 1, SHORT), (2, 500, 1, SHORT), (3, 5, 1, SHORT), (4, 5, 1, SHORT)]
    options: dict[str, Any] = {"replicas": 2, "base": "jsq_tokens"}
    planned = plan(requests, controls=("placement",), **options)
    usual = plan(requests, controls=("placement",), candidates=0, **options)
    assert (planned.start_ps - planned.arrival_ps).sum() < (usual.start_ps - usual.arrival_ps).sum()
    assert len(planned) == len(requests)


# -- never worse, deterministic, within budget ----------------------------------------------------------------------


def random_requests(seed: int, n: int) -> list[Request]:
    stream = np.random.default_rng(seed)
    arrivals = np.cumsum(stream.integers(0, 600, n))
    return [
        (int(at), int(stream.integers(20, 60)), int(stream.integers(1, 10)), LONG)
        if stream.random() < 0.3
        else (int(at), int(stream.integers(1, 20)), int(stream.integers(1, 10)), SHORT)
        for at in arrivals
    ]


def objective(requests: list[Request], log: Any) -> float:
    is_long = np.array([request[3] for request in requests])
    waits = (log.start_ps - log.arrival_ps)[~is_long].sum()
    return float(waits + 0.1 * (log.finish_ps - log.arrival_ps)[is_long].sum())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("controls", [("order", "start"), ("placement", "preemption"), DEFAULT_CONTROLS])
def test_is_never_worse_than_its_base(seed: int, controls: tuple[str, ...]) -> None:
    requests = random_requests(seed, 20)
    options: dict[str, Any] = {"replicas": 1 + seed % 3, "rules": {"sp_degree": "memory"}}
    usual = objective(requests, plan(requests, candidates=0, **options))
    planned = objective(requests, plan(requests, controls=controls, **options))
    assert planned <= usual * (1 + 1e-9)


def test_is_better_than_its_base_somewhere() -> None:
    gains = []
    for seed in range(6):
        requests = random_requests(seed, 20)
        found = [objective(requests, plan(requests, replicas=2, candidates=most)) for most in (0, 16)]
        gains.append(found[1] < 0.95 * found[0])
    assert sum(gains) >= 3


def mixed(n: int = 150) -> Trace:
    stream = np.random.default_rng(3)
    is_long = stream.random(n) < 0.06
    return Trace(
        np.cumsum(stream.exponential(0.4, n)),
        np.where(is_long, stream.integers(100_000, 300_000, n), stream.integers(100, 3000, n)),
        stream.integers(10, 300, n),
        is_long=is_long,
        name="mixed",
    )


def run(policy: str) -> tuple[str, Cluster]:
    cluster = make_cluster("llama-3.1-70b", policy=policy, workload=mixed())
    return cluster.run().digest(), cluster


@pytest.mark.parametrize("budget", ["candidates:0", "rollouts:0", "max_seconds:0"])
@pytest.mark.parametrize("rules", ["", ",sp_degree:7,long_order:shortest"])
def test_without_a_budget_it_is_its_base(budget: str, rules: str) -> None:
    base = f"pecsched{{{rules[1:]}}}" if rules else "pecsched"
    planned, cluster = run(f"planner{{{budget}{rules}}}")
    assert planned == run(base)[0]
    assert cluster.policy is not None
    assert cluster.policy.actor.tried == 0  # type: ignore[union-attr]


def test_its_base_may_draw_random_numbers() -> None:
    base, planned = "power_of_two", "planner{base:power_of_two,candidates:0}"
    assert run(planned)[0] == run(base)[0]


def test_plans_alike_every_time_and_better() -> None:
    first, cluster = run("planner{controls:[order,sp_degree,start],horizon_s:100}")
    assert run("planner{controls:[order,sp_degree,start],horizon_s:100}")[0] == first
    _, usual = run("pecsched")
    sums = [each.simulator.state.sums for each in (cluster, usual)]
    planned_s, usual_s = (each[WAITING_S] + 0.1 * each[OPEN_LONGS_S] for each in sums)
    assert planned_s < usual_s


@pytest.mark.parametrize("rollouts", [1, 2, 25])
def test_tries_no_more_than_it_may(rollouts: int) -> None:
    _, cluster = run(f"planner{{rollouts:{rollouts}}}")
    assert cluster.policy is not None
    assert rollouts - 1 <= cluster.policy.actor.tried <= rollouts  # type: ignore[union-attr]


def test_minimises_the_tail_if_told_to() -> None:
    _, planned = run("planner{delay:0,long:0,tail:1,tail_s:0.05}")
    log = make_cluster("llama-3.1-70b", policy="pecsched", workload=mixed()).run()
    waits = (log.seconds("start") - log.seconds("arrival"))[~log.is_long]
    late = float(np.maximum(waits - 0.05, 0).sum())
    assert late > 0
    assert planned.simulator.state.sums[LATE_S] <= late


def test_changes_the_number_of_decode_replicas() -> None:
    """Half of the replicas are far too many for decodes."""
    usual = run("pecsched{decode_replicas:4}")[1].simulator.state.sums
    planned = run("planner{controls:[roles],pool_interval_s:10,decode_replicas:4}")[1].simulator.state.sums
    assert planned[OPEN_LONGS_S] < 0.9 * usual[OPEN_LONGS_S]


# -- configuration --------------------------------------------------------------------------------------------------


def test_has_the_weights_and_controls_of_the_environments() -> None:
    config, reward = PlannerConfig(), RewardConfig()
    for key in ("delay", "long", "tail", "tail_s"):
        assert getattr(config, key) == getattr(reward, key)
    assert CONTROLS == ENV_CONTROLS
    assert config.controls == DEFAULT_CONTROLS


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("horizon:60", r"unknown key 'horizon'; valid keys here: base, controls, horizon_s"),
        ("horizon_s:0", "horizon_s=0.0: must be above 0"),
        ("controls:[order,speed]", "give one or more of placement"),
        ("controls:[]", "give one or more of placement"),
        ("candidates:-1", "candidates=-1: must be 0 or more"),
        ("long:-1", "long=-1.0: must be 0 or more"),
        ("base:planner", "needs a compiled policy"),
        ("base:best", "policy 'best' does not exist"),
    ],
)
def test_refuses_what_cannot_be(parameters: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_policy(f"planner{{{parameters}}}")


def test_roles_need_an_interval() -> None:
    with pytest.raises(SpecError, match="roles needs the rule pool_interval_s"):
        run("planner{controls:[roles]}")


def test_is_of_one_cluster() -> None:
    policy = load_policy("planner")
    cluster = make_cluster(policy=None, workload=mixed())
    decision = cluster.next_decision()
    assert decision is not None
    with pytest.raises(EngineError, match="of one cluster"):
        policy.answer(decision)
