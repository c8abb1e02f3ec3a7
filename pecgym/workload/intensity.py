"""When requests come: the rate of a workload over time, in blocks of pieces of constant rate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, exp, floor, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pieces:
    """Stretches of time of constant rate: edges_s [k + 1], expected requests in each [k], bin of the profile [k]."""

    edges_s: Floats
    expected: Floats
    profile_bin: NDArray[np.int64]

    def draw(self, stream: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
        """Arrival times, sorted, and the piece of each: a Poisson count in every piece, placed uniformly."""
        counts = stream.poisson(self.expected)
        piece = np.repeat(np.arange(counts.size), counts)
        times_s = stream.random(piece.size)
        times_s *= np.diff(self.edges_s)[piece]
        times_s += self.edges_s[piece]
        # Pieces are in order of time, so the sort leaves `piece` right.
        times_s.sort()
        return times_s, piece


@dataclass(frozen=True)
class Profile:
    """A rate per bin of `step_s`, repeated every `period_s`, times noise of mean 1.

    Noise is log-normal per minute, following a first-order autoregression (standard deviation `minute_sigma` of the
    logarithm, correlation `minute_rho` between minutes), and gamma (standard deviation `window_sigma`) on windows of
    `window_s`; 0 switches one off. The last bin ends with the period.
    """

    counts: Floats
    step_s: float
    period_s: float
    minute_sigma: float = 0.0
    minute_rho: float = 0.0
    window_sigma: float = 0.0
    window_s: float = 0.0

    def blocks(self, stream: np.random.Generator, block_s: int, scale: float) -> Iterator[Pieces]:
        """Pieces of block after block, without end. `block_s` is a whole number of minutes and of noise windows."""
        bin_s = np.diff(np.append(np.arange(self.counts.size) * self.step_s, self.period_s))
        rates = scale * self.counts / bin_s
        noise_s = self.window_s or (60.0 if self.minute_sigma else float(block_s))
        per_block = round(block_s / noise_s)
        state = stream.standard_normal()
        start_s = 0
        while True:
            noise = np.ones(per_block)
            if self.minute_sigma:
                levels, state = self._minute_noise(stream, block_s // 60, state)
                noise *= np.repeat(levels, round(60.0 / noise_s))
            if self.window_sigma:
                noise *= stream.gamma(self.window_sigma**-2, self.window_sigma**2, per_block)
            edges_s = self._edges(float(start_s), float(start_s + block_s), noise_s)
            middle_s = (edges_s[1:] + edges_s[:-1]) / 2
            bins = np.minimum((middle_s % self.period_s / self.step_s).astype(np.int64), self.counts.size - 1)
            window = np.minimum(((middle_s - start_s) / noise_s).astype(np.int64), per_block - 1)
            yield Pieces(edges_s, rates[bins] * np.diff(edges_s) * noise[window], bins)
            start_s += block_s

    def _edges(self, start_s: float, stop_s: float, noise_s: float) -> Floats:
        """Every boundary of a noise window or profile bin from start_s to stop_s."""
        windows_s = start_s + noise_s * np.arange(round((stop_s - start_s) / noise_s) + 1)
        periods = np.arange(floor(start_s / self.period_s), ceil(stop_s / self.period_s))
        bins_s = (periods[:, None] * self.period_s + np.arange(self.counts.size) * self.step_s).ravel()
        inside = (bins_s > start_s) & (bins_s < stop_s)
        return np.union1d(windows_s, bins_s[inside])

    def _minute_noise(self, stream: np.random.Generator, minutes: int, state: float) -> tuple[Floats, float]:
        """exp(x - sigma^2 / 2) of the next minutes, and the last x / sigma."""
        steps = stream.standard_normal(minutes) * sqrt(1 - self.minute_rho**2)
        levels = np.empty(minutes)
        for minute in range(minutes):
            state = self.minute_rho * state + float(steps[minute])
            levels[minute] = exp(self.minute_sigma * state - self.minute_sigma**2 / 2)
        return levels, state


@dataclass(frozen=True)
class Modulated:
    """A discrete-time Markov-modulated Poisson process: each bin of `step_s` is in a state, which sets its rate."""

    step_s: float
    rates: Floats
    transition: Floats
    stationary: Floats

    def blocks(self, stream: np.random.Generator, block_s: int, scale: float) -> Iterator[Pieces]:
        """Pieces of block after block, without end; the first state is drawn from the stationary distribution."""
        cumulative = [_cumulative(row) for row in self.transition]
        per_block = round(block_s / self.step_s)
        state = bisect_right(_cumulative(self.stationary), stream.random())
        expected = scale * self.step_s * self.rates
        no_bin = np.zeros(per_block, dtype=np.int64)
        block = 0
        while True:
            states = np.empty(per_block, dtype=np.int64)
            for index, u in enumerate(stream.random(per_block).tolist()):
                states[index] = state
                state = bisect_right(cumulative[state], u)
            edges_s: Floats = self.step_s * np.arange(block * per_block, (block + 1) * per_block + 1.0)
            yield Pieces(edges_s, expected[states], no_bin)
            block += 1


@dataclass(frozen=True)
class Constant:
    """A Poisson process of constant rate: none of the traces is like it."""

    rate_rps: float

    def blocks(self, stream: np.random.Generator, block_s: int, scale: float) -> Iterator[Pieces]:
        """Pieces of block after block, without end."""
        edges_s = np.array([0.0, block_s])
        expected = np.array([scale * self.rate_rps * block_s])
        while True:
            yield Pieces(edges_s, expected, np.zeros(1, dtype=np.int64))
            edges_s = edges_s + block_s


def _cumulative(shares: Floats) -> list[float]:
    """Inner bounds of the shares made to sum to 1: bisecting a u in [0, 1) gives an index below len(shares)."""
    return list((np.cumsum(shares) / np.sum(shares))[:-1].tolist())
