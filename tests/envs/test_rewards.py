"""Every term of the reward is what the log of requests says, and none is cheaper for who refuses to serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.envs.cluster_env import ClusterEnv
from pecgym.envs.config import TERMS
from pecgym.envs.unserved import unserved_replica_s
from tests.envs.logs import charged
from tests.envs.worlds import (
    WITHOUT_ROLES,
    as_reference,
    at_random,
    first_allowed,
    make_env,
    make_world,
    play,
    random_world,
    waiting,
)

ENDS = (
    {},
    {"drain_limit_s": 2.0},
    {"end": "cut"},
    {"requests": 30, "random_start": True},
    {"requests": 30, "random_start": True, "warm_up_s": 0.7},
    {"requests": None, "duration_s": 2.0, "random_start": True, "end": "cut"},
    {"requests": None, "duration_s": 2.0, "random_start": True, "warm_up_s": 0.5},
)
WAYS = {"random": at_random, "reference": as_reference, "first": lambda env, random: first_allowed(env)}
TARGETS = {"tail_s": 0.3, "slo_ttft_s": 0.8}


def sums(steps: list[tuple[Any, ...]]) -> dict[str, float]:
    """Each term, summed over the steps of an episode."""
    return {term: sum(step[4]["reward_terms"][term] for step in steps[1:]) for term in TERMS}


def check_against_log(env: ClusterEnv, steps: list[tuple[Any, ...]], before: dict[str, float]) -> None:
    """The terms of an episode are what happened, less what was before the agent's first decision, and what a truncated
    one leaves undone."""
    found, amounts = sums(steps), charged(env.log(), env.config.reward)
    if steps[-1][3]:
        facts = env.log().facts
        gpu_s = unserved_replica_s(env._copies.cluster, env.simulator) * facts.gpus_per_replica
        amounts["energy"] += gpu_s * max(facts.prefill_w, facts.decode_w) / 3.6e6
        amounts["money"] += gpu_s * facts.price_per_gpu_hour_usd / 3600
    for term in TERMS:
        assert found[term] == pytest.approx(before[term] - amounts[term], rel=1e-9, abs=1e-7), term
    weights = env.config.reward.weights
    for _, reward, _, _, info in steps[1:]:
        assert reward == pytest.approx(np.dot(weights, [info["reward_terms"][term] for term in TERMS]), abs=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", range(len(ENDS)))
def test_the_terms_sum_up_to_the_log(way: str, end: int, tmp_path: Path) -> None:
    weights = dict(zip(TERMS, (1.0, 0.1, 3.0, 5.0, 70.0, 7.0), strict=True))
    for seed in range(3):
        settings = random_world(tmp_path, 700 + 10 * end + seed, 100, gap_s=0.2)
        if way == "reference":
            settings |= {"allow_wait": True, "long": {"sp_degree": "memory"}, "agent_controls": list(WITHOUT_ROLES)}
        settings["episode"] = {"requests": None, "random_start": False, **ENDS[end]}
        env = make_env(**settings, reward={**weights, **TARGETS})
        steps = play(env, WAYS[way], seed)
        before = dict.fromkeys(TERMS, 0.0)
        if "warm_up_s" in ENDS[end]:
            replayed = make_env(**settings, reward={**weights, **TARGETS})
            replayed.reset(seed=seed)
            before = charged(replayed.log(), env.config.reward)
        check_against_log(env, steps, before)


@pytest.mark.parametrize("tail_s", [0.0, 1e-6, 0.05, 30.0])
@pytest.mark.parametrize("slo_ttft_s", [0.0, 0.05, 30.0])
def test_targets_of_any_size(tail_s: float, slo_ttft_s: float, tmp_path: Path) -> None:
    env = make_env(**make_world(tmp_path, 5), reward={"tail_s": tail_s, "slo_ttft_s": slo_ttft_s})
    for choose in WAYS.values():
        check_against_log(env, play(env, choose), dict.fromkeys(TERMS, 0.0))


def test_energy_and_money_are_those_of_the_metrics(tmp_path: Path) -> None:
    env = make_env(**make_world(tmp_path, 8))
    found, row = sums(play(env, as_reference)), env.log().metrics()
    assert -found["energy"] == pytest.approx(row["energy_kwh"], rel=1e-9)
    assert -found["money"] == pytest.approx(row["cost_usd"], rel=1e-9)


def test_time_is_accounted_for_once(tmp_path: Path) -> None:
    """The elapsed seconds of all steps are the episode; the discount is their power."""
    env = make_env(**make_world(tmp_path, 8), reward={"discount_per_s": 0.9})
    steps = play(env, at_random)
    assert sum(step[4]["elapsed_s"] for step in steps[1:]) == pytest.approx(env.log().facts.end_s)
    for step in steps[1:]:
        assert step[4]["discount"] == pytest.approx(0.9 ** step[4]["elapsed_s"])


def test_a_reset_begins_a_new_account(tmp_path: Path) -> None:
    """Nothing that a reset returns comes from the episode before."""
    env = make_env(**make_world(tmp_path, 8))
    first = env.reset(seed=3)
    play(env, at_random)
    again = env.reset(seed=3)
    assert first[1]["reward_terms"] == again[1]["reward_terms"] == dict.fromkeys(TERMS, 0.0)
    assert first[1]["elapsed_s"] == again[1]["elapsed_s"] == 0.0


def test_an_episode_that_ends_in_its_warm_up_costs_nothing(tmp_path: Path) -> None:
    settings = make_world(tmp_path, 2, n_requests=20)
    env = make_env(**settings | {"episode": {"requests": None, "random_start": False, "warm_up_s": 1000.0}})
    _, info = env.reset(seed=0)
    assert info["decision"] == "none"
    _, reward, terminated, _, info = env.step(waiting(env))
    assert terminated
    assert reward == 0.0
    assert set(info["reward_terms"].values()) == {0.0}


@pytest.mark.parametrize("seed", range(4))
def test_to_wait_always_is_worst(seed: int, tmp_path: Path) -> None:
    """In the same windows nobody pays more than who refuses to serve, in any term, and so for all weights."""
    limits = {"requests": None, "random_start": False, "drain_limit_s": 60.0}
    settings = make_world(tmp_path, seed, n_requests=100) | {"episode": limits}
    env = make_env(**settings, reward=TARGETS, retry_s=0.5)
    worst = sums(play(env, lambda env, random: waiting(env)))
    assert env.log().metrics()["n_finished"] == 0
    for choose in WAYS.values():
        found = sums(play(env, choose))
        for term in TERMS:
            assert found[term] > worst[term], term


@pytest.mark.parametrize("term", TERMS)
def test_the_reward_of_each_term_alone_is_worst_for_waiting(term: str, tmp_path: Path) -> None:
    """By the reward itself, with one weight at a time, on random windows."""
    weights = dict.fromkeys(TERMS, 0.0) | {term: 2.0, "tail_s": 0.2, "slo_ttft_s": 0.4}
    settings = make_world(tmp_path, 4)
    settings["episode"] = {"requests": 50, "random_start": True, "drain_limit_s": 40.0}
    env = make_env(**settings, reward=weights, retry_s=0.5)
    for seed in range(3):
        returns = {
            name: sum(step[1] for step in play(env, choose, seed)[1:])
            for name, choose in {**WAYS, "wait": lambda env, random: waiting(env)}.items()
        }
        assert returns["wait"] == min(returns.values())
        assert returns["wait"] < returns["reference"]
