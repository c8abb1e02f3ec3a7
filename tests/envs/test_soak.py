"""Agents that act at random for long: what must hold of the engine holds after every moment, and memory stays flat."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pecgym.engine import Simulator
from pecgym.engine.state import DECISION, DONE, NONE, PAUSED, POOL, WAIT
from pecgym.envs.config import CONTROLS, EnvConfig
from pecgym.policies import Policy, load_policy
from pecgym.policies.view import group, placement
from tests.engine.cases import Case
from tests.engine.group_checker import GroupChecker
from tests.engine.long_cases import cases_with_longs
from tests.envs.rules import Rules
from tests.envs.worlds import POLICIES, make_vector, make_world, sample

KINDS = ("place", "start", "roles")


class AgentChecker(GroupChecker):
    """Checks a simulator whose decisions come from outside, so that anybody may wait although somewhere is room."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        simulator, policy = self.simulator, load_policy(case.policy)
        fresh = Simulator(
            case.n_replicas,
            case.profile,
            case.settings,
            load=policy.load,
            global_order=policy.global_order,
            rules=case.rules,
            topology=case.topology,
            group_costs=case.group_costs,
            record=True,
        )
        workload: Any = case.workload
        if hasattr(workload, "lengths"):
            fresh.load_closed_loop(workload)
        else:
            fresh.load_trace(workload)
        assert len(fresh.state.replicas) == len(simulator.state.replicas)
        self.simulator, self.policy = fresh, policy

    def check_work_conservation(self) -> None:
        """An agent need not conserve work."""


def any_action(rules: Rules, kind: str, policy: Policy, random: np.random.Generator) -> int:
    """The engine's action for a random one that an environment with all controls would allow."""
    target, mode, decode, index, option, strategy = (int(random.choice(values)) for values in rules.allowed(kind))
    if target == rules.n:
        return WAIT
    if kind == "roles":
        return target
    if kind == "place":
        pool = [r for r in range(rules.n) if rules.classes[r] == POOL]
        chosen = int(random.choice(pool)) if decode else NONE
        return placement(target, chosen, mode == 1 and rules.classes[target] != 0)
    fewest = rules.fewest(rules.longs()[index])
    degree = max(rules.options[option], fewest, rules.degree_rule if option == 0 else 0)
    return group(target, degree, strategy, index)


def check_agent(case: Case, seed: int, most_points: int) -> None:
    """Steps one moment after another; from the 200th on nobody waits who could be served."""
    checker, random = AgentChecker(case), np.random.default_rng(seed)
    simulator = checker.simulator
    config = EnvConfig(agent_controls=CONTROLS, n_longs=4)
    serving = EnvConfig(agent_controls=CONTROLS, n_longs=4, allow_wait=False)
    budget = 1
    for point in range(most_points):
        status = simulator._advance(math.inf, budget)
        budget = 1
        if status == DECISION:
            kind = KINDS[int(simulator.state.cluster[0].asked)]
            rules = Rules(simulator, config if random.random() < 0.3 and point < 200 else serving, checker.policy)
            simulator.state.cluster[0].action = any_action(rules, kind, checker.policy, random)
            budget = 0
        elif status == PAUSED:
            checker.check()
        else:
            break
    if status == DONE and simulator.state.cluster[0].n_live == 0:
        checker.check_end()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=15, policies=list(POLICIES)), st.integers(0, 2**32))
def test_invariants_hold_whatever_an_agent_does(case: Case, seed: int) -> None:
    check_agent(case, seed, 300)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases_with_longs(max_requests=40, policies=list(POLICIES)), st.integers(0, 2**32))
def test_invariants_hold_whatever_many_agents_do(case: Case, seed: int) -> None:
    check_agent(case, seed, 1000)


def resident_mib() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_million_random_decisions_in_flat_memory(tmp_path: Path) -> None:
    world = make_world(tmp_path, 4, n_requests=3000, nodes=2, per_node=4)
    world["episode"] = {"requests": 200, "drain_limit_s": 60.0}
    env, random = make_vector(64, **world), np.random.default_rng(0)
    _, infos = env.reset(seed=0)
    decisions, seen = 0, []
    while decisions < 1_000_000:
        actions = sample(infos["action_mask"], env.single_action_space.nvec, random)
        decisions += int((infos["decision"] >= 0).sum())
        _, rewards, _, _, infos = env.step(actions)
        assert not infos["invalid_actions"].any()
        assert np.all(rewards <= 0)
        if len(seen) < decisions // 100_000:
            seen.append(resident_mib())
    assert max(seen[2:]) - min(seen[2:]) < 8
