"""A planner that knows the future: at every decision it tries others than its base policy's, and takes the best.

A decision is tried on a copy of the simulator, which goes on with the base policy, the true arrivals and the true
lengths, up to a horizon. The base policy's own answer is tried too and wins ties, so with a horizon beyond the end of
the run a plan is never worse, at the planner's objective, than the base policy. That makes it a measure of the room
that one lever, or all, leave above a policy; an oracle, not something to deploy. Method: rollout, one step of policy
improvement (Bertsekas, Dynamic Programming and Optimal Control, vol. I, "rollout algorithms").
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pecgym.engine import Decision, Simulator
from pecgym.engine.state import LATE_S, OPEN_LONGS_S, WAITING_S
from pecgym.errors import EngineError, SpecError
from pecgym.policies.alternatives import OF_LONGS, OF_ROLES, OF_SHORTS, placements, pools, starts
from pecgym.policies.base import Policy
from pecgym.policies.pecsched import PECSCHED
from pecgym.policies.view import WAIT
from pecgym.strict import from_mapping

CONTROLS = (*OF_SHORTS, *OF_LONGS, *OF_ROLES)
_WORTH = 1e-9
"""What is better by a smaller share is a tie: sums of the same times in another order differ so much."""


def keep_pool(state, slot):  # type: ignore[no-untyped-def]
    """The number of decode replicas stays as it is."""
    return WAIT


@dataclass(frozen=True)
class PlannerConfig:
    """How far and how wide a planner looks, and what it minimises.

    Attributes:
        base: the policy whose answers it tries to better, and that goes on after a tried decision.
        controls: what it may decide otherwise, as `agent_controls` of the environments.
        horizon_s: how far a decision is tried, seconds of simulated time.
        candidates: the most other answers that are tried per decision; 0: none, which is the base policy.
        n_longs: how many of the waiting longs are looked at.
        rollouts: in one run, how many answers are tried; then the base policy decides. None: no limit.
        max_seconds: likewise, how long it may think, seconds of real time; what it then finds depends on the machine.
        delay: weight of every second that a short waits for its first execution.
        long: weight of every second that a long is unfinished.
        tail: weight of every second that a short waits beyond `tail_s`.
        tail_s: target of `tail`, seconds.
    """

    base: str = "pecsched"
    controls: tuple[str, ...] = CONTROLS[:-1]
    horizon_s: float = math.inf
    candidates: int = 16
    n_longs: int = 8
    rollouts: int | None = None
    max_seconds: float | None = None
    delay: float = 1.0
    long: float = 0.1
    tail: float = 0.0
    tail_s: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", tuple(self.controls))  # configuration gives a list
        known = not set(self.controls) - set(CONTROLS) and len(set(self.controls)) == len(self.controls) > 0
        for key, holds, remedy in (
            ("controls", known, f"give one or more of {', '.join(CONTROLS)}, each once"),
            ("horizon_s", self.horizon_s > 0, "must be above 0"),
            ("candidates", self.candidates >= 0, "must be 0 or more"),
            ("n_longs", self.n_longs >= 1, "must be 1 or more"),
            ("rollouts", self.rollouts is None or self.rollouts >= 0, "must be 0 or more, or null"),
            ("max_seconds", self.max_seconds is None or self.max_seconds >= 0, "must be 0 or more, or null"),
            *((key, 0 <= getattr(self, key) < 1e12, "must be 0 or more") for key in ("delay", "long", "tail")),
            ("tail_s", 0 < self.tail_s < 1e6, "must be above 0"),
        ):
            if not holds:
                raise SpecError(f"{key}={getattr(self, key)!r}: {remedy}")

    def asks_about(self, levers: tuple[str, ...]) -> bool:
        """Whether it decides any of them."""
        return any(lever in self.controls for lever in levers)


def planner(config: PlannerConfig, base: Policy) -> Policy:
    """The policy that plans above `base`. Decisions outside of its controls are the base policy's, compiled."""
    if base.choose is None or base.start_rule is None or base.agent is not None:
        raise SpecError(f"base={config.base!r}: the planner needs a compiled policy, and this one is asked from Python")
    plans = Planner(config, base)
    return replace(
        base,
        name="planner",
        choose=None if config.asks_about(OF_SHORTS) else base.choose,
        start=None if config.asks_about(OF_LONGS) else base.start_rule,
        pool=None if config.asks_about(OF_ROLES) else base.pool or keep_pool,
        actor=plans,
        tail_s=config.tail_s if config.tail else None,
        remake=planner_of,
        source="rollouts with the true future: an oracle, to measure how much better a policy can be",
    )


