"""One interface for every policy: a name, how it orders and routes, and one function that decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from pecgym.engine.long_rules import LongRules
from pecgym.engine.orders import GLOBAL_ORDERS, QUEUE_ORDERS, OrderRules
from pecgym.engine.simulator import LOADS
from pecgym.errors import SpecError
from pecgym.policies.agents import Agent
from pecgym.policies.long_requests import when_free

RESERVED_SHARE = {1: 7 / 32, 4: 5 / 8}
"""Share of the replicas, by their number of GPUs, that are set apart for longs: 7 of 32, 5 of 8. PecSched says only
"replicas able to serve one 500K request"; the numbers are ours."""


_QUEUES = ("global_order", "queue_order", "preemptive")
"""What a policy's name may change beside the fields of LongRules and OrderRules."""


class PythonPolicy(Protocol):
    """A policy as an ordinary object: it is asked once per short, outside the compiled loop.

    It may have a method `start_long(decision)` too, which is asked about the first long (pecgym.policies.view.group);
    without, longs start when enough replicas are free. Also `rules`, its LongRules, `order`, its OrderRules, and
    `reads_lengths`, as of Policy, and `pool(decision)`, the number of
    decode replicas. With `begin(cluster)` it gives the object that is asked in the runs of one cluster, for what it
    must know of that cluster, or remember.
    """

    def act(self, decision: Any) -> int:
        """Where the short goes: a replica's index, pecgym.policies.view.placement(...), or `pecgym.WAIT`."""


