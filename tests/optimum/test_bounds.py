"""Bounds, time limits and sizes beyond reach: what is reported is always a valid schedule and a bound below it."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pecgym.costs import load_profile
from pecgym.engine import Simulator, load_engine
from pecgym.errors import PecGymError
from pecgym.optimum import make_problem, solve
from pecgym.optimum.averages import averages_bound_ps
from pecgym.optimum.relaxation import Relaxation
from pecgym.policies import load_policy
from pecgym.workload import Trace
from tests.naive_optimum import Instance
from tests.optimum.cases import CALIBRATED, LLAMA_7B, MODES, PROFILES, equal_requests, label, random_instance
from tests.optimum.test_solve import assert_valid, best_ps, bound_ps, solve_instance

WHOLE_PROMPTS = ("vllm", "vllm_hybrid", "sarathi_no_chunk", "orca")
CHUNKS = ("sarathi", "sarathi_unlimited", "sarathi_no_hybrid")


def preset_ps(instance: Instance, preset: str, **changes: Any) -> int:
    """When the compiled engine is done with the instance under a preset."""
    settings = load_engine(
        preset,
        block_tokens=1,
        watermark=0.0,
        kv_capacity_tokens=instance.kv_capacity_tokens,
        max_batch_tokens=instance.max_batch_tokens,
        **changes,
    )
    if settings.chunk_tokens > instance.max_batch_tokens:
        settings = replace(settings, chunk_tokens=instance.max_batch_tokens)
    chosen = load_policy("fifo")
    simulator = Simulator(1, instance.profile, settings, choose=chosen.choose, load=chosen.load)
    lengths = (np.array(instance.input_tokens), np.array(instance.output_tokens))
    simulator.load_trace(Trace(np.zeros(len(instance.input_tokens)), *lengths))
    assert simulator.run()
    return int(simulator.finished().finish_ps.max())


@pytest.mark.parametrize("profile", [*PROFILES, None])
def test_no_preset_is_below_the_bound(profile: str | None) -> None:
    """Also of instances too large to be solved in the time given, where best and bound differ."""
    rng = random.Random(f"presets {profile}")
    for sizes in (
        *[{"n_most": 4, "tokens_most": 14}] * 2,
        *[{"n_most": 30, "input_most": 60, "output_most": 20}],
    ):
        for chunked, presets in ((False, WHOLE_PROMPTS), (True, CHUNKS)):
            instance = random_instance(rng, profile, chunked=chunked, eviction="free", **sizes)
            if not chunked:
                instance = replace(instance, max_batch_tokens=16384)  # the engine lets one prompt exceed C
            found = solve_instance(instance, time_limit_s=0.2)
            assert_valid(found, instance)
            for preset in presets:
                for reservation in ("prompt", "peak", "history"):
                    victim = rng.choice(("newest", "fewest_computed", "most_computed"))
                    reached = preset_ps(instance, preset, reservation=reservation, victim=victim)
                    assert bound_ps(found) <= reached, (preset, reservation, victim, label(instance))
                    if bound_ps(found) == best_ps(found):
                        assert best_ps(found) <= reached, (preset, reservation, victim, label(instance))
            peak = solve_instance(replace(instance, eviction="peak"), time_limit_s=0.2)
            assert_valid(peak, replace(instance, eviction="peak"))
            assert bound_ps(peak) <= preset_ps(instance, presets[-1], reservation="peak"), label(instance)


@pytest.mark.parametrize("eviction", MODES)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("profile", [*PROFILES, None])
def test_out_of_time_still_gives_a_schedule_and_a_bound(profile: str | None, chunked: bool, eviction: str) -> None:
    rng = random.Random(f"time {profile} {chunked} {eviction}")
    n = rng.randint(5, 12)
    instance = replace(
        random_instance(rng, profile, chunked=chunked, eviction=eviction),
        input_tokens=tuple(rng.randint(1, 40) for _ in range(n)),
        output_tokens=tuple(rng.randint(1, 12) for _ in range(n)),
        kv_capacity_tokens=rng.randint(51, 150),
        max_batch_tokens=rng.choice((60, 16384)),
    )
    assert_in_no_time(instance)


@pytest.mark.parametrize("profile", [LLAMA_7B, CALIBRATED])
def test_the_clock_is_asked_during_a_search_with_many_branches(profile: str) -> None:
    lengths = ((25, 21, 31, 20, 13), (2, 3, 7, 2, 7))
    assert_in_no_time(Instance(*lengths, load_profile(profile), kv_capacity_tokens=110, chunked=True))


def assert_in_no_time(instance: Instance) -> None:
    """With 0.01 s: a few seconds at most for the engine's schedules and the bounds."""
    begun = time.process_time()
    found = solve_instance(instance, time_limit_s=0.01)
    assert time.process_time() - begun < 5, label(instance)
    assert_valid(found, instance)
    assert found.bound_s > 0
    if found.status != "optimal":
        assert found.status in ("time limit", "size")
        assert bound_ps(found) < best_ps(found), label(instance)


