"""The compiled functions that Python calls, and the compilation of policies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from numba import types

from pecgym.engine import state as layout
from pecgym.engine.arrivals import first_user_requests
from pecgym.engine.cluster import run
from pecgym.engine.compiled import compile_cached
from pecgym.engine.planned_batches import plan_batch
from pecgym.engine.reference import STATE, function_reader, state_at
from pecgym.engine.roles import classify
from pecgym.errors import SpecError


def ask_outside(state: layout.State, slot: int) -> int:
    """The policy that asks the caller of the engine."""
    return layout.ASK


@cache
def compile_policy(choose: Callable[..., Any]) -> Any:
    """The compiled form of `choose(state, slot) -> action, WAIT or ASK`; compiled once, then cached.

    Raises SpecError for a function that numba cannot compile.
    """
    try:
        return compile_cached(choose, POLICY)
    except Exception as error:  # numba lets errors of many kinds through
        place = f"{choose.__code__.co_filename}, line {choose.__code__.co_firstlineno}"
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
        raise SpecError(
            f"policy function {choose.__name__!r} ({place}) cannot be compiled: it must be in the subset of Python "
            f"that numba takes, use fields that exist, and give an integer (docs/policies.md). numba says: {said[:600]}"
        ) from error


POLICY = types.int64(STATE, types.int64)
_policy_at = function_reader(POLICY)
RUN = types.int64(*(types.int64,) * 6)


def _run_at(
    address: int, choose: int, start: int, pool: int, until_ps: int, max_points: int
) -> int:  # pragma: no cover - compiled
    return run(state_at(address), _policy_at(choose), _policy_at(start), _policy_at(pool), until_ps, max_points)


def _answer_at(address: int, function: int, slot: int) -> int:  # pragma: no cover - compiled
    return _policy_at(function)(state_at(address), slot)


def _plan_at(address: int, evicted: Any, members: Any, tokens: Any) -> int:  # pragma: no cover - compiled
    return plan_batch(state_at(address), evicted, members, tokens)


def _set_class_at(address: int, r: int) -> None:  # pragma: no cover - compiled
    classify(state_at(address), r)


def _first_user_requests_at(address: int, starts_ps: Any) -> None:  # pragma: no cover - compiled
    first_user_requests(state_at(address), starts_ps)


@cache
def compiled_run() -> Any:
    return compile_cached(_run_at, RUN, "the engine")


@cache
def compiled_answer() -> Any:
    return compile_cached(_answer_at, types.int64(types.int64, types.int64, types.int64))


@cache
def compiled_plan() -> Any:
    ints = types.int64[::1]
    return compile_cached(_plan_at, types.int64(types.int64, ints, ints, ints))


@cache
def compiled_classify() -> Any:
    return compile_cached(_set_class_at, types.void(types.int64, types.int64))


@cache
def compiled_users() -> Any:
    return compile_cached(_first_user_requests_at, types.void(types.int64, types.int64[::1]))


def warm_up(choices: Iterable[Callable[..., Any] | None]) -> None:
    """Compiles the engine and these policies (None: decisions from outside), for other processes to find cached."""
    for choose in choices:
        compile_policy(choose or ask_outside)
    compiled_run()
