"""Policies compared on the same windows: interquartile means, paired differences and their bootstrap intervals.

The interquartile mean (IQM) and the stratified percentile bootstrap are those that Agarwal et al. recommend ("Deep
Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021, arXiv:2108.13264).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pecgym.errors import SpecError
from pecgym.random import random_stream

Row = dict[str, Any]
LESS, MORE = -1, 1
CONFIDENCE = 0.95
RESAMPLES = 4000
_PAIRED_BY = ("workload", "scenario", "seed", "split", "window")


@dataclass(frozen=True)
class Metric:
    """A metric that is compared.

    Attributes:
        key: of the results' rows.
        heading, unit: in tables.
        better: LESS or MORE.
        main: whether it is among the few that a terminal shows.
    """

    key: str
    heading: str
    unit: str
    better: int
    main: bool = False


METRICS = (
    Metric("short_queueing_delay_p50_s", "short queue p50", "s", LESS),
    Metric("short_queueing_delay_p99_s", "short queue p99", "s", LESS, True),
    Metric("short_ttft_p99_s", "short TTFT p99", "s", LESS, True),
    Metric("short_jct_p99_s", "short JCT p99", "s", LESS),
    Metric("tpot_p99_s", "TPOT p99", "ms", LESS),
    Metric("short_throughput_rps", "short throughput", "req/s", MORE, True),
    Metric("short_throughput_to_last_short_rps", "to the last short", "req/s", MORE),
    Metric("long_jct_mean_s", "long JCT mean", "s", LESS, True),
    Metric("long_jct_p99_s", "long JCT p99", "s", LESS),
    Metric("starved_fraction", "longs starved", "%", LESS, True),
    Metric("long_unfinished_at_last_arrival", "longs open at end", "%", LESS, True),
    Metric("makespan_s", "makespan", "s", LESS),
    Metric("cost_usd", "cost", "USD", LESS, True),
    Metric("energy_kwh", "energy", "kWh", LESS),
)


def iqm_weights(n: int) -> Any:
    """float64[n]: of n sorted values, how much of each lies between the quartiles, in parts that sum to 1.

    The i-th stands for the ranks i - 1 to i, of which n/4 to 3n/4 count; at the quartiles a part of a value does.
    """
    rank = np.arange(n)
    inside = np.clip(np.minimum(rank + 1, 3 * n / 4) - np.maximum(rank, n / 4), 0, 1)
    weights: Any = inside / inside.sum()
    return weights


def iqm(values: Any) -> float:
    """The interquartile mean of float64[n], n > 0: the mean of the middle half, to the fraction of a value."""
    return float(np.sort(values) @ iqm_weights(len(values)))


def pairs_of(rows: Sequence[Row]) -> int:
    """How many pairs there are to compare: the runs of one policy."""
    return len({_pair(row) for row in rows})


def compare(rows: Sequence[Row], baseline: str, entries: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Every policy beside the baseline, metric by metric, on the same runs.

    Args:
        rows: as in `summary.json`, of one evaluation.
        baseline: a policy among them.
        entries: the others by name, each with its policies: several are the training seeds of one agent and are
            pooled. None: each policy by itself.

    Returns what is written to `comparison.json` (docs/evaluate.md); where a value does not exist, None.

    Raises:
        SpecError: a policy has no run, or lacks a run that another one has.
    """
    runs: dict[str, dict[tuple[Any, ...], Row]] = {}
    for row in rows:
        of = runs.setdefault(row["policy"], {})
        if _pair(row) in of:
            raise SpecError(f"policy {row['policy']!r} has two runs of {_said(_pair(row))}: they cannot be told apart")
        of[_pair(row)] = row
    if entries is None:
        entries = {policy: (policy,) for policy in runs if policy != baseline}
    for policy in (baseline, *(policy for of in entries.values() for policy in of)):
        _check_pairs(policy, baseline, runs)
    pairs = list(runs[baseline])
    strata, unit = _strata(pairs)
    compared = []
    for name, policies in entries.items():
        metrics = {metric.key: _Compared.of(metric, runs, baseline, policies, pairs, strata) for metric in METRICS}
        found = {key: each.to_json() for key, each in metrics.items() if each is not None}
        compared.append({"policy": name, "policies": list(policies), "metrics": found})
    return {
        "baseline": baseline,
        "pairs": len(pairs),
        "resampled_within": unit,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
        "policies": compared,
    }


def _pair(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(label) for label in _PAIRED_BY)


def _said(pair: tuple[Any, ...]) -> str:
    return ", ".join(f"{label} {value}" for label, value in zip(_PAIRED_BY, pair, strict=True) if value is not None)


