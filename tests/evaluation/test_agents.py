"""Agents in evaluations: their names, the runs' keys, and their training seeds in the comparison."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pecgym.cluster import make_cluster
from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig, evaluate
from pecgym.policies.agents import agent_names, training_seeds
from tests.envs.worlds import make_env

SMALL = WorkloadConfig(name="azure2023_conv+azure2023_code", duration_s=300.0, long_context="paper")
PLAN = EvaluationPlan(
    ("pecsched", "ppo/x"),
    workload=SMALL,
    scenario=ScenarioConfig("steady", 0.8),
    split="test",
    windows=2,
    window_requests=100,
)
LOADER = '''
"""Agents that take the first or the last replica that is allowed, and the first value of every other component."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
SIZES = (9, 2, 2, 8, 5, 4)


class Simple:
    level = "cluster"

    def __init__(self, name, path):
        self.name, self.path = name, path
        self.settings = {"policy": "pecsched", "long": {"sp_degree": "memory"}, "allow_wait": False}
        self.last = json.loads(path.read_text())["last"]

    def act(self, observations, masks):
        parts = np.split(masks, np.cumsum(SIZES)[:-1], axis=1)
        action = np.stack([part.argmax(axis=1) for part in parts], axis=1)
        if self.last:
            action[:, 0] = SIZES[0] - 1 - parts[0][:, ::-1].argmax(axis=1)
        return action


def names():
    return sorted(f"ppo/{path.stem}" for path in FOLDER.glob("*.json"))


def load_agent(name, model=None, scenario=None):
    if name == "ppo":
        assert (model, scenario) == ("llama-3.1-70b", "steady")
        name = "ppo/y-s0"
    path = Path(name.removeprefix("ppo/"))
    return Simple(name, path if path.is_file() else FOLDER / f"{path}.json")
