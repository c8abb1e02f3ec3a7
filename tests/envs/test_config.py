"""What an environment is told: every wrong key or value is refused with its name and a remedy; windows are as asked."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.envs.config import EnvConfig, EpisodeConfig, RewardConfig, env_config
from pecgym.envs.options import EnvironmentConfig, EnvOptions
from pecgym.errors import PecGymError, SpecError
from pecgym.workload.splits import SPLITS
from tests.envs.worlds import as_reference, make_env, make_vector, make_world, play, waiting

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"wrong": 1}, r"unknown key 'wrong'; valid keys here: .*agent_controls"),
    ({"episode": {"wrong": 1}}, r"unknown key 'episode.wrong'; valid keys here: .*warm_up_s"),
    ({"reward": {"wrong": 1}}, r"unknown key 'reward.wrong'; valid keys here: .*tail_s"),
    ({"engine": {"wrong": 1}}, r"unknown key 'engine.wrong'"),
    ({"workload": {"wrong": 1}}, r"unknown key 'workload.wrong'"),
    ({"scenario": {"wrong": 1}}, r"unknown key 'scenario.wrong'"),
    ({"long": {"wrong": 1}}, r"unknown key 'long.wrong'"),
    ({"order": {"wrong": 1}}, r"unknown key 'order.wrong'"),
    ({"episode": {"requests": "ten"}}, r"'episode.requests'"),
    ({"n_longs": "8"}, r"'n_longs'.*number"),
    ({"episode": {"requests": 0}}, r"episode.requests=0: must be above 0, or None"),
    ({"episode": {"requests": 5, "duration_s": 3.0}}, r"give requests or duration_s"),
    ({"episode": {"split": "tests"}}, r"episode.split='tests': choose one of all, train"),
    ({"episode": {"end": "stop"}}, r"episode.end='stop': choose one of drain, cut"),
    ({"episode": {"warm_up_s": -1.0}}, r"episode.warm_up_s=-1.0: must be 0 or more"),
    ({"episode": {"drain_limit_s": 0.0}}, r"episode.drain_limit_s=0.0: must be above 0"),
    ({"episode": {"drain_limit_s": float("nan")}}, r"episode.drain_limit_s=nan"),
    ({"episode": {"requests": 10**6}}, r"has 150 requests; ask for fewer"),
    ({"episode": {"requests": None, "duration_s": 1e5}}, r"episode.duration_s=.*ask for less"),
    ({"reward": {"delay": -1.0}}, r"reward.delay=-1.0: must be 0 or more"),
    ({"reward": {"energy": float("inf")}}, r"reward.energy=inf: must be 0 or more, and finite"),
    ({"reward": {"discount_per_s": 0.0}}, r"reward.discount_per_s=0.0: must be above 0, at most 1"),
    ({"agent_controls": []}, r"agent_controls=\[\]: give one or more of placement"),
    ({"agent_controls": ["placing"]}, r"agent_controls=\['placing'\]: give one or more of placement"),
    ({"agent_controls": ["placement", "placement"]}, r"each once"),
    ({"n_longs": 0}, r"n_longs=0: must be 1 to 1024"),
    ({"retry_s": 0.0}, r"retry_s=0.0: must be above 0"),
    ({"workload_seed": -1}, r"workload_seed=-1: must be 0 or more"),
    ({"policy": "best"}, r"policy 'best' does not exist; choose one of"),
    ({"policy": "tests.envs.test_config:Actor"}, r"must be a compiled one"),
    ({"policy": "fifo", "agent_controls": ["roles"]}, r"pool_interval_s needs long.decode_replicas"),
    ({"model": "gpt"}, r"gpt"),
    ({"cluster": "moon"}, r"moon"),
    ({"preset": "Cluster-v9"}, r"preset 'Cluster-v9' does not exist; choose one of Cluster-v0"),
    ({"render_mode": "paint"}, r"render_mode='paint': choose one of human"),
]


class Actor:
    """A policy that is no compiled one."""

    def act(self, decision: Any) -> int:
        return 0


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_a_wrong_setting_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = make_world(tmp_path, 1)
    for key, value in change.items():
        base = settings.get(key)
        settings[key] = {**base, **value} if isinstance(base, dict) and isinstance(value, dict) else value
    with pytest.raises(PecGymError, match=message):
        make_env(**settings)


def test_scripts_have_a_key_for_every_setting() -> None:
    whole = EnvironmentConfig()
    whole.model.name, whole.cluster.name, whole.order.lengths = "llama-3.1-8b", "p4de_x4", "predicted"
    options = {f.name for f in fields(EnvOptions)} - {"id"}
    assert {f.name for f in fields(EnvConfig)} == {*whole.keywords()} | options
    assert env_config({}, **whole.keywords()).order.lengths == "predicted"


def test_objects_names_and_mappings_mean_the_same(tmp_path: Path) -> None:
    settings = make_world(tmp_path, 1)
    a = make_env(**settings, reward={"tail": 2.0})
    b = make_env(
        **settings | {"episode": EpisodeConfig(requests=None, random_start=False)}, reward=RewardConfig(tail=2.0)
    )
    assert a.config == b.config
    assert make_env(**settings | {"engine": "sarathi"}).config.engine.name == "sarathi"
    assert make_env(**settings | {"model": {"name": "mistral-7b"}}).config.model == "mistral-7b"


@pytest.mark.parametrize("split", SPLITS)
def test_windows_lie_within_their_split(split: str, tmp_path: Path) -> None:
    settings = make_world(tmp_path, 1, n_requests=100)
    low, high = (round(100 * share) for share in SPLITS[split])
    env = make_env(**settings | {"episode": {"requests": 10, "split": split}})
    starts = set()
    for seed in range(120):
        env.reset(seed=seed)
        first = int(env.simulator.state.cluster[0].row_offset)
        assert low <= first <= high - 10
        assert env.simulator.state.cluster[0].n_rows == 10
        starts.add(first)
    assert {low, high - 10} <= starts or split in ("all", "train")
    whole = make_env(**settings | {"episode": {"requests": None, "random_start": False, "split": split}})
    whole.reset(seed=0)
    assert whole.simulator.state.cluster[0].n_rows == high - low


def test_an_episode_of_seconds_holds_what_arrives_in_them(tmp_path: Path) -> None:
    settings = make_world(tmp_path, 1)
    settings["episode"] = {"requests": None, "duration_s": 1.5, "end": "cut"}
    env = make_env(**settings)
    arrival_s = env.config.workload.load(0).arrival_s
    for seed in range(10):
        steps = play(env, as_reference, seed)
        start_s = env._copies.arrays.copies.start_ps[0] / 1e12
        rows = np.flatnonzero((arrival_s >= start_s) & (arrival_s < start_s + 1.5))
        assert env.log().counts["row"].tolist() == rows.tolist()
        assert steps[-1][2] != steps[-1][3]
        assert steps[-1][4]["now_s"] <= start_s + 1.5 + 1e-9
        if steps[-1][3]:
            assert steps[-1][4]["now_s"] == pytest.approx(start_s + 1.5)


def test_the_longest_limits_are_possible(tmp_path: Path) -> None:
    """The engine's own horizon ends an episode at last."""
    settings = make_world(tmp_path, 1, n_requests=10)
    settings["episode"] = {"requests": None, "random_start": True, "drain_limit_s": 4e6}
    assert play(make_env(**settings), as_reference)[-1][2] is True


