"""The environments of INFERMAX's level: the return is the makespan, and every episode is a fresh draw."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pecgym.cluster import make_cluster
from pecgym.costs import load_gpu
from pecgym.engine import load_engine
from pecgym.envs import spaces
from pecgym.workload import offline

SMALL, OFFLINE = "pecgym/Infermax-Small-v0", "pecgym/Infermax-Offline-v0"
MICRO_USD_PER_S = load_gpu("a100-80gb").price_per_hour_usd / 3600 * 1e6


def play(env: gym.Env[Any, Any], seed: int, by_reference: bool = False) -> tuple[float, Any]:
    """An episode by the engine's own rules, or by valid actions at random: its return, and its log."""
    random = np.random.default_rng(seed)
    own: Any = env.unwrapped
    _, info = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        valid = [int(random.choice(np.flatnonzero(part))) for part in info["action_mask"]]
        _, reward, terminated, truncated, info = env.step(own.reference_action() if by_reference else valid)
        assert not truncated
        total, over = total + float(reward), terminated
    return total, own.log()


@pytest.mark.parametrize(("env_id", "requests"), [(SMALL, None), (SMALL, 30), (OFFLINE, 100)])
@pytest.mark.parametrize("by_reference", [False, True])
def test_the_return_is_minus_the_makespan_times_the_price(
    env_id: str, requests: int | None, by_reference: bool
) -> None:
    episode = {} if requests is None else {"episode": {"requests": requests}}
    env = gym.make(env_id, **episode)
    for seed in range(5):
        total, log = play(env, seed, by_reference)
        assert total == pytest.approx(-MICRO_USD_PER_S * log.metrics()["makespan_s"], rel=1e-9)


def test_memory_is_short_so_that_somebody_must_go() -> None:
    for env in (gym.make(SMALL), gym.make(OFFLINE, episode={"requests": 200})):
        evicted = [play(env, seed)[1].counts["evictions"].sum() for seed in range(6)]
        assert min(evicted[:3]) >= 0
        assert np.mean(evicted) >= 0.5


def test_every_episode_is_a_draw_of_its_own_and_a_seed_is_one_of_them() -> None:
    env = gym.make(SMALL)
    lengths = []
    for seed in (0, 1, 2, 0):
        log = play(env, seed)[1]
        assert len(log) == 8
        lengths.append((*log.counts["input_tokens"].tolist(), *log.counts["output_tokens"].tolist()))
    assert len(set(lengths)) == 3
    assert lengths[0] == lengths[3]
    assert all(max(each) <= 64 and min(each) >= 1 for each in lengths)


def test_lengths_are_shown_in_the_small_one_and_hidden_in_the_other() -> None:
    names = [feature.name for feature in spaces.WAITING]
    for env, shown in ((gym.make(SMALL), True), (gym.make(OFFLINE), False)):
        observation, _ = env.reset(seed=0)
        waiting = observation["waiting"].reshape(-1, len(names))
        there = waiting[waiting[:, names.index("there")] > 0]
        assert len(there) >= 8
        assert (there[:, names.index("known")] == shown).all()
        assert ((there[:, names.index("left_tokens")] > 0) == shown).all()


@pytest.mark.parametrize("victim", ["newest", "fewest_computed"])
def test_the_engines_rules_as_an_agent_are_the_engine(victim: str) -> None:
    random = np.random.default_rng(3)
    inputs, outputs = random.integers(1, 65, 12), random.integers(1, 17, 12)
    env = gym.make(
        SMALL,
        workload={"name": "offline", "input_tokens": inputs.tolist(), "output_tokens": outputs.tolist()},
        episode={"requests": None, "random_start": False},
        engine={"victim": victim},
    )
    log = play(env, 0, by_reference=True)[1]
    limits = {"max_batch_tokens": 16384, "block_tokens": 1, "watermark": 0.0, "kv_capacity_tokens": 100}
    engine = load_engine("sarathi_no_chunk", victim=victim, **limits)
    profile = "infermax-llama-2-7b-a100"
    cluster = make_cluster(
        "llama-2-7b", "a100_x1", "round_robin", offline(inputs.tolist(), outputs.tolist()), engine, profile=profile
    )
    assert log.digest() == cluster.run().digest()
    assert log.counts["evictions"].sum() > 0
