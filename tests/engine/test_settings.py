"""Engine settings: every preset loads, and a mistake in one names the key and what it may be."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.engine import EngineSettings, Simulator, engine_names, load_engine
from pecgym.errors import EngineError, PecGymError, SpecError
from pecgym.policies import load_policy
from pecgym.workload import Trace
from tests.engine.cases import make_profile


@pytest.mark.parametrize("name", engine_names())
def test_every_preset_loads_under_its_name_and_serves(name: str) -> None:
    engine = load_engine(name)
    assert engine.name == name
    policy = load_policy("fifo")
    simulator = Simulator(1, make_profile(), engine, choose=policy.choose, load=policy.load)
    simulator.load_trace(Trace(np.zeros(3), np.array([5, 600, 9]), np.array([3, 2, 1])))
    assert simulator.run()
    assert sorted(simulator.finished().row) == [0, 1, 2]


def test_the_presets_are_those_of_the_papers() -> None:
    assert {"vllm", "vllm_hybrid", "sarathi", "orca", "static", "one_at_a_time"} <= set(engine_names())
    assert load_engine("vllm") == EngineSettings(name="vllm")
    assert load_engine("sarathi").chunk_tokens == 512
    assert load_engine("orca").reservation == "peak"


WAITING: dict[str, Any] = {"batch_wait_iterations": 20, "mixing": True, "group_order": "decode_first"}

BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    ({"batching": "dynamic"}, "engine.batching='dynamic'", "choose one of continuous, static, none"),
    ({"group_order": "fcfs"}, "engine.group_order='fcfs'", "prefill_first, decode_first"),
    ({"reservation": "half"}, "engine.reservation='half'", "prompt, peak, history"),
    ({"victim": "oldest"}, "engine.victim='oldest'", "newest, fewest_computed, most_computed"),
    ({"eviction": "drop"}, "engine.eviction='drop'", "recompute, swap"),
    ({"queue_order": "longest"}, "engine.queue_order='longest'", "fcfs, shortest, shortest_remaining"),
    ({"max_batch_requests": 0}, "engine.max_batch_requests=0", "must be above 0"),
    ({"max_batch_tokens": -1}, "engine.max_batch_tokens=-1", "must be above 0"),
    ({"block_tokens": 0}, "engine.block_tokens=0", "must be above 0"),
    ({"static_batch_size": 0}, "engine.static_batch_size=0", "must be above 0"),
    ({"swap_gb_per_s": 0.0, "eviction": "swap"}, "engine.swap_gb_per_s=0.0", "must be 0.001 or more"),
    ({"kv_capacity_tokens": 0}, "engine.kv_capacity_tokens=0", "must be above 0"),
    ({"chunk_tokens": -1}, "engine.chunk_tokens=-1", "must be 0 (whole prompts) or more"),
    ({"static_timeout_s": -0.1}, "engine.static_timeout_s=-0.1", "must be 0 to"),
    ({"static_timeout_s": float("nan")}, "engine.static_timeout_s=nan", "must be 0 to"),
    ({"watermark": 1.0}, "engine.watermark=1.0", "0 <= watermark < 1"),
    ({"watermark": float("nan")}, "engine.watermark=nan", "0 <= watermark < 1"),
    ({"preemptive": True}, "preemptive=true", "queue_order=shortest"),
    ({"async_scheduling": True, "batching": "static"}, "static batches", "async_scheduling=false"),
    ({"async_scheduling": True, "preemptive": True, "queue_order": "shortest"}, "displaced", "async_scheduling=false"),
    ({"batch_wait_iterations": -1}, "engine.batch_wait_iterations=-1", "must be 0 (prompts join at once) or more"),
    ({**WAITING, "batch_wait_ratio": 0.0}, "engine.batch_wait_ratio=0.0", "0 < batch_wait_ratio <= 1"),
    ({**WAITING, "batch_wait_ratio": float("nan")}, "engine.batch_wait_ratio=nan", "0 < batch_wait_ratio <= 1"),
    ({"batch_wait_ratio": 0.5}, "batch_wait_ratio needs", "batch_wait_iterations > 0"),
    ({**WAITING, "batching": "none"}, "batch_wait_iterations > 0", "batching=continuous"),
    ({**WAITING, "batching": "static", "mixing": False}, "batch_wait_iterations > 0", "batching=continuous"),
    ({**WAITING, "mixing": False}, "batch_wait_iterations > 0", "mixing=true"),
    ({**WAITING, "group_order": "prefill_first"}, "batch_wait_iterations > 0", "group_order=decode_first"),
    ({**WAITING, "preemptive": True, "queue_order": "shortest"}, "batch_wait_iterations > 0", "preemptive=false"),
    ({"step_overhead_us": -1.0}, "engine.step_overhead_us=-1.0", "must be 0 to"),
    ({"step_overhead_per_request_us": float("nan")}, "engine.step_overhead_per_request_us=nan", "must be 0 to"),
]


@pytest.mark.parametrize(("changes", "key", "remedy"), BAD_VALUES, ids=lambda value: str(value)[:40])
def test_a_bad_value_names_the_key_and_the_remedy(changes: dict[str, Any], key: str, remedy: str) -> None:
    with pytest.raises(SpecError) as error:
        EngineSettings(**changes)
    assert key in str(error.value)
    assert remedy in str(error.value)


def test_an_unknown_key_is_refused_with_the_keys_there_are() -> None:
    with pytest.raises(SpecError, match="unknown key chunk; the keys are name, batching") as error:
        EngineSettings().with_changes(chunk=512)
    assert all(field.name in str(error.value) for field in fields(EngineSettings))


def test_an_unknown_change_of_a_preset_is_refused_with_the_keys_there_are() -> None:
    with pytest.raises(SpecError, match="unknown key chunk; the keys are name, batching"):
        load_engine("vllm", chunk=512)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("mixing", 1, "bool"),
        ("mixing", "yes", "bool"),
        ("chunk_tokens", 512.0, "int"),
        ("chunk_tokens", True, "int"),
        ("max_batch_tokens", "16384", "int"),
        ("watermark", "1%", "float"),
        ("swap_gb_per_s", "fast", "float"),
        ("victim", 3, "str"),
    ],
)
def test_a_wrong_type_is_refused(key: str, value: Any, kind: str) -> None:
    with pytest.raises(SpecError, match=f"engine.{key}=.* must be .*{kind}"):
        load_engine("vllm", **{key: value})


def test_files_are_as_strict_as_arguments(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mixing: true\neviction: swap\nswap_gb_per_s: 16.0\n")
    assert load_engine(path) == EngineSettings(name="mine", mixing=True, eviction="swap", swap_gb_per_s=16.0)
    path.write_text("chunked: true\n")
    with pytest.raises(SpecError, match=r"mine\.yaml: unknown key 'chunked'"):
        load_engine(path)
    path.write_text("chunk_tokens: many\n")
    with pytest.raises(SpecError, match=r"mine\.yaml: key 'chunk_tokens' has a value of the wrong type"):
        load_engine(path)
    path.write_text("- mixing\n")
    with pytest.raises(SpecError, match="mapping of keys to values"):
        load_engine(path)
    with pytest.raises(SpecError, match=r"no preset file.*vllm"):
        load_engine(tmp_path / "absent.yaml")
    with pytest.raises(SpecError, match=r"no preset named 'vlm'; shipped presets: .*vllm.*\.yaml"):
        load_engine("vlm")


def test_a_malformed_file_is_an_error_of_pecgym(tmp_path: Path) -> None:
    path = tmp_path / "torn.yaml"
    path.write_text("mixing: [true\n")
    with pytest.raises(PecGymError, match="torn"):
        load_engine(path)


def test_slots_leave_room_for_one_token_of_each_decode() -> None:
    assert EngineSettings(max_batch_requests=64, max_batch_tokens=16).slots == 16
    assert EngineSettings(batching="none").slots == 1
    assert EngineSettings(batching="static", static_batch_size=4).slots == 4


def test_what_no_replica_can_hold_is_refused_when_it_is_loaded() -> None:
    simulator = Simulator(1, make_profile(), EngineSettings(kv_capacity_tokens=100), choose=load_policy("fifo").choose)
    with pytest.raises(EngineError, match=r"1 of 2 requests.*request 1 .* with 101 tokens.*against 96"):
        simulator.load_trace(Trace(np.zeros(2), np.array([10, 92]), np.array([5, 10]), name="large"))
    with pytest.raises(EngineError, match="at least 1 replica"):
        Simulator(0, make_profile(), EngineSettings())
