"""The optimum of a batch schedule, or the pair [bound, best found]."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pecgym.costs import Profile
from pecgym.errors import SpecError
from pecgym.optimum import averages, flow, search
from pecgym.optimum.heuristics import best_of_engines
from pecgym.optimum.problem import Problem, Schedule, make_problem, seconds
from pecgym.optimum.relaxation import Relaxation
from pecgym.optimum.replay import replay_ps

PROFILE = "infermax-llama-2-7b-a100"
_LONGEST_S = 86_400.0
_ENGINES_BEFORE_SEARCH = 10


@dataclass(frozen=True)
class Optimum:
    """What is known of the best schedule.

    Attributes:
        best_s: time of `schedule`, seconds.
        bound_s: no schedule takes less, seconds.
        status: "optimal": the schedule is the best there is, to a share of 1e-6 (exactly so where bound_s == best_s);
            "time limit": the search was not done in time; "size": too large for any search, so that the schedule is the
            best of the engine's settings.
        schedule: the best that was found; it keeps every limit, and takes best_s in the engine.
        notes: what was left out, and why.
        wall_s: how long it took to find, seconds.
    """

    best_s: float
    bound_s: float
    status: str
    schedule: Schedule
    notes: tuple[str, ...]
    wall_s: float

    @property
    def gap(self) -> float:
        """The share of best_s by which a better schedule could still be faster."""
        return 1 - self.bound_s / self.best_s


def solve(
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    profile: Profile | str | Path = PROFILE,
    *,
    max_batch_tokens: int = 16384,
    kv_capacity_tokens: int | None = None,
    block_tokens: int = 1,
    chunked: bool = False,
    eviction: str = "free",
    time_limit_s: float = 30.0,
) -> Optimum:
    """The best schedule of requests that are all there at time 0 on one replica (INFERMAX's optimal scheduler).

    Small cases are solved exactly by a shortest path, with any profile; middle ones as a flow by OR-tools (CP-SAT and
    HiGHS; the extra `optimum`); of large ones there are bounds, and the best of the engine's settings.

    Args:
        input_tokens: prompt of each request, 1 or more.
        output_tokens: of each request, 1 or more.
        profile: of costs, by name, path or as an object.
        max_batch_tokens: new tokens in a batch, at most (C).
        kv_capacity_tokens: KV memory (M); None: the profile's.
        block_tokens: KV tokens in a block; INFERMAX's page size is 1.
        chunked: whether prompts may be computed in parts.
        eviction: "free": anybody may lose its memory and be computed again; "never"; or "peak": never, and the peaks
            of all residents, input + output - 1, fit into memory together.
        time_limit_s: after so many seconds what is known by then is returned; the engine's schedules and the bounds
            need some on top.

    Raises:
        SpecError: lengths or limits that cannot be, such as a request that is larger than the memory.
        ProfileError: no such profile.
    """
    if not 0 < time_limit_s <= _LONGEST_S:
        raise SpecError(f"time_limit_s={time_limit_s}: must be above 0, at most {_LONGEST_S:.0f} seconds")
    problem = make_problem(
        input_tokens,
        output_tokens,
        profile,
        max_batch_tokens=max_batch_tokens,
        kv_capacity_tokens=kv_capacity_tokens,
        block_tokens=block_tokens,
        chunked=chunked,
        eviction=eviction,
    )
    return _Attempt(problem, time_limit_s).solve()


def replay(
    schedule: Schedule,
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    profile: Profile | str | Path = PROFILE,
    *,
    max_batch_tokens: int = 16384,
    kv_capacity_tokens: int | None = None,
    block_tokens: int = 1,
    chunked: bool = False,
) -> float:
    """Runs a schedule through the compiled engine: its time, seconds. The arguments are those of `solve`.

    Raises EngineError where the schedule breaks a limit.
    """
    problem = make_problem(
        input_tokens,
        output_tokens,
        profile,
        max_batch_tokens=max_batch_tokens,
        kv_capacity_tokens=kv_capacity_tokens,
        block_tokens=block_tokens,
        chunked=chunked,
    )
    return seconds(replay_ps(problem, schedule))


class _Attempt:
    """One call of `solve`: what is known so far, and until when."""

    def __init__(self, problem: Problem, time_limit_s: float) -> None:
        self.problem = problem
        self.started_s = time.monotonic()
        self.limit_s = time_limit_s
        self.notes: list[str] = []
        self.bound_ps = Relaxation(problem).bound_ps()
        tries = None if search.too_large(problem) else _ENGINES_BEFORE_SEARCH
        self.schedule = best_of_engines(problem, self._until(0.2), tries)
        self.best_ps = problem.cost_ps(self.schedule)

    def _until(self, share: float) -> float:
        """When a share of the time will have passed."""
        return self.started_s + share * self.limit_s

    def solve(self) -> Optimum:
        searched = self._search()
        if searched != "optimal":
            searched = self._flow() or searched
        if searched != "optimal":
            self._averages()
        return Optimum(
            best_s=seconds(self.best_ps),
            bound_s=seconds(self.bound_ps),
            status=searched or "size",
            schedule=self.schedule,
            notes=tuple(self.notes),
            wall_s=time.monotonic() - self.started_s,
        )

    def _learn(self, bound_ps: int, schedule: Schedule | None) -> None:
        self.bound_ps = max(self.bound_ps, bound_ps)
        if schedule is not None and (cost_ps := self.problem.cost_ps(schedule)) < self.best_ps:
            self.schedule, self.best_ps = schedule, cost_ps
        self.bound_ps = min(self.bound_ps, self.best_ps)

    def _search(self) -> str:
        """The exact search; the status it ends with, empty if the problem is too large for it."""
        if reason := search.too_large(self.problem):
            self.notes.append(f"beyond the exact search: {reason}")
            return ""
        self._learn(0, search.beam_search(self.problem, self.best_ps, self._until(0.3)))
        found = search.search(self.problem, self.best_ps, self._until(0.5))
        self._learn(found.bound_ps, found.schedule)
        if not found.closed:
            self.notes.append(f"the exact search was stopped at {found.nodes:,} nodes")
        return "optimal" if found.closed else "time limit"

    def _flow(self) -> str:
        """The solvers; empty if the problem is too large for them, or they are not there."""
        arcs = flow.count_arcs(self.problem, self.best_ps)
        if arcs > flow.MOST_ARCS:
            self.notes.append(f"beyond the solvers: some {arcs:,} flow variables, more than {flow.MOST_ARCS:,}")
            return ""
        if time.monotonic() + arcs / flow.ARCS_PER_S > self._until(1.0):
            self.notes.append(f"no time for the solvers, with some {arcs:,} flow variables")
            return "time limit"
        if not self._has_solvers():
            return ""
        solved = flow.FlowModel(self.problem, self.best_ps + 1).solve(self.schedule, self._until(1.0))
        self._learn(solved.bound_ps, solved.schedule)
        return "optimal" if solved.closed else "time limit"

    def _averages(self) -> None:
        """The bound for many requests."""
        if averages.too_large(self.problem):
            self.notes.append("the closed form bounds the time: there are too many different lengths for more")
        elif self._has_solvers():
            self._learn(averages.averages_bound_ps(self.problem, max(1.0, 0.2 * self.limit_s)), None)

    def _has_solvers(self) -> bool:
        try:
            flow.load_mathopt()
        except SpecError as missing:
            if str(missing) not in self.notes:
                self.notes.append(str(missing))
            return False
        return True
