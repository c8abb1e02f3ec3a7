"""The distance of every engine preset to the optimum (pecgym.optimum), over a grid. Pictures need Matplotlib."""

from pecgym.evaluation.optimum.config import OptimumConfig
from pecgym.evaluation.optimum.study import run

__all__ = ["OptimumConfig", "run"]
