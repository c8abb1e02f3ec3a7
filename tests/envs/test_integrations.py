"""Libraries that train agents over the environments: the adapter of stable-baselines3, and every example, run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

import pecgym  # noqa: F401  registers the ids
from pecgym.envs.sb3 import SB3VecEnv
from pecgym.errors import SpecError
from tests.conftest import REPOSITORY
from tests.envs.worlds import assert_equal, make_world, sample

N = 4


def world(folder: Path, **changes: Any) -> dict[str, Any]:
    """Episodes of some 20 requests at random places of 120, some of which are cut off."""
    episode = {"requests": 20, "random_start": True, "drain_limit_s": 30.0}
    return make_world(folder, 5, nodes=1, per_node=3, n_requests=120) | {"episode": episode} | changes


def example(name: str) -> ModuleType:
    """The module of examples/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", REPOSITORY / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- SB3VecEnv ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("invalid_actions", [False, True])
def test_sb3_copies_equal_dummy_vec_env(invalid_actions: bool, tmp_path: Path) -> None:
    """Observations, rewards, dones, masks, and of ended episodes the last observations, infos and how they ended."""
    settings, random = world(tmp_path), np.random.default_rng(2)
    native = SB3VecEnv("Cluster-v0", N, **settings, max_episode_steps=32)
    dummy = DummyVecEnv([lambda: gym.make("pecgym/Cluster-v0", **settings, max_episode_steps=32)] * N)
    assert (native.observation_space, native.action_space) == (dummy.observation_space, dummy.action_space)
    assert native.seed(7) == dummy.seed(7)
    assert_equal(dict(native.reset()), dict(dummy.reset()))
    sizes = dummy.action_space.nvec  # type: ignore[attr-defined]
    ends = []
    for step in range(600):
        masks = get_action_masks(dummy)
        assert get_action_masks(native).tolist() == masks.tolist()
        actions = sample(np.ones_like(masks) if invalid_actions and step % 3 == 0 else masks, sizes, random)
        observations, rewards, dones, infos = native.step(actions)
        expected, expected_rewards, expected_dones, expected_infos = dummy.step(actions)
        assert_equal(dict(observations), dict(expected))
        assert rewards.dtype == expected_rewards.dtype
        assert rewards.tolist() == expected_rewards.tolist()
        assert dones.tolist() == expected_dones.tolist()
        for done, info, single in zip(dones, infos, expected_infos, strict=True):
            assert bool(info) == done
            if done:
                assert info.keys() == single.keys()
                assert_equal(info["terminal_observation"], single["terminal_observation"])
                for key in ("TimeLimit.truncated", "reward_terms", "now_s", "elapsed_s", "discount", "invalid_actions"):
                    assert info[key] == single[key], key
                ends.append(info["TimeLimit.truncated"])
        for info, single in zip(native.reset_infos, dummy.reset_infos, strict=True):
            assert info.keys() == single.keys()
            assert info["now_s"] == single["now_s"] or not dones.any()
        assert native.last_infos["invalid_actions"].tolist() == [
            0 if done else single["invalid_actions"] for done, single in zip(dones, expected_infos, strict=True)
        ]
    assert len(ends) > 10
    assert set(ends) == {False, True}


def test_sb3_copies_take_seeds_and_options_once(tmp_path: Path) -> None:
    native = SB3VecEnv("pecgym/Cluster-v0", N, **world(tmp_path))
    dummy = DummyVecEnv([lambda: gym.make("pecgym/Cluster-v0", **world(tmp_path))] * N)
    for copies in (native, dummy):
        copies.seed(3)
        copies.set_options([{"first_request": 10 * i} for i in range(N)])
    for _ in range(3):  # the first with seeds and options
        assert_equal(dict(native.reset()), dict(dummy.reset()))


def test_sb3_copies_can_be_asked(tmp_path: Path) -> None:
    copies = SB3VecEnv("Cluster-v0", N, **world(tmp_path))
    copies.reset()
    assert is_masking_supported(VecNormalize(VecMonitor(copies), norm_obs=False))
    masks = copies.native.action_masks()
    assert [mask.tolist() for mask in copies.env_method("action_masks", indices=[2, 0])] == masks[[2, 0]].tolist()
    assert [mask().tolist() for mask in copies.get_attr("action_masks", 1)] == [masks[1].tolist()]
    references = copies.env_method("reference_action")
    assert [action.tolist() for action in references] == [copies.native.reference_action(i).tolist() for i in range(N)]
    assert [len(log) for log in copies.env_method("log")] == [len(copies.native.log(i)) for i in range(N)]
    assert copies.get_attr("config", [0, 1]) == [copies.native.config] * 2
    assert copies.env_is_wrapped(gym.Wrapper) == [False] * N
    for call in (lambda: copies.env_method("render"), lambda: copies.get_attr("step"), lambda: copies.get_attr("x")):
        with pytest.raises(AttributeError):
            call()
    with pytest.raises(SpecError, match="fixed"):
        copies.set_attr("config", None)
    copies.close()


def test_sb3_copies_of_ids_that_cannot_be() -> None:
    with pytest.raises(gym.error.NameNotFound):
        SB3VecEnv("Custer-v0", 2)
    with pytest.raises(SpecError, match="use DummyVecEnv"):
        SB3VecEnv("CartPole-v1", 2)


# -- examples -------------------------------------------------------------------------------------------------------

SHORT = ["--requests", "40"]


def test_sb3_ppo_trains() -> None:
    returns = example("sb3_ppo").main([*SHORT, "--n-envs", "8", "--n-steps", "64", "--total-timesteps", "1024"])
    assert np.isfinite(returns).all()


def test_maskable_ppo_trains() -> None:
    returns = example("maskable_ppo").main([*SHORT, "--n-envs", "8", "--n-steps", "64", "--total-timesteps", "1024"])
    assert np.isfinite(returns).all()


def test_cleanrl_ppo_learns() -> None:
    """It leaves less than half of the reward that valid actions at random lose against the reference policy: where
    shorts go, and whether they preempt."""
    arguments = ["--controls", "placement", "preemption", "--long-weight", "0"]
    arguments += ["--requests", "100", "--total-timesteps", "49152"]
    at_random, trained, reference = example("cleanrl_ppo").main(arguments)
    assert at_random < reference
    assert trained > (at_random + reference) / 2


def test_rllib_ppo_trains() -> None:
    pytest.importorskip("ray", reason="needs the extra rllib")
    returns = example("rllib_ppo").main([*SHORT, "--iterations", "2", "--batch-size", "512", "--envs-per-runner", "4"])
    assert np.isfinite(returns).all()


def test_torchrl_ppo_trains() -> None:
    pytest.importorskip("torchrl", reason="needs the extra torchrl")
    returns = example("torchrl_ppo").main([*SHORT, "--total-timesteps", "1000", "--batch-size", "500"])
    assert len(returns) == 2
    assert np.isfinite(returns).all()
