"""One interface for every policy: a name, how it orders and routes, and one function that decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from pecgym.engine.simulator import GLOBAL_ORDERS, LOADS
from pecgym.errors import SpecError


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

    def __post_init__(self) -> None:
        if (self.choose is None) == (self.actor is None):
            raise SpecError(f"policy {self.name!r}: give a function `choose` or an object `actor`, and not both")
        for key, values in (("load", LOADS), ("global_order", GLOBAL_ORDERS)):
            if getattr(self, key) not in values:
                raise SpecError(
                    f"policy {self.name!r}: {key}={getattr(self, key)!r}; choose one of {', '.join(values)}"
                )
