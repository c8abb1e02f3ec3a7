"""Many copies are as many environments: the same seeds give the same episodes, in every autoreset mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from pecgym.envs.config import TERMS
from pecgym.envs.core import KINDS
from pecgym.errors import EngineError, SpecError
from tests.conftest import REPOSITORY
from tests.envs.worlds import assert_equal, make_env, make_vector, make_world, sample

N = 3
EPISODE = {"requests": 25, "random_start": True, "drain_limit_s": 3.0}


def settings_of(folder: Path, **changes: Any) -> dict[str, Any]:
    return make_world(folder, 12, nodes=1, per_node=3) | {"episode": EPISODE} | changes


def of_copy(info: dict[str, Any], i: int, sizes: Any) -> dict[str, Any]:
    """The info of one copy as a single environment gives it."""
    ends = np.cumsum(sizes)
    single = {key: info[key][i].item() for key in ("now_s", "elapsed_s", "discount", "invalid_actions")}
    single["action_mask"] = tuple(info["action_mask"][i][e - s : e] for s, e in zip(sizes, ends, strict=True))
    single["decision"] = KINDS[int(info["decision"][i])]
    single["reward_terms"] = {term: info["reward_terms"][term][i].item() for term in TERMS}
    return single


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("most_steps", [None, 17])
def test_equals_gymnasiums_vector_of_single_environments(
    mode: AutoresetMode, most_steps: int | None, tmp_path: Path
) -> None:
    """Observations, rewards, ends and infos, also the last ones of an episode, through several resets."""
    settings, random = (
        settings_of(tmp_path, reward={"tail": 1.0, "tail_s": 0.2, "discount_per_s": 0.9}),
        np.random.default_rng(1),
    )

    def one() -> gym.Env[Any, Any]:
        env = make_env(**settings)
        return env if most_steps is None else TimeLimit(env, most_steps)

    singles = SyncVectorEnv([one] * N, autoreset_mode=mode)
    native = make_vector(N, **settings, autoreset_mode=mode, max_episode_steps=most_steps)
    assert native.metadata["autoreset_mode"] is mode
    sizes = native.single_action_space.nvec
    (observations, infos), (expected, expected_infos) = native.reset(seed=5), singles.reset(seed=5)
    ends = {"terminated": 0, "truncated": 0}
    for _ in range(250):
        assert_equal(observations, expected)
        for i in range(N):
            assert_equal(of_copy(infos, i, sizes), single_info(expected_infos, i))
        actions = sample(infos["action_mask"], sizes, random)
        found, wanted = native.step(actions), singles.step(actions)
        assert_equal(found[:4], wanted[:4])
        observations, _, terminated, truncated, infos = found
        expected, expected_infos = wanted[0], wanted[4]
        ends["terminated"] += int(terminated.sum())
        ends["truncated"] += int(truncated.sum())
        done = terminated | truncated
        assert (
            ("final_obs" in infos)
            == ("final_obs" in expected_infos)
            == (mode is AutoresetMode.SAME_STEP and done.any())
        )
        if "final_obs" in infos:
            check_last(infos, expected_infos, done, sizes)
        if mode is AutoresetMode.DISABLED and done.any():
            for i in np.flatnonzero(done):
                assert_equal(of_copy(infos, i, sizes), single_info(expected_infos, i))
            observations, infos = native.reset(options={"reset_mask": done})
            expected, reset_infos = singles.reset(options={"reset_mask": done.copy()})
            for i in np.flatnonzero(done):
                assert_equal(of_copy(infos, i, sizes), single_info(reset_infos, i))
            merge(expected_infos, reset_infos, done)
    assert sum(ends.values()) >= 5
    assert most_steps is None or ends["truncated"] > 0


def single_info(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """What SyncVectorEnv has of one environment's info."""
    keys = ("now_s", "elapsed_s", "discount", "invalid_actions")
    assert all(infos[f"_{key}"][i] for key in keys)
    found = {key: infos[key][i].item() for key in keys} | {key: infos[key][i] for key in ("action_mask", "decision")}
    return found | {"reward_terms": {term: infos["reward_terms"][term][i].item() for term in TERMS}}


def merge(infos: dict[str, Any], newer: dict[str, Any], where: Any) -> None:
    for key, value in newer.items():
        if isinstance(value, dict):
            merge(infos[key], value, where)
        else:
            infos[key][where] = value[where]


def check_last(infos: dict[str, Any], expected: dict[str, Any], done: Any, sizes: Any) -> None:
    """The last observation and info of each copy that ended, and of no other."""
    for key in ("_final_obs", "_final_info"):
        assert infos[key].tolist() == expected[key].tolist() == done.tolist()
    for i in range(len(done)):
        assert_equal(infos["final_obs"][i], expected["final_obs"][i])
        if done[i]:
            assert_equal(of_copy(infos["final_info"], i, sizes), single_info(expected["final_info"], i))


