"""Agents, engines and bounds on the same instances: what is compared is what the names say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.offline import BEST, RANDOM, REACH, Instances, RandomAgent, measured, summary
from pecgym.cluster import make_cluster
from pecgym.engine import load_engine
from pecgym.envs.config import env_config
from pecgym.envs.driver import agent_policy
from pecgym.envs.presets import preset_settings
from pecgym.errors import EngineError, SpecError
from pecgym.workload.splits import split_rows
from scripts.replica_agent import main

FEW: dict[str, Any] = {
    "episode": {"requests": 4},
    "workload": {"requests": 2000, "output_range": [1, 6]},
    "engine": {"kv_capacity_tokens": 80},
}


def instances(n: int = 3, **changes: Any) -> Instances:
    return Instances.held_out(env_config(preset_settings("Infermax-Small-v0"), **{**FEW, **changes}), n)


def test_instances_are_neighbours_in_the_test_split() -> None:
    config = env_config(preset_settings("Infermax-Small-v0"), **FEW)
    trace, _ = config.experiment().arrivals(0)
    low, _ = split_rows(len(trace), "test")
    for k, instance in enumerate(instances(5).traces):
        assert instance.equals(trace.slice(low + 4 * k, low + 4 * k + 4))


def test_more_instances_than_there_are_and_arrivals_are_refused() -> None:
    with pytest.raises(SpecError, match="101 instances of 4 requests: the test split has 400"):
        instances(101)
    config = env_config(preset_settings("Replica-v0"), episode={"requests": 4})
    with pytest.raises(SpecError, match="arrive later"):
        Instances.held_out(config, 1)


def test_an_engine_is_that_preset_with_the_memory_of_all() -> None:
    few = instances()
    played = few.players([])
    limits = {"max_batch_tokens": 16384, "block_tokens": 1, "watermark": 0.0, "kv_capacity_tokens": 80}
    for name, engine in (
        ("sarathi_srf", load_engine("sarathi", victim="fewest_computed", **limits)),
        ("vllm_no_evict", load_engine("vllm", reservation="peak", **limits)),
        ("vllm_hybrid_hist", load_engine("vllm_hybrid", reservation="history", **limits)),
    ):
        for k, trace in enumerate(few.traces):
            cluster = make_cluster(
                "llama-2-7b", "a100_x1", "round_robin", trace, engine, profile="infermax-llama-2-7b-a100"
            )
            assert played[name](k) == cluster.run().metrics()["makespan_s"]


def test_nobody_who_decodes_first_beats_the_best_in_the_environment() -> None:
    rows = [row for _, row in measured(instances(6), [], 0.0, True, {})]
    for row in rows:
        assert row[REACH] <= min(row[RANDOM], *(row[f"sarathi_no_chunk{each}"] for each in ("", "_srf", "_no_evict")))
    found = summary(rows, [])
    assert found[REACH]["ratio"] == pytest.approx(1.0)
    assert found[RANDOM]["mean_ms"] == pytest.approx(1e3 * np.mean([row[RANDOM] for row in rows]))
    assert found[RANDOM]["interval"][0] <= found[RANDOM]["ratio"] <= found[RANDOM]["interval"][1]
    assert BEST not in found


def test_what_is_known_is_not_measured_again() -> None:
    assert [k for k, _ in measured(instances(3), [], 0.0, False, {0: {}, 2: {}})] == [1]


def test_an_agent_of_a_replica_serves_one_replica_alone() -> None:
    config = instances().config
    policy = agent_policy("random", RandomAgent(config, 0))
    with pytest.raises(SpecError, match="about one replica"):
        make_cluster("llama-3.1-70b", "p4de_x4", policy, instances().traces[0]).run()
    with pytest.raises(EngineError, match="runs by run"):
        make_cluster("llama-3.1-8b", "a100_x1", policy, instances().traces[0]).next_decision()


def test_an_agent_of_a_cluster_is_refused() -> None:
    with pytest.raises(SpecError, match="decides in a cluster"):
        instances().players(["ppo/llama-steady-s0"])


def test_a_script_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--requests", "4", "--outputs", "1", "4", "--memory", "80", "--time-limit", "0", "--out", str(tmp_path)]
    main(["--instances", "2", *common])
    before = (tmp_path / "instances.jsonl").read_text()
    main(["--instances", "3", *common])
    assert (tmp_path / "instances.jsonl").read_text().startswith(before)
    assert len((tmp_path / "instances.jsonl").read_text().splitlines()) == 3
    assert set(json.loads((tmp_path / "summary.json").read_text())) >= {RANDOM, "vllm"}
    assert "3 instances" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--instances", "3", *common, "--reach"])
    assert "other settings (reach)" in capsys.readouterr().err
