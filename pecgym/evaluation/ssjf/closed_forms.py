"""M/G/1 beside the runs: one job at a time, and what closed forms say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from pecgym.analysis.queueing import Jobs, fcfs_response_s, shortest_first_response_s, shortest_remaining_response_s
from pecgym.evaluation.ssjf.cases import NONE, capacity_rps
from pecgym.evaluation.ssjf.cells import service_s
from pecgym.evaluation.ssjf.changes import Value, mean_value
from pecgym.evaluation.ssjf.study import Found
from pecgym.predictors import load_predictor
from pecgym.workload import Trace
from pecgym.workload.chat import output_distribution

RESPONSES: dict[str, Callable[[Jobs, float], float]] = {
    "fifo": fcfs_response_s,
    "sjf": shortest_first_response_s,
    "spjf": shortest_first_response_s,
    "srpt": shortest_remaining_response_s,
    "sprpt": shortest_remaining_response_s,
}
NAMES = {
    "fifo": "FCFS (Pollaczek-Khinchine)",
    "sjf": "shortest first, exact",
    "spjf": "shortest first, predicted",
    "srpt": "shortest remaining, exact",
    "sprpt": "shortest remaining, predicted",
}
_SAMPLE = 200_000


@dataclass(frozen=True)
class Line:
    """A mean response time in a closed form, and of the runs; seconds."""

    load: float
    policy: str
    predictor: str | None
    theory_s: float
    simulated: Value

    @property
    def is_inside(self) -> bool:
        """Whether the closed form lies in the interval of the runs."""
        return self.simulated.low <= self.theory_s <= self.simulated.high


def lines(found: list[Found], loads: dict[str, float]) -> list[Line]:
    """Of every policy of every case, FIFO where there are no predictions. loads: by case."""
    return [
        Line(
            loads[each.case.key],
            policy,
            each.case.predictor,
            RESPONSES[policy](jobs_of(each.case.predictor), loads[each.case.key] * capacity_rps(NONE, 1)),
            mean_value(rows, "steady_jct_mean_s"),
        )
        for each in found
        for policy, rows in each.rows.items()
        if policy != "fifo" or each.case.predictor is None
    ]


@cache
def jobs_of(predictor: str | None) -> Jobs:
    """SSJF's jobs. With a predictor: evenly spread over the distribution of lengths, with a prediction of each."""
    tokens, share = output_distribution()
    if predictor is None:
        return Jobs.exact(service_s(tokens), share)
    outputs = tokens[np.searchsorted(share.cumsum(), (np.arange(_SAMPLE) + 0.5) / _SAMPLE)]
    trace = Trace(np.zeros(_SAMPLE), np.ones(_SAMPLE, np.int64), outputs)
    predicted = load_predictor(predictor).predict(trace, 0).predicted_tokens
    pairs, counts = np.unique(np.stack([outputs, predicted]), axis=1, return_counts=True)
    return Jobs(service_s(pairs[0]), service_s(pairs[1]), counts / _SAMPLE)
