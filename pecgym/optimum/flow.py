"""The problem as a flow over time, for solvers: bounds and schedules of middle sizes.

Every request goes a way through its states, one batch after another; requests of equal lengths are one flow of so many
units, which takes away their symmetry. A batch pays for what flows in it. All costs are constants but the token term,
which is straight, or straight in pieces. Costs are rounded down to a unit of time of about 1e-8 of the whole, so that
the solvers' bounds hold.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pecgym.errors import SpecError
from pecgym.optimum.problem import Batch, Lengths, Problem, Progress, Schedule, Step
from pecgym.optimum.relaxation import Relaxation

if TYPE_CHECKING:
    from ortools.math_opt.python import mathopt

MOST_ARCS = 150_000
ARCS_PER_S = 8_000
"""How fast a model is built, about."""
_UNITS = 1e8
_THREADS = 8
Node = tuple[Lengths, Progress]


@dataclass(frozen=True)
class Solved:
    """What the solvers found. bound_ps: no schedule takes less; schedule: None without one."""

    bound_ps: int
    closed: bool
    schedule: Schedule | None


@dataclass
class _Arc:
    """Requests of one kind that do the same in one batch. step: None: they hold what they have, or are evicted."""

    lengths: Lengths
    before: Progress
    after: Progress
    step: Step | None
    count: Any

    @property
    def evicts(self) -> bool:
        """Whether they give up their memory before the batch."""
        return (self.after if self.step is None else self.step.before) != self.before


@dataclass
class _Column:
    """One batch of the model."""

    arcs: list[_Arc] = field(default_factory=list)
    used: Any = None


def count_arcs(problem: Problem, below_ps: int) -> int:
    """Flow variables of the model of schedules that take less than `below_ps`, about."""
    per_batch = 0
    for lengths in problem.kinds:
        context = lengths.peak_tokens
        per_batch += lengths.output_tokens * (context * context // 2 if problem.chunked else 5)
    return per_batch * Relaxation(problem).most_batches(below_ps)


class FlowModel:
    """The model of a problem, for schedules that take less than `below_ps`. Raises SpecError without OR-tools."""

    def __init__(self, problem: Problem, below_ps: int) -> None:
        self.problem, self.below_ps = problem, below_ps
        self.relaxation = Relaxation(problem)
        self.unit_ps = max(1, int(below_ps / _UNITS))
        self.n_batches = self.relaxation.most_batches(below_ps)
        self.mathopt = load_mathopt()
        self.model: mathopt.Model = self.mathopt.Model(name="schedule")
        self.columns: list[_Column] = []
        self._costs: list[Any] = []
        self._build()

    # -- the model --------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        reached: dict[Node, list[Any]] = {
            (lengths, Progress()): [count] for lengths, count in self.problem.kinds.items()
        }
        for j in range(self.n_batches):
            column = self._column(j, reached)
            self.columns.append(column)
            reached = {}
            for arc in column.arcs:
                reached.setdefault((arc.lengths, arc.after), []).append(arc.count)
        for (lengths, progress), counts in reached.items():
            if not self.problem.is_done(lengths, progress):
                self.model.add_linear_constraint(self._sum(counts) == 0)
        least = self.relaxation.batches(self.relaxation.left_at_start)
        for column in self.columns[:least]:
            column.used.lower_bound = 1
        self.model.minimize(self._sum(self._costs))

    def _column(self, j: int, reached: dict[Node, list[Any]]) -> _Column:
        """One batch: its arcs, its limits, and its cost."""
        problem, model = self.problem, self.model
        column = _Column(used=model.add_binary_variable(name=f"used_{j}"))
        batches_left = self.n_batches - j
        for (lengths, progress), counts in reached.items():
            if problem.is_done(lengths, progress):
                continue
            leaving = []
            for after, step in self._choices(lengths, progress):
                if lengths.output_tokens - after.emitted > batches_left - 1:
                    continue  # too late
                count = model.add_integer_variable(lb=0, ub=problem.kinds[lengths])
                column.arcs.append(_Arc(lengths, progress, after, step, count))
                leaving.append(count)
            model.add_linear_constraint(self._sum(leaving) == self._sum(counts))
        self._limits(column)
        self._cost(j, column)
        if self.columns:
            model.add_linear_constraint(column.used <= self.columns[-1].used)
        return column

    def _choices(self, lengths: Lengths, progress: Progress) -> Iterator[tuple[Progress, Step | None]]:
        for step in self.problem.steps(lengths, progress):
            yield step.after, step
        yield progress, None
        if progress.held > 0 and self.problem.eviction == "free":
            yield progress.evicted, None

    def _limits(self, column: _Column) -> None:
        problem, model = self.problem, self.model
        blocks, tokens, members = [], [], []
        for arc in column.arcs:
            held = arc.after.held if arc.step is None else arc.step.before.held + arc.step.tokens
            if (n := problem.blocks_during(arc.lengths, held)) > 0:
                blocks.append(n * arc.count)
            if arc.step is not None:
                tokens.append(arc.step.tokens * arc.count)
                members.append(arc.count)
        model.add_linear_constraint(self._sum(blocks) <= problem.kv_blocks)
        model.add_linear_constraint(self._sum(tokens) <= problem.max_batch_tokens * column.used)
        model.add_linear_constraint(self._sum(members) >= column.used)

    def _cost(self, j: int, column: _Column) -> None:
        problem, model, p = self.problem, self.model, self.problem.profile
        prefills = model.add_binary_variable(name=f"prefills_{j}")
        decodes = model.add_binary_variable(name=f"decodes_{j}")
        self._costs += [self._units(p.prefill_base_ps) * prefills, self._units(p.decode_base_ps) * decodes]
        tokens = []
        of: dict[bool, list[_Arc]] = {False: [], True: []}
        for arc in column.arcs:
            if arc.step is not None:
                of[arc.step.before.decoding].append(arc)
                own_ps = problem.own_ps(arc.step.before, arc.step.tokens)
                self._costs.append(self._units(own_ps) * arc.count)
                tokens.append(arc.step.tokens * arc.count)
        for flag, arcs in ((prefills, of[False]), (decodes, of[True])):
            for lengths, most in problem.kinds.items():
                counts = [arc.count for arc in arcs if arc.lengths == lengths]
                if counts:
                    model.add_linear_constraint(self._sum(counts) <= most * flag)
            model.add_linear_constraint(flag <= column.used)
        model.add_linear_constraint(prefills + decodes >= column.used)
        self._token_term(column, self._sum(tokens))

    def _token_term(self, column: _Column, tokens: Any) -> None:
        """g of the batch's tokens: one straight line, or the piece in which they are; rounded down."""
        p, most = self.problem.profile, self.problem.max_batch_tokens
        most = min(most, sum(n * k.peak_tokens for k, n in self.problem.kinds.items()))
        knots = [1, *(int(k) for k in p.g_knots_tokens if 1 < k < most), max(most, 2)]
        pieces, within = [], []
        for low, high in pairwise(knots):
            chosen = self.model.add_binary_variable() if len(knots) > 2 else column.used
            inside = tokens
            if len(knots) > 2:
                inside = self.model.add_integer_variable(lb=0, ub=high)
                self.model.add_linear_constraint(inside >= low * chosen)
                self.model.add_linear_constraint(inside <= high * chosen)
                within.append(inside)
                pieces.append(chosen)
            slope = self._units((p.g_ps(high) - p.g_ps(low)) // (high - low))
            self._costs += [(self._units(p.g_ps(low)) - slope * low) * chosen, slope * inside]
        if pieces:
            self.model.add_linear_constraint(self._sum(pieces) == column.used)
            self.model.add_linear_constraint(self._sum(within) == tokens)

    def _units(self, ps: int) -> int:
        return ps // self.unit_ps

    def _sum(self, terms: list[Any]) -> Any:
        return self.mathopt.fast_sum(terms)

    # -- schedules and solutions ------------------------------------------------------------------------------------

    def solve(
        self, hint: Schedule | None, until_s: float, note: Callable[[int], None] = lambda bound_ps: None
    ) -> Solved:
        """Solves until time.monotonic() is `until_s`: CP-SAT, which finds schedules, and, if that does not close,
        HiGHS, which proves better bounds. hint: a schedule to begin with."""
        started, solver = time.monotonic(), self.mathopt.SolverType
        bound_ps, schedule = 0, None
        for kind, share in ((solver.CP_SAT, 0.5), (solver.HIGHS, 1.0)):
            seconds = started + share * (until_s - started) - time.monotonic()
            if seconds <= 0:
                continue
            result = self._run(kind, hint, seconds)
            reason = self.mathopt.TerminationReason
            if result.termination.reason == reason.INFEASIBLE:
                return Solved(self.below_ps, True, None)
            dual = result.termination.objective_bounds.dual_bound
            if math.isfinite(dual):
                bound_ps = max(bound_ps, int(self._safe(kind, dual) * self.unit_ps))
                note(bound_ps)
            if result.has_primal_feasible_solution():
                found = self._schedule(result.variable_values())
                if schedule is None or self.problem.cost_ps(found) < self.problem.cost_ps(schedule):
                    schedule = hint = found
            if result.termination.reason == reason.OPTIMAL:
                return Solved(bound_ps, True, schedule)
        return Solved(bound_ps, False, schedule)

    def _safe(self, kind: Any, bound: float) -> float:
        """A bound with the solver's tolerance taken off: CP-SAT counts in whole numbers, HiGHS does not."""
        return bound - 1e-6 if kind == self.mathopt.SolverType.CP_SAT else bound * (1 - 1e-6)

    def _run(self, kind: Any, hint: Schedule | None, seconds: float) -> Any:
        parameters = self.mathopt.SolveParameters(
            time_limit=datetime.timedelta(seconds=seconds), random_seed=0, relative_gap_tolerance=0.0
        )
        if kind == self.mathopt.SolverType.CP_SAT:
            parameters.threads = _THREADS
        given = self.mathopt.ModelSolveParameters()
        if hint is not None:
            given.solution_hints.append(self.mathopt.SolutionHint(variable_values=self._values(hint)))
        return self.mathopt.solve(self.model, kind, params=parameters, model_params=given)

    def _values(self, schedule: Schedule) -> dict[Any, float]:
        """The counts of a schedule."""
        values: dict[Any, float] = {}
        at = [Progress() for _ in self.problem.requests]
        for j, column in enumerate(self.columns):
            counts: dict[tuple[Lengths, Progress, Progress, int, bool], int] = {}
            batch = schedule.batches[j] if j < len(schedule) else Batch({})
            for i, lengths in enumerate(self.problem.requests):
                before, tokens, evicts = at[i], batch.tokens.get(i, 0), i in batch.evicted
                if evicts:
                    at[i] = at[i].evicted
                if tokens:
                    at[i] = self.problem.after(lengths, at[i], tokens)
                key = (lengths, before, at[i], tokens, evicts)
                counts[key] = counts.get(key, 0) + 1
            for arc in column.arcs:
                tokens = 0 if arc.step is None else arc.step.tokens
                values[arc.count] = counts.get((arc.lengths, arc.before, arc.after, tokens, arc.evicts), 0)
            values[column.used] = float(bool(batch.tokens))
        return values

    def _schedule(self, values: dict[Any, float]) -> Schedule:
        """The schedule of a solution: units of a flow become requests, the first first."""
        at: dict[Node, list[int]] = {}
        for i, lengths in enumerate(self.problem.requests):
            at.setdefault((lengths, Progress()), []).append(i)
        batches = []
        for column in self.columns:
            tokens: dict[int, int] = {}
            evicted: list[int] = []
            reached: dict[Node, list[int]] = {}
            for arc in column.arcs:
                there = at.get((arc.lengths, arc.before), [])
                for _ in range(round(values[arc.count])):
                    i = there.pop(0)
                    if arc.step is not None:
                        tokens[i] = arc.step.tokens
                    if arc.evicts:
                        evicted.append(i)
                    reached.setdefault((arc.lengths, arc.after), []).append(i)
            if tokens:
                batches.append(Batch(dict(sorted(tokens.items())), tuple(sorted(evicted))))
            at = {node: sorted(there) for node, there in reached.items()}
        return Schedule(tuple(batches))


def load_mathopt() -> Any:
    """OR-tools' modelling. Raises SpecError where it is not installed."""
    try:
        from ortools.math_opt.python import mathopt
    except ImportError as error:
        raise SpecError(
            "this size of problem is solved with OR-tools, which is not installed: pip install 'pecgym[optimum]'"
        ) from error
    return mathopt
