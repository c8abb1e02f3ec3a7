"""The search over the decisions of Replica-v0 finds what no agent beats and some agent reaches."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.reach import Reach, best_reachable_s
from pecgym import optimum
from pecgym.costs import load_profile
from pecgym.errors import SpecError

PROFILE = load_profile("infermax-llama-2-7b-a100")


def environment(inputs: list[int], outputs: list[int], capacity: int) -> gym.Env[Any, Any]:
    return gym.make(
        "pecgym/Infermax-Small-v0",
        workload={"name": "offline", "input_tokens": inputs, "output_tokens": outputs},
        episode={"requests": None, "random_start": False},
        engine={"kv_capacity_tokens": capacity},
    )


def least_s(env: gym.Env[Any, Any], info: dict[str, Any]) -> float:
    """The least makespan over all sequences of actions, by copies in mid-episode."""
    join, evict = map(np.flatnonzero, info["action_mask"])
    found = []
    for action in [[int(j), int(e)] for j in join for e in evict]:
        twin = copy.deepcopy(env)
        _, _, terminated, truncated, after = twin.step(action)
        assert not truncated
        found.append(after["now_s"] if terminated else least_s(twin, after))
    return min(found)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_least_over_all_sequences_of_actions(seed: int) -> None:
    random = np.random.default_rng(seed)
    inputs, outputs = random.integers(1, 12, 3).tolist(), random.integers(1, 4, 3).tolist()
    capacity = max(i + o - 1 for i, o in zip(inputs, outputs, strict=True)) + int(random.integers(0, 6))
    env = environment(inputs, outputs, capacity)
    _, info = env.reset(seed=0)
    best = best_reachable_s(inputs, outputs, PROFILE, capacity, 16384)
    if info["decision"] == "none":  # nothing was to be decided
        assert best == pytest.approx(env.step([8, 0])[4]["now_s"], rel=1e-12)
    else:
        assert best == pytest.approx(least_s(env, info), rel=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_no_sequence_of_actions_beats_it(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    inputs, outputs = random.integers(1, 40, 4).tolist(), random.integers(1, 9, 4).tolist()
    best = best_reachable_s(inputs, outputs, PROFILE, 60, 16384)
    env = environment(inputs, outputs, 60)
    for seed_of_actions in range(10):
        _, info = env.reset(seed=seed_of_actions)
        over = False
        while not over:
            action = [int(random.choice(np.flatnonzero(part))) for part in info["action_mask"]]
            _, _, terminated, truncated, info = env.step(action)
            over = terminated or truncated
        assert info["now_s"] >= best * (1 - 1e-12)


def test_a_search_that_is_too_large_says_so() -> None:
    with pytest.raises(SpecError, match="fewer or shorter"):
        Reach((8,) * 4, (8,) * 4, PROFILE, 40, 16384).best_s(most_states=10)


@pytest.mark.parametrize(("inputs", "outputs", "capacity"), [(8, 4, 34), (32, 4, 66), (16, 5, 60)])
def test_the_optimum_is_never_above_it(inputs: int, outputs: int, capacity: int) -> None:
    best = best_reachable_s([inputs] * 4, [outputs] * 4, PROFILE, capacity, 16384)
    found = optimum.solve([inputs] * 4, [outputs] * 4, PROFILE, kv_capacity_tokens=capacity, time_limit_s=20)
    assert found.status == "optimal"
    assert found.best_s <= best * (1 + 1e-12)


def test_what_the_environment_costs_on_a_check_value() -> None:
    """INFERMAX's four requests of 8 and 4 tokens: 24.613 ms by the optimum, which lets a resident stand idle."""
    assert best_reachable_s([8] * 4, [4] * 4, PROFILE, 34, 16384) == pytest.approx(27.2418504e-3, rel=1e-9)
