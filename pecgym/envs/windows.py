"""Which part of a workload an episode is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pecgym.envs.config import EpisodeConfig
from pecgym.errors import SpecError
from pecgym.units import HORIZON_S
from pecgym.workload import Trace
from pecgym.workload.splits import split_rows

_TRIES = 1000


@dataclass(frozen=True)
class Window:
    """Requests `first` to `stop` - 1 of a trace, from `start_s` on; at `limit_s` the episode is truncated."""

    first: int
    stop: int
    start_s: float
    limit_s: float


class Windows:
    """The windows of a trace that episodes may be."""

    def __init__(self, trace: Trace, episode: EpisodeConfig) -> None:
        """Raises SpecError if the part of the trace is shorter than an episode."""
        self._arrival_s, self._episode = trace.arrival_s, episode
        self._low, self._high = split_rows(len(trace), episode.split)
        n = self._high - self._low
        here = f"workload {trace.name!r}, split {episode.split}"
        if n == 0 or (episode.requests is not None and episode.requests > n):
            raise SpecError(
                f"episode.requests={episode.requests}: {here} has {n} requests; ask for fewer, or for None: all"
            )
        if episode.duration_s is not None:
            last_s = self._arrival_s[self._high - 1]
            if self._starts_at(self._low) + episode.duration_s > last_s:
                seconds = last_s - self._starts_at(self._low)
                raise SpecError(f"episode.duration_s={episode.duration_s}: {here} has {seconds:.1f} s; ask for less")

    def _starts_at(self, row: int) -> float:
        """Time zero is the start of the first request's window."""
        return float(self._arrival_s[row]) if row > 0 else 0.0

    def draw(self, random: np.random.Generator) -> Window:
        """A window, by random numbers if starts are random."""
        episode = self._episode
        if episode.duration_s is None:
            last = self._high - (episode.requests or self._high - self._low)
            first = int(random.integers(self._low, last + 1)) if episode.random_start else self._low
            return self.from_request(first)
        start_s = self._starts_at(self._low)
        if not episode.random_start:
            window = self._from_time(start_s)
            if window.stop == window.first:
                raise SpecError(f"episode.duration_s={episode.duration_s}: no request arrives so soon; ask for more")
            return window
        for _ in range(_TRIES):
            last_s = self._arrival_s[self._high - 1] - episode.duration_s
            window = self._from_time(random.uniform(start_s, last_s))
            if window.stop > window.first:
                return window
        raise SpecError(
            f"episode.duration_s={episode.duration_s}: no request arrives in {_TRIES} random windows; ask for more"
        )

    def from_request(self, first: int) -> Window:
        """The window that begins at a request of the split, shorter near its end. Raises SpecError if it is not in
        there."""
        episode = self._episode
        if not self._low <= first < self._high:
            raise SpecError(f"first_request={first}: the split {episode.split} has {self._low} to {self._high - 1}")
        if episode.duration_s is not None:
            start_s = float(self._arrival_s[first])
            end_s = start_s + episode.duration_s
            stop = min(int(np.searchsorted(self._arrival_s, end_s)), self._high)
            return self._window(first, stop, start_s, end_s)
        stop = min(first + (episode.requests or self._high), self._high)
        return self._window(first, stop, self._starts_at(first), float(self._arrival_s[stop - 1]))

    def _from_time(self, start_s: float) -> Window:
        assert self._episode.duration_s is not None
        end_s = start_s + self._episode.duration_s
        first, stop = np.searchsorted(self._arrival_s, [start_s, end_s])
        return self._window(int(max(first, self._low)), int(min(stop, self._high)), start_s, end_s)

    def _window(self, first: int, stop: int, start_s: float, end_s: float) -> Window:
        drain_s = self._episode.drain_limit_s if self._episode.end == "drain" else 0.0
        return Window(first, stop, start_s, min(end_s + drain_s, HORIZON_S))

    def options(self, options: dict[str, Any] | None, random: np.random.Generator) -> Window:
        """The window that the options of a reset ask for. Raises SpecError for an unknown one."""
        given = dict(options or {})
        first = given.pop("first_request", None)
        if given:
            raise SpecError(f"reset: unknown option {', '.join(map(str, given))}; there is first_request")
        if first is None:
            return self.draw(random)
        if not isinstance(first, int | np.integer):
            raise SpecError(f"first_request={first!r}: must be the number of a row")
        return self.from_request(int(first))
