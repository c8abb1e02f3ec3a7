"""The oracle itself: the check values that the paper's reproduction gives, and a checker that lets nothing pass."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.engine.cases import make_profile
from tests.naive_optimum import Batch, BrokenRuleError, Instance, Request, Schedule, brute_force, check
from tests.optimum.cases import MODES, equal_requests, random_instance

# g(t) = 100 + 10 t; prompts cost 1000 more, decodes 2000.
HAND = make_profile(g_tokens=(1, 2), g_ps=(110, 120), prefill_base_ps=1000, decode_base_ps=2000)


def emitted_in_order(requests: tuple[Request, ...]) -> bool:
    """The wrong symmetry break: of two requests the first has never emitted less."""
    return all(first.emitted >= second.emitted for first, second in pairwise(requests))


@pytest.mark.parametrize(
    ("input_tokens", "m", "free_ms", "never_ms"),
    [(8, 34, 24.613, 29.419), (256, 800, 92.267, 92.267), (32, 66, 54.923, 61.605)],
)
def test_brute_force_gives_the_check_values(input_tokens: int, m: int, free_ms: float, never_ms: float) -> None:
    for eviction, expected_ms in zip(MODES, (free_ms, never_ms, never_ms), strict=True):
        instance = equal_requests(4, input_tokens, 4, m, eviction)
        time_ps, schedule = brute_force(instance)
        assert round(time_ps / 1e9, 3) == expected_ms
        assert check(schedule, instance) == time_ps


def test_equal_requests_may_overtake_each_other() -> None:
    time_ps, _ = brute_force(equal_requests(4, 8, 4, 34), allowed=emitted_in_order)
    assert round(time_ps / 1e9, 3) == 25.227


def test_by_hand() -> None:
    """Prompts of 2 and 3, outputs of 2 and 1: 100 + 50 + 1000, and a decode of 110 + 2000. A prefill again is cheaper
    than that: beside the other's prompt where 3 + 3 fit, alone elsewhere. In chunks of 2 it takes four batches of 2."""
    together = Instance((2, 3), (2, 1), HAND, kv_capacity_tokens=6)
    assert brute_force(replace(together, eviction="never"))[0] == 1150 + 2110
    assert brute_force(together)[0] == 1120 + 1160
    assert brute_force(replace(together, kv_capacity_tokens=3))[0] == 1120 + 1130 + 1130
    assert brute_force(replace(together, kv_capacity_tokens=3, eviction="peak"))[0] == 1120 + 2110 + 1130
    chunks = replace(together, max_batch_tokens=2, chunked=True)
    assert brute_force(chunks)[0] == 4 * 1120


@pytest.mark.parametrize("chunked", [False, True])
def test_every_optimum_keeps_its_own_rules(chunked: bool) -> None:
    rng = random.Random(7)
    for _ in range(20):
        instance = random_instance(rng, None, chunked=chunked, eviction=rng.choice(MODES), input_most=3, output_most=3)
        time_ps, schedule = brute_force(instance)
        assert check(schedule, instance) == time_ps


ROOMY = Instance((2, 3), (2, 1), HAND)
GOOD = (Batch({0: 2, 1: 3}, ()), Batch({0: 1}, ()))


@pytest.mark.parametrize(
    ("changes", "batches", "message"),
    [
        ({}, GOOD[:1], "request 0 emits 1 of 2"),
        ({}, (*GOOD, Batch({0: 1}, ())), "batch 2: request 0 is done"),
        ({}, (*GOOD, Batch({}, (0,))), "batch 2: request 0 is done"),
        ({}, (*GOOD, Batch({}, ())), "batch 2: nobody"),
        ({}, (*GOOD, Batch({2: 1}, ())), "batch 2: no request 2"),
        ({}, (Batch({0: 2, 1: 0}, ()),), "batch 0: fewer than one token"),
        ({}, (Batch({0: 1, 1: 3}, ()),), "batch 0: request 0 prefills 1 of 2"),
        ({}, (Batch({0: 3, 1: 3}, ()),), "batch 0: request 0 computes 3 tokens on 0"),
        ({}, (GOOD[0], Batch({0: 2}, ())), "batch 1: request 0 computes 2 tokens on 2"),
        ({}, (GOOD[0], Batch({0: 1}, (0,))), "batch 1: request 0 prefills 1 of 3"),
        ({}, (Batch({0: 2}, ()), Batch({1: 3}, (1,))), "batch 1: request 1 is evicted but not"),
        ({}, (Batch({0: 2}, ()), Batch({0: 3}, (0, 0))), "batch 1: evicted twice"),
        ({"eviction": "never"}, (GOOD[0], Batch({0: 3}, (0,))), "batch 1: request 0 is evicted, eviction is 'never'"),
        ({"eviction": "peak"}, (GOOD[0], Batch({0: 3}, (0,))), "batch 1: request 0 is evicted, eviction is 'peak'"),
        ({"eviction": "peak", "kv_capacity_tokens": 5}, GOOD, "batch 0: peaks of 6"),
        ({"kv_capacity_tokens": 4}, GOOD, "batch 0: 5 KV tokens"),
        ({"kv_capacity_tokens": 5}, (Batch({0: 2}, ()), Batch({0: 1, 1: 3}, ())), "batch 1: 6 KV tokens"),
        ({"kv_capacity_tokens": 4}, (Batch({0: 2}, ()), Batch({1: 3}, ())), "batch 1: 5 KV tokens"),
        ({"max_batch_tokens": 4}, GOOD, "batch 0: 5 new tokens"),
    ],
)
def test_a_broken_rule_is_found(changes: dict[str, object], batches: tuple[Batch, ...], message: str) -> None:
    with pytest.raises(BrokenRuleError, match=message):
        check(Schedule(batches), replace(ROOMY, **changes))  # type: ignore[arg-type]


def test_a_good_schedule_passes() -> None:
    assert check(Schedule(GOOD), ROOMY) == 1150 + 2110
    assert check(Schedule(GOOD), replace(ROOMY, kv_capacity_tokens=5, max_batch_tokens=5)) == 1150 + 2110
    assert check(Schedule((GOOD[0], Batch({0: 3}, (0,)))), ROOMY) == 1150 + 1130
    assert check(Schedule((Batch({0: 2}, ()), Batch({1: 3}, (0,)), Batch({0: 3}, ()))), ROOMY) == 1120 + 1130 + 1130
