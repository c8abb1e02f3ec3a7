"""Good schedules to begin with: what the engine does under many of its settings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice, product

from pecgym.engine import EngineSettings
from pecgym.errors import SpecError
from pecgym.optimum.problem import Problem, Schedule
from pecgym.optimum.replay import schedule_of

_SLOT_LIMITS = 6


def best_of_engines(problem: Problem, until_s: float, tries: int | None = None) -> Schedule:
    """The best schedule of the engine that keeps the problem's limits, of the settings that were tried until
    time.monotonic() was `until_s`, at most `tries`, but at least until one did; without any, one request at a time."""
    best: tuple[int, Schedule] | None = None
    for settings in islice(_settings(problem), tries):
        if best is not None and time.monotonic() > until_s:
            break
        schedule = schedule_of(problem, settings)
        try:
            cost_ps = problem.cost_ps(schedule)
        except SpecError:  # the engine lets the first whole prompt of a batch exceed its tokens
            continue
        if best is None or cost_ps < best[0]:
            best = cost_ps, schedule
    if best is not None:
        return best[1]
    chunk_tokens = problem.max_batch_tokens if problem.chunked else 0
    return schedule_of(problem, EngineSettings(batching="none", reservation="peak", chunk_tokens=chunk_tokens))


def _settings(problem: Problem) -> Iterator[EngineSettings]:
    """How many at once, chunks, mixing, who goes first, order, reservation and victims."""
    memory = [("peak", "newest")]
    if problem.eviction == "free":
        memory += [("prompt", "newest"), ("prompt", "fewest_computed"), ("prompt", "most_computed")]
        memory += [("history", "fewest_computed")]
    chunks = (problem.max_batch_tokens, 0) if problem.chunked else (0,)
    for limit, chunk, mixing, order, queue_order, (reservation, victim) in product(
        _slot_limits(len(problem.requests)),
        chunks,
        (True, False),
        ("decode_first", "prefill_first"),
        ("fcfs", "shortest"),
        memory,
    ):
        yield EngineSettings(
            max_batch_requests=limit,
            max_batch_tokens=problem.max_batch_tokens,
            group_order=order,
            mixing=mixing,
            chunk_tokens=chunk,
            reservation=reservation,
            victim=victim,
            queue_order=queue_order,
        )


def _slot_limits(n: int) -> list[int]:
    """How many requests at once: all, and a few smaller numbers."""
    return sorted({n, *(max(1, round(n * k / _SLOT_LIMITS)) for k in range(1, _SLOT_LIMITS))}, reverse=True)
