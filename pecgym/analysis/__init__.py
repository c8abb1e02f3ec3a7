"""From a log of requests to numbers and tables."""

from pecgym.analysis.comparison import compare
from pecgym.analysis.metrics import metrics_row
from pecgym.analysis.predictions import predictor_lines
from pecgym.analysis.request_log import RequestLog, RunFacts
from pecgym.analysis.tables import comparison_table, distance_table, results_table

__all__ = [
    "RequestLog",
    "RunFacts",
    "compare",
    "comparison_table",
    "distance_table",
    "metrics_row",
    "predictor_lines",
    "results_table",
]
