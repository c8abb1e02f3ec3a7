"""What an agent is said to do is what it did."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.checkpoint import load_agent
from agents.statistics import CLASSES, Tally, settings_of, watch
from agents.validation import first_requests
from pecgym.envs.spaces import REPLICA
from pecgym.errors import SpecError
from tests.agents.cloned import ID, SETTINGS, cloned_in_all, saved
from tests.conftest import REPOSITORY

SIZES = (4, 2, 2, 2, 3, 4)
"""Three replicas."""
ALL = [np.ones(size, bool) for size in SIZES]


def only(*chosen: int) -> list[Any]:
    """A mask that allows one action."""
    return [np.arange(size) == value for size, value in zip(SIZES, chosen, strict=True)]


def seen(*classes: str) -> dict[str, Any]:
    replicas = np.zeros((3, len(REPLICA)), np.float32)
    replicas[np.arange(3), [CLASSES.index(name) for name in classes]] = 1
    return {"replicas": replicas.ravel()}


def test_choices_are_counted_where_there_was_one() -> None:
    tally, observation = Tally(3, 2), seen("open", "prefilling_long", "decoding_long")
    answers = [
        ("place", ALL, [0, 1, 0, 0, 0, 0]),
        ("place", ALL, [0, 0, 0, 0, 0, 0]),
        ("place", ALL, [1, 1, 1, 0, 0, 0]),
        ("place", only(1, 1, 1, 0, 0, 0), [1, 1, 1, 0, 0, 0]),
        ("place", ALL, [3, 1, 1, 0, 0, 0]),
        ("start", ALL, [2, 0, 0, 1, 2, 3]),
        ("start", only(2, 0, 0, 1, 2, 3), [2, 0, 0, 1, 2, 3]),
        ("roles", ALL, [2, 0, 0, 0, 0, 0]),
    ]
    for decision, mask, action in answers:
        tally.add(decision, observation, mask, action, [0, 0, 0, 0, 0, 0])
    assert tally.counts == {
        "decision": Counter(place=5, start=2, roles=1),
        "agrees": Counter({False: 7, True: 1}),
        "place": Counter(open=2, prefilling_long=2, wait=1),
        "replica": Counter({0: 2, 1: 2}),
        "preempt": Counter({True: 1}),
        "decode_mode": Counter(here=2, decode_replica=1),
        "start": Counter(decoding_long=2),
        "long_index": Counter({1: 1}),
        "sp_degree": Counter({2: 1}),
        "sp_strategy": Counter(fast=1),
        "roles": Counter({2: 1}),
    }
    assert tally.shares("place") == {"open": 0.4, "prefilling_long": 0.4, "wait": 0.2}
    assert tally.shares("nothing") == {}
    assert tally.evenness() == pytest.approx(math.log(2) / math.log(3))


@pytest.mark.parametrize(("replicas", "evenness"), [([0] * 6, 0.0), ([0, 1, 2] * 2, 1.0), ([], math.nan)])
def test_evenness_shows_a_collapse(replicas: list[int], evenness: float) -> None:
    tally = Tally(3, 2)
    for replica in replicas:
        tally.add("place", seen("open", "open", "open"), ALL, [replica, 0, 0, 0, 0, 0], [0] * 6)
    assert tally.evenness() == pytest.approx(evenness, nan_ok=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("agent") / "all.pt", cloned_in_all(), cluster="p4de_x4", load=0.8)


def test_windows_are_played_by_the_agent_and_by_its_reference_policy(path: Path) -> None:
    agent, ticks = load_agent(str(path)), list[int]()
    settings = settings_of(agent, {}) | {"workload": SETTINGS["workload"]}
    assert settings["scenario"] == {"name": "steady", "load": 0.8}
    found = watch(agent, settings, "validation", 2, 60, lambda: ticks.append(1))
    assert list(found) == [agent.name, "pecsched"]
    assert len(ticks) == 4
    ours, theirs = found.values()
    assert theirs.shares("agrees") == {True: 1.0}
    assert ours.shares("agrees")[True] > 0.5
    assert ours.counts == watch(agent, settings, "validation", 2, 60)[agent.name].counts
    env = gym.make(ID, **settings | {"episode": {"requests": 60, "split": "validation"}})
    own: Any = env.unwrapped

    def act(observation: dict[str, Any], mask: Any) -> Any:
        one = {name: array[None] for name, array in observation.items()}
        return agent.act(one, np.concatenate(mask)[None].astype(bool))[0]

    for tally, decide in ((ours, act), (theirs, lambda *_: own.reference_action())):
        kinds: Counter[str] = Counter()
        targets: Counter[int] = Counter()
        for row in first_requests(own.config, 2):
            observation, info = env.reset(seed=0, options={"first_request": row})
            over = False
            while not over:
                action = decide(observation, info["action_mask"])
                kinds[info["decision"]] += 1
                targets[int(action[0])] += info["decision"] == "place"
                observation, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
        del targets[8]
        assert tally.counts["decision"] == kinds
        assert tally.counts["replica"] == +targets


def test_what_is_served_can_be_changed(path: Path) -> None:
    agent = load_agent(str(path))
    changed = settings_of(agent, {"model": "mistral-7b", "scenario": "paper", "load": None, "cluster": None})
    assert (changed["model"], changed["cluster"], changed["scenario"]) == ("mistral-7b", "p4de_x4", {"name": "paper"})
    with pytest.raises(SpecError, match="its file does not say its cluster; give them"):
        settings_of(load_agent(str(saved(path.with_name("other.pt")))), {})


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_table_has_a_column_for_each(path: Path) -> None:
    done = run("inspect_agent.py", path, "--windows", 1, "--requests", 50)
    assert done.returncode == 0, done.stderr
    for text in ("1 windows of 50 requests, validation: llama-3.1-70b, steady 0.8", "pecsched", "shorts: put on"):
        assert text in done.stdout
    assert "evenness of replicas" in done.stdout
    failed = run("inspect_agent.py", "nobody")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "agent 'nobody' does not exist" in failed.stderr
    assert run("inspect_agent.py", path, "--requests", 100_000, "--windows", 1).returncode == 2
