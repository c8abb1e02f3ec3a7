"""Equal seeds give equal results: in one process, in another, without compilation, and on another machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym import RequestLog, make_cluster
from pecgym.random import random_stream
from pecgym.workload import Trace, load_trace
from tests.engine.cases import make_profile
from tests.engine.group_world import make

REPOSITORY = Path(__file__).resolve().parent.parent.parent

PROFILE = make_profile(
    g_tokens=(1, 256, 8192),
    g_ps=(20_000_000_000, 22_000_000_000, 900_000_000_000),
    attn_ps_per_1024_pairs=4_000_000,
    decode_base_ps=1_000_000_000,
    decode_seq_ps=12_000_000,
    decode_kv_ps=31_000,
    kv_capacity_tokens=60_000,
)

# Of `hand_made` below, whose columns are integer arithmetic: no machine's mathematics library takes part in it.
GOLDEN_HAND_MADE = "6533f70bd765318a0f7c53b05b6d9cd7ee3a72b76389bd28b660385010e08156"
# Of the first 2000 requests of the embedded workload under seed 7.
GOLDEN_EMBEDDED = "e00a0d813e425c45dc8066bd83aff5e522a2e20d6f589f19f32f61571204b069"

# Of `digest_with_longs` below, 2000 requests under PecSched.
GOLDEN_LONGS = "ea77958dd550d28ad16d90d69b459093fee9e338736ad2d74723936f8940fe69"


def hand_made(n: int) -> Trace:
    """Requests from a small congruential generator, arriving about every 4 ms, which is a heavy load."""
    draws = np.array([pow(48271, i + 1, 2**31 - 1) for i in range(3 * n)]).reshape(n, 3)
    return Trace(np.cumsum(draws[:, 0] % 128) / 16384, 1 + draws[:, 1] % 4000, 1 + draws[:, 2] % 300, name="hand-made")


def embedded(n: int = 2000, seed: int = 7) -> Trace:
    return load_trace("azure2023_conv", seed=seed).slice(0, n)


def digest_with_longs(policy: str, n: int) -> str:
    """Of a run with every fifteenth request a long, on five replicas of two nodes; all in integers."""
    draws = [[pow(48271, 4 * i + j + 1, 2**31 - 1) for j in range(4)] for i in range(n)]
    arrivals = np.cumsum([draw[0] % 1000 for draw in draws]).tolist()
    requests = [
        (arrival, 1 + draw[1] % (600 if i % 15 == 0 else 40), 1 + draw[2] % 20, i % 15 == 0)
        for i, (arrival, draw) in enumerate(zip(arrivals, draws, strict=True))
    ]
    simulator = make(
        requests,
        policy=policy,
        replicas=5,
        per_node=3,
        rules={"decode_replicas": 2.0, "pool_interval_s": 5e-9 if policy == "pecsched_adaptive_pool" else 0.0},
        replica_token_ps=3,
        node_token_ps=30,
        kv_capacity_tokens=700,
    )
    assert simulator.run()
    log = simulator.finished()
    assert np.sum(log.preemptions) > 20
    digest = hashlib.sha256()
    for name in ("row", "start_ps", "first_token_ps", "pushed_ps", "finish_ps", "replica", "preemptions"):
        digest.update(np.ascontiguousarray(log[name], "<i8").tobytes())
    return digest.hexdigest()


def run(policy: str, workload: Any, engine: str = "vllm", seed: int = 7) -> RequestLog:
    return make_cluster(policy=policy, workload=workload, engine=engine, profile=PROFILE, seed=seed).run()


def in_another_process(expression: str, **environment: str) -> str:
    """The value of an expression over this module's functions, in a fresh interpreter."""
    code = f"from tests.engine.test_determinism import *; print({expression})"
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, **environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize("policy", ["fifo", "random"])
def test_one_seed_gives_one_digest(policy: str) -> None:
    trace = embedded()
    assert run(policy, trace).digest() == run(policy, trace).digest() == run(policy, embedded()).digest()


def test_another_process_gives_the_same_digest() -> None:
    here = run("power_of_two", embedded(), "vllm_v1").digest()
    assert in_another_process("run('power_of_two', embedded(), 'vllm_v1').digest()", PYTHONHASHSEED="1") == here


@pytest.mark.parametrize(("policy", "engine"), [("fifo", "sarathi"), ("srpt", "vllm"), ("random", "static")])
def test_the_engine_gives_the_same_without_compilation(policy: str, engine: str) -> None:
    here = run(policy, hand_made(40), engine).digest()
    there = in_another_process(f"run({policy!r}, hand_made(40), {engine!r}).digest()", NUMBA_DISABLE_JIT="1")
    assert there == here


@pytest.mark.parametrize("policy", ["pecsched", "pecsched_adaptive_pool"])
def test_longs_are_served_alike_in_another_process_and_without_compilation(policy: str) -> None:
    here = digest_with_longs(policy, 400)
    assert here == digest_with_longs(policy, 400)
    assert in_another_process(f"digest_with_longs({policy!r}, 400)", PYTHONHASHSEED="1") == here
    assert in_another_process(f"digest_with_longs({policy!r}, 400)", NUMBA_DISABLE_JIT="1") == here


def test_every_machine_gives_the_same_with_longs() -> None:
    assert digest_with_longs("pecsched", 2000) == GOLDEN_LONGS


def test_every_machine_gives_these_digests() -> None:
    log = run("power_of_two", hand_made(3000), "vllm_v1")
    assert np.sum(log.counts["evictions"]) > 100
    assert log.digest() == GOLDEN_HAND_MADE
    assert run("power_of_two", embedded(), "vllm_v1").digest() == GOLDEN_EMBEDDED


def test_a_digest_changes_with_the_seed_and_with_any_result() -> None:
    trace = hand_made(300)
    log = run("random", trace)
    assert log.digest() != run("random", trace, seed=8).digest()
    before = log.digest()
    log.ps["finish"][17] += 1
    assert log.digest() != before


def test_policies_meet_the_same_requests() -> None:
    logs = [
        make_cluster(policy=policy, workload="azure2023_code", profile=PROFILE, seed=3).run(until_s=60.0)
        for policy in ("fifo", "random", "power_of_two")
    ]
    assert len(logs[0]) > 50
    for log in logs[1:]:
        for name in ("row", "input_tokens", "output_tokens"):
            np.testing.assert_array_equal(log.counts[name], logs[0].counts[name])
        np.testing.assert_array_equal(log.ps["arrival"], logs[0].ps["arrival"])
    assert len({log.digest() for log in logs}) == len(logs)


def test_a_policy_draws_from_a_stream_of_its_own() -> None:
    """Its random numbers depend on the seed alone, and drawing them leaves the workload's streams where they were."""
    short, long = hand_made(50), hand_made(51)
    first, second = run("random", short), run("random", long)
    np.testing.assert_array_equal(first.counts["replica"], second.counts["replica"][:50])
    assert random_stream(7, "policy").integers(2**48) != random_stream(7, "arrivals").integers(2**48)
    cluster = make_cluster(policy="random", workload=short, profile=PROFILE, seed=7)
    state = int(random_stream(7, "policy").integers(2**48))
    assert cluster.simulator.state.cluster[0].random_state == state
    expected = []
    for _ in range(50):
        state = (state * 0x5DEECE66D + 0xB) % 2**48
        expected.append(((state >> 17) * cluster.n_replicas) >> 31)
    np.testing.assert_array_equal(cluster.run().counts["replica"], expected)
