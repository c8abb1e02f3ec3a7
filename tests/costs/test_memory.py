"""KV capacity against known values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pecgym.costs import GpuSpec, kv_capacity_tokens, load_gpu, load_model, replicas_for_tokens
from pecgym.errors import SpecError


@pytest.mark.parametrize(
    ("name", "replicas"), [("mistral-7b", 2), ("phi-3-14b", 3), ("yi-34b", 1), ("llama-3.1-70b", 2)]
)
def test_replicas_that_500k_tokens_need_are_those_of_pecsched(name, replicas):
    model = load_model(name)
    assert replicas_for_tokens(500_000, kv_capacity_tokens(model, load_gpu("a100-80gb"), model.default_tp)) == replicas


def test_capacity_is_what_vllm_reports_for_llama_3_8b_on_an_a6000():
    a6000 = GpuSpec("a6000", 49_140 * 2**20, 56.0, 20.0, 300.0, 300.0, "", 0.0, ["vllm-project/vllm pull request 4454"])
    assert kv_capacity_tokens(load_model("llama-3.1-8b"), a6000, 1) == pytest.approx(13_248 * 16, rel=0.002)


def test_grouped_queries_count():
    """Without them a 70B model would seem to need eight times the memory per token."""
    model, gpu = load_model("llama-3.1-70b"), load_gpu("a100-80gb")
    ungrouped = replace(model, kv_heads=model.query_heads)
    assert ungrouped.kv_bytes_per_token == 8 * model.kv_bytes_per_token
    usable = 0.9 * gpu.memory_bytes - model.weight_bytes / 4 - 2_500_000_000
    assert kv_capacity_tokens(model, gpu, 4) == int(usable * 4 / (2 * 80 * 8 * 128 * 2))


def test_more_gpus_than_kv_heads_hold_copies():
    model, gpu = load_model("llama-3.1-8b"), load_gpu("a100-80gb")
    few = replace(model, kv_heads=4)
    usable = 0.9 * gpu.memory_bytes - few.weight_bytes / 8 - 2_500_000_000
    assert kv_capacity_tokens(few, gpu, 8) == int(usable // (2 * 32 * 1 * 128 * 2))


@pytest.mark.parametrize("tp", [0, -1, 3, 16])
def test_heads_that_do_not_divide_are_refused(tp):
    with pytest.raises(SpecError, match=f"cannot be split over tp={tp} GPUs"):
        kv_capacity_tokens(load_model("yi-34b"), load_gpu("a100-80gb"), tp)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match="leaves no KV memory on a100-80gb"):
        kv_capacity_tokens(load_model("llama-3.1-70b"), load_gpu("a100-80gb"), 1)


@pytest.mark.parametrize("bad", [{"utilisation": 1.1}, {"utilisation": 0.0}, {"activation_reserve_bytes": -1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(SpecError, match=next(iter(bad))):
        kv_capacity_tokens(load_model("mistral-7b"), load_gpu("a100-80gb"), 1, **bad)
