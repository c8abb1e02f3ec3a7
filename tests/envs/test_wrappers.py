"""The wrappers of pecgym, and those of Gymnasium around its environments."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import (
    FlattenObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    RecordVideo,
    TimeLimit,
)
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorStatistics
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import pecgym  # noqa: F401  registers the ids
from pecgym.envs.spaces import REPLICA, WAITING_LONG
from pecgym.errors import SpecError
from pecgym.wrappers import FlatActions, MaskInObservation, Tables
from tests.envs.worlds import assert_equal, make_env, make_world, random_world, split

READ = {"place": (0, 1, 2), "start": (0, 3, 4, 5), "roles": (0,)}
CONTROL_OF = ("", "preemption", "disaggregation", "order", "sp_degree", "sp_strategy")
TARGET_CONTROL = {"place": "placement", "start": "start", "roles": "roles"}


def small(folder: Path, **changes: Any) -> dict[str, Any]:
    """A cluster of 4 replicas with 40 requests."""
    return make_world(folder, 3, n_requests=40, **changes)


def chosen_at_random(env: FlatActions, random: np.random.Generator) -> int:
    return int(random.choice(np.flatnonzero(env.action_masks())))


def is_allowed(env: FlatActions, flat: int, mask: list[Any], decision: str) -> bool:
    """By the mask of the environment, component by component, of those that the decision reads."""
    action, n_replicas = env.from_flat(flat), len(mask[0]) - 1
    if flat == 0:
        return bool(mask[0][n_replicas])
    controls = env.unwrapped.config.agent_controls  # type: ignore[attr-defined]
    try:
        same = env.to_flat(action, decision) == flat
    except SpecError:
        return False
    allowed = [mask[0][:n_replicas].any()]
    for component in READ[decision]:
        if (TARGET_CONTROL[decision] if component == 0 else CONTROL_OF[component]) in controls:
            allowed.append(mask[component][action[component]] == 1)
    return same and all(allowed)


@pytest.mark.parametrize("seed", range(12))
def test_flat_masks_are_exact(seed: int, tmp_path: Path) -> None:
    """Against the mask of the environment, and against the environment itself, which refuses all others."""
    random = np.random.default_rng(seed)
    base = make_env(**random_world(tmp_path, seed, 80) | {"strict": True})
    env = FlatActions(base)
    _, info = env.reset(seed=seed)
    for _ in range(150):
        decision = info["decision"]
        mask = split(base.action_masks(), base.action_space.nvec)
        picked = random.integers(env.action_space.n, size=40)
        for flat in map(int, picked):
            assert env.action_masks()[flat] == is_allowed(env, flat, mask, decision), (decision, flat)
        assert info["action_mask"].dtype == np.int8
        assert info["action_mask"].tolist() == env.action_masks().tolist()
        # Where the reference policy chooses to wait, nothing of an action is read, and nothing of it is wrong.
        reads_nothing = mask[0][-1] == 1 and TARGET_CONTROL[decision] not in base.config.agent_controls
        refused = [] if reads_nothing else [int(flat) for flat in picked if not env.action_masks()[flat]]
        for flat in refused[:3]:
            with pytest.raises(SpecError, match="is invalid for the decision"):
                env.step(flat)
        _, _, terminated, truncated, info = env.step(chosen_at_random(env, random))
        if terminated or truncated:
            assert info["action_mask"].sum() == 1
            _, info = env.reset()


def test_flat_actions_set_roles(tmp_path: Path) -> None:
    """To wait, or a number of decode replicas: all are valid, and do what the same target does."""
    settings = small(tmp_path, agent_controls=("roles",), role_interval_s=0.2, strict=True)
    env, plain = FlatActions(make_env(**settings)), make_env(**settings)
    assert env.action_space.n == 4
    _, info = env.reset(seed=0)
    plain.reset(seed=0)
    for flat, target in ((1, 1), (3, 3), (2, 2), (0, 4), (1, 1)):
        assert info["decision"] == "roles"
        assert info["action_mask"].tolist() == [1, 1, 1, 1]
        observation, reward, _, _, info = env.step(flat)
        assert_equal((observation, reward), plain.step([target, 0, 0, 0, 0, 0])[:2])


@pytest.mark.parametrize("seed", range(20))
def test_numbers_of_flat_actions(seed: int, tmp_path: Path) -> None:
    """Every number has its own components, and these have that number; all values of a controlled one are there."""
    base = make_env(**random_world(tmp_path, seed, 30))
    env = FlatActions(base)
    controls, sizes = base.config.agent_controls, base.action_space.nvec
    env.reset(seed=0)
    seen = {0}
    for decision, read in READ.items():
        needed = [TARGET_CONTROL[decision] if c == 0 else CONTROL_OF[c] for c in read]
        if not set(needed) & set(controls):
            with pytest.raises(SpecError, match="is none of"):
                env.to_flat([0] * 6, decision)
            continue
        ranges = [
            range(sizes[c] - (c == 0)) if control in controls else [0] for c, control in zip(read, needed, strict=True)
        ]
        if decision == "roles":
            ranges = [range(1, sizes[0] - 1)]
        for values in np.array(np.meshgrid(*ranges, indexing="ij")).reshape(len(read), -1).T:
            action = np.zeros(6, np.int64)
            action[list(read)] = values
            flat = env.to_flat(action, decision)
            assert env.from_flat(flat).tolist() == action.tolist()
            assert flat not in seen
            seen.add(flat)
    assert seen == set(range(env.action_space.n))
    assert env.from_flat(0)[0] == sizes[0] - 1


def test_flat_actions_that_cannot_be(tmp_path: Path) -> None:
    env = FlatActions(make_env(**small(tmp_path)))
    env.reset(seed=0)
    with pytest.raises(SpecError, match=f"there are 0 to {env.action_space.n - 1}"):
        env.step(env.action_space.n)
    with pytest.raises(SpecError, match="sp_strategy=4 cannot be"):
        env.to_flat([0, 0, 0, 0, 0, 4], "start")
    with pytest.raises(SpecError, match="is not Cluster-v0"):
        FlatActions(gym.make("CartPole-v1"))
    with pytest.raises(SpecError, match=r"4 x 8 x 4 x 4\) are more than largest=500: reduce n_longs"):
        FlatActions(make_env(**small(tmp_path)), largest=500)


def test_reference_policy_through_flat_actions(tmp_path: Path) -> None:
    """Its episode is the same by number as by components, masks, rewards and observations alike."""
    base, env = make_env(**small(tmp_path)), FlatActions(make_env(**small(tmp_path)))
    (expected, _), (observation, _) = base.reset(seed=1), env.reset(seed=1)
    done = False
    while not done:
        assert_equal(observation, expected)
        expected, reward, terminated, truncated, _ = base.step(base.reference_action())
        observation, *rest = env.step(env.reference_action())
        assert rest[:3] == [reward, terminated, truncated]
        done = terminated or truncated
    log, expected_log = env.unwrapped.log(), base.log()  # type: ignore[attr-defined]
    assert_equal((log.ps, log.counts), (expected_log.ps, expected_log.counts))


def test_invalid_flat_actions_are_counted(tmp_path: Path) -> None:
    """Also the number of a start where a short is to be placed, whose components would place it."""
    env = FlatActions(make_env(**small(tmp_path)))
    _, info = env.reset(seed=0)
    while info["decision"] != "place":
        _, _, _, _, info = env.step(0)
    start = env.to_flat([0] * 6, "start")
    assert env.from_flat(start).tolist() == env.from_flat(env.to_flat([0] * 6, "place")).tolist()
    before = info["invalid_actions"]
    _, _, _, _, info = env.step(start)
    assert info["invalid_actions"] == before + 1


def test_tables(tmp_path: Path) -> None:
    base, env = make_env(**small(tmp_path)), Tables(make_env(**small(tmp_path)))
    (flat, _), (tables, _) = base.reset(seed=0), env.reset(seed=0)
    assert tables["replicas"].shape == (4, len(REPLICA))
    assert tables["waiting_longs"].shape == (8, len(WAITING_LONG))
    assert env.observation_space.contains(tables)
    open_now = [state.place_class == 0 for state in base.simulator.state.replicas]
    assert tables["replicas"][:, 0].tolist() == open_now
    for name, table in tables.items():
        assert table.reshape(-1).tolist() == flat[name].tolist()
    with pytest.raises(SpecError, match="has no tables"):
        Tables(gym.make("CartPole-v1"))


def test_mask_in_observation(tmp_path: Path) -> None:
    for view in (lambda env: env, FlatActions):
        env = MaskInObservation(view(make_env(**small(tmp_path))))
        observation, info = env.reset(seed=0)
        random = np.random.default_rng(0)
        for _ in range(50):
            mask = info["action_mask"]
            expected = np.concatenate(mask) if isinstance(mask, tuple) else mask
            assert observation["action_mask"].dtype == np.int8
            assert observation["action_mask"].tolist() == expected.tolist()
            assert env.observation_space.contains(observation)
            parts = env.unwrapped._observation()  # type: ignore[attr-defined]
            in_order = [parts[name] for name in env.unwrapped.observation_space]  # type: ignore[attr-defined]
            assert observation["observations"].tolist() == np.concatenate(in_order).tolist()
            sizes = [len(part) for part in mask] if isinstance(mask, tuple) else [len(mask)]
            picks = [int(random.choice(np.flatnonzero(part))) for part in split(expected, sizes)]
            observation, _, terminated, truncated, info = env.step(picks if len(picks) > 1 else picks[0])
            if terminated or truncated:
                observation, info = env.reset()
    with pytest.raises(SpecError, match="no action_masks"):
        MaskInObservation(gym.make("CartPole-v1"))


VIEWS = {
    "flat": FlatActions,
    "tables": Tables,
    "mask": MaskInObservation,
    "both": lambda env: MaskInObservation(FlatActions(env)),
}


@pytest.mark.filterwarnings("error", "ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("view", VIEWS)
def test_wrapped_environments_are_valid(view: str, tmp_path: Path) -> None:
    env = VIEWS[view](gym.make("pecgym/Cluster-v0", **small(tmp_path), disable_env_checker=True))
    check_env(env, skip_render_check=True, skip_close_check=True)
    if view != "tables":  # of which stable-baselines3 says that two dimensions are no image
        sb3_check_env(env)


def test_wrapped_environments_are_made_again_and_copied(tmp_path: Path) -> None:
    env = MaskInObservation(FlatActions(gym.make("pecgym/Cluster-v0", **small(tmp_path)), largest=3000))
    again = gym.make(env.spec)
    assert again.action_space == env.action_space
    env.reset(seed=0)
    for _ in range(5):
        env.step(int(np.flatnonzero(env.get_wrapper_attr("action_masks")())[0]))
    twin = copy.deepcopy(env)
    for _ in range(10):
        flat = int(np.flatnonzero(env.get_wrapper_attr("action_masks")())[-1])
        assert_equal(env.step(flat), twin.step(flat))


# -- wrappers of Gymnasium ------------------------------------------------------------------------------------------


def play_first_allowed(env: gym.Env[Any, Any], seed: int | None) -> tuple[list[Any], list[float], dict[str, Any]]:
    """An episode by the first value that is valid of every component: observations, rewards, the last info."""
    observation, info = env.reset(seed=seed)
    observations, rewards = [observation], []
    done = False
    while not done:
        action = [int(np.argmax(part)) for part in info["action_mask"]]
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        rewards.append(float(reward))
        done = terminated or truncated
    return observations, rewards, info


def test_statistics_time_limit_and_normalized_rewards(tmp_path: Path) -> None:
    base = gym.make("pecgym/Cluster-v0", **small(tmp_path))
    _, rewards, _ = play_first_allowed(base, 4)
    _, _, info = play_first_allowed(RecordEpisodeStatistics(base), 4)
    assert info["episode"]["l"] == len(rewards)
    assert info["episode"]["r"] == pytest.approx(sum(rewards))
    _, cut, _ = play_first_allowed(TimeLimit(base, 7), 4)
    assert cut == rewards[:7]
    _, normalized, _ = play_first_allowed(NormalizeReward(base), 4)
    assert np.isfinite(normalized).all()
    assert (np.sign(normalized) == np.sign(rewards)).all()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_statistics_of_the_native_vector(mode: AutoresetMode, tmp_path: Path) -> None:
    """Of three episodes of each copy, returns and lengths are those of a single environment."""
    settings = small(tmp_path, episode={"requests": 12, "random_start": True})
    single = gym.make("pecgym/Cluster-v0", **settings)
    expected = []
    for i in range(2):
        episodes = [play_first_allowed(single, 9 + i if k == 0 else None)[1] for k in range(3)]
        expected.append([(len(rewards), pytest.approx(sum(rewards))) for rewards in episodes])
    copies = gym.make_vec("pecgym/Cluster-v0", 2, "vector_entry_point", autoreset_mode=mode, **settings)
    env = RecordVectorStatistics(copies)
    sizes = copies.single_action_space.nvec  # type: ignore[attr-defined]
    _, infos = env.reset(seed=9)
    found: list[list[Any]] = [[], []]
    while min(map(len, found)) < 3:
        actions = np.stack(
            [part.argmax(axis=1) for part in np.split(infos["action_mask"], np.cumsum(sizes)[:-1], 1)], 1
        )
        _, _, terminated, truncated, infos = env.step(actions)
        over = terminated | truncated
        for i in np.flatnonzero(over):
            found[i].append((infos["episode"]["l"][i], infos["episode"]["r"][i]))
        if mode is AutoresetMode.DISABLED and over.any():
            _, infos = env.reset(options={"reset_mask": over})
    assert [episodes[:3] for episodes in found] == expected


def test_flattened_observations(tmp_path: Path) -> None:
    env = FlattenObservation(gym.make("pecgym/Cluster-v0", **small(tmp_path)))
    plain = gym.make("pecgym/Cluster-v0", **small(tmp_path))
    flattened, _, _ = play_first_allowed(env, 2)
    observations, _, _ = play_first_allowed(plain, 2)
    names = list(plain.observation_space)  # type: ignore[call-overload]
    assert env.observation_space.shape == (sum(len(observations[0][name]) for name in names),)
    for flat, parts in zip(flattened, observations, strict=True):
        assert flat.tolist() == np.concatenate([parts[name] for name in names]).tolist()


def test_masks_are_found_through_wrappers(tmp_path: Path) -> None:
    """As sb3-contrib looks for them."""
    base = gym.make("pecgym/Cluster-v0", **small(tmp_path))
    env = RecordEpisodeStatistics(FlattenObservation(NormalizeReward(base)))
    _, info = env.reset(seed=0)
    assert env.get_wrapper_attr("action_masks")().tolist() == np.concatenate(info["action_mask"]).tolist()
    flat = RecordEpisodeStatistics(FlatActions(base))
    _, info = flat.reset(seed=0)
    assert flat.get_wrapper_attr("action_masks")().tolist() == info["action_mask"].tolist()


def test_episodes_are_recorded_as_videos(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    settings = small(tmp_path, render_mode="rgb_array", render_size=(480, 320))
    env = RecordVideo(gym.make("pecgym/Cluster-v0", **settings), str(tmp_path / "video"), disable_logger=True)
    _, rewards, _ = play_first_allowed(env, 0)
    env.close()
    (video,) = (tmp_path / "video").glob("*.mp4")
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    assert len(rewards) + 1 <= frames <= len(rewards) + 2  # one for each; moviepy 1 rounds the duration up
    images = imageio_ffmpeg.read_frames(str(video))
    assert next(images)["size"] == (480, 320)
    first, *_, last = images
    assert first != last
