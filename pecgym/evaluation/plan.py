"""What to run: policies x workloads x seeds x windows, from names to clusters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from pecgym.analysis import RequestLog
from pecgym.analysis.comparison import compare, pairs_of
from pecgym.cluster import Cluster
from pecgym.configs import EngineConfig, LongConfig, OrderConfig, ScenarioConfig, WorkloadConfig
from pecgym.costs import load_model
from pecgym.errors import SpecError
from pecgym.evaluation.keys import digest_of, policy_source, workload_identity
from pecgym.evaluation.windows import Cut
from pecgym.experiment import Experiment
from pecgym.policies import Policy, load_policy
from pecgym.policies.agents import training_seeds
from pecgym.units import HORIZON_S
from pecgym.workload import Trace


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: every policy on every workload under every seed, on all of it or on windows (Cut).

    `workloads`, names or paths, takes the place of `workload`. `long` and `order` change the rules of every policy.
    `baseline`: with which policy the others are compared; None: the first.
    """

    policies: tuple[str, ...]
    model: str = "llama-3.1-70b"
    cluster: str = "p4de_x4"
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    workloads: tuple[str, ...] | None = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    long: LongConfig = field(default_factory=LongConfig)
    seeds: tuple[int, ...] = (0,)
    profile: str | None = None
    tp: int | None = None
    until_s: float | None = None
    split: str | None = None
    windows: int | None = None
    window_requests: int = 1000
    baseline: str | None = None
    order: OrderConfig = field(default_factory=OrderConfig)

    def chosen_workloads(self) -> list[WorkloadConfig]:
        """The workloads of the plan, as the scenario has them."""
        if self.workloads is None:
            return [self.scenario.applied_to(self.workload)]
        return [self.scenario.applied_to(WorkloadConfig.of(name, self.workload)) for name in self.workloads]

    def jobs(self) -> list[Job]:
        """One job per run, those that share a workload side by side."""
        return [
            Job(self, policy, workload, seed, window)
            for workload in self.chosen_workloads()
            for seed in self.seeds
            for window in self.cut().numbers()
            for policies in self.entries().values()
            for policy in policies
        ]

    def entries(self) -> dict[str, tuple[str, ...]]:
        """What is compared, and the policies that it stands for: the training seeds of an agent, else itself."""
        return {policy: training_seeds(policy) for policy in self.policies}

    def load(self, policy: str) -> Policy:
        """One of the policies. Raises SpecError."""
        return load_policy(policy, *self._served())

    def _served(self) -> tuple[str, str]:
        """Model and scenario by name, as an agent is chosen by."""
        return load_model(self.model).name, self.scenario.name

    def cut(self) -> Cut:
        """How the workloads are cut into windows."""
        return Cut(self.split, self.windows, self.window_requests)

    def compare(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Its policies beside the baseline, the first of them unless it says which; None for one policy, or one run of
        each. rows: of all jobs."""
        baseline = self.baseline or self.policies[0]
        others = {entry: policies for entry, policies in self.entries().items() if entry != baseline}
        if not others or pairs_of(rows) < 2:
            return None
        return compare(rows, baseline, others)

    def check(self) -> set[Callable[..., Any] | None]:
        """Raises PecGymError for anything that cannot work, before anything is compiled or run.

        Returns the functions that decide for the policies.
        """
        policies = [self.load(name) for policy in self.policies for name in training_seeds(policy)]
        workloads = self.chosen_workloads()
        for kind, labels in (
            ("policy", [policy.name for policy in policies]),
            ("workload", [workload.label() for workload in workloads]),
            ("seed", [str(seed) for seed in self.seeds]),
        ):
            if not labels:
                raise SpecError(f"nothing to run: give at least one {kind}")
            if len(set(labels)) < len(labels):
                raise SpecError(
                    f"{kind} {max(labels, key=labels.count)!r} is there twice: results could not be told apart"
                )
        if self.baseline is not None and self.baseline not in self.policies:
            raise SpecError(f"baseline={self.baseline}: choose one of the policies, {', '.join(self.policies)}")
        if len(self.policies) > 1 and len(seeds := training_seeds(self.baseline or self.policies[0])) > 1:
            raise SpecError(
                f"baseline: {self.baseline or self.policies[0]} stands for {len(seeds)} training seeds; give one of "
                f"them, or another policy, as baseline or as the first policy: {', '.join(seeds)}"
            )
        self.scenario.check()
        self.cut().check()
        for workload in workloads:
            workload.check()
        if min(self.seeds) < 0:
            raise SpecError(f"seeds={list(self.seeds)}: must be 0 or more")
        if self.until_s is not None and not 0 < self.until_s <= HORIZON_S:
            raise SpecError(f"until_s={self.until_s}: must be above 0, at most {HORIZON_S:.0f}")
        one = np.ones(1, np.int64)
        one_request = Trace(np.zeros(1), one, one, predicted_tokens=one, predicted_tail_tokens=one)
        cluster = self.experiment(self.workload).with_trace(policies[0], one_request, 0)
        for policy in policies:
            policy.rules_with(cluster.profile.tp, **self.long.changes())
            policy.order_with(**self.order.changes())
        return {rule for policy in policies for rule in (policy.choose, policy.start_rule, policy.pool)}

    def experiment(self, workload: WorkloadConfig) -> Experiment:
        """The runs of a plan on a workload."""
        return Experiment(
            self.model,
            self.cluster,
            self.engine,
            workload,
            self.scenario,
            self.long,
            self.profile,
            self.tp,
            self.order,
        )

    def part(self, workload: WorkloadConfig, seed: int, window: int | None) -> Part:
        """What arrives in a window of a workload under a seed; None: in all of it."""
        experiment = self.experiment(workload)
        trace, scale = _arrivals(_Source(digest_of(workload_identity(experiment, seed)), experiment, seed))
        if window is None:
            return Part(experiment, trace, scale, None)
        trace, first_request = self.cut().part(trace, seed, window)
        return Part(experiment, trace, scale, first_request)


@dataclass(frozen=True)
class Part:
    """What arrives in a run. scale: the factor on the workload's own rate. first_request: the row of the workload at
    which a window begins; None: it is all of it."""

    experiment: Experiment
    trace: Trace
    scale: float
    first_request: int | None


@dataclass(frozen=True)
class Job:
    """One run. window: its number; None: the whole workload."""

    plan: EvaluationPlan
    policy: str
    workload: WorkloadConfig
    seed: int
    window: int | None = None

    def make(self, record: bool = False) -> Cluster:
        """The cluster of this run, with its workload at the scenario's load; record: with a timeline."""
        return self._make(record)[0]

    def run(self, record: bool = False) -> RequestLog:
        """The run, with its window among the labels of the log."""
        cluster, first_request = self._make(record)
        log = cluster.run(math.inf if self.plan.until_s is None else self.plan.until_s)
        window = {"split": self.plan.split, "window": self.window, "first_request": first_request}
        return replace(log, facts=replace(log.facts, labels=log.facts.labels | window))

    def where(self) -> str:
        """What it runs on, for errors."""
        window = "" if self.window is None else f", window {self.window}"
        return f"workload {self.workload.label()}, seed {self.seed}{window}"

    def window_labels(self) -> tuple[str, ...]:
        """The labels that tell windows apart, where there are some."""
        return () if self.window is None else ("split", "window", "first_request")

    def _make(self, record: bool) -> tuple[Cluster, int | None]:
        """The cluster, and the row of the workload at which its window begins."""
        part = self.plan.part(self.workload, self.seed, self.window)
        cluster = part.experiment.with_trace(self.policy, part.trace, self.seed, part.scale, record)
        return cluster, part.first_request

    def key(self) -> str:
        """A name for its files that changes with whatever may change its result: settings, files, the code.

        Modules that a user's policy imports from elsewhere are not looked at.
        """
        plan = self.plan
        requests = plan.window_requests if plan.windows is not None else None
        identity = [
            workload_identity(plan.experiment(self.workload), self.seed),
            policy_source(self.policy, *plan._served()),
            [self.policy, plan.until_s, plan.long.changes(), plan.order.changes()],
            [plan.split, self.window, requests],
        ]
        window = "" if self.window is None else f"-window{self.window}"
        return f"{re.sub('[^A-Za-z0-9_-]', '.', self.policy)}-seed{self.seed}{window}-{digest_of(identity)[:12]}"


@dataclass(frozen=True)
class _Source:
    """Where arrivals come from; equal keys give equal ones."""

    key: str
    experiment: Experiment = field(compare=False)
    seed: int = field(compare=False)


@lru_cache(maxsize=2)
def _arrivals(source: _Source) -> tuple[Trace, float]:
    """Arrivals are the same for all policies and windows: to load and scale them can take longer than to serve one."""
    return source.experiment.arrivals(source.seed)
