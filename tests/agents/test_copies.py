"""The copies of a mixed vector environment behave as those of its parts do alone; rewards are divided as documented."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from agents.copies import MixedVecEnv, TimeNormalize, training_copies
from pecgym.envs.sb3 import SB3VecEnv
from pecgym.errors import SpecError
from tests.agents.runs import small

ID = "pecgym/Cluster-v0"
SETTINGS: dict[str, Any] = {
    "workload": {"name": "azure2023_conv", "duration_s": 300.0, "long_context": "paper"},
    "episode": {"requests": 20, "split": "train"},
    "reward": {"discount_per_s": 0.9},
}


def mixed() -> MixedVecEnv:
    parts = {f"hour {hour}": {**SETTINGS, "workload_seed": hour} for hour in (0, 3)}
    return MixedVecEnv({name: SB3VecEnv(ID, 2, **settings) for name, settings in parts.items()})


def first_allowed(copies: Any) -> Any:
    masks = np.stack(copies.env_method("action_masks"))
    ends = np.cumsum(copies.action_space.nvec)[:-1]
    return np.stack([part.argmax(axis=1) for part in np.split(masks, ends, axis=1)], axis=1)


def test_each_part_steps_as_it_does_alone() -> None:
    copies = mixed()
    seeds = copies.seed(5)
    alone = [SB3VecEnv(ID, 2, workload_seed=hour, **SETTINGS) for hour in (0, 3)]
    for k, part in enumerate(alone):
        part._seeds = seeds[2 * k : 2 * k + 2]
    shown, theirs = copies.reset(), [part.reset() for part in alone]
    ended = 0
    for _ in range(200):
        for name, array in shown.items():
            assert np.array_equal(array, np.concatenate([of[name] for of in theirs]))
        actions = first_allowed(copies)
        assert np.array_equal(actions, np.concatenate([first_allowed(part) for part in alone]))
        shown, rewards, dones, infos = copies.step(actions)
        stepped = [part.step(actions[2 * k : 2 * k + 2]) for k, part in enumerate(alone)]
        theirs = [each[0] for each in stepped]
        assert np.array_equal(rewards, np.concatenate([each[1] for each in stepped]))
        assert np.array_equal(dones, np.concatenate([each[2] for each in stepped]))
        discounts = np.concatenate([part.last_infos["discount"] for part in alone])
        assert np.array_equal(copies.discounts[~dones], discounts[~dones])
        for i in np.flatnonzero(dones):
            assert copies.discounts[i] == infos[i]["discount"]
        ended += int(dones.sum())
    assert ended >= 4
    assert len(copies.episode_returns) == ended
    assert copies.seconds > 0


def test_copies_are_asked_by_their_number() -> None:
    copies = mixed()
    copies.seed(0)
    copies.reset()
    masks = copies.env_method("action_masks")
    assert len(masks) == 4
    assert np.array_equal(copies.env_method("action_masks", indices=[3, 0]), [masks[3], masks[0]])
    assert len(copies.env_method("reference_action", indices=2)) == 1
    assert [config.workload_seed for config in copies.get_attr("config")] == [0, 0, 3, 3]


def test_other_seeds_are_other_windows_and_equal_seeds_the_same() -> None:
    first, again, other = (mixed().seed(seed) for seed in (0, 0, 1))
    assert first == again
    assert not set(first) & set(other)


def test_a_pickle_in_mid_episode_goes_on_alike() -> None:
    copies = mixed()
    copies.seed(1)
    copies.reset()
    for _ in range(30):
        copies.step(first_allowed(copies))
    twin = pickle.loads(pickle.dumps(copies))
    for _ in range(60):
        ours, theirs = copies.step(first_allowed(copies)), twin.step(first_allowed(twin))
        assert all(np.array_equal(ours[0][name], theirs[0][name]) for name in ours[0])
        assert np.array_equal(ours[1], theirs[1])
    assert copies.episode_returns == twin.episode_returns


def test_rewards_are_divided_by_the_deviation_of_returns_discounted_by_decision_and_second() -> None:
    copies = mixed()
    normalized = TimeNormalize(copies, gamma=0.97)
    normalized.seed(2)
    normalized.reset()
    returns, seen = np.zeros(4), []
    for _ in range(150):
        _, rewards, dones, _ = normalized.step(first_allowed(copies))
        raw = normalized.get_original_reward()
        returns = returns * 0.97 * copies.discounts + raw
        seen.append(returns.copy())
        returns[dones] = 0.0
        if len(seen) > 20:
            deviation = np.concatenate(seen).std()
            assert rewards == pytest.approx(np.clip(raw / deviation, -10, 10), rel=1e-3, abs=1e-6)
    assert copies.discounts.min() < 1


def test_parts_with_other_shapes_are_refused() -> None:
    parts = {"8": SB3VecEnv(ID, 1, **SETTINGS), "32": SB3VecEnv(ID, 1, model="mistral-7b", **SETTINGS)}
    with pytest.raises(SpecError, match="32: its actions or observations"):
        MixedVecEnv(parts)


def test_hours_and_mix_become_parts() -> None:
    values = small("mix=[{scenario: {load: 0.5}}, {scenario: {load: 0.8}, long: {backfill: true}}]")
    parts = values.parts()
    assert next(iter(parts)) == "hour 0, scenario.load=0.5"
    assert [part["scenario"]["load"] for part in parts.values()] == [0.5, 0.5, 0.8, 0.8]
    assert [part["workload_seed"] for part in parts.values()] == [0, 1, 0, 1]
    assert all(part["episode"]["split"] == "train" for part in parts.values())
    assert training_copies(values.env.id, parts, 4).num_envs == 4


def test_training_copies_are_spread_over_an_episode_and_go_on_from_there() -> None:
    copies = training_copies(ID, {"hour 0": SETTINGS}, 8)
    copies.seed(1)
    shown = copies.reset()
    ages_s = np.array([log.facts.end_s for log in copies.env_method("log")])
    assert len(set(ages_s.tolist())) > 4
    assert (copies.last_infos["now_s"] > 0).any()
    for name, array in shown.items():
        assert np.array_equal(array, copies.parts[0].native._observations()[name])

    again = training_copies(ID, {"hour 0": SETTINGS}, 8)
    again.seed(1)
    assert all(np.array_equal(array, shown[name]) for name, array in again.reset().items())
