"""`solve` against a brute force that knows no symmetry and no bounds, and against the paper's check values."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from pecgym.costs import load_profile
from pecgym.optimum import Optimum, replay, solve
from tests.naive_optimum import Instance, brute_force, check
from tests.optimum.cases import CALIBRATED, LLAMA_7B, LLAMA_70B, MODES, PROFILES, equal_requests, label, random_instance
from tests.optimum.test_naive import emitted_in_order

PS_PER_S = 10**12


def solve_instance(instance: Instance, **options: Any) -> Optimum:
    return solve(**{**instance.options(), **options})


def best_ps(found: Optimum) -> int:
    return round(found.best_s * PS_PER_S)


def bound_ps(found: Optimum) -> int:
    return round(found.bound_s * PS_PER_S)


def replay_ps(found: Optimum, instance: Instance) -> int:
    options = {key: value for key, value in instance.options().items() if key != "eviction"}
    return round(replay(found.schedule, **options) * PS_PER_S)


def assert_valid(found: Optimum, instance: Instance) -> None:
    """Its schedule keeps the rules and takes its time, by the specification and by the engine; its bound is below."""
    assert check(found.schedule, instance) == best_ps(found), label(instance)
    assert replay_ps(found, instance) == best_ps(found), label(instance)
    assert bound_ps(found) <= best_ps(found), label(instance)
    assert found.gap >= 0


def assert_optimal(found: Optimum, instance: Instance) -> None:
    assert_valid(found, instance)
    assert best_ps(found) == brute_force(instance)[0], label(instance)
    assert (found.status, bound_ps(found), found.gap) == ("optimal", best_ps(found), 0), label(instance)


@pytest.mark.parametrize(
    ("output_tokens", "input_tokens", "m", "expected_ms"),
    [(4, 8, 34, 24.613), (4, 256, 800, 92.267), (4, 32, 66, 54.923), (8, 16, 69, 46.807)],
)
def test_check_values(output_tokens: int, input_tokens: int, m: int, expected_ms: float) -> None:
    instance = equal_requests(4, input_tokens, output_tokens, m)
    found = solve_instance(instance)
    assert_valid(found, instance)
    assert found.status == "optimal"
    assert round(found.best_s * 1e3, 3) == expected_ms


def test_check_value_by_the_names_of_the_issue() -> None:
    found = solve(
        input_tokens=[8] * 4,
        output_tokens=[4] * 4,
        profile="infermax-llama-2-7b-a100",
        max_batch_tokens=16384,
        kv_capacity_tokens=34,
        chunked=False,
        time_limit_s=30,
    )
    assert round(found.best_s * 1e3, 3) == round(found.bound_s * 1e3, 3) == 24.613


def test_ordering_equal_requests_by_what_they_have_emitted_is_no_symmetry_break() -> None:
    instance = equal_requests(4, 8, 4, 34)
    ordered_ps, _ = brute_force(instance, allowed=emitted_in_order)
    assert round(ordered_ps / 1e9, 3) == 25.227
    assert best_ps(solve_instance(instance)) < ordered_ps


# 1 - optimum / (never evicting, reserving peaks), in percent, at these M; four requests with outputs of 4.
GAINS = [
    (1, 4, 24, 7, 48),
    (4, 9, 13, 13, 43),
    (8, 34, 16, 20, 31),
    (16, 66, 14, 36, 30),
    (32, 66, 11, 136, 22),
    (64, 258, 3, 264, 18),
    (128, 131, 0, 520, 13),
]


@pytest.mark.parametrize(("input_tokens", "m", "never_percent", "m_peak", "peak_percent"), GAINS)
def test_gain_of_evicting(input_tokens: int, m: int, never_percent: int, m_peak: int, peak_percent: int) -> None:
    for eviction, capacity, percent in (("never", m, never_percent), ("peak", m_peak, peak_percent)):
        instance = equal_requests(4, input_tokens, 4, capacity)
        free, without = solve_instance(instance), solve_instance(replace(instance, eviction=eviction))
        assert free.status == without.status == "optimal"
        assert round(100 * (1 - free.best_s / without.best_s)) == percent


# The largest of these gains over all M.
LARGEST_GAINS = [
    (1, 24.1, 48.3),
    (4, 18.5, 42.6),
    (8, 17.3, 37.5),
    (16, 15.0, 36.2),
    (32, 10.8, 33.8),
    (64, 4.0, 29.9),
    (128, 0.0, 24.3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("input_tokens", "never_percent", "peak_percent"), LARGEST_GAINS)
def test_largest_gain_of_evicting(input_tokens: int, never_percent: float, peak_percent: float) -> None:
    gains: dict[str, list[float]] = {"never": [], "peak": []}
    peak_tokens = input_tokens + 4 - 1
    for m in range(peak_tokens, 4 * peak_tokens + 1):
        instance = equal_requests(4, input_tokens, 4, m)
        free_s = solve_instance(instance).best_s
        for eviction, found in gains.items():
            found.append(100 * (1 - free_s / solve_instance(replace(instance, eviction=eviction)).best_s))
    assert (round(max(gains["never"]), 1), round(max(gains["peak"]), 1)) == (never_percent, peak_percent)


def test_long_prompts_gain_nothing_from_evicting_at_any_memory() -> None:
    for m in range(131, 525, 131):
        instance = equal_requests(4, 128, 4, m)
        assert best_ps(solve_instance(instance)) == best_ps(solve_instance(replace(instance, eviction="never")))


@pytest.mark.parametrize(
    ("profile", "inputs", "outputs", "m", "c", "chunked", "best"),
    [
        (LLAMA_70B, (3, 4, 4), (1, 1, 3), 12, 9, False, 81473036314),
        (LLAMA_7B, (3, 5, 5), (1, 4, 2), 12, 15, False, 17136282746),
        (CALIBRATED, (1, 3), (1, 4), 7, 6, False, 46989054539),
        (LLAMA_7B, (4, 1), (3, 2), 6, 4, True, 16254866793),
        (LLAMA_7B, (4, 1), (3, 3), 6, 4, True, 21526083099),
    ],
)
def test_a_decode_may_be_cheaper_as_a_prefill_again(
    profile: str, inputs: tuple[int, ...], outputs: tuple[int, ...], m: int, c: int, chunked: bool, best: int
) -> None:
    """Who is evicted joins again in the same batch, beside others' prompts: the batch then has no decodes, and costs
    less. So evicting only when memory is short is not exact."""
    instance = Instance(inputs, outputs, load_profile(profile), c, m, chunked)
    found = solve_instance(instance)
    assert_optimal(found, instance)
    assert best_ps(found) == best
    assert any(set(batch.evicted) & set(batch.tokens) for batch in found.schedule.batches)


def test_more_residents_than_new_tokens_in_a_batch() -> None:
    """Under C = 2 three are resident and one of them stands idle; the engine must be able to do that too."""
    instance = Instance((1, 1, 1), (2, 2, 2), load_profile(LLAMA_70B), 2, 4, chunked=True, eviction="never")
    found = solve_instance(instance)
    assert_optimal(found, instance)
    assert len(found.schedule.batches) == 3


def test_one_request() -> None:
    for eviction in MODES:
        instance = replace(equal_requests(1, 5, 3, 7, eviction), eviction=eviction)
        found = solve_instance(instance)
        assert_optimal(found, instance)
        profile = instance.profile
        assert best_ps(found) == sum(
            (profile.prefill_ps(5), profile.iteration_ps([], [5]), profile.iteration_ps([], [6]))
        )


def test_memory_is_the_profiles_unless_given() -> None:
    profile = load_profile(LLAMA_7B)
    given = solve([8, 9], [3, 2], profile, kv_capacity_tokens=profile.kv_capacity_tokens)
    by_name = solve([8, 9], [3, 2], LLAMA_7B)
    small = solve([8, 9], [3, 2], replace(profile, kv_capacity_tokens=10))
    assert given.best_s == by_name.best_s < small.best_s == solve([8, 9], [3, 2], kv_capacity_tokens=10).best_s


@pytest.mark.parametrize("profile", [*PROFILES, None])
@pytest.mark.parametrize("eviction", MODES)
@pytest.mark.parametrize("chunked", [False, True])
def test_random_cases_equal_the_brute_force(profile: str | None, eviction: str, chunked: bool) -> None:
    rng = random.Random(f"{profile} {eviction} {chunked}")
    for _ in range(5):
        sizes = {"tokens_most": 12} if chunked else {}
        instance = random_instance(rng, profile, chunked=chunked, eviction=eviction, **sizes)
        assert_optimal(solve_instance(instance), instance)


@pytest.mark.slow
@pytest.mark.parametrize("profile", [*PROFILES, None])
@pytest.mark.parametrize("eviction", MODES)
@pytest.mark.parametrize("chunked", [False, True])
def test_many_random_cases_equal_the_brute_force(profile: str | None, eviction: str, chunked: bool) -> None:
    rng = random.Random(f"many {profile} {eviction} {chunked}")
    for _ in range(300):
        sizes = {"tokens_most": 15} if chunked else {"input_most": 9, "output_most": 5}
        instance = random_instance(rng, profile, chunked=chunked, eviction=eviction, **sizes)
        assert_optimal(solve_instance(instance), instance)


@pytest.mark.slow
@pytest.mark.parametrize("eviction", MODES)
def test_many_random_cases_of_four_requests(eviction: str) -> None:
    rng = random.Random(f"four {eviction}")
    for _ in range(60):
        profile = rng.choice((*PROFILES, None))
        instance = random_instance(
            rng, profile, chunked=False, eviction=eviction, input_most=6, output_most=3, n_most=4
        )
        assert_optimal(solve_instance(instance), instance)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("profile", [*PROFILES, None])
def test_fewer_rules_never_cost_time(profile: str | None, chunked: bool) -> None:
    rng = random.Random(f"relations {profile} {chunked}")
    for _ in range(2):
        instance = random_instance(
            rng, profile, chunked=chunked, eviction="free", tokens_most=14, input_most=6, n_most=4
        )
        free = best_ps(solve_instance(instance))
        never = best_ps(solve_instance(replace(instance, eviction="never")))
        peak = best_ps(solve_instance(replace(instance, eviction="peak")))
        assert free <= never <= peak, label(instance)
        for looser in (
            replace(instance, kv_capacity_tokens=instance.kv_capacity_tokens + rng.randint(1, 5)),
            replace(instance, max_batch_tokens=instance.max_batch_tokens + rng.randint(1, 5)),
            replace(instance, chunked=True),
        ):
            assert best_ps(solve_instance(looser)) <= free, label(looser)


def test_the_order_in_which_requests_are_listed_does_not_matter() -> None:
    rng = random.Random(5)
    for _ in range(4):
        instance = random_instance(rng, None, chunked=rng.random() < 0.5, eviction=rng.choice(MODES), tokens_most=14)
        order = rng.sample(range(len(instance.input_tokens)), len(instance.input_tokens))
        inputs, outputs = (tuple(side[i] for i in order) for side in (instance.input_tokens, instance.output_tokens))
        shuffled = solve_instance(replace(instance, input_tokens=inputs, output_tokens=outputs))
        assert best_ps(shuffled) == best_ps(solve_instance(instance)), label(instance)


def test_the_same_question_has_the_same_answer() -> None:
    instance = equal_requests(4, 8, 4, 34)
    assert solve_instance(instance).schedule == solve_instance(instance).schedule
