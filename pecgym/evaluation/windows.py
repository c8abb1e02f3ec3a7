"""Which parts of a workload are evaluated: all of it, a split, or windows with random starts in one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pecgym.errors import SpecError
from pecgym.random import random_stream
from pecgym.workload import Trace
from pecgym.workload.splits import SPLITS, split_rows


@dataclass(frozen=True)
class Cut:
    """How traces are cut into windows.

    Attributes:
        split: a name of pecgym.workload.splits.SPLITS; None: the whole trace.
        windows: how many, with random starts that are the same for every policy; None: one, the split.
        window_requests: requests in each of them.
    """

    split: str | None = None
    windows: int | None = None
    window_requests: int = 1000

    def check(self) -> None:
        """Raises SpecError for values that cannot be."""
        if self.split is not None and self.split not in SPLITS:
            raise SpecError(f"split={self.split!r}: choose one of {', '.join(SPLITS)}, or null for the whole trace")
        if self.windows is not None and self.windows < 1:
            raise SpecError(f"windows={self.windows}: must be 1 or more, or null for the whole split")
        if self.window_requests < 1:
            raise SpecError(f"window_requests={self.window_requests}: must be 1 or more")

    def numbers(self) -> list[int | None]:
        """The windows of a trace by number; a single None where traces are not cut."""
        if self.split is None and self.windows is None:
            return [None]
        return list(range(self.windows or 1))

    def part(self, trace: Trace, seed: int, number: int) -> tuple[Trace, int]:
        """A window of a trace, with time zero at its first request, and the row of that request.

        Where window `number` begins depends on the seed, the split and the two lengths alone.

        Raises SpecError if the split has fewer requests than a window.
        """
        split = self.split or "all"
        low, high = split_rows(len(trace), split)
        if self.windows is None:
            return _part(trace, low, high)
        if self.window_requests > high - low:
            raise SpecError(
                f"window_requests={self.window_requests}: workload {trace.name!r}, split {split} has {high - low} "
                "requests; ask for fewer, or for windows=null, the whole split"
            )
        random = random_stream(seed, f"windows of {split}")
        starts = [int(random.integers(low, high - self.window_requests + 1)) for _ in range(number + 1)]
        return _part(trace, starts[number], starts[number] + self.window_requests)


def _part(trace: Trace, first: int, stop: int) -> tuple[Trace, int]:
    rows = trace.slice(first, stop)
    if not len(rows):
        raise SpecError(f"workload {trace.name!r}: of its {len(trace)} requests none is in the split")
    return replace(rows, arrival_s=rows.arrival_s - rows.arrival_s[0]), first
