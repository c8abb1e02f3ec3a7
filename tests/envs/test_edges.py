"""At the edges: no decision, a copy that is not there, actions of the wrong form, windows without requests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import pecgym  # noqa: F401 - registers the environments
from pecgym.errors import EngineError, PecGymError, SpecError

NO_LONGS: dict[str, Any] = {"workload": "azure2023_conv", "episode": {"requests": 5}}


def cluster(**settings: Any) -> Any:
    return gym.make("pecgym/Cluster-v0", **settings)


def vector(n: int = 2, **settings: Any) -> Any:
    return gym.make_vec("pecgym/Cluster-v0", n, vectorization_mode="vector_entry_point", **settings)


@pytest.mark.parametrize("i", [2, -1])
def test_a_copy_that_is_not_there_is_refused(i: int) -> None:
    envs = vector()
    envs.reset(seed=0)
    for ask in (envs.unwrapped.reference_action, envs.unwrapped.log):
        with pytest.raises(EngineError, match="there are 0 to 1"):
            ask(i)


def test_where_nothing_is_to_be_decided_the_reference_does_what_is_allowed() -> None:
    env = cluster(agent_controls=["order"], **NO_LONGS)
    _, info = env.reset(seed=0)
    assert info["decision"] == "none"
    action = env.unwrapped.reference_action()
    assert [int(part[k]) for part, k in zip(info["action_mask"], action, strict=True)] == [1] * 6
    assert env.step(action)[2]


def test_a_copy_without_an_episode_has_no_decision() -> None:
    envs = vector(autoreset_mode="Disabled")
    with pytest.raises(EngineError, match="no decision is due in copy 0"):
        envs.unwrapped.reference_action(0)


@pytest.mark.parametrize("action", [3, [3], [1.7, 0, 0, 0, 0, 0], None, [0] * 7, [[0] * 6]])
def test_an_action_of_another_form_is_refused(action: Any) -> None:
    env = cluster(**NO_LONGS)
    env.reset(seed=0)
    with pytest.raises(SpecError, match=r"whole numbers of shape \(6,\)"):
        env.step(action)


def test_one_action_for_all_copies_is_refused() -> None:
    envs = vector(**NO_LONGS)
    envs.reset(seed=0)
    with pytest.raises(SpecError, match=r"shape \(2, 6\)"):
        envs.step(np.zeros(6, np.int64))


def test_a_window_of_seconds_begins_with_the_request_that_was_asked_for() -> None:
    env = cluster(scenario="native", workload="azure2023_conv", episode={"requests": None, "duration_s": 2.0})
    for first in (0, 7):
        env.reset(seed=0, options={"first_request": first})
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.unwrapped.reference_action())
            done = terminated or truncated
        assert env.unwrapped.log().counts["row"][0] == first
        assert env.unwrapped.log().ps["arrival"][0] == (0 if first else env.unwrapped.log().ps["arrival"][0])


def test_an_empty_window_is_refused() -> None:
    env = cluster(episode={"requests": None, "duration_s": 1e-3, "random_start": False})
    with pytest.raises(SpecError, match="no request arrives so soon"):
        env.reset(seed=0)


def test_a_warm_up_longer_than_the_window_is_refused() -> None:
    with pytest.raises(PecGymError, match="must be below duration_s"):
        cluster(episode={"requests": None, "duration_s": 10.0, "warm_up_s": 10.0})


def test_what_is_cut_in_its_warm_up_is_not_charged() -> None:
    env = cluster(workload="azure2023_conv", episode={"requests": 5, "warm_up_s": 1e5, "end": "cut"})
    env.reset(seed=0)
    _, reward, _, truncated, info = env.step([8, 0, 0, 0, 0, 0])
    assert truncated
    assert reward == 0
    assert set(info["reward_terms"].values()) == {0.0}


def test_the_number_of_decisions_can_be_limited_and_the_rest_is_charged() -> None:
    episode = {"requests": 50, "max_decisions": 7}
    env = cluster(workload="azure2023_conv", episode=episode)
    env.reset(seed=0)
    steps = 0
    truncated = False
    while not truncated:
        _, _, terminated, truncated, info = env.step([8, 0, 0, 0, 0, 0])
        assert not terminated
        steps += 1
    assert steps == 7
    assert info["reward_terms"]["energy"] < 0
    assert info["decision"] == "none"


def test_reserved_replicas_can_be_the_agents() -> None:
    env = cluster(policy="reservation", agent_controls=["roles"])
    _, info = env.reset(seed=0)
    assert info["decision"] == "roles"
    before = np.count_nonzero(env.unwrapped.simulator.state.replicas.role)
    env.step([1, 0, 0, 0, 0, 0])
    assert 1 <= np.count_nonzero(env.unwrapped.simulator.state.replicas.role) < before, "those without a long leave"


def test_a_refusal_names_the_copy_whose_action_is_invalid() -> None:
    envs = vector(strict=True, workload="azure2023_conv", agent_controls=["placement"])
    _, infos = envs.reset(seed=0)
    good = [int(infos["action_mask"][0, :9].argmax()), 0, 0, 0, 0, 0]
    bad = [9, 0, 0, 0, 0, 0]
    for actions, culprit in (([bad, good], 0), ([good, bad], 1)):
        with pytest.raises(SpecError, match=f"of copy {culprit}"):
            envs.step(np.array(actions))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reward": "tail"}, "give a mapping of some of delay"),
        ({"agent_controls": "placement"}, "give a list"),
        ({"cluster": {"name": "p4de_x1", "gpus": 3}}, "give a name"),
        ({"long": {"pool_interval_s": 5.0}, "agent_controls": ["roles"]}, "role_interval_s"),
    ],
)
def test_a_group_of_another_kind_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        cluster(**settings)
