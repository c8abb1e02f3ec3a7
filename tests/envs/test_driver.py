"""Agents as policies: what they decide is what happens, in every way to run a cluster."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.cluster import make_cluster
from pecgym.envs.config import CONTROLS, env_config
from pecgym.envs.driver import AgentRun, agent_policy
from pecgym.errors import EngineError, SpecError
from pecgym.policies import load_policy
from pecgym.workload import ClosedLoop, Trace
from tests.envs.worlds import make_world


class Scripted:
    """An agent that answers what a function of the driver's copies says."""

    name = "ppo/scripted-s0"
    path = Path(__file__)
    level = "cluster"

    def __init__(self, settings: Mapping[str, Any], answer: Callable[[Scripted], Any]) -> None:
        self.settings, self.answer = settings, answer
        self.copies: Any = None
        self.asked = 0

    def act(self, observations: dict[str, Any], masks: Any) -> Any:
        self.asked += 1
        assert masks.dtype == bool
        assert masks.shape == self.copies.arrays.mask.shape
        assert {name: array.shape[0] for name, array in observations.items()} == dict.fromkeys(observations, 1)
        assert all(array.dtype == np.float32 and array.ndim == 2 for array in observations.values())
        return self.answer(self)


def as_reference(agent: Scripted) -> Any:
    return agent.copies.reference_action(0)[None]


def to_wait(agent: Scripted) -> Any:
    action = np.zeros((1, 6), np.int64)
    action[0, 0] = agent.copies.cluster.n_replicas
    return action


