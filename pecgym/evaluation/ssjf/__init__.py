"""SSJF (arXiv:2404.08509), run again: its figures beside ours, and what length predictions buy elsewhere."""

from pecgym.evaluation.ssjf.config import SsjfConfig
from pecgym.evaluation.ssjf.study import Study, study

__all__ = ["SsjfConfig", "Study", "study"]