'''


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `agents` that has x-s0, x-s1, x-s10 and y-s0, in place of any other; "ppo" is y-s0 here."""
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "checkpoint.py").write_text(LOADER)
    for name, last in (("x-s10", True), ("x-s0", False), ("x-s1", True), ("y-s0", False)):
        (folder / f"{name}.json").write_text(json.dumps({"last": last}))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pecgym.policies.agents._loaded", {})
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "agents"}
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "agents"]:
        del sys.modules[name]
    sys.modules.update(others)


def test_a_name_stands_for_all_its_training_seeds(checkpoints: Path) -> None:
    assert agent_names() == ["ppo/x-s0", "ppo/x-s1", "ppo/x-s10", "ppo/y-s0"]
    assert training_seeds("ppo/x") == ("ppo/x-s0", "ppo/x-s1", "ppo/x-s10")
    assert training_seeds("ppo/x-s1") == ("ppo/x-s1",)
    assert training_seeds("pecsched") == ("pecsched",)
    assert training_seeds("ppo") == ("ppo",)


def test_training_seeds_are_rows_of_their_own_and_one_entry_of_the_comparison(checkpoints: Path) -> None:
    result = evaluate(PLAN, checkpoints.parent / "out", workers=1, record=True, report=True)
    policies = ["pecsched", "ppo/x-s0", "ppo/x-s1", "ppo/x-s10"]
    assert [row["policy"] for row in result.rows] == policies * 2
    digests = {(row["policy"], row["window"]): row["digest"] for row in result.rows}
    assert digests["ppo/x-s1", 0] == digests["ppo/x-s10", 0] != digests["ppo/x-s0", 0] != digests["pecsched", 0]
    assert all(row["n_finished"] == 100 for row in result.rows)
    assert result.comparison is not None
    (entry,) = result.comparison["policies"]
    assert (entry["policy"], entry["policies"]) == ("ppo/x", policies[1:])
    assert entry["metrics"]["short_queueing_delay_p99_s"]["pairs"] == 2
    written = json.loads((checkpoints.parent / "out" / "comparison.json").read_text())
    assert written == result.comparison
    page = (checkpoints.parent / "out" / "report.html").read_text()
    assert "Compared on the same runs" in page
    again = evaluate(PLAN, checkpoints.parent / "out", workers=1, record=True)
    assert again.rows == result.rows


def test_workers_give_the_same(checkpoints: Path) -> None:
    one, two = (
        evaluate(PLAN, checkpoints.parent / str(workers), workers=workers, keep_requests=False) for workers in (1, 2)
    )
    assert [row["digest"] for row in one.rows] == [row["digest"] for row in two.rows]
    key = "short_queueing_delay_p99_s"
    assert one.comparison["policies"][0]["metrics"][key] == two.comparison["policies"][0]["metrics"][key]  # type: ignore[index]


def test_an_environment_needs_another_reference(checkpoints: Path) -> None:
    with pytest.raises(SpecError, match="the reference policy of an environment must be a compiled one"):
        make_env(policy="ppo/x-s0")


def test_the_agent_of_what_is_served_is_named_in_a_note(checkpoints: Path) -> None:
    plan = replace(PLAN, policies=("ppo", "ppo/y-s0"), windows=1)
    both = evaluate(plan, checkpoints.parent / "out", workers=1, keep_requests=False).rows
    assert both[0]["digest"] == both[1]["digest"]
    assert "ppo: the agent is ppo/y-s0" in both[0]["notes"]
    assert not [note for note in both[1]["notes"] if "agent" in note]
    assert make_cluster(policy="ppo", workload="azure2023_code", scenario_label="steady-0.8").policy_name == "ppo"


def test_an_agent_by_the_path_of_its_file(checkpoints: Path) -> None:
    mine = checkpoints.parent / "mine.json"
    mine.write_text(json.dumps({"last": True}))
    plan = replace(PLAN, policies=(f"ppo/{mine}", "ppo/x-s1"), windows=1)
    rows = evaluate(plan, checkpoints.parent / "out", workers=1, keep_requests=False).rows
    assert [row["policy"] for row in rows] == [f"ppo/{mine}", "ppo/x-s1"]
    assert rows[0]["digest"] == rows[1]["digest"]


def test_another_file_or_other_code_is_another_run(checkpoints: Path) -> None:
    (job,) = replace(PLAN, policies=("ppo/y-s0",), windows=1).jobs()
    key, digest = job.key(), job.run().digest()
    assert job.key() == key
    (checkpoints / "y-s0.json").write_text(json.dumps({"last": True}))
    other = job.key()
    assert other != key
    assert job.run().digest() != digest
    (checkpoints / "checkpoint.py").write_text(f"{LOADER}\n")
    assert job.key() not in (key, other)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (("pecsched", "ppo/z"), r"policy 'ppo/z' does not exist; agents are ppo, ppo/x-s0, ppo/x-s1, .* or ppo/PATH"),
        (("ppo/x", "pecsched"), r"baseline: ppo/x stands for 3 training seeds; give one of them"),
        (("pecsched", "ppo/x", "ppo/x-s1"), r"policy 'ppo/x-s1' is there twice"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(checkpoints: Path, policies: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        evaluate(replace(PLAN, policies=policies), checkpoints.parent / "out", workers=1)


def test_the_baseline_can_be_chosen(checkpoints: Path) -> None:
    plan = replace(PLAN, policies=("fifo", "pecsched"), baseline="pecsched", windows=3)
    comparison = evaluate(plan, checkpoints.parent / "out", workers=1, keep_requests=False).comparison
    assert comparison is not None
    assert (comparison["baseline"], [each["policy"] for each in comparison["policies"]]) == ("pecsched", ["fifo"])
    with pytest.raises(SpecError, match="baseline=sjf: choose one of the policies, fifo, pecsched"):
        evaluate(replace(plan, baseline="sjf"), checkpoints.parent / "out", workers=1)
    one = replace(plan, policies=("fifo",), baseline=None)
    assert evaluate(one, checkpoints.parent / "out", workers=1, keep_requests=False).comparison is None
    assert not (checkpoints.parent / "out" / "comparison.json").exists()