def _check_pairs(policy: str, baseline: str, runs: Mapping[str, Mapping[tuple[Any, ...], Row]]) -> None:
    """Raises SpecError unless a policy and the baseline have the same runs."""
    if policy not in runs:
        raise SpecError(f"policy {policy!r} has no run to compare; there are {', '.join(runs) or 'none'}")
    for one, other in ((policy, baseline), (baseline, policy)):
        if missing := [pair for pair in runs[other] if pair not in runs[one]]:
            raise SpecError(
                f"policy {one!r} has no run of {_said(missing[0])}, which {other!r} has ({len(missing)} such runs): "
                "pairs must be complete; evaluate both on the same seeds and windows"
            )


def _strata(pairs: Sequence[tuple[Any, ...]]) -> tuple[list[Any], str]:
    """What is drawn from, for each pair, and its name: windows of one seed, or, with one window each, the seeds."""
    by_seed = [pair[:3] for pair in pairs]
    if min(by_seed.count(stratum) for stratum in set(by_seed)) > 1:
        return by_seed, "workload and seed"
    return [pair[:2] for pair in pairs], "workload"


def _value(row: Row, key: str) -> float:
    """A metric of a run, NaN where it has none, or none that is finite."""
    value = row[key]
    return math.nan if value is None or not math.isfinite(value) else float(value)


def _draws(strata: Sequence[Any], n_seeds: int) -> tuple[Any, Any] | None:
    """int64[B, T] training seeds and int64[B, n] pairs, drawn with replacement, pairs within their stratum; None where
    there is nothing to draw from."""
    members = [np.flatnonzero([each == stratum for each in strata]) for stratum in dict.fromkeys(strata)]
    if max((len(of) for of in members), default=0) < 2:
        return None
    random = random_stream(0, "bootstrap")
    seeds = random.integers(n_seeds, size=(RESAMPLES, n_seeds))
    drawn = [of[random.integers(len(of), size=(RESAMPLES, len(of)))] for of in members]
    return seeds, np.concatenate(drawn, axis=1)


def bootstrap_interval(values: Any, strata: Sequence[Any]) -> tuple[float, float] | None:
    """The interval of CONFIDENCE, by percentiles, around the IQM of values, float64[T, n]: of T training seeds on n
    windows. strata: of each window; only windows of one stratum replace each other. None: no stratum has two."""
    draws = _draws(strata, len(values))
    if draws is None:
        return None
    seeds, pairs = draws
    drawn = np.sort(values[seeds[:, :, None], pairs[:, None, :]].reshape(RESAMPLES, -1), axis=1)
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(drawn @ iqm_weights(values.size), [outside, 100 - outside])
    return float(low), float(high)


@dataclass(frozen=True)
class _Compared:
    """A metric of one entry, float64[T, n], and of the baseline, float64[1, n], on the n pairs where all have it."""

    metric: Metric
    values: Any
    base: Any
    strata: list[Any]
    left_out: int

    @classmethod
    def of(
        cls,
        metric: Metric,
        runs: Mapping[str, Mapping[tuple[Any, ...], Row]],
        baseline: str,
        policies: Sequence[str],
        pairs: Sequence[tuple[Any, ...]],
        strata: Sequence[Any],
    ) -> _Compared | None:
        """None where the baseline and the policies never have the metric."""
        base, *values = (
            np.array([_value(runs[policy][pair], metric.key) for pair in pairs]) for policy in (baseline, *policies)
        )
        known = ~np.isnan(np.stack([base, *values]))
        kept = known.all(axis=0)
        if not known.any():
            return None
        return cls(
            metric,
            np.stack(values)[:, kept],
            base[None, kept],
            [stratum for stratum, keeps in zip(strata, kept, strict=True) if keeps],
            int(np.count_nonzero(known.any(axis=0) & ~kept)),
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers of a metric in `comparison.json`."""
        differences = self.values - self.base
        divides = self.base[0] != 0
        relative = differences[:, divides] / np.abs(self.base[:, divides])
        found: dict[str, Any] = {
            "better": "less" if self.metric.better == LESS else "more",
            "pairs": self.base.size,
            "pairs_left_out": self.left_out,
            "relative_pairs": int(divides.sum()),
        }
        of_relative = [stratum for stratum, keeps in zip(self.strata, divides, strict=True) if keeps]
        for name, values, strata in (
            ("baseline", self.base, self.strata),
            ("policy", self.values, self.strata),
            ("difference", differences, self.strata),
            ("relative_difference", relative, of_relative),
        ):
            interval = bootstrap_interval(values, strata)
            found[name] = {
                "iqm": iqm(values.ravel()) if values.size else None,
                "interval": None if interval is None else list(interval),
            }
        gains = differences * self.metric.better
        found |= {"wins": int((gains > 0).sum()), "ties": int((gains == 0).sum()), "losses": int((gains < 0).sum())}
        found["verdict"] = self._verdict(differences, found["difference"]["interval"])
        return found

    def _verdict(self, differences: Any, interval: list[float] | None) -> str:
        """By whether the interval of the paired difference leaves zero out."""
        if differences.size and not differences.any():
            return "equal"
        if interval is None or interval[0] <= 0 <= interval[1]:
            return "not resolved"
        return "better" if interval[0] * self.metric.better > 0 else "worse"
