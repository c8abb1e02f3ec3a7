"""Copies and pickles of an environment go on as it does, and environments have nothing to do with one another."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.envs.worlds import assert_equal, at_random, make_env, make_vector, make_world, random_world, sample

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_in_mid_episode_goes_on_identically(way: str, tmp_path: Path) -> None:
    """Also through the next reset, whose window the environment's own random numbers choose."""
    for seed in range(4):
        settings = random_world(tmp_path, 900 + seed) | {"episode": {"requests": 40, "random_start": True}}
        env, random = make_env(**settings), np.random.default_rng(seed)
        env.reset(seed=seed)
        for _ in range(25):
            if any(env.step(at_random(env, random))[2:4]):
                env.reset()
        other = WAYS[way](env)
        for _ in range(150):
            action = at_random(env, random)
            found, expected = env.step(action), other.step(action)
            assert_equal(found, expected)
            if found[2] or found[3]:
                assert_equal(env.reset(), other.reset())
        assert env.log().digest() == other.log().digest()


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_vector_goes_on_identically(way: str, tmp_path: Path) -> None:
    settings = make_world(tmp_path, 2) | {"episode": {"requests": 20, "random_start": True}}
    env, random = make_vector(5, **settings, autoreset_mode="SameStep"), np.random.default_rng(0)
    _, infos = env.reset(seed=3)
    for _ in range(40):
        infos = env.step(sample(infos["action_mask"], env.single_action_space.nvec, random))[4]
    other = WAYS[way](env)
    for _ in range(100):
        actions = sample(infos["action_mask"], env.single_action_space.nvec, random)
        found, expected = env.step(actions), other.step(actions)
        assert_equal(found[:4], expected[:4])
        infos = found[4]
        assert_equal(without_objects(infos), without_objects(expected[4]))


def without_objects(infos: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in infos.items() if key != "final_obs"}


def test_two_environments_are_independent(tmp_path: Path) -> None:
    """Two that take turns do what each does alone; so do two copies that were made of the same one."""
    settings = make_world(tmp_path, 6)

    def alone(seed: int) -> list[Any]:
        env, random = make_env(**settings), np.random.default_rng(seed)
        return [env.reset(seed=seed), *(env.step(at_random(env, random)) for _ in range(60))]

    expected = [alone(1), alone(2)]
    envs, randoms = [make_env(**settings) for _ in range(2)], [np.random.default_rng(seed) for seed in (1, 2)]
    for i, env in enumerate(envs):
        assert_equal(env.reset(seed=i + 1), expected[i][0])
    for step in range(60):
        for i, env in enumerate(envs):
            assert_equal(env.step(at_random(env, randoms[i])), expected[i][step + 1])


def test_what_was_returned_does_not_change_later(tmp_path: Path) -> None:
    env, random = make_env(**make_world(tmp_path, 6)), np.random.default_rng(0)
    returned = [env.reset(seed=0)]
    kept = copy.deepcopy(returned)
    for _ in range(30):
        returned.append(env.step(at_random(env, random)))
        kept.append(copy.deepcopy(returned[-1]))
    assert_equal(returned, kept)
    vector = make_vector(2, **make_world(tmp_path, 6))
    first = vector.reset(seed=0)
    same = copy.deepcopy(first)
    vector.step(vector.action_space.sample())
    assert_equal(first, same)


def test_a_reset_in_mid_episode_begins_anew(tmp_path: Path) -> None:
    """As if the environment were new, whatever it has seen: larger tables, changed roles, invalid actions."""
    for seed in range(4):
        settings = random_world(tmp_path, 950 + seed)
        used, fresh, random = make_env(**settings), make_env(**settings), np.random.default_rng(seed)
        used.reset(seed=99)
        for _ in range(80):
            if any(used.step(used.action_space.sample())[2:4]):
                break
        assert_equal(used.reset(seed=seed), fresh.reset(seed=seed))
        for _ in range(80):
            action = at_random(fresh, random)
            found = used.step(action)
            assert_equal(found, fresh.step(action))
            if found[2] or found[3]:
                break


def test_close_twice(tmp_path: Path) -> None:
    env = make_env(**make_world(tmp_path, 6))
    env.reset(seed=0)
    env.close()
    env.close()