def planner_of(parameters: Mapping[str, Any]) -> Policy:
    """The planner with these parameters (PlannerConfig). Raises SpecError for an unknown one, or a bad value."""
    from pecgym.policies import load_policy

    config = from_mapping(PlannerConfig, dict(parameters), "planner", SpecError)
    return planner(config, load_policy(config.base))


class Planner:
    """The planner as the object that is asked.

    Attributes:
        tried: answers that it has tried so far, those of the base policy among them.
    """

    def __init__(self, config: PlannerConfig, base: Policy, simulator: Simulator | None = None) -> None:
        """simulator: of whose decisions it is asked."""
        self.config, self.base, self._simulator = config, base, simulator
        self._functions = {"choose": base.choose, "start": base.start_rule, "pool": base.pool or keep_pool}
        self._controls = frozenset(config.controls)
        self._trial = None if simulator is None else simulator.twin(**self._functions)
        self.tried, self._thought_s = 0, 0.0

    def begin(self, cluster: Any) -> Planner:
        """The planner of one cluster (pecgym.Cluster)."""
        if self.config.asks_about(OF_ROLES) and not cluster.rules.pool_interval_s:
            raise SpecError("planner: the control roles needs the rule pool_interval_s, and replicas set apart")
        return Planner(self.config, self.base, cluster.simulator)

    def act(self, decision: Decision) -> int:
        """Where the first short goes."""
        return self._best(decision, "choose")

    def start_long(self, decision: Decision) -> int:
        """Which long starts, and how."""
        return self._best(decision, "start")

    def pool(self, decision: Decision) -> int:
        """How many replicas are set apart."""
        return self._best(decision, "pool")

    def _best(self, decision: Decision, function: str) -> int:
        """The answer with the least cost; of equal ones the base policy's, then the first."""
        simulator = self._simulator
        if simulator is None:
            raise EngineError("the planner is of one cluster: use make_cluster(policy=...), or begin(cluster)")
        began = time.perf_counter()
        answer = simulator.answer(self._functions[function], decision.slot)  # type: ignore[arg-type]
        others = self._others(simulator, decision, answer) if self._may_think() else []
        best, least = answer, self._cost(answer) if others else 0.0
        for other in others:
            cost = self._cost(other)
            if cost < least * (1 - _WORTH):
                best, least = other, cost
        self._thought_s += time.perf_counter() - began
        return best

    def _may_think(self) -> bool:
        config = self.config
        if config.rollouts is not None and self.tried >= config.rollouts:
            return False
        return config.max_seconds is None or self._thought_s < config.max_seconds

    def _others(self, simulator: Simulator, decision: Decision, answer: int) -> list[int]:
        """What is tried beside the base policy's answer, each once, as many as the budget allows."""
        found: Iterator[int]
        if decision.kind == "place":
            found = placements(simulator, decision, answer, self._controls)
        elif decision.kind == "start":
            start: Callable[..., Any] = self._functions["start"]  # type: ignore[assignment]
            found = starts(simulator, decision, answer, self._controls, start, self.config.n_longs)
        else:
            found = pools(decision, answer)
        most = self.config.candidates
        if self.config.rollouts is not None:
            most = min(most, self.config.rollouts - self.tried - 1)
        unlike = dict.fromkeys(other for other in found if other != answer)
        return list(islice(unlike, max(most, 0)))

    def _cost(self, answer: int) -> float:
        """The objective at the horizon if this is the answer now; infinite for what cannot be done or never ends."""
        simulator, trial, config = self._simulator, self._trial, self.config
        assert simulator is not None
        assert trial is not None
        self.tried += 1
        trial.follow(simulator)
        try:
            trial.apply(answer)
            over = trial.run(simulator.now_s + config.horizon_s)
        except EngineError:
            return math.inf
        if over and trial.state.cluster[0].n_live > 0:
            return math.inf
        sums = trial.state.sums
        return float(config.delay * sums[WAITING_S] + config.long * sums[OPEN_LONGS_S] + config.tail * sums[LATE_S])


PLANNER = planner(PlannerConfig(), PECSCHED)