def test_a_copy_equals_an_environment_with_its_seed(tmp_path: Path) -> None:
    """Copy i of seed 40 is the environment of seed 40 + i, over several episodes of each."""
    settings, random = settings_of(tmp_path), np.random.default_rng(0)
    native = make_vector(N, **settings, autoreset_mode=AutoresetMode.SAME_STEP)
    singles = [make_env(**settings) for _ in range(N)]
    observations, infos = native.reset(seed=40)
    for i, env in enumerate(singles):
        observation, _ = env.reset(seed=40 + i)
        assert_equal({name: part[i] for name, part in observations.items()}, observation)
    episodes = 0
    for _ in range(200):
        actions = sample(infos["action_mask"], native.single_action_space.nvec, random)
        observations, rewards, terminated, truncated, infos = native.step(actions)
        for i, env in enumerate(singles):
            observation, reward, *ends, _ = env.step(actions[i])
            assert (rewards[i], terminated[i], truncated[i]) == (reward, *ends)
            if any(ends):
                observation, _ = env.reset()
                episodes += 1
            assert_equal({name: part[i] for name, part in observations.items()}, observation)
            assert native.log(i).digest() == env.log().digest()
    assert episodes > 3


SCRIPT = """
import sys
import hashlib
import numpy as np
sys.path.insert(0, ".")
from tests.envs.worlds import make_vector, sample
settings = eval(sys.argv[1])
env, random, digest = make_vector(2, **settings), np.random.default_rng(0), hashlib.sha256()
observations, infos = env.reset(seed=9)
for _ in range(100):
    digest.update(b"".join(part.tobytes() for part in observations.values()))
    observations, rewards, terminated, truncated, infos = env.step(
        sample(infos["action_mask"], env.single_action_space.nvec, random)
    )
    digest.update(rewards.tobytes() + terminated.tobytes() + infos["action_mask"].tobytes() + infos["now_s"].tobytes())
print(digest.hexdigest())
"""


def run_episode(settings: dict[str, Any], **environment: str) -> str:
    import os

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, repr(settings)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_another_process_and_plain_python_do_the_same(tmp_path: Path) -> None:
    """The same seed gives the same bytes in two processes, with compiled code and, twice as slow per line, without."""
    settings = settings_of(tmp_path)
    compiled = run_episode(settings)
    assert compiled == run_episode(settings, PYTHONHASHSEED="7")
    assert compiled == run_episode(settings, NUMBA_DISABLE_JIT="1")


def test_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    env = make_vector(2, **settings)
    with pytest.raises(EngineError, match=r"no episode.*reset"):
        env.step(env.action_space.sample())
    for options in ({"reset_mask": [True]}, {"reset_mask": np.zeros(2, bool)}, {"reset_mask": np.ones(2)}):
        with pytest.raises(SpecError, match=r"reset_mask must be bool\[2\]"):
            env.reset(options=options)
    with pytest.raises(SpecError, match="3 seeds for 2 copies"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(SpecError, match="unknown option wrong"):
        env.reset(options={"wrong": 1})
    with pytest.raises(SpecError, match="render_mode"):
        make_vector(2, **settings, render_mode="rgb_array")
    with pytest.raises(SpecError, match="num_envs=0"):
        make_vector(0, **settings)
    disabled = make_vector(1, **settings | {"episode": {**EPISODE, "requests": 1}}, autoreset_mode="Disabled")
    disabled.reset(seed=0)
    while not np.any(disabled.step(disabled.action_space.sample())[2:4]):
        pass
    with pytest.raises(EngineError, match=r"copies \[0\] have no episode"):
        disabled.step(disabled.action_space.sample())


def test_seeds_may_be_given_for_each_copy(tmp_path: Path) -> None:
    env = make_vector(3, **settings_of(tmp_path))
    observations, _ = env.reset(seed=[7, None, 7])
    assert_equal(observations["replicas"][0], observations["replicas"][2])
    assert_equal(observations["request"][0], observations["request"][2])


def test_gymnasiums_vector_wrappers_work(tmp_path: Path) -> None:
    env = DictInfoToList(RecordEpisodeStatistics(make_vector(2, **settings_of(tmp_path), max_episode_steps=20)))
    env.reset(seed=0)
    episodes = []
    for _ in range(60):
        _, _, _, _, infos = env.step(env.action_space.sample())
        episodes += [info["episode"] for info in infos if "episode" in info]
    assert len(episodes) >= 4
    assert all(episode["l"] <= 20 for episode in episodes)


def test_make_vec_gives_the_native_environment(tmp_path: Path) -> None:
    env = gym.make_vec(
        "pecgym/Cluster-v0", num_envs=4, vectorization_mode="vector_entry_point", **settings_of(tmp_path)
    )
    assert type(env.unwrapped).__name__ == "ClusterVectorEnv"
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    env.close()
    env.close()
