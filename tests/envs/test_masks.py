"""Masks say exactly what may be done: against plain rules over the state, and against the engine itself."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.engine.state import NONE, OPEN, POOL
from pecgym.envs.core import KINDS
from pecgym.errors import EngineError, SpecError
from pecgym.policies.view import group, placement
from tests.envs.rules import Rules, as_mask
from tests.envs.worlds import (
    WITHOUT_ROLES,
    assert_equal,
    at_random,
    first_allowed,
    make_env,
    make_vector,
    make_world,
    random_world,
    sample,
    split,
    waiting,
)


def engine_takes(simulator: Any, action: int) -> bool:
    """Whether the engine does not refuse the action, tried on a copy."""
    trial = copy.deepcopy(simulator)
    trial._decision_due = True
    try:
        trial.apply(action)
        trial._advance(trial.now_s, 0)
    except EngineError:
        return False
    return True


def check_by_engine(rules: Rules, kind: str, allowed: list[list[int]], random: np.random.Generator) -> None:
    """The engine takes combinations of what is allowed, and refuses targets, longs and degrees that are not."""
    simulator, n = rules.simulator, rules.n
    if kind == "place" and "placement" in rules.controls:
        pool = [r for r in range(n) if rules.classes[r] == POOL]
        for r in range(n):
            preempts = 1 in allowed[1] and bool(random.integers(2))
            decode = pool[0] if pool and 1 in allowed[2] and random.integers(2) else NONE
            assert engine_takes(simulator, placement(r, decode, preempts)) == (r in allowed[0])
    if kind == "start" and "start" in rules.controls:
        longs = rules.longs()
        anchors = [r for r in allowed[0] if r < n]
        choices = list(itertools.product(anchors, allowed[3], allowed[4], allowed[5])) if anchors else []
        for i in random.permutation(len(choices))[:6]:
            anchor, index, option, strategy = choices[i]
            fewest = rules.fewest(longs[index])
            degree = max(rules.options[option], fewest, rules.degree_rule if option == 0 else 0)
            assert engine_takes(simulator, group(anchor, degree, strategy, index))
        for r in set(range(n)) - set(rules.able):
            # Where replicas are reserved for longs the others are not theirs, although the engine could.
            if anchors and rules.classes[r] != OPEN:
                assert not engine_takes(simulator, group(r, rules.fewest(longs[allowed[3][0]]), 0, allowed[3][0]))
        shown = rules.config.n_longs if "order" in rules.controls else 1
        for index in set(range(min(len(longs), shown))) - set(allowed[3] if anchors else []):
            fewest = max(rules.fewest(longs[index]), 1 if "sp_degree" in rules.controls else rules.degree_rule)
            for r in rules.able:
                assert not engine_takes(simulator, group(r, fewest, 0, index))


def check_masks(settings: dict[str, Any], seed: int, n: int, decisions: int, tried: int) -> int:
    """Plays at random in n copies, and checks the masks of all decisions, `tried` of them by the engine; how many
    were checked: fewer than `decisions` where the agent's controls leave it next to nothing to decide."""
    random = np.random.default_rng(seed)
    env = make_vector(n, **settings)
    sizes = env.single_action_space.nvec
    _, info = env.reset(seed=seed)
    policy, simulators = env._copies.policy, env._copies.simulators
    for i in range(n):
        env._begin(i, {"first_request": int(random.integers(len(env._copies.cluster.trace) // 2))})
    info = env._infos()
    checked = steps = 0
    while checked < decisions and steps < 5 * decisions // n:
        steps += 1
        for i in range(n):
            kind = KINDS[int(info["decision"][i])]
            if kind == "none":
                assert split(info["action_mask"][i], sizes)[0].tolist() == [0] * (sizes[0] - 1) + [1]
                assert info["action_mask"][i].sum() == len(sizes)
                continue
            rules = Rules(simulators[i], env.config, policy)
            allowed = rules.allowed(kind)
            assert info["action_mask"][i].tolist() == as_mask(allowed, sizes), (kind, rules.classes, allowed)
            assert not env.config.skip_forced or np.prod([len(values) for values in allowed]) > 1
            if checked % max(1, decisions // tried) == 0:
                check_by_engine(rules, kind, allowed, random)
            checked += 1
        _, _, _, _, info = env.step(sample(info["action_mask"], sizes, random))
        assert not info["invalid_actions"].any()
    return checked


@pytest.mark.parametrize("part", range(8))
def test_masks_are_exact_on_random_clusters(part: int, tmp_path: Path) -> None:
    checked = 0
    for seed in range(part * 8, part * 8 + 8):
        checked += check_masks(random_world(tmp_path, seed), seed, 16, 1800, 8)
    assert checked >= 12_500  # of 1e5 in all parts


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_masks_are_exact_on_many_random_clusters(part: int, tmp_path: Path) -> None:
    for seed in range(1000 + part * 20, 1020 + part * 20):
        check_masks(random_world(tmp_path, seed, 400), seed, 16, 3000, 50)


@pytest.mark.parametrize("seed", range(6))
def test_forced_decisions_are_skipped_when_there_is_one_action(seed: int, tmp_path: Path) -> None:
    """With and without skipping, the decisions with a choice are the same ones, at the same times and states."""
    settings = random_world(tmp_path, seed, 60)
    skips = make_env(**settings | {"skip_forced": True})
    asks = make_env(**settings | {"skip_forced": False})
    random = np.random.default_rng(seed)
    observation, info = skips.reset(seed=seed)
    other, other_info = asks.reset(seed=seed)
    done = False
    while not done:
        while other_info["decision"] != "none" and asks.action_masks().sum() == len(asks.action_space.nvec):
            other, _, _, _, other_info = asks.step(first_allowed(asks))
        for key in ("decision", "now_s", "action_mask"):
            assert_equal(info[key], other_info[key], key)
        for part in ("replicas", "request", "waiting_longs"):
            assert_equal(observation[part], other[part], part)
        done = info["decision"] == "none"
        if not done:
            action = at_random(skips, random)
            observation, _, _, _, info = skips.step(action)
            other, _, _, _, other_info = asks.step(action)
    assert skips.log().digest() == asks.log().digest()


@pytest.mark.parametrize("seed", range(10))
def test_an_invalid_action_is_to_wait_and_is_counted(seed: int, tmp_path: Path) -> None:
    env = make_env(**random_world(tmp_path, seed, 100) | {"agent_controls": list(WITHOUT_ROLES), "skip_forced": True})
    random = np.random.default_rng(seed)
    _, info = env.reset(seed=seed)
    counted = 0
    for _ in range(200):
        if info["decision"] == "none":
            break
        action = at_random(env, random)
        target = split(env.action_masks(), env.action_space.nvec)[0]
        forbidden = [*np.flatnonzero(~target), -1, len(target)]
        if random.random() < 0.3:
            action[0] = random.choice(forbidden)
            counted += 1
            other = copy.deepcopy(env)
            other._copies.arrays.mask[0, len(target) - 1] = 1  # the engine lets wait where the settings do not
            expected = other.step(waiting(other))
            found = env.step(action)
            assert found[4]["invalid_actions"] == counted
            expected[4]["invalid_actions"] += 1
            assert_equal(found, expected)
            info = found[4]
        else:
            info = env.step(action)[4]
            assert info["invalid_actions"] == counted
    assert counted > 0


@pytest.mark.parametrize("component", range(6))
def test_each_component_that_is_read_must_be_allowed(component: int, tmp_path: Path) -> None:
    """A forbidden value of a component counts as invalid if the decision reads it, else it means nothing."""
    seen = set()
    for seed in range(8):
        env = make_env(**make_world(tmp_path, seed, nodes=2, per_node=3))
        random = np.random.default_rng(seed)
        env.reset(seed=seed)
        while env._kind[0] >= 0 and env._copies.arrays.copies.decisions[0] < 150:
            kind = KINDS[int(env._kind[0])]
            reads = component in ({0, 1, 2} if kind == "place" else {0, 3, 4, 5})
            mask = split(env.action_masks(), env.action_space.nvec)
            forbidden = [*np.flatnonzero(~mask[component]), len(mask[component])]
            action = at_random(env, random)
            if component > 0 and mask[0][:-1].any():
                action[0] = np.flatnonzero(mask[0])[0]  # who waits is not read any further
            if component == 0 or action[0] < len(mask[0]) - 1:
                action[component] = random.choice(forbidden)
                before = int(env._invalid[0])
                env.step(action)
                assert (int(env._invalid[0]) > before) == reads
                seen.add((kind, reads))
            else:
                env.step(action)
    assert len({kind for kind, _ in seen}) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_strict_environment_raises_and_changes_nothing(seed: int, tmp_path: Path) -> None:
    settings = make_world(tmp_path, seed, policy="pecsched", strict=True)
    env, random = make_env(**settings), np.random.default_rng(seed)
    env.reset(seed=seed)
    for _ in range(60):
        mask = split(env.action_masks(), env.action_space.nvec)
        forbidden = [(c, int(v)) for c in (0, 3) for v in np.flatnonzero(~mask[c])] if env._kind[0] == 1 else []
        forbidden += [(0, int(v)) for v in np.flatnonzero(~mask[0])] + [(0, -1), (0, 99)]
        untouched = copy.deepcopy(env)
        action = at_random(env, random)
        wrong = action.copy()
        wrong[0] = 0 if mask[0][0] else action[0]
        component, value = forbidden[random.integers(len(forbidden))]
        if component == 3:
            wrong[0] = np.flatnonzero(mask[0])[0]
        wrong[component] = value
        with pytest.raises(SpecError, match=r"action \[.*\] is invalid for the decision '(place|start)'.*mask"):
            env.step(wrong)
        found = env.step(action)
        assert_equal(found, untouched.step(action))
        if found[2] or found[3]:
            break


def test_a_strict_vector_changes_nothing_in_any_copy(tmp_path: Path) -> None:
    env = make_vector(4, **make_world(tmp_path, 3, strict=True))
    random = np.random.default_rng(0)
    _, info = env.reset(seed=0)
    for _ in range(20):
        actions = sample(info["action_mask"], env.single_action_space.nvec, random)
        wrong = actions.copy()
        wrong[2, 0] = 99
        untouched = copy.deepcopy(env)
        with pytest.raises(SpecError, match="copy 2"):
            env.step(wrong)
        found = env.step(actions)
        assert_equal(found, untouched.step(actions))
        info = found[4]


def test_a_refused_copy_does_not_spoil_the_reset_of_another(tmp_path: Path) -> None:
    env = make_vector(2, **make_world(tmp_path, 3, strict=True, n_requests=4), autoreset_mode="Disabled")
    env.reset(seed=0)
    wrong = np.full((2, 6), 99)
    with pytest.raises(SpecError):
        env.step(wrong)
    env.reset(seed=0, options={"reset_mask": np.array([False, True])})
    with pytest.raises(SpecError):
        env.step(wrong)


def test_one_replica_without_choices_plays_by_itself(tmp_path: Path) -> None:
    """One replica, and no waiting: every decision is forced, and an episode is one step."""
    settings = make_world(tmp_path, nodes=1, per_node=1, policy="fifo", allow_wait=False, agent_controls=["placement"])
    env = make_env(**settings | {"workload": {**settings["workload"], "only_shorts": True}})
    _, info = env.reset(seed=0)
    assert info["decision"] == "none"
    _, _, terminated, truncated, info = env.step(env.action_space.sample())
    assert (terminated, truncated) == (True, False)
    assert info["invalid_actions"] == 0


def test_the_reference_action_is_allowed(tmp_path: Path) -> None:
    for seed in range(10):
        env = make_env(**random_world(tmp_path, 300 + seed, 100) | {"allow_wait": True})
        env.reset(seed=seed)
        done = env._kind[0] < 0
        while not done:
            action = env.reference_action()
            mask = split(env.action_masks(), env.action_space.nvec)
            assert all(part[value] for part, value in zip(mask, action, strict=True))
            _, _, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
