"""What to run: policies x workloads x seeds, from names to clusters."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from pecgym.cluster import Cluster
from pecgym.configs import EngineConfig, LongConfig, ScenarioConfig, WorkloadConfig
from pecgym.costs import load_cluster, load_gpu, load_model
from pecgym.errors import SpecError
from pecgym.experiment import Experiment
from pecgym.policies import load_policy
from pecgym.units import HORIZON_S
from pecgym.workload import Trace

_PACKAGE = Path(__file__).resolve().parent.parent
_READS_RESULTS = ("analysis/perfetto.py", "analysis/report/", "analysis/tables.py", "evaluation/paper/")


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: every policy on every workload under every seed.

    `workloads`, names or paths, takes the place of `workload`. `long` changes the rules of every policy.
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

    def chosen_workloads(self) -> list[WorkloadConfig]:
        """The workloads of the plan, as the scenario has them."""
        if self.workloads is None:
            return [self.scenario.applied_to(self.workload)]
        return [self.scenario.applied_to(WorkloadConfig.of(name, self.workload)) for name in self.workloads]

    def jobs(self) -> list[Job]:
        """One job per run, those that share a workload side by side."""
        return [
            Job(self, policy, workload, seed)
            for workload in self.chosen_workloads()
            for seed in self.seeds
            for policy in self.policies
        ]

    def check(self) -> set[Callable[..., Any] | None]:
        """Raises PecGymError for anything that cannot work, before anything is compiled or run.

        Returns the functions that decide for the policies.
        """
        policies = [load_policy(name) for name in self.policies]
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
        self.scenario.check()
        for workload in workloads:
            workload.check()
        if min(self.seeds) < 0:
            raise SpecError(f"seeds={list(self.seeds)}: must be 0 or more")
        if self.until_s is not None and not 0 < self.until_s <= HORIZON_S:
            raise SpecError(f"until_s={self.until_s}: must be above 0, at most {HORIZON_S:.0f}")
        one_request = Trace(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64))
        cluster = self.experiment(self.workload).with_trace(self.policies[0], one_request, 0)
        for policy in policies:
            policy.rules_with(cluster.profile.tp, **self.long.changes())
        return {rule for policy in policies for rule in (policy.choose, policy.start_rule, policy.pool)}

    def experiment(self, workload: WorkloadConfig) -> Experiment:
        """The runs of a plan on a workload."""
        return Experiment(
            self.model, self.cluster, self.engine, workload, self.scenario, self.long, self.profile, self.tp
        )


@dataclass(frozen=True)
class Job:
    """One run."""

    plan: EvaluationPlan
    policy: str
    workload: WorkloadConfig
    seed: int

    def make(self, record: bool = False) -> Cluster:
        """The cluster of this run, with its workload at the scenario's load; record: with a timeline."""
        return self.plan.experiment(self.workload).make(self.policy, self.seed, record)

    def key(self) -> str:
        """A name for its files that changes with whatever may change its result: settings, files, the code.

        Modules that a user's policy imports from elsewhere are not looked at.
        """
        plan = self.plan
        file = self.workload.file()
        stat = file.stat() if file is not None else None
        identity = [
            _package_hash(),
            _policy_source(self.policy),
            _resolved(plan.model, plan.cluster, plan.tp, plan.profile),
            _resolved_engine(tuple(asdict(plan.engine).items())),
            [self.policy, asdict(self.workload), asdict(plan.scenario), self.seed, plan.until_s, plan.long.changes()],
            [stat.st_size, stat.st_mtime_ns] if stat is not None else [],
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return f"{re.sub('[^A-Za-z0-9_-]', '.', self.policy)}-seed{self.seed}-{digest}"


@cache
def _package_hash() -> str:
    """A hash of everything in the package that can change a result: code, profiles, specifications, tables."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".yaml", ".json")):
        name = path.relative_to(_PACKAGE).as_posix()
        if not name.startswith(_READS_RESULTS):
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()


def _policy_source(policy: str) -> str:
    """The source of the module of a policy given by import path, empty for a reference policy."""
    if ":" not in policy:
        return ""
    load_policy(policy)
    source = getattr(sys.modules[policy.partition(":")[0]], "__file__", None)
    return Path(source).read_text() if source else ""


@cache
def _resolved_engine(config: tuple[tuple[str, Any], ...]) -> str:
    return repr(EngineConfig(**dict(config)).load())


@cache
def _resolved(model: str, cluster: str, tp: int | None, profile: str | None) -> str:
    """What the names stand for, in full: files of the user's own may have changed."""
    spec = load_cluster(cluster)
    given = Path(profile).read_text() if profile is not None and Path(profile).is_file() else profile
    return repr((load_model(model), spec, load_gpu(spec.gpu), tp, given))
