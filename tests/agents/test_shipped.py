"""The agents that are shipped: small, known by name, and better than PecSched where they were not trained."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agents.checkpoint import FOLDER, load_agent, names
from pecgym.configs import EngineConfig, ScenarioConfig, WorkloadConfig
from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan
from pecgym.evaluation.run import evaluate
from tests.conftest import REPOSITORY

LARGEST_BYTES = 2_000_000
CASES = {
    "llama-steady": ("llama-3.1-70b", ScenarioConfig("steady", load=0.8)),
    "llama-paper": ("llama-3.1-70b", ScenarioConfig("paper")),
    "mistral-steady": ("mistral-7b", ScenarioConfig("steady", load=0.8)),
    "mistral-paper": ("mistral-7b", ScenarioConfig("paper")),
}
OF_A_REPLICA = ("infermax-blind-s0", "infermax-s0", "infermax-s1", "infermax-s2")
UNSEEN_HOUR = 977


def test_three_seeds_of_each_kind_are_shipped_with_a_card() -> None:
    assert names() == sorted([*(f"{kind}-s{seed}" for kind in CASES for seed in range(3)), *OF_A_REPLICA])
    for name in names():
        assert (FOLDER / f"{name}.pt").stat().st_size < LARGEST_BYTES
        text = (FOLDER / f"{name}.md").read_text()
        agent = load_agent(name)
        assert agent.level == ("replica" if name in OF_A_REPLICA else "cluster")
        notes, tested = agent.trained, "Unseen draws" if name in OF_A_REPLICA else "Generator hours"
        for said in (f"ppo/{name}", notes["model"], notes["scenario"], f"recipe={notes['recipe']}", tested):
            assert said in text


@pytest.mark.parametrize(("kind", "case"), CASES.items(), ids=list(CASES))
def test_ppo_alone_is_the_best_of_its_kind(kind: str, case: tuple[str, ScenarioConfig]) -> None:
    model, scenario = case
    chosen = load_agent("ppo", model=model, scenario=scenario.name)
    rivals = [load_agent(name).trained["score"] for name in names() if name.startswith(kind)]
    assert chosen.name.startswith(f"ppo/{kind}-s")
    assert chosen.trained["score"] == min(rivals)


def test_ppo_alone_for_another_model_names_what_there_is() -> None:
    with pytest.raises(SpecError, match=r"no agent was trained for yi-34b in steady.*name one: ppo/llama-paper-s0"):
        load_agent("ppo", model="yi-34b", scenario="steady")


@pytest.mark.parametrize("kind", CASES)
def test_it_beats_pecsched_on_windows_that_it_never_saw(kind: str, tmp_path: Path) -> None:
    model, scenario = CASES[kind]
    plan = EvaluationPlan(
        policies=("pecsched", f"ppo/{kind}-s0"),
        model=model,
        workload=WorkloadConfig("azure2023_conv+azure2023_code", long_context="paper"),
        scenario=scenario,
        seeds=(UNSEEN_HOUR,),
        split="test",
        windows=3,
    )
    rows = evaluate(plan, tmp_path, workers=1, keep_requests=False).rows
    rule, agent = ([row for row in rows if row["policy"] == policy] for policy in plan.policies)
    for row in agent:
        assert row["n_finished"] == row["n_requests"]
    for key, sign in (("short_queueing_delay_p99_s", 1), ("short_throughput_rps", -1), ("long_jct_mean_s", 1)):
        ours, theirs = (sorted(sign * row[key] for row in of)[1] for of in (agent, rule))
        assert ours < theirs, key


@pytest.mark.parametrize("name", OF_A_REPLICA)
def test_of_a_replica_it_beats_the_engine_on_draws_that_it_never_saw(name: str, tmp_path: Path) -> None:
    engine = EngineConfig(name="sarathi_no_chunk", block_tokens=1, watermark=0.0, kv_capacity_tokens=100)
    plan = EvaluationPlan(
        policies=("round_robin",),
        model="llama-2-7b",
        cluster="a100_x1",
        profile="infermax-llama-2-7b-a100",
        workload=WorkloadConfig("offline", requests=500, input_range=[1, 64], output_range=[1, 16]),
        seeds=(UNSEEN_HOUR,),
        split="test",
        windows=25,
        window_requests=8,
    )
    makespans: dict[str, list[float]] = {}
    for engine_of, policy in (
        (engine, f"ppo/{name}"),
        (dataclasses.replace(engine, victim="fewest_computed"), "round_robin"),
    ):
        own = dataclasses.replace(plan, policies=(policy,), engine=engine_of)
        rows = evaluate(own, tmp_path / policy, workers=1, keep_requests=False).rows
        makespans[policy] = [row["makespan_s"] for row in rows]
    assert np.mean(makespans[f"ppo/{name}"]) < 0.99 * np.mean(makespans["round_robin"])


def test_agents_are_found_from_any_folder_where_only_the_package_is_installed(tmp_path: Path) -> None:
    code = f"""
import importlib.util, sys
sys.path = [path for path in sys.path if path not in ("", {str(REPOSITORY)!r})]
class PackageAlone:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "pecgym":
            return importlib.util.spec_from_file_location(name, {str(REPOSITORY / "pecgym" / "__init__.py")!r})
sys.meta_path.insert(0, PackageAlone)
from pecgym.policies.agents import agent_names
print(agent_names())
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert "ppo/llama-steady-s0" in found.stdout, found.stderr


def test_any_number_of_replicas_is_served(tmp_path: Path) -> None:
    plan = EvaluationPlan(
        policies=("ppo/llama-steady-s0",),
        cluster="p4de_x8",
        workload=WorkloadConfig("azure2023_conv+azure2023_code", long_context="paper"),
        scenario=ScenarioConfig("steady", load=0.8),
        seeds=(UNSEEN_HOUR,),
        split="test",
        windows=1,
        window_requests=300,
    )
    for model in ("llama-3.1-70b", "yi-34b"):
        (row,) = evaluate(dataclasses.replace(plan, model=model), tmp_path / model, workers=1, keep_requests=False).rows
        assert row["n_finished"] == row["n_requests"]