def test_first_request_chooses_the_window(tmp_path: Path) -> None:
    settings = make_world(tmp_path, 1, n_requests=100)
    env = make_env(**settings | {"episode": {"requests": 10, "split": "test"}})
    env.reset(seed=0, options={"first_request": 85})
    assert env.simulator.state.cluster[0].row_offset == 85
    for first in (79, 100, -1):
        with pytest.raises(SpecError, match=rf"first_request={first}: the split test has 80 to 99"):
            env.reset(options={"first_request": first})
    with pytest.raises(SpecError, match=r"unknown option first; there is first_request"):
        env.reset(options={"first": 3})


def test_a_drain_limit_truncates(tmp_path: Path) -> None:
    """At the limit after the last arrival, and not before; the same in a vector."""
    settings = make_world(tmp_path, 1, n_requests=30)
    settings["episode"] = {"requests": None, "random_start": False, "drain_limit_s": 7.0}
    env = make_env(**settings)
    steps = play(env, lambda env, random: waiting(env))
    assert steps[-1][2:4] == (False, True)
    assert steps[-1][4]["now_s"] == pytest.approx(env.config.workload.load(0).arrival_s[-1] + 7.0)
    vector = make_vector(2, **settings)
    vector.reset(seed=0)
    actions = np.tile(waiting(env), (2, 1))
    while not (found := vector.step(actions))[3].any():
        pass
    assert found[3].tolist() == [True, True]
    assert found[4]["now_s"].tolist() == [steps[-1][4]["now_s"]] * 2


@pytest.mark.parametrize("role_interval_s", [0.4, 3.0])
def test_the_clock_never_goes_back(role_interval_s: float, tmp_path: Path) -> None:
    """Who waits long after the last event is asked again and again, also about the roles, and can go on."""
    settings = make_world(
        tmp_path, 3, n_requests=20, agent_controls=["placement", "start", "roles"], role_interval_s=role_interval_s
    )
    env = make_env(**settings)
    _, info = env.reset(seed=0)
    now_s, kinds = 0.0, []
    for step in range(600):
        assert info["now_s"] >= now_s
        now_s = info["now_s"]
        kinds.append(info["decision"])
        if info["decision"] == "none":
            break
        _, _, terminated, _, info = env.step(waiting(env) if step < 200 else env.reference_action())
    assert {"place", "roles"} <= set(kinds[100:200])
    assert terminated
