"""Without `oracle_lengths`, what is seen does not depend on output lengths before something has happened by them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.engine.state import NONE
from tests.envs.worlds import as_reference, assert_equal, make_env, make_world, sample


def with_longer_outputs(settings: dict[str, Any], folder: Path, extra: int) -> dict[str, Any]:
    """The same workload, in which every output is longer."""
    source = Path(settings["workload"]["path"])
    target = folder / "longer.csv"
    with source.open() as old, target.open("w", newline="") as new:
        rows = list(csv.DictReader(old))
        writer = csv.DictWriter(new, rows[0])
        writer.writeheader()
        writer.writerows([{**row, "output_tokens": int(row["output_tokens"]) + extra} for row in rows])
    return {**settings, "workload": {**settings["workload"], "path": str(target)}}


def nobody_is_done(env: Any) -> bool:
    """Nothing has ended or been evicted yet: all lengths look alike. A long's first token is its prefill's."""
    simulator = env.simulator
    return simulator.state.cluster[0].n_logged == 0 and not simulator.state.replicas.evictions.any()


@pytest.mark.parametrize("policy", ["pecsched", "fifo", "reservation", "priority", "pecsched/Dis"])
@pytest.mark.parametrize("seed", range(4))
def test_unknown_outputs_are_not_seen(policy: str, seed: int, tmp_path: Path) -> None:
    """Two workloads that differ in nothing else look the same until a request ends; all outputs are 60 or more."""
    settings = make_world(
        tmp_path, seed, policy=policy, n_requests=60, nodes=3, per_node=2, kv_blocks=600, workload={"gap_s": 0.02}
    )
    settings = with_longer_outputs(settings, tmp_path, 60)
    (tmp_path / "more").mkdir()
    others = with_longer_outputs(settings, tmp_path / "more", 37)
    env, other, random = make_env(**settings), make_env(**others), np.random.default_rng(seed)
    found, expected = env.reset(seed=seed), other.reset(seed=seed)
    compared = 0
    while found[-1]["decision"] != "none" and nobody_is_done(env) and nobody_is_done(other):
        assert_equal(found, expected)
        compared += 1
        action = sample(env.action_masks(), env.action_space.nvec, random)
        found, expected = env.step(action), other.step(action)
    assert compared > 20


def test_the_reference_policy_may_know_what_the_agent_does_not_see(tmp_path: Path) -> None:
    """With `oracle_lengths` outputs are shown, and only then."""
    settings = make_world(tmp_path, 1)
    blind, seeing = make_env(**settings), make_env(**settings, oracle_lengths=True)
    (a, info), (b, _) = blind.reset(seed=0), seeing.reset(seed=0)
    for _ in range(50):
        assert a["request"][6:].tolist() == [0.0, 0.0]
        if info["decision"] != "none":
            slot = blind.simulator.state.cluster[0][{"place": "queue", "start": "longs"}[info["decision"]]]
            assert slot != NONE
            output = blind.simulator.state.requests[slot].output_tokens
            assert b["request"][6:].tolist() == [1.0, pytest.approx(np.log2(1 + output) / 16)]
        action = as_reference(blind, random=None)
        a, _, _, _, info = blind.step(action)
        b, _, _, _, _ = seeing.step(action)
