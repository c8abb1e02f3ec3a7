"""The HTML report of an evaluation: one file that opens from disk, without a network."""

from pecgym.analysis.report.page import write_report

__all__ = ["write_report"]
