"""A policy that is played through the environment does what it does in the engine: the same log, event for event."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pecgym.analysis.request_log import COUNT_COLUMNS, TIME_COLUMNS
from pecgym.errors import EngineError
from tests.conftest import REPOSITORY
from tests.envs.worlds import POLICIES, as_reference, at_random, make_env, make_world, play, random_world

WHOLE = {"requests": None, "random_start": False, "drain_limit_s": 1e6}


def check_same(settings: dict[str, Any]) -> int:
    """Plays the reference through the environment; how many decisions the agent had."""
    env = make_env(**settings)
    steps = play(env, as_reference)
    assert steps[-1][2] is True
    assert steps[-1][4]["invalid_actions"] == 0
    experiment, config = env.config.experiment(), env.config
    assert env.log().digest() == experiment.make(env._copies.policy, config.workload_seed).run().digest()
    return len(steps) - 1


@pytest.mark.parametrize(
    ("model", "policy"),
    [
        ("mistral-7b", "pecsched"),
        ("phi-3-14b", "pecsched"),
        ("yi-34b", "pecsched"),
        ("llama-3.1-70b", "pecsched"),
        ("llama-3.1-70b", "pecsched/PE"),
        ("llama-3.1-70b", "pecsched/Dis"),
        ("mistral-7b", "pecsched/CoL"),
        ("llama-3.1-70b", "pecsched/FSP"),
        ("phi-3-14b", "pecsched_shortest_long"),
        ("llama-3.1-70b", "pecsched_fewest"),
        ("llama-3.1-70b", "fifo"),
        ("llama-3.1-70b", "reservation"),
        ("llama-3.1-70b", "priority"),
    ],
)
def test_a_policy_in_the_environment_is_the_policy_in_the_engine(model: str, policy: str) -> None:
    """On four minutes of the Azure-like workload with the paper's longs."""
    decisions = check_same(
        {
            "model": model,
            "policy": policy,
            "workload": {"name": "azure2023_conv+azure2023_code", "long_context": "paper", "stop_s": 240.0},
            "scenario": {"name": "native"},
            "workload_seed": 3,
            "episode": WHOLE,
        }
    )
    assert decisions > 1000


@pytest.mark.parametrize("seed", range(30))
def test_with_any_controls_while_the_reference_decides_the_rest(seed: int, tmp_path: Path) -> None:
    """Random subsets of the controls, with and without forced decisions, on random clusters."""
    settings = random_world(tmp_path, 500 + seed) | {"allow_wait": True}
    if settings["policy"] == "priority":
        settings["long"] = {"sp_degree": "memory"}  # whole nodes are to priority those without shorts, not so to agents
    check_same(settings)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_with_all_controls(policy: str, tmp_path: Path) -> None:
    settings = make_world(tmp_path, 7, policy=policy, nodes=3, per_node=3)
    assert check_same(settings) > 100
    assert check_same(settings | {"skip_forced": False}) > 100


def test_the_adaptive_pool_by_its_own_control(tmp_path: Path) -> None:
    """Also where the policy wants more decode replicas than there can be."""
    for seed in range(6):
        settings = make_world(
            tmp_path, seed, policy="pecsched_adaptive_pool", nodes=1, per_node=3, role_interval_s=0.3, kv_blocks=200
        )
        assert check_same(settings | {"agent_controls": ["roles"]}) > 3


def test_equals_what_evaluate_writes(tmp_path: Path) -> None:
    workload = {"name": "azure2023_conv+azure2023_code", "long_context": "paper", "stop_s": 120.0}
    arguments = ["policies=[pecsched]", "seeds=[2]", "scenario=native", "workload=azure2023"]
    arguments += ["workload.long_context=paper", "workload.stop_s=120"]
    done = subprocess.run(
        [sys.executable, "scripts/evaluate.py", *arguments, f"out={tmp_path}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    env = make_env(workload=workload, scenario={"name": "native"}, workload_seed=2, episode=WHOLE)
    play(env, as_reference)
    written, found = pq.read_table(tmp_path / "requests.parquet"), env.log().to_table()
    for name in (*COUNT_COLUMNS, *(f"{event}_s" for event in TIME_COLUMNS), "is_long"):
        assert np.array_equal(written[name].to_numpy(), found[name].to_numpy(), equal_nan=name.endswith("_s")), name


def test_a_window_is_the_slice_of_the_workload(tmp_path: Path) -> None:
    """An episode that begins at request 40 serves what a run of requests 40 to 99 alone serves."""
    settings = make_world(tmp_path, 11)
    env = make_env(**settings | {"episode": {"requests": 60, "random_start": True}})
    play(env, as_reference, options={"first_request": 40})
    log = env.log()
    assert log.counts["row"].tolist() == list(range(40, 100))
    config = env.config
    trace = config.workload.load(0).slice(40, 100)
    alone = config.experiment().with_trace("pecsched", trace, 0).run()
    start_ps = env._copies.arrays.copies.start_ps[0]
    # The slice may begin at another time: only differences count, to a picosecond of rounding.
    for event in TIME_COLUMNS:
        apart = (log.ps[event] - log.ps["arrival"]) - (alone.ps[event] - alone.ps["arrival"])
        assert np.all(np.abs(np.where(log.ps[event] < 0, 0, apart)) <= 1000), event
    assert start_ps > 0


def test_says_when_no_action_means_what_the_policy_wants(tmp_path: Path) -> None:
    """The policy waits where the agent must not."""
    settings = make_world(tmp_path, 3, policy="fifo", allow_wait=False)
    env = make_env(**settings)
    with pytest.raises(EngineError, match=r"'fifo'.*no action of this environment"):
        play(env, as_reference)


def test_a_policy_with_turns_or_lots(tmp_path: Path) -> None:
    """Where the agent leaves it where a short goes, the reference's action is what will be done, asked or not."""
    settings = make_world(tmp_path, 3, workload={"share_of_longs": 0.0}) | {"agent_controls": ["preemption"]}
    check_same(settings | {"policy": "round_robin", "skip_forced": False})
    asked, forced = (make_env(**settings | {"policy": "random", "skip_forced": skips}) for skips in (False, True))
    play(asked, as_reference, seed=5)
    play(forced, at_random, seed=5)
    assert asked.log().digest() == forced.log().digest()