@pytest.fixture(autouse=True)
def _copies_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted agents look into the copies that ask them."""
    init = AgentRun.__init__

    def told(self: AgentRun, cluster: Any) -> None:
        init(self, cluster)
        self._agent.copies = self._copies  # type: ignore[attr-defined]

    monkeypatch.setattr(AgentRun, "__init__", told)


def experiment_of(world: dict[str, Any]) -> Any:
    return env_config({}, **world).experiment()


def make(world: dict[str, Any], agent: Scripted, record: bool = False) -> Any:
    return experiment_of(world).make(agent_policy(agent.name, agent), 0, record)


def settings_of(world: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"policy": world["policy"], "agent_controls": CONTROLS[:-1], **settings}


@pytest.mark.parametrize("policy", ["pecsched", "fifo", "pecsched_fewest", "random"])
def test_an_agent_that_answers_as_a_policy_is_that_policy(policy: str, tmp_path: Path) -> None:
    workload = {"share_of_longs": 0.0} if policy == "random" else {}
    world = make_world(tmp_path, 3, policy=policy, nodes=2, per_node=3, workload=workload)
    controls = ["preemption"] if policy == "random" else CONTROLS[:-1]
    agent = Scripted(settings_of(world, agent_controls=controls), as_reference)
    found, expected = make(world, agent).run(), experiment_of(world).make(policy, 0).run()
    assert found.digest() == expected.digest()
    mine, theirs = found.metrics(), expected.metrics()
    assert mine["n_long"] > 0 or policy == "random"
    assert agent.asked > 50 or policy == "random"
    for row in (mine, theirs):
        row.pop("engine_wall_s")
    assert {key for key in mine if mine[key] != theirs[key]} == {"policy"}
    assert mine["policy"] == "ppo/scripted-s0"


def test_the_adaptive_pool_by_the_control_of_roles(tmp_path: Path) -> None:
    world = make_world(tmp_path, 2, policy="pecsched_adaptive_pool", nodes=1, per_node=3, kv_blocks=200)
    agent = Scripted(settings_of(world, agent_controls=["roles"], role_interval_s=10.0), as_reference)
    assert make(world, agent).run().digest() == experiment_of(world).make("pecsched_adaptive_pool", 0).run().digest()


def test_it_stops_at_a_time_and_goes_on(tmp_path: Path) -> None:
    world = make_world(tmp_path, 3, nodes=2, per_node=3)
    agent = Scripted(settings_of(world), as_reference)
    mine, theirs = make(world, agent), experiment_of(world).make("pecsched", 0)
    for until_s in (2.0, 2.0, 5.5, math.inf, math.inf):
        found, expected = mine.run(until_s), theirs.run(until_s)
        assert found.digest() == expected.digest()
        assert (len(found), found.facts.end_s) == (len(expected), expected.facts.end_s)


def test_what_replicas_did_is_recorded(tmp_path: Path) -> None:
    world = make_world(tmp_path, 3, nodes=2, per_node=3)
    agent = Scripted(settings_of(world), as_reference)
    found, expected = make(world, agent, True).run(), experiment_of(world).make("pecsched", 0, True).run()
    assert len(found.timeline.start_ps) > 0
    for column in ("replica", "kind", "start_ps", "end_ps", "row"):
        assert np.array_equal(getattr(found.timeline, column), getattr(expected.timeline, column))


def test_its_rules_are_its_own_and_those_of_the_evaluation_win(tmp_path: Path) -> None:
    world = make_world(tmp_path, 3, nodes=2, per_node=3)
    own = {"sp_degree": "memory", "long_order": "shortest"}
    agent = Scripted(settings_of(world, long=own), as_reference)
    cluster = make(world, agent)
    assert (cluster.rules.sp_degree, cluster.rules.long_order) == ("memory", "shortest")
    plain = replace(load_policy("pecsched"), rules=load_policy("pecsched").rules.with_changes(**own))
    assert cluster.run().digest() == experiment_of(world).make(plain, 0).run().digest()
    changed = make(world | {"long": {"sp_degree": 3}}, agent)
    assert (changed.rules.sp_degree, changed.rules.long_order) == (3, "shortest")


def test_one_that_lets_everybody_wait_ends_with_all_unfinished(tmp_path: Path) -> None:
    world = make_world(tmp_path, 3, n_requests=20)
    row = make(world, Scripted(settings_of(world), to_wait)).run().metrics()
    assert (row["n_requests"], row["n_finished"]) == (20, 0)
    assert row["starved_fraction"] == 1.0
    assert 3600 < row["makespan_s"] < 3 * 3600


def test_a_wrong_action_is_named_with_its_agent(tmp_path: Path) -> None:
    world = make_world(tmp_path, 3)
    bad = Scripted(settings_of(world), lambda agent: np.full((1, 6), 999))
    with pytest.raises(
        SpecError, match=r"agent ppo/scripted-s0: action \[999, .*\] is invalid for the decision 'place'"
    ):
        make(world, bad).run()
    for shape in ((6,), (2, 6)):
        wrong = Scripted(settings_of(world), lambda agent, shape=shape: np.zeros(shape, np.int64))
        with pytest.raises(SpecError, match=r"(?s)agent ppo/scripted-s0: .*must be whole numbers of shape \(1, 6\)"):
            make(world, wrong).run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mistral-7b"}, "settings model are of what it serves"),
        ({"episode": {"requests": 5}}, "settings episode are of what it serves"),
        ({"alow_wait": True}, "unknown key 'alow_wait'"),
        ({"policy": "tests.scripts.test_evaluate:Failing"}, "must be a compiled one"),
        ({"long": {"sp_degre": 3}}, "unknown key 'long.sp_degre'"),
    ],
)
def test_settings_that_cannot_be_an_agents_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        agent_policy("ppo/scripted", Scripted(settings, as_reference))


def test_what_is_not_for_agents_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, 3)
    agent = Scripted(settings_of(world), as_reference)
    cluster = make(world, agent)
    for way in (cluster.next_decision, lambda: cluster.apply(0), cluster.snapshot, lambda: cluster.restore(None)):
        with pytest.raises(EngineError, match="is an agent, which runs by run\\(\\) alone"):
            way()
    with pytest.raises(EngineError, match="compiled policy"):
        cluster.run_stream(iter(()), print)
    loop = ClosedLoop(Trace(np.zeros(5), np.full(5, 10), np.full(5, 10)), users=2)
    with pytest.raises(EngineError, match="not a closed loop"):
        make_cluster(policy=agent_policy("ppo/scripted", agent), workload=loop).run()


def test_without_agents_the_error_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agents.checkpoint", None)
    with pytest.raises(SpecError, match=r"policy 'ppo/x': agents are part of a checkout .* extra `train`"):
        load_policy("ppo/x")
    with pytest.raises(SpecError, match=r"choose one of fifo, .*an agent: ppo or ppo/NAME"):
        load_policy("ppa")
