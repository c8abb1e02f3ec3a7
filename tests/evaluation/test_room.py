"""The search of a policy's rules, and its script as a user starts it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig
from pecgym.evaluation.room import FLOOR_S, METRICS, Found, Room, combinations, levers_alone, named, search
from pecgym.policies import load_policy
from tests.conftest import REPOSITORY

PLAN = EvaluationPlan(
    ("pecsched",),
    workload=WorkloadConfig(duration_s=400.0, long_context="paper"),
    scenario=ScenarioConfig(name="steady", load=0.8),
    seeds=(3, 4),
    split="validation",
    windows=1,
    window_requests=200,
)
LEVERS = {"sp_degree": ["node", 7, 8], "long_order": ["fcfs", "shortest"], "decode_replicas": [0]}


def found(policy: str, *ratios: float) -> Found:
    return Found(policy, {}, ratios, ratios, (1.0, 1.0, 1.0))


def test_names_are_policies() -> None:
    rules = {"sp_degree": 7, "preemption": False, "decode_replicas": 0.125, "sp_strategy": "ring"}
    name = named("pecsched", rules)
    assert load_policy(name).rules == load_policy("pecsched").rules.with_changes(**rules)
    assert named("pecsched", {}) == "pecsched"


def test_levers_alone_leave_out_what_the_policy_has() -> None:
    assert levers_alone("pecsched", LEVERS) == [
        {"sp_degree": 7},
        {"sp_degree": 8},
        {"long_order": "shortest"},
        {"decode_replicas": 0},
    ]


def test_combinations_have_one_value_of_each() -> None:
    made = combinations([{"a": 1}, {"a": 2}, {"b": 3}, {"c": 4}])
    assert {"a": 1, "b": 3} in made
    assert {"a": 2, "b": 3, "c": 4} in made
    assert all(len(rules) > 1 for rules in made)
    assert len(made) == 3 * 2 * 2 - 1 - 4
    assert combinations([]) == []


def test_the_best_loses_nothing_and_has_the_least_score() -> None:
    """Ratios of delay, throughput (more is better) and completion time."""
    base = found("base", 1.0, 1.0, 1.0)
    alone = [found("late", 1.1, 2.0, 0.1), found("slow", 0.1, 0.9, 0.1), found("good", 0.5, 1.0, 1.0)]
    combined = [found("better", 0.5, 1.2, 0.9), found("nearly", 0.2, 0.9995, 0.5)]
    room = Room(PLAN, base, alone, combined, {})
    assert [each.policy for each in room.best(9, 0.001)] == ["nearly", "better", "good", "base"]
    assert [each.policy for each in room.best(2, 0.0)] == ["better", "good"]
    assert combined[0].score == pytest.approx(math.log(0.5) - math.log(1.2) + math.log(0.9))
    assert alone[0].helps(0.05)
    assert not found("none", 0.99, 1.01, 1.2).helps(0.05)


def test_a_search_finds_what_evaluations_find(tmp_path: Path) -> None:
    room = search(PLAN, LEVERS, tmp_path, helps=0.05, workers=1)
    assert room.base.ratios == (1.0, 1.0, 1.0)
    assert list(room.impossible) == ["pecsched{sp_degree:8}"]
    assert "needs 8 replicas, and 7 may serve longs" in room.impossible["pecsched{sp_degree:8}"]
    assert {each.policy for each in room.alone} == {
        "pecsched{sp_degree:7}",
        "pecsched{long_order:shortest}",
        "pecsched{decode_replicas:0}",
    }
    rows = [job.run().metrics() for job in PLAN.jobs()]
    for value, metric in zip(room.base.values, METRICS, strict=True):
        assert value == pytest.approx(np.median([row[metric] for row in rows]))
    degree = next(each for each in room.alone if each.rules == {"sp_degree": 7})
    assert degree.ratios[0] == pytest.approx((degree.values[0] + FLOOR_S) / (room.base.values[0] + FLOOR_S))
    assert room.best(1, 0.001)[0].score <= 0
    runs = sorted((tmp_path / "runs").iterdir())
    again = search(PLAN, LEVERS, tmp_path, helps=0.05, workers=1)
    assert again == room
    assert sorted((tmp_path / "runs").iterdir()) == runs


def test_levers_that_are_crossed_are_combined_whatever_they_are_worth_alone(tmp_path: Path) -> None:
    levers = {"sp_degree": [7], "long_order": ["shortest"], "sp_strategy": ["ring"]}
    room = search(PLAN, levers, tmp_path, helps=9.0, crossed=["sp_degree", "long_order"], workers=1)
    assert [each.rules for each in room.combined] == [{"sp_degree": 7, "long_order": "shortest"}]


def test_an_unknown_lever_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown key speed"):
        search(PLAN, {"speed": [1]}, tmp_path, helps=0.05, workers=1)


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/room.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )


def test_the_script_writes_tables(tmp_path: Path) -> None:
    done = run_script(
        *("models=[llama-3.1-70b]", "scenarios=[paper]", "seeds=[3]", "windows=1", "window_requests=100"),
        *("workload.duration_s=400", "workers=1", f"out={tmp_path}", "shown=2"),
        "levers={sp_degree:[7],long_order:[shortest],decode_replicas:[],colocation_tokens:[],preemption:[],"
        "backfill:[],sp_strategy:[]}",
    )
    assert done.returncode == 0, done.stderr
    assert "| `pecsched{sp_degree:7}` |" in done.stdout
    assert done.stdout.split() == (tmp_path / "room.md").read_text().split("\n\n", 1)[1].split()
    page = json.loads((tmp_path / "llama-3.1-70b-paper.json").read_text())
    assert {each["policy"] for each in page["found"]} >= {"pecsched", "pecsched{sp_degree:7}"}
    assert len(page["best"]) <= 2


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("scenarios=[steady]", "scenarios: 'steady': give paper, native or steady-LOAD"),
        ("scenarios=[steady-fast]", "scenarios: 'steady-fast'"),
        ("models=[gpt]", "no model named 'gpt'"),
        ("levers.sp_degree=[many]", "sp_degree='many'"),
        ("lever=1", "Could not override 'lever'"),
    ],
)
def test_the_script_names_what_is_wrong(tmp_path: Path, argument: str, message: str) -> None:
    done = run_script(
        "models=[llama-3.1-70b]", "scenarios=[paper]", "workload.duration_s=400", f"out={tmp_path}", argument
    )
    assert done.returncode != 0
    assert message in done.stderr
