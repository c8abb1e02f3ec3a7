"""The one number that is fitted per model: the arrival scale at which longs cost FIFO as much as in the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from pecgym.errors import SpecError
from pecgym.evaluation.paper.targets import ratio

P99, THROUGHPUT = "short_queueing_delay_p99_s", "short_throughput_rps"
Pair = tuple[dict[str, Any], dict[str, Any]]
"""The runs of FIFO under one seed: with longs, and on the same shorts alone."""


@dataclass(frozen=True)
class Point:
    """FIFO at one arrival scale, medians over seeds; a ratio is infinite over zero and NaN for zero over zero."""

    scale: float
    p99_with_s: float
    p99_without_s: float
    p99_ratio: float
    throughput_ratio: float

    def to_json(self) -> dict[str, float | str]:
        """For a file: what is not finite as text."""
        return {key: value if math.isfinite(value) else str(value) for key, value in asdict(self).items()}

    @classmethod
    def of(cls, scale: float, pairs: Sequence[Pair]) -> Point:
        """The point of these runs."""
        with_s, without_s = ([pair[i][P99] for pair in pairs] for i in (0, 1))
        p99s = [ratio(*values) for values in zip(with_s, without_s, strict=True)]
        throughputs = [ratio(a[THROUGHPUT], b[THROUGHPUT]) for a, b in pairs]
        return cls(scale, median(with_s), median(without_s), _median(p99s), _median(throughputs))


@dataclass(frozen=True)
class Fit:
    """What was fitted for a model.

    Attributes:
        curve: FIFO at every scale that was tried first, in order.
        p99_target, throughput_target: what the paper says of FIFO with longs over without.
        p99_roots: the intervals of the curve in which the ratio of p99 delays crosses its target, lightest load first.
        anchor: which of the two was fitted: P99 where it has a root, else THROUGHPUT.
        point: FIFO at the fitted scale.
    """

    model: str
    curve: tuple[Point, ...]
    p99_target: float
    throughput_target: float
    p99_roots: tuple[tuple[float, float], ...]
    anchor: str
    point: Point


@dataclass
class _Search:
    """The bisection of one model: the anchor's ratio less its target has different signs at the ends."""

    key: str
    target: float
    low: Point
    high: Point

    def side(self, point: Point) -> bool:
        return bool(getattr(point, self.key) > self.target)

    def narrow(self, point: Point) -> None:
        if self.side(point) == self.side(self.low):
            self.low = point
        else:
            self.high = point

    @property
    def middle(self) -> float:
        return math.sqrt(self.low.scale * self.high.scale)


def crossings(curve: Sequence[Point], key: str, target: float) -> list[tuple[Point, Point]]:
    """Neighbours of a curve between which a ratio crosses its target; one that is infinite or undefined does not."""
    return [
        (a, b)
        for a, b in pairwise(curve)
        if math.isfinite(getattr(a, key))
        and math.isfinite(getattr(b, key))
        and (getattr(a, key) > target) != (getattr(b, key) > target)
    ]


def fit(
    targets: Mapping[str, tuple[float, float]],
    scales: Sequence[float],
    steps: int,
    measure: Callable[[Mapping[str, float]], Mapping[str, Point]],
) -> dict[str, Fit]:
    """Finds every model's arrival scale, by `steps` bisections over the logarithm of the scale.

    targets: by model, the paper's ratio of p99 delays and of throughputs. scales: of the curve, ascending. measure:
    FIFO at one scale of each model. Raises SpecError if neither ratio reaches its target between the scales.
    """
    points = [measure(dict.fromkeys(targets, scale)) for scale in scales]
    curves = {model: tuple(each[model] for each in points) for model in targets}
    roots, searches = {}, {}
    for model, (p99_target, throughput_target) in targets.items():
        roots[model] = crossings(curves[model], "p99_ratio", p99_target)
        found = roots[model] or crossings(curves[model], "throughput_ratio", throughput_target)
        if not found:
            raise SpecError(
                f"{model}: between arrival scales {scales[0]:g} and {scales[-1]:g} FIFO reaches neither ratio of the "
                "paper; widen paper.scales"
            )
        key, target = ("p99_ratio", p99_target) if roots[model] else ("throughput_ratio", throughput_target)
        searches[model] = _Search(key, target, *found[0])
    for _ in range(steps):
        found_points = measure({model: search.middle for model, search in searches.items()})
        for model, point in found_points.items():
            searches[model].narrow(point)
    fitted = measure({model: float(f"{search.middle:.4g}") for model, search in searches.items()})
    return {
        model: Fit(
            model,
            curves[model],
            *targets[model],
            tuple((a.scale, b.scale) for a, b in roots[model]),
            P99 if roots[model] else THROUGHPUT,
            fitted[model],
        )
        for model in targets
    }


def _median(values: Sequence[float | None]) -> float:
    """The median; NaN if no value is defined."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return median(known) if known else math.nan
