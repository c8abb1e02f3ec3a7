"""Optimal batch schedules and bounds that no scheduler beats (INFERMAX, arXiv:2411.07447)."""

from pecgym.optimum.problem import Batch, Problem, Schedule, make_problem
from pecgym.optimum.solve import Optimum, replay, solve

__all__ = ["Batch", "Optimum", "Problem", "Schedule", "make_problem", "replay", "solve"]
