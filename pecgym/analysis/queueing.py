"""Mean response times of M/G/1 queues in closed form, for jobs whose sizes are known, predicted or ignored.

One server, Poisson arrivals, a discrete distribution of jobs; who is equal in an order is served in order of arrival.
The orders by prediction are Mitzenmacher's ("Scheduling with Predictions and the Price of Misprediction", ITCS 2020,
arXiv:1902.00732); with exact predictions they are those of Phipps (1956) and of Schrage and Miller (1966).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pecgym.errors import SpecError


@dataclass(frozen=True)
class Jobs:
    """A discrete distribution of jobs, each float64[k].

    Attributes:
        service_s: what a job takes, seconds.
        predicted_s: what it is predicted to take, seconds.
        share: the probability of each, in parts that sum to 1.
    """

    service_s: Any
    predicted_s: Any
    share: Any

    def __post_init__(self) -> None:
        if not (np.shape(self.service_s) == np.shape(self.predicted_s) == np.shape(self.share)):
            raise SpecError("jobs: give as many service_s, predicted_s and share")
        if not (np.min(self.service_s) > 0 and np.min(self.share) >= 0 and np.isclose(np.sum(self.share), 1)):
            raise SpecError("jobs: service_s must be above 0, and share 0 or more in parts that sum to 1")

    @classmethod
    def exact(cls, service_s: Any, share: Any) -> Jobs:
        """Jobs whose sizes are known."""
        return cls(service_s, service_s, share)

    @property
    def mean_s(self) -> float:
        """Mean service time, seconds."""
        return float(self.share @ self.service_s)

    def rate_rps(self, load: float) -> float:
        """Arrivals per second that keep the server busy a share `load` of the time."""
        return load / self.mean_s


def fcfs_response_s(jobs: Jobs, rate_rps: float) -> float:
    """First come first served (Pollaczek and Khinchine): E[S] + rate E[S^2] / (2 (1 - load)), seconds.

    Raises SpecError for a load of 1 or more, as the others do.
    """
    return jobs.mean_s + _residual_s(jobs, rate_rps) / (1 - _load(jobs, rate_rps))


def shortest_first_response_s(jobs: Jobs, rate_rps: float) -> float:
    """Shortest predicted job first, nobody is interrupted (SPJF): who is predicted to take y waits
    rate E[S^2] / (2 (1 - load of less than y) (1 - load of up to y))."""
    _load(jobs, rate_rps)
    _, share, _, before, upto = _by_prediction(jobs, rate_rps)
    waits_s = _residual_s(jobs, rate_rps) / ((1 - before) * (1 - upto))
    return jobs.mean_s + float(share @ waits_s)


def shortest_remaining_response_s(jobs: Jobs, rate_rps: float) -> float:
    """Least predicted remaining time first, preemptive (SPRPT; SRPT if predictions are exact).

    A job that was predicted to take y waits until it first runs as in SPJF, but of the work that it finds there counts
    of a job with a longer prediction t only what is left when y is predicted to remain; then it is interrupted by jobs
    with a prediction below its own remainder, and by none once it has run for as long as predicted.
    """
    _load(jobs, rate_rps)
    at, _, index, before, upto = _by_prediction(jobs, rate_rps)
    waits_s = rate_rps * _square_ahead_s2(jobs, at, index) / 2 / ((1 - before) * (1 - upto))
    # Time in which the predicted remainder goes from u to 0: between two predictions the same jobs interrupt.
    knots_s = np.concatenate([[0.0], at])
    passed_s = np.concatenate([[0.0], np.cumsum(np.diff(knots_s) / (1 - before))])

    def down_to_zero_s(predicted_s: Any) -> Any:
        return np.interp(predicted_s, knots_s, passed_s)

    late_s = np.maximum(jobs.service_s - jobs.predicted_s, 0)
    stops_at_s = np.maximum(jobs.predicted_s - jobs.service_s, 0)
    stays_s = down_to_zero_s(jobs.predicted_s) - down_to_zero_s(stops_at_s) + late_s
    return float(jobs.share @ (waits_s[index] + stays_s))


def _square_ahead_s2(jobs: Jobs, at: Any, index: Any) -> Any:
    """Mean square of the part of a job that goes before one with a prediction y, for each prediction, float64[m]:
    all of it if its own is at most y, else what is left of it when y is predicted to remain."""
    # A job with a longer prediction t has service - t + y left then, if that is above 0. So it counts for every y from
    # t - service up to t: of what begins below y all but what has ended by then.
    begins_s = jobs.predicted_s - jobs.service_s
    order = np.argsort(begins_s)
    begun = np.searchsorted(begins_s[order], at, side="left")

    def open_at(values: Any) -> Any:
        upto = np.concatenate([[0.0], np.cumsum(values[order])])[begun]
        return upto - np.cumsum(np.bincount(index, values, at.size))

    whole = np.cumsum(np.bincount(index, jobs.share * jobs.service_s**2, at.size))
    parts = [open_at(jobs.share * begins_s**power) for power in range(3)]
    return whole + at**2 * parts[0] - 2 * at * parts[1] + parts[2]


def _residual_s(jobs: Jobs, rate_rps: float) -> float:
    """Mean work left of whoever is being served when a job arrives, seconds."""
    return float(rate_rps * (jobs.share @ jobs.service_s**2) / 2)


def _load(jobs: Jobs, rate_rps: float) -> float:
    load = rate_rps * jobs.mean_s
    if not 0 <= load < 1:
        raise SpecError(f"rate_rps={rate_rps:g}: a load of {load:.3g}; there is a mean only from 0 to below 1")
    return load


def _by_prediction(jobs: Jobs, rate_rps: float) -> tuple[Any, Any, Any, Any, Any]:
    """The predictions, float64[m] ascending; the share of each; the index of each job's own, int64[k]; and the load
    of jobs with a smaller one, and with at most this one, float64[m]."""
    at, index = np.unique(jobs.predicted_s, return_inverse=True)
    work = rate_rps * np.bincount(index, jobs.share * jobs.service_s, at.size)
    upto = np.cumsum(work)
    return at, np.bincount(index, jobs.share, at.size), index, upto - work, upto
