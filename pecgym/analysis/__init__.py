"""From a log of requests to numbers and tables."""

from pecgym.analysis.metrics import metrics_row
from pecgym.analysis.request_log import RequestLog, RunFacts
from pecgym.analysis.tables import results_table

__all__ = ["RequestLog", "RunFacts", "metrics_row", "results_table"]
