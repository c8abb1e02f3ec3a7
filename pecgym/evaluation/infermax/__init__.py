"""INFERMAX (arXiv:2411.07447), run again: its numbers beside the measured ones. Pictures need Matplotlib."""

from pecgym.evaluation.infermax.config import InfermaxConfig
from pecgym.evaluation.infermax.study import run

__all__ = ["InfermaxConfig", "run"]
