"""Cells of the study: all policies on the same requests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pecgym.analysis import RequestLog
from pecgym.analysis.metrics import jct_s
from pecgym.evaluation.keys import digest_of
from pecgym.evaluation.plan import EvaluationPlan
from pecgym.predictors import accuracy

METRICS = (
    *("jct_mean_s", "jct_p50_s", "jct_p99_s", "ttft_mean_s", "ttft_p99_s", "all_queueing_delay_p99_s"),
    *("quarter_throughput_rps", "throughput_rps", "evictions", "n_requests"),
)
"""What is kept of a run, as in pecgym.analysis.metrics."""
ACCURACY = "accuracy"
"""The key of a cell's result that holds how good its predictions were."""
WARM_UP = 0.1
"""The share of a run that starts empty and is left out of `steady_jct_mean_s`."""
BASE_S, PER_TOKEN_S = 0.1, 0.02
"""SSJF's service time: seconds of a job, and of each of its output tokens."""

Row = dict[str, Any]


def service_s(output_tokens: Any) -> Any:
    """What jobs take in SSJF's setting, float64 [n] seconds."""
    return BASE_S + PER_TOKEN_S * np.asarray(output_tokens, np.float64)


@dataclass(frozen=True)
class Cell:
    """All policies of a plan, of one workload, under one seed. slowdown: whether service times are SSJF's, so that a
    job's completion time has a ratio to them."""

    plan: EvaluationPlan
    seed: int
    slowdown: bool = False

    def key(self) -> str:
        """A hash of all that may change its result."""
        return digest_of([*(job.key() for job in self.plan.jobs()), list(METRICS), self.slowdown])[:24]

    def run(self) -> dict[str, list[Row]]:
        """By policy a row of METRICS; under ACCURACY how good the predictions were, if there were some."""
        found: dict[str, list[Row]] = {}
        for job in self.plan.jobs():
            found[job.policy] = [self._row(job.run())]
        trace = self.plan.part(self.plan.chosen_workloads()[0], self.seed, None).trace
        if trace.predicted_tokens is not None:
            found[ACCURACY] = [asdict(accuracy(trace.predicted_tokens, trace.output_tokens))]
        return found

    def _row(self, log: RequestLog) -> Row:
        row = {name: value for name, value in log.metrics().items() if name in METRICS}
        times_s = jct_s(log)
        row["steady_jct_mean_s"] = float(times_s[round(WARM_UP * len(times_s)) :].mean())
        if self.slowdown:
            ratios = times_s / service_s(log.counts["output_tokens"])
            row |= {"slowdown_mean": float(ratios.mean()), "slowdown_p99": float(np.percentile(ratios, 99))}
        return row
