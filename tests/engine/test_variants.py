"""INFERMAX's presets and the names derived from them: which batches each of them forms, and what a name must be."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from pecgym.costs import load_profile
from pecgym.engine import Simulator, engine_names, load_engine
from pecgym.engine.state import RUNNING
from pecgym.engine.variants import BASES, variant_names
from pecgym.errors import SpecError
from pecgym.policies import load_policy
from pecgym.workload import Trace

TRACE = Trace(np.array([0.0, 0.0, 0.01, 0.055]), np.array([600, 5, 7, 4]), np.array([6, 3, 3, 3]))
"""A long prompt, A, with B; C arrives in the first iteration, D soon after: 616 prompt tokens, as many as memory."""
CAPACITY_TOKENS = 616

BATCHES = {
    # A, B and C outgrow memory; C, the newest, is evicted and comes back with the tokens that it emitted in its prompt
    "vllm": ["A600 B5", "C7", "ABC", "AB", "C9 D4", "ADx2", "A"],
    "vllm_hybrid": ["A600 B5", "C7 + AB", "AB", "C8 + A", "D4 + A", "AD", "C9 + D"],
    # the budget of 512 cuts A's prompt
    "sarathi": ["A512", "A88 B5 C7", "ABC", "AB", "C9 D4 + A", "ADx2"],
    # decodes get memory before D, who takes it from C above
    "sarathi_unlimited": ["A600 B5", "C7 + AB", "AB", "C8 + A", "AC", "D4 + A", "Dx2"],
    "sarathi_no_chunk": ["A600 B5", "C7 + AB", "AB", "C8 + A", "AC", "D4 + A", "Dx2"],
    # prompts wait until nobody decodes
    "sarathi_no_hybrid": ["A512", "A88 B5 C7", "ABC", "AB", "Ax3", "C9 D4", "Dx2"],
    # C waits until B's 7 tokens are free, as A will hold 605 and C 9
    "orca": ["A600 B5", "ABx2", "C7 + A", "ACx2", "D4", "Dx2"],
    "vllm_no_evict": ["A600 B5", "ABx2", "C7", "ACx2", "D4", "AD", "D"],
    # B, of the same bucket as D, has finished with 7 tokens: so much is set aside for D's 4
    "vllm_hist": ["A600 B5", "C7", "ABC", "AB", "C9", "D4", "ADx2", "A"],
    # B holds fewer tokens than C
    "vllm_srf": ["A600 B5", "C7", "ABC", "AC", "B7 D4", "ADx2", "A"],
    "vllm_hist_srf": ["A600 B5", "C7", "ABC", "AC", "B7", "D4", "ADx2", "A"],
}


def batches(name: str, **changes: Any) -> list[str]:
    """Each run of iterations: prompts with their new tokens, the decodes, "x" how many iterations."""
    engine = load_engine(name, kv_capacity_tokens=CAPACITY_TOKENS, watermark=0.0, **changes)
    policy = load_policy("fifo")
    profile = load_profile("infermax-llama-2-7b-a100")
    simulator = Simulator(1, profile, engine, choose=policy.choose, load=policy.load)
    simulator.load_trace(TRACE)
    found, started_ps = [], -1
    while simulator.step():
        state = simulator.state
        replica, requests = state.replicas[0], state.requests
        if replica.status != RUNNING or replica.started_ps == started_ps:
            continue
        started_ps = int(replica.started_ps)
        prompts = [requests[slot] for slot in state.prefills[0, : replica.n_prefills]]
        chunks = [f"{'ABCD'[each.row]}{each.chunk_tokens}" for each in prompts if each.chunk_tokens]
        slots = state.decodes[0, : replica.n_decodes].slot
        decodes = "".join(sorted("ABCD"[requests[slot].row] for slot in slots)) * int(replica.with_decodes)
        times = f"x{replica.n_iterations}" if replica.n_iterations > 1 else ""
        found.append(" + ".join(part for part in (" ".join(chunks) if replica.with_prefills else "", decodes) if part))
        found[-1] += times
    return found


@pytest.mark.parametrize("name", BATCHES)
def test_every_switch_changes_the_batches_of_one_small_case(name: str) -> None:
    assert batches(name) == BATCHES[name]


def test_chunks_up_to_the_budget_differ_from_whole_prompts_where_it_is_short() -> None:
    assert batches("sarathi_unlimited", max_batch_tokens=603)[:2] == ["A600 B3", "B2 C7 + A"]
    assert batches("sarathi_no_chunk", max_batch_tokens=603)[:2] == ["A600", "B5 C7 + A"]


def test_the_papers_limits_are_keys_of_sarathi() -> None:
    assert batches("sarathi", max_batch_tokens=16384)[:2] == ["A512 B5", "A88 C7 + B"]


@pytest.mark.parametrize("name", variant_names())
def test_a_derived_name_is_its_preset_with_the_named_settings(name: str) -> None:
    base = max((each for each in BASES if name.startswith(each)), key=len)
    suffix = name.removeprefix(base)
    changes = {"reservation": "peak"} if "_no_evict" in suffix else {}
    changes |= {"reservation": "history"} if "_hist" in suffix else {}
    changes |= {"victim": "fewest_computed"} if "_srf" in suffix else {}
    assert asdict(load_engine(name)) == asdict(load_engine(base, **changes)) | {"name": name}
    assert name in engine_names()


def test_every_preset_of_infermax_has_its_variants() -> None:
    suffixes = ("_no_evict", "_hist", "_srf", "_hist_srf")
    assert set(variant_names()) == {base + suffix for base in BASES for suffix in suffixes} - {"orca_srf"}
    assert asdict(load_engine("orca_no_evict")) == asdict(load_engine("orca")) | {"name": "orca_no_evict"}
    assert load_engine("sarathi_hist", victim="most_computed").victim == "most_computed"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vllm_no_evict_srf", "never evicts.*vllm_no_evict, or vllm_srf"),
        ("vllm_srf_no_evict", "never evicts.*vllm_no_evict, or vllm_srf"),
        ("orca_srf", "orca sets the peak aside.*orca_hist_srf"),
        ("orca_no_evict_srf", "never evicts"),
        ("sarathi_hist_no_evict", "two rules for one reservation"),
        ("sarathi_no_chunk_srf_hist", "write sarathi_no_chunk_hist_srf"),
        ("vllm_srf_srf", "given once"),
        ("vllm_old", "no preset named 'vllm_old'.*a suffix .*_hist_srf.* to one of vllm, "),
        ("static_srf", "no preset named 'static_srf'"),
        ("vllm_hist.yaml", "no preset file 'vllm_hist.yaml'"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_what_does(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_engine(name)
