"""Order by output length, which here is the true one (an oracle): what perfect predictions would give."""

from __future__ import annotations

from pecgym.policies.base import Policy
from pecgym.policies.dispatch import to_least_loaded, to_startable

SJF = Policy(
    "sjf",
    to_startable,
    load="queued_tokens",
    global_order="shortest",
    source="shortest job first over one global queue; nobody who runs is preempted",
)
SRPT = Policy(
    "srpt",
    to_least_loaded,
    load="requests",
    queue_order="shortest_remaining",
    preemptive=True,
    source="shortest remaining processing time on every replica, fewest requests between replicas; preemptive",
)
