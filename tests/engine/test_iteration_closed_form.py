"""A run of iterations in closed form against the same iterations one by one."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pecgym.engine.iteration import iterations_within, run_ps
from pecgym.engine.memory import growth_blocks, steps_before_overflow
from pecgym.engine.state import REPLICA, State, allocate

# Rules have no wrapper for Python: these two call them from compiled code.


@numba.njit
def compiled_run_ps(replicas: Any, k: int) -> int:
    return run_ps(replicas[0], k)


@numba.njit
def compiled_iterations_within(replicas: Any, elapsed_ps: int) -> int:
    return iterations_within(replicas[0], elapsed_ps)


@numba.njit
def compiled_steps_before_overflow(state: Any, wanted: int) -> int:
    return steps_before_overflow(state, 0, wanted)


@numba.njit
def compiled_growth_blocks(state: Any, steps: int) -> int:
    return growth_blocks(state, 0, steps)


def make_run(base_ps: int, slope_ps: int, extra_ps: int = 0) -> Any:
    replicas = np.zeros(1, REPLICA).view(np.recarray)
    replicas.base_ps, replicas.slope_ps, replicas.first_extra_ps = base_ps, slope_ps, extra_ps
    return replicas


# An iteration of a real model takes 1e9 to 1e12 ps, and 256 decodes read up to 1e7 ps more KV at every next one.
base = st.one_of(st.integers(1, 100), st.integers(1, 10**12))
slope = st.one_of(st.just(0), st.integers(1, 10), st.integers(1, 10**7))
extra = st.sampled_from([0, 1, 12_345_678_901])


@settings(max_examples=200, deadline=None)
@given(base, slope, extra, st.integers(0, 10**6))
def test_a_run_takes_as_long_as_its_iterations_one_by_one(base_ps: int, slope_ps: int, extra_ps: int, k: int) -> None:
    one_by_one = extra_ps + int((base_ps + slope_ps * np.arange(k, dtype=np.int64)).sum())
    assert compiled_run_ps(make_run(base_ps, slope_ps, extra_ps), k) == one_by_one


@settings(max_examples=1000, deadline=None)
@given(base, slope, extra, st.integers(0, 10**6), st.sampled_from([-1, 0, 1]))
def test_iterations_within_is_the_exact_inverse_of_a_run(
    base_ps: int, slope_ps: int, extra_ps: int, k: int, beside_ps: int
) -> None:
    """On a boundary, one picosecond before it and one after."""
    replicas = make_run(base_ps, slope_ps, extra_ps)
    elapsed_ps = compiled_run_ps(replicas, k) + beside_ps
    assume(elapsed_ps >= 0)
    done = compiled_iterations_within(replicas, elapsed_ps)
    assert done == 0 or compiled_run_ps(replicas, done) <= elapsed_ps
    assert compiled_run_ps(replicas, done + 1) > elapsed_ps
    if beside_ps == 0 or (beside_ps == 1 and base_ps > 1):
        assert done == k


@pytest.mark.parametrize("k", [1, 2, 3, 94_906_266, 134_217_727, 134_217_728, 2_000_000_000])
@pytest.mark.parametrize("beside_ps", [-1, 0])
def test_boundaries_are_exact_where_floats_lose_bits(k: int, beside_ps: int) -> None:
    """k (k + 1) / 2 passes 2^53, above which not every integer is a float, at k = 134 million."""
    replicas = make_run(1, 1)
    assert compiled_run_ps(replicas, k) == k * (k + 1) // 2
    assert compiled_iterations_within(replicas, k * (k + 1) // 2 + beside_ps) == k + beside_ps


@settings(max_examples=300, deadline=None)
@given(st.integers(2**53 - 2**20, 2**53 + 2**20), st.integers(1, 3), st.integers(0, 10**7))
def test_a_long_elapsed_time_is_inverted_exactly(elapsed_ps: int, base_ps: int, slope_ps: int) -> None:
    assume(slope_ps > 0 or base_ps > 0)
    replicas = make_run(base_ps, slope_ps)
    done = compiled_iterations_within(replicas, elapsed_ps)
    assert done * base_ps + slope_ps * (done * (done - 1) // 2) <= elapsed_ps
    assert (done + 1) * base_ps + slope_ps * (done * (done + 1) // 2) > elapsed_ps


@st.composite
def decoding_replicas(draw: Any) -> tuple[State, list[int], int]:
    """A state whose replica 0 has decodes that hold some tokens each, what they hold, and the capacity in blocks."""
    block = draw(st.sampled_from([1, 2, 3, 16]))
    held = draw(st.lists(st.integers(1, 100), min_size=1, max_size=12))
    used = sum(-(-tokens // block) for tokens in held)
    capacity = used + draw(st.integers(0, 60))
    state = allocate(1, len(held), block)
    state.settings[0].block_tokens, state.settings[0].capacity_blocks = block, capacity
    replica = state.replicas[0]
    replica.decode_steps = draw(st.integers(0, 50))
    replica.n_decodes, replica.used_blocks = len(held), used
    for tokens in held:
        state.phases[0, (tokens - replica.decode_steps) % block] += 1
    return state, held, capacity


@settings(max_examples=500, deadline=None)
@given(decoding_replicas(), st.integers(0, 200))
def test_growth_and_the_last_step_before_overflow_equal_brute_force(
    replica: tuple[State, list[int], int], wanted: int
) -> None:
    state, held, capacity = replica
    block = int(state.settings[0].block_tokens)

    def blocks_after(steps: int) -> int:
        return sum(-(-(tokens + steps) // block) for tokens in held)

    assert compiled_growth_blocks(state, wanted) == blocks_after(wanted) - blocks_after(0)
    steps = 0
    while steps < wanted and blocks_after(steps + 1) <= capacity:
        steps += 1
    assert compiled_steps_before_overflow(state, wanted) == steps
