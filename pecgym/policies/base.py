"""One interface for every policy: a name, how it orders and routes, and one function that decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class PythonPolicy(Protocol):
    """A policy as an ordinary object: it is asked once per decision, outside the compiled loop."""

    def act(self, decision: Any) -> int:
        """The replica for `decision.request`, or `pecgym.WAIT`."""


@dataclass(frozen=True)
class Policy:
    """How a cluster dispatches.

    Attributes:
        name: in tables and configurations.
        choose: `choose(state, slot) -> replica or WAIT`, in the subset of Python that numba compiles, using
            `pecgym.policies.view`; or None if `actor` decides.
        load: what `least_loaded` compares: "none", "requests" (unfinished), "queued_tokens" (prompt tokens placed on
            the replica and not yet computed; ties by requests).
        global_order: order of the global queue: "fcfs" or "shortest" (output length).
        queue_order: order in each replica's queue, None: the engine's setting.
        preemptive: whether a waiting request displaces a running one with a larger key; None: the engine's setting.
        actor: an object with `act(decision)`, asked instead of `choose`.
        source: where the rule comes from.
    """

    name: str
    choose: Callable[[Any, int], int] | None = None
    load: str = "none"
    global_order: str = "fcfs"
    queue_order: str | None = None
    preemptive: bool | None = None
    actor: PythonPolicy | None = None
    source: str = ""
