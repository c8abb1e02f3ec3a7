"""Schedules and the engine: a schedule is run through it batch by batch, and what it does is read as a schedule."""

from __future__ import annotations

from typing import Any

import numpy as np

from pecgym.engine import EngineSettings, Simulator
from pecgym.engine.state import RUNNING, State
from pecgym.errors import EngineError
from pecgym.optimum.problem import Batch, Problem, Schedule
from pecgym.workload import Trace


def _trace(problem: Problem) -> Trace:
    """The requests, all there at time 0."""
    n = len(problem.requests)
    return Trace(
        arrival_s=np.zeros(n),
        input_tokens=np.array([lengths.input_tokens for lengths in problem.requests]),
        output_tokens=np.array([lengths.output_tokens for lengths in problem.requests]),
        name="all at once",
    )


def _limits(problem: Problem, settings: EngineSettings) -> EngineSettings:
    """An engine's settings under the problem's limits."""
    return settings.with_changes(
        kv_capacity_tokens=problem.kv_blocks * problem.block_tokens,
        block_tokens=problem.block_tokens,
        watermark=0.0,
    )


def _place_all(simulator: Simulator) -> Any:
    """The next decision that is not where a request goes: there is one replica."""
    while (decision := simulator.next_decision()) is not None and decision.kind == "place":
        simulator.apply(0)
    return decision


def replay_ps(problem: Problem, schedule: Schedule) -> int:
    """The time of a schedule in the compiled engine, in ps. Raises EngineError where it breaks a limit."""
    settings = EngineSettings(
        name="schedule",
        max_batch_requests=len(problem.requests),
        max_batch_tokens=problem.max_batch_tokens,
        group_order="decode_first",
        mixing=True,
        chunk_tokens=problem.max_batch_tokens if problem.chunked else 0,
    )
    simulator = Simulator(1, problem.profile, _limits(problem, settings), plan_batches=True)
    simulator.load_trace(_trace(problem))
    for j, batch in enumerate(schedule.batches):
        if _place_all(simulator) is None:
            raise EngineError(f"schedule: everything is served before batch {j}")
        simulator.apply_batch(batch.tokens, batch.evicted)
    if _place_all(simulator) is not None:
        raise EngineError("schedule: it ends before everything is served")
    return int(simulator.finished().finish_ps.max())


def schedule_of(problem: Problem, settings: EngineSettings) -> Schedule:
    """What an engine does with the requests, as a schedule: its settings under the problem's limits.

    It may break limits that the engine does not have: check it with `Problem.cost_ps`.
    """
    simulator = Simulator(1, problem.profile, _limits(problem, settings), choose=_to_the_only_one)
    simulator.load_trace(_trace(problem))
    batches: list[Batch] = []
    evictions = dict.fromkeys(range(len(problem.requests)), 0)
    while simulator.step():
        batches += _batches_begun(simulator, evictions)
    return Schedule(tuple(batches))


def _to_the_only_one(state: State, slot: int) -> int:
    return 0


def _batches_begun(simulator: Simulator, evictions: dict[int, int]) -> list[Batch]:
    """The batches of the run that has just begun, if one has. evictions: by row, how often so far; is brought up to
    date."""
    state = simulator.state
    replica = state.replicas[0]
    if replica.status != RUNNING:
        return []
    live = simulator.unfinished()
    evicted = [int(request.row) for request in live if request.evictions > evictions[int(request.row)]]
    evictions |= {int(request.row): int(request.evictions) for request in live}
    prompts = state.requests[state.prefills[0, : replica.n_prefills]]
    tokens = {int(request.row): int(request.chunk_tokens) for request in prompts if request.chunk_tokens > 0}
    if replica.with_decodes:
        decoding = state.requests[state.decodes[0, : replica.n_decodes]["slot"]]
        tokens |= {int(request.row): 1 for request in decoding}
    again = [Batch(tokens)] * (int(replica.n_iterations) - 1)
    return [Batch(tokens, tuple(evicted)), *again]
