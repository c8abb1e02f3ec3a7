"""A bound for many requests: the flow of `pecgym.optimum.flow` without its clock, as a small mixed program.

Over the whole schedule, every output token after a request's first comes from a decode or from a prefill of all tokens
before it, each with its own cost. They share so many batches B, of which P have prompt tokens and D have decodes; what
they hold, and compute, must fit into that many. Kim et al. (INFERMAX) bound B alone.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

from pecgym.optimum.flow import load_mathopt
from pecgym.optimum.problem import Problem
from pecgym.optimum.relaxation import Relaxation

MOST_VARIABLES = 100_000
_UNITS = 1e8


def too_large(problem: Problem) -> bool:
    """Whether there are too many different output tokens for this bound."""
    return sum(lengths.output_tokens for lengths in problem.kinds) > MOST_VARIABLES


def averages_bound_ps(problem: Problem, seconds: float) -> int:
    """No schedule takes less time, in ps; 0 if the solver does not say in so many seconds."""
    mathopt = load_mathopt()
    relaxation, p = Relaxation(problem), problem.profile
    unit_ps = max(1.0, relaxation.bound_ps() / _UNITS)
    model = mathopt.Model(name="averages")
    least = relaxation.batches(relaxation.left_at_start)
    batches = model.add_integer_variable(lb=least, name="B")
    prefills = model.add_integer_variable(lb=1, name="P")
    decodes = model.add_integer_variable(lb=0, name="D")
    fixed = (relaxation.line.base_ps, p.prefill_base_ps, p.decode_base_ps)
    costs = [ps / unit_ps * count for ps, count in zip(fixed, (batches, prefills, decodes), strict=True)]
    memory: dict[str, list[Any]] = {"prefill": [], "decode": []}
    tokens: dict[str, list[Any]] = {"prefill": [], "decode": []}
    for lengths, n in problem.kinds.items():
        own = relaxation.tokens_of(lengths)
        prefilled, decoded = [float(n)], []
        memory["prefill"].append(n * int(own.blocks[0]))
        tokens["prefill"].append(n * lengths.input_tokens)
        costs.append(n * int(own.prefill_ps[0]) / unit_ps)
        for e in range(1, lengths.output_tokens):
            again = model.add_variable(lb=0.0, ub=float(n) if problem.eviction == "free" else 0.0)
            prefilled.append(again)
            decoded.append(n - again)
            blocks, context = int(own.blocks[e]), int(own.context[e])
            memory["prefill"].append(blocks * again)
            memory["decode"].append(blocks * (n - again))
            tokens["prefill"].append(context * again)
            tokens["decode"].append(n - again)
            costs.append((int(own.prefill_ps[e]) * again + int(own.decode_ps[e]) * (n - again)) / unit_ps)
        model.add_linear_constraint(mathopt.fast_sum(prefilled) <= n * prefills)
        model.add_linear_constraint(mathopt.fast_sum(decoded) <= n * decodes)
    for kinds, count in ((("prefill",), prefills), (("decode",), decodes), (("prefill", "decode"), batches)):
        held, new = (mathopt.fast_sum([term for kind in kinds for term in of[kind]]) for of in (memory, tokens))
        model.add_linear_constraint(held <= problem.kv_blocks * count)
        model.add_linear_constraint(new <= problem.max_batch_tokens * count)
        model.add_linear_constraint(count <= batches)
    model.add_linear_constraint(batches <= prefills + decodes)
    model.minimize(mathopt.fast_sum(costs))
    parameters = mathopt.SolveParameters(
        time_limit=datetime.timedelta(seconds=seconds),
        presolve=mathopt.Emphasis.OFF,  # it ends the process on some of these models; without it they take as long
    )
    result = mathopt.solve(model, mathopt.SolverType.HIGHS, params=parameters)
    bound = result.termination.objective_bounds.dual_bound
    return int(bound * (1 - 1e-6) * unit_ps) if math.isfinite(bound) else 0