def test_more_time_is_never_worse() -> None:
    rng = random.Random(3)
    for _ in range(2):
        instance = random_instance(
            rng, LLAMA_7B, chunked=False, eviction="free", n_most=6, input_most=20, output_most=8
        )
        short, long = (solve_instance(instance, time_limit_s=limit) for limit in (0.01, 1.5))
        assert long.best_s <= short.best_s
        assert long.bound_s >= short.bound_s
        assert bound_ps(short) <= best_ps(long)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_thousand_requests_are_beyond_reach_but_bounded(chunked: bool) -> None:
    rng = random.Random(11)
    lengths = [tuple(rng.randint(1, most) for _ in range(1024)) for most in (64, 12)]
    instance = replace(
        equal_requests(1, 1, 1, 5000), input_tokens=lengths[0], output_tokens=lengths[1], chunked=chunked
    )
    begun = time.perf_counter()
    found = solve_instance(instance, time_limit_s=2.0)
    assert time.perf_counter() - begun < 30
    assert_valid(found, instance)
    assert found.status == "size"
    assert found.notes
    assert found.bound_s > 0.2 * found.best_s
    assert bound_ps(found) >= least_batches(instance) * instance.profile.iteration_ps([], [1])


def least_batches(instance: Instance) -> int:
    """The spec's closed forms, which hold for any schedule."""
    pairs = list(zip(instance.input_tokens, instance.output_tokens, strict=True))
    held = sum(o * i + o * (o - 1) // 2 for i, o in pairs)
    computed = sum(i + o - 1 for i, o in pairs)
    return max(
        -(-held // instance.kv_capacity_tokens),
        max(instance.output_tokens),
        -(-computed // instance.max_batch_tokens),
    )


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"kv_capacity_tokens": 9}, ("kv_capacity_tokens", "10")),
        ({"input_tokens": [8, 8], "output_tokens": [3]}, ("input_tokens", "output_tokens")),
        ({"input_tokens": [], "output_tokens": []}, ("input_tokens",)),
        ({"input_tokens": [8, 0]}, ("input_tokens", "0")),
        ({"input_tokens": [8, -1]}, ("input_tokens", "-1")),
        ({"input_tokens": [8, 2.5]}, ("input_tokens", "2.5")),
        ({"output_tokens": [3, 0]}, ("output_tokens", "0")),
        ({"max_batch_tokens": 7}, ("max_batch_tokens", "chunked")),
        ({"max_batch_tokens": 0}, ("max_batch_tokens",)),
        ({"max_batch_tokens": 0, "chunked": True}, ("max_batch_tokens",)),
        ({"kv_capacity_tokens": 0}, ("kv_capacity_tokens",)),
        ({"eviction": "sometimes"}, ("eviction", "sometimes", "free", "never", "peak")),
        ({"time_limit_s": 0.0}, ("time_limit_s",)),
        ({"time_limit_s": float("nan")}, ("time_limit_s",)),
        ({"profile": "infermax-llama-9b"}, ("infermax-llama-9b", LLAMA_7B)),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], names: tuple[str, ...]) -> None:
    sound = {"input_tokens": [8, 8], "output_tokens": [3, 2], "kv_capacity_tokens": 34}
    assert solve(**sound).status == "optimal"
    with pytest.raises(PecGymError) as refused:
        solve(**{**sound, **changes})
    for name in names:
        assert name in str(refused.value)


def test_chunks_let_a_prompt_exceed_the_batch_limit() -> None:
    instance = replace(equal_requests(2, 8, 3, 34), max_batch_tokens=7, chunked=True)
    found = solve_instance(instance)
    assert_valid(found, instance)
    assert found.status == "optimal"


def test_the_bound_for_many_requests_survives_the_solver() -> None:
    """A model on which HiGHS's presolve ends the process."""
    problem = make_problem([8] * 1024, [32] * 1024, LLAMA_7B, kv_capacity_tokens=752, eviction="peak")
    assert averages_bound_ps(problem, 2.0) > Relaxation(problem).bound_ps()
