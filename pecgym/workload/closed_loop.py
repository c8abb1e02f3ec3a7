"""A closed loop: users who each wait for their answer before they ask again."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from pecgym.errors import TraceError
from pecgym.workload.trace import Trace


@dataclass(frozen=True)
class ClosedLoop:
    """The description of a closed-loop workload; the engine runs the loop.

    lengths    the requests, issued in order to whichever user asks next; their arrival_s is ignored
    users      how many requests are under way at most, each user having one
    think_s    seconds from the end of an answer to the same user's next request
    stagger_s  user u's first request arrives at u * stagger_s seconds

    Raises TraceError for no requests, no users, more users than requests, or a negative or infinite time.
    """

    lengths: Trace
    users: int
    think_s: float = 0.0
    stagger_s: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.lengths):
            raise TraceError("closed loop: `lengths` has no requests; give at least one for each user")
        if isinstance(self.users, bool) or not isinstance(self.users, int | np.integer) or self.users < 1:
            raise TraceError(f"closed loop: users must be a whole number of at least 1, got {self.users!r}")
        if self.users > len(self.lengths):
            raise TraceError(
                f"closed loop: {self.users} users share {len(self.lengths)} requests, so some would never ask; "
                "give more requests or fewer users"
            )
        for name in ("think_s", "stagger_s"):
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise TraceError(f"closed loop: {name} must be finite and at least 0 s, got {value}")

    @staticmethod
    def constant(
        input_tokens: int,
        output_tokens: int,
        n_requests: int,
        users: int,
        think_s: float = 0.0,
        stagger_s: float = 0.0,
    ) -> ClosedLoop:
        """A loop of equal requests, as benchmarks at a fixed concurrency run it."""
        if n_requests < 1:
            raise TraceError(f"closed loop: n_requests must be at least 1, got {n_requests}")
        lengths = Trace(
            np.zeros(n_requests),
            np.full(n_requests, input_tokens),
            np.full(n_requests, output_tokens),
            name=f"constant {input_tokens}/{output_tokens}",
        )
        return ClosedLoop(lengths, users, think_s, stagger_s)