@dataclass(frozen=True)
class Policy:
    """How a cluster dispatches.

    Attributes:
        name: in tables and configurations.
        choose: `choose(state, slot) -> replica or WAIT`, in the subset of Python that numba compiles, using
            `pecgym.policies.view`: where the first short goes; or None if `actor` decides.
        start: the same for the first long: `start(state, slot) -> group(...) or WAIT`; None: `actor.start_long` if it
            has one, else as soon as enough replicas are free of longs.
        pool: `pool(state, slot) -> number of decode replicas`, asked every `rules.pool_interval_s`.
        rules: how longs are served and what shorts may do beside them.
        reserves: whether it sets replicas apart for longs, by default as many as in PecSched's experiments.
        load: what `least_loaded` compares: "none", "requests" (unfinished), "queued_tokens" (prompt tokens placed on
            the replica and not yet computed; ties by requests).
        global_order: order of the global queue: "fcfs", "shortest" (output length), "ssjf", "ltr", "tie", "one_bit" or
            "skip_predict" (pecgym.engine.orders).
        queue_order: order in each replica's queue, None: the engine's setting.
        order: which lengths these orders read, and their parameters.
        reads_lengths: whether its functions read output lengths by themselves (pecgym.policies.view.length_of).
        preemptive: whether a waiting request displaces a running one with a larger key; None: the engine's setting.
        actor: an object with `act(decision)`, asked instead of `choose`; with `choose` too, it must have `start_long`
            or `pool`, and is asked about these.
        tail_s: beyond which the waits of shorts are summed up (`state.sums`), for policies that read it; None: not.
        fixed: the rules that its name sets (`pecsched{sp_degree:7}`).
        remake: `remake(parameters)` makes the policy with other parameters of its own, by name; None: it has none.
        agent: a trained agent, asked as in the environment; `choose`, `start` and `pool` then decide what it does not.
        source: where the rule comes from.
    """

    name: str
    choose: Callable[[Any, int], int] | None = None
    start: Callable[[Any, int], int] | None = None
    pool: Callable[[Any, int], int] | None = None
    rules: LongRules = field(default_factory=LongRules)
    reserves: bool = False
    load: str = "none"
    global_order: str = "fcfs"
    queue_order: str | None = None
    order: OrderRules = field(default_factory=OrderRules)
    reads_lengths: bool = False
    preemptive: bool | None = None
    actor: PythonPolicy | None = None
    tail_s: float | None = None
    fixed: frozenset[str] = frozenset()
    remake: Callable[[Mapping[str, Any]], Policy] | None = None
    agent: Agent | None = None
    source: str = ""

    def __post_init__(self) -> None:
        asked = [name for name in ("start_long", "pool") if hasattr(self.actor, name)]
        if (self.choose is None) == (self.actor is None) and not asked:
            raise SpecError(f"policy {self.name!r}: give a function `choose` or an object `actor`, and not both")
        orders = (("global_order", [*GLOBAL_ORDERS]), ("queue_order", [*QUEUE_ORDERS, None]))
        for key, values in (("load", [*LOADS]), *orders):
            if getattr(self, key) not in values:
                known = ", ".join(filter(None, values))
                raise SpecError(f"policy {self.name!r}: {key}={getattr(self, key)!r}; choose one of {known}")

    @property
    def start_rule(self) -> Callable[[Any, int], int] | None:
        """The function that starts longs; None: decisions about them go to the actor."""
        if self.start is None and not hasattr(self.actor, "start_long"):
            return when_free
        return self.start

    def answer(self, decision: Any) -> int:
        """The actor's answer to a decision."""
        if decision.kind == "start":
            return int(self.actor.start_long(decision))  # type: ignore[union-attr]
        if decision.kind == "pool":
            return int(self.actor.pool(decision))  # type: ignore[union-attr]
        return self.actor.act(decision)  # type: ignore[union-attr]

    def begun(self, cluster: Any) -> Policy:
        """The policy for the runs of one cluster (pecgym.Cluster)."""
        begin = getattr(self.actor, "begin", None)
        return self if begin is None else replace(self, actor=begin(cluster))

    def with_parameters(self, name: str, given: Mapping[str, Any]) -> Policy:
        """The policy under another name with some rules, or parameters of its own, changed. Raises SpecError."""
        of_longs, in_order = ({f.name for f in fields(kind)} for kind in (LongRules, OrderRules))
        known = of_longs | in_order | set(_QUEUES)
        own = {key: value for key, value in given.items() if key not in known}
        changes, of_orders, of_queues = (
            {key: value for key, value in given.items() if key in keys} for keys in (of_longs, in_order, _QUEUES)
        )
        if own and self.remake is None:
            raise SpecError(f"policy {name!r}: unknown key {', '.join(own)}; the keys are {', '.join(sorted(known))}")
        try:
            made = self.remake(own) if own and self.remake is not None else self
            rules, order = made.rules.with_changes(**changes), made.order.with_changes(**of_orders)
        except SpecError as error:
            raise SpecError(f"policy {name!r}: {error}") from error
        return replace(made, name=name, rules=rules, order=order, fixed=frozenset(changes | of_orders), **of_queues)

    def order_with(self, **changes: Any) -> OrderRules:
        """The parameters of its orders, with some changed. Raises SpecError."""
        self._refuse_twice("order", changes)
        return self.order.with_changes(**changes)

    def _refuse_twice(self, group: str, changes: Mapping[str, Any]) -> None:
        twice = sorted(self.fixed & set(changes))
        if twice:
            raise SpecError(
                f"policy {self.name!r} sets {', '.join(twice)}: leave {group}.{twice[0]} out, or the braces"
            )

    def rules_with(self, tp: int, **changes: Any) -> LongRules:
        """The rules on replicas of `tp` GPUs, on which the number set apart for longs depends, with some changed."""
        self._refuse_twice("long", changes)
        given = "reserved_replicas" in changes or "reserved_replicas" in self.fixed
        rules = self._with_reserved(tp, given).with_changes(**changes)
        if rules.pool_interval_s and self.pool is None and not hasattr(self.actor, "pool"):
            raise SpecError(f"policy {self.name!r}: long.pool_interval_s is set, but it has no function `pool` to ask")
        return rules

    def _with_reserved(self, tp: int, given: bool) -> LongRules:
        """The policy's rules, with the replicas that it reserves unless their number is given."""
        if not self.reserves or self.rules.reserved_replicas or given:
            return self.rules
        if tp not in RESERVED_SHARE:
            raise SpecError(
                f"policy {self.name!r}: how many replicas of {tp} GPUs to reserve is known for "
                f"{', '.join(map(str, RESERVED_SHARE))} GPUs only; set long.reserved_replicas"
            )
        return self.rules.with_changes(reserved_replicas=RESERVED_SHARE[tp])
