"""What the paper says in words, checked against the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from pecgym.evaluation.paper.targets import Rows

P99, THROUGHPUT, JCT = "short_queueing_delay_p99_s", "short_throughput_rps", "long_jct_mean_s"
OWN_THROUGHPUT = "short_throughput_to_last_short_rps"
ABLATIONS = ("pecsched", "pecsched/Dis", "pecsched/CoL", "pecsched/FSP")


def mid(rows: Rows, policy: str, metric: str) -> float:
    """The median over seeds; 0 where the metric does not apply."""
    return median(row[metric] or 0.0 for row in rows[policy])


@dataclass(frozen=True)
class Statement:
    """A sentence, and whether it holds for the runs of one model."""

    text: str
    holds: Callable[[Rows], bool]


@dataclass(frozen=True)
class Growth:
    """A sentence about the models in order of size: a ratio of two policies' metric falls from each to the next."""

    text: str
    metric: str
    policy: str
    against: str

    def holds(self, by_model: Mapping[str, Rows]) -> bool:
        """Whether it does."""
        found = [
            mid(rows, self.policy, self.metric) / other if (other := mid(rows, self.against, self.metric)) else 0.0
            for rows in by_model.values()
        ]
        return all(a >= b for a, b in pairwise(found))


def _less(metric: str, *policies: str) -> Callable[[Rows], bool]:
    """Whether a metric grows from each policy to the next."""

    def holds(rows: Rows) -> bool:
        values = [mid(rows, policy, metric) for policy in policies]
        return all(a < b for a, b in pairwise(values))

    return holds


def _within(metric: str, policy: str, against: str, low: float, high: float) -> Callable[[Rows], bool]:
    """Whether the ratio of a metric lies in a range."""
    return lambda rows: (
        low * mid(rows, against, metric) <= mid(rows, policy, metric) <= high * mid(rows, against, metric)
    )


STATEMENTS: tuple[Statement | Growth, ...] = (
    Statement("PecSched's p99 short delay is below FIFO's", _less(P99, "pecsched", "fifo")),
    Growth("... the more so the larger the model", P99, "pecsched", "fifo"),
    Statement("PecSched's p99 short delay is below Reservation's", _less(P99, "pecsched", "reservation")),
    Growth("... the more so the larger the model", P99, "pecsched", "reservation"),
    Statement("PecSched's p99 short delay is within 2x of Priority's", _within(P99, "pecsched", "priority", 0.5, 2.0)),
    Statement("PecSched's short throughput is above FIFO's", _less(THROUGHPUT, "fifo", "pecsched")),
    Statement("... counted to the last short", _less(OWN_THROUGHPUT, "fifo", "pecsched")),
    Statement("PecSched's short throughput is above Reservation's", _less(THROUGHPUT, "reservation", "pecsched")),
    Statement("... counted to the last short", _less(OWN_THROUGHPUT, "reservation", "pecsched")),
    Statement("PecSched's mean long JCT is within 15% of FIFO's", _within(JCT, "pecsched", "fifo", 0.85, 1.15)),
    Statement(
        "Priority leaves over 90% of the longs unfinished when the last request arrives",
        lambda rows: mid(rows, "priority", "long_unfinished_at_last_arrival") > 0.9,
    ),
    Statement(
        "... and more than FIFO and PecSched do",
        lambda rows: all(
            mid(rows, policy, "long_unfinished_at_last_arrival")
            < mid(rows, "priority", "long_unfinished_at_last_arrival")
            for policy in ("fifo", "pecsched")
        ),
    ),
    Statement("/PE has a longer p99 short delay than PecSched", _less(P99, "pecsched", "pecsched/PE")),
    Statement("/PE has a lower short throughput than PecSched", _less(THROUGHPUT, "pecsched/PE", "pecsched")),
    Statement("/PE has a shorter mean long JCT than PecSched", _less(JCT, "pecsched/PE", "pecsched")),
    Statement("/Dis has a longer mean long JCT than PecSched", _less(JCT, "pecsched", "pecsched/Dis")),
    Statement("/CoL has a longer mean long JCT than PecSched", _less(JCT, "pecsched", "pecsched/CoL")),
    Statement("/FSP has a longer mean long JCT than PecSched", _less(JCT, "pecsched", "pecsched/FSP")),
    Statement(
        "... and than /Dis and /CoL", lambda rows: all(_less(JCT, p, "pecsched/FSP")(rows) for p in ABLATIONS[1:3])
    ),
    Statement("preemptions grow from PecSched over /Dis and /CoL to /FSP", _less("preemptions", *ABLATIONS)),
)
