"""PecSched's tables (arXiv:2409.15104), run again: the paper's numbers beside the measured ones."""

from pecgym.evaluation.paper.page import write_page
from pecgym.evaluation.paper.runs import PaperConfig, Reproduction, reproduce

__all__ = ["PaperConfig", "Reproduction", "reproduce", "write_page"]
