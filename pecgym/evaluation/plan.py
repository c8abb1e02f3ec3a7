"""What to run: policies x workloads x seeds, from names to clusters."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Optional, get_type_hints

import numba
import numpy as np

from pecgym.cluster import Cluster, make_cluster
from pecgym.costs import load_cluster, load_gpu, load_model
from pecgym.engine import EngineSettings, load_engine
from pecgym.errors import SpecError
from pecgym.policies import load_policy
from pecgym.scenario import scale_to_load
from pecgym.units import HORIZON_S
from pecgym.workload import REGISTRY, Trace, cached_trace, generate, load_trace
from pecgym.workload.generator import generator_names, is_generator_name

_PACKAGE = Path(__file__).resolve().parent.parent
_HINTS = get_type_hints(EngineSettings)

_EngineChanges = make_dataclass(
    "_EngineChanges",
    [(f.name, Optional[_HINTS[f.name]], field(default=None)) for f in fields(EngineSettings) if f.name != "name"],  # noqa: UP045 - OmegaConf reads it
)


@dataclass
class EngineConfig(_EngineChanges):  # type: ignore[misc, valid-type]
    """An engine preset by name (or a .yaml by path), and what to change in it; None keeps the preset's value."""

    name: str = "vllm"

    def load(self) -> EngineSettings:
        """The settings. Raises SpecError."""
        changes = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return load_engine(self.name, **{key: value for key, value in changes.items() if value is not None})


@dataclass
class WorkloadConfig:
    """An embedded workload or public trace by name, or a trace file by path (path wins); then a part of it, or faster.

    Attributes:
        name: an embedded workload, several joined by "+", or a public trace that was fetched.
        path: a trace file of any known format.
        duration_s: embedded workload: its length; None: that of the trace it imitates.
        arrivals: embedded workload: its arrival process; None: the workload's own.
        start_s, stop_s: only the requests that arrive in this window.
        speedup: factor on the arrival rate, by shrinking time.
        on_empty: file: what to do with rows of zero tokens, "error", "one" or "drop" (docs/workloads.md).
        sort: file: whether to sort rows that are out of order, in place of an error.
    """

    name: str = "azure2023_conv"
    path: str | None = None
    duration_s: float | None = None
    arrivals: str | None = None
    start_s: float | None = None
    stop_s: float | None = None
    speedup: float = 1.0
    on_empty: str | None = None
    sort: bool = False

    @staticmethod
    def of(name_or_path: str, like: WorkloadConfig) -> WorkloadConfig:
        """The workload of that name or path, with the window and speedup of another."""
        if is_generator_name(name_or_path):
            return replace(like, name=name_or_path, path=None)
        known = {"name": name_or_path, "path": None} if name_or_path in REGISTRY else {"path": name_or_path}
        return replace(like, **known, duration_s=None, arrivals=None)

    def file(self) -> Path | None:
        """The file that holds the workload, None for an embedded one."""
        if self.path is not None:
            return Path(self.path)
        return cached_trace(self.name) if self.name in REGISTRY else None

    def check(self) -> None:
        """Raises SpecError for a name, path or option that cannot work, without reading the trace."""
        embedded = self.path is None and is_generator_name(self.name)
        if self.path is None and not embedded and self.name not in REGISTRY:
            raise SpecError(
                f"workload {self.name!r} does not exist; choose one of {', '.join(generator_names())}, a public trace "
                f"({', '.join(REGISTRY)}), or give workload.path=FILE"
            )
        if self.path is not None and not Path(self.path).exists():
            raise SpecError(f"workload {self.path}: no such file; embedded workloads: {', '.join(generator_names())}")
        if embedded and (self.on_empty is not None or self.sort):
            raise SpecError("workload.on_empty and .sort are for files; an embedded workload needs neither")
        if not embedded and (self.duration_s is not None or self.arrivals is not None):
            raise SpecError("workload.duration_s and .arrivals are for embedded workloads; use start_s and stop_s")
        if self.duration_s is not None and not 0 < self.duration_s <= HORIZON_S:
            raise SpecError(f"workload.duration_s={self.duration_s}: must be above 0, at most {HORIZON_S:.0f}")
        if not (self.speedup > 0 and math.isfinite(self.speedup)):
            raise SpecError(f"workload.speedup={self.speedup}: must be above 0")

    def load(self, seed: int) -> Trace:
        """The trace under a seed (files do not depend on it). Raises TraceError or SpecError."""
        self.check()
        if self.path is None and is_generator_name(self.name):
            trace = generate(self.name, seed, self.duration_s, self.arrivals)
        else:
            options: dict[str, Any] = {} if self.on_empty is None else {"on_empty": self.on_empty}
            options |= {"sort": True} if self.sort else {}
            trace = load_trace(self.name if self.path is None else Path(self.path), **options)
        if self.start_s is not None or self.stop_s is not None:
            trace = trace.between(self.start_s or 0.0, math.inf if self.stop_s is None else self.stop_s)
        if self.speedup != 1.0:
            trace = trace.scale_rate(self.speedup)
        if not len(trace):
            raise SpecError(f"workload {trace.name!r}: no request arrives in the chosen window")
        return trace

    def label(self) -> str:
        """What tables call it."""
        return Path(self.path).stem if self.path is not None else self.name


@dataclass
class ScenarioConfig:
    """The load: "native", the workload at its own rate, or "steady", at `load` times the simulated capacity."""

    name: str = "native"
    load: float | None = None

    def label(self) -> str:
        """What tables call it."""
        return self.name if self.load is None else f"{self.name}-{self.load:g}"

    def check(self) -> None:
        """Raises SpecError for a scenario that does not exist or a load that does not belong to it."""
        if self.name not in ("native", "steady"):
            raise SpecError(f"scenario {self.name!r} does not exist; choose native or steady")
        if (self.name == "steady") != (self.load is not None):
            raise SpecError(f"scenario {self.label()!r}: native takes no load, steady needs scenario.load")


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: every policy on every workload under every seed.

    `workloads`, names or paths, takes the place of `workload`.
    """

    policies: tuple[str, ...]
    model: str = "llama-3.1-70b"
    cluster: str = "p4de_x4"
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    workloads: tuple[str, ...] | None = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    seeds: tuple[int, ...] = (0,)
    profile: str | None = None
    tp: int | None = None
    until_s: float | None = None

    def chosen_workloads(self) -> list[WorkloadConfig]:
        """The workloads of the plan."""
        if self.workloads is None:
            return [self.workload]
        return [WorkloadConfig.of(name, self.workload) for name in self.workloads]

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
        for workload in workloads:
            workload.check()
        self.scenario.check()
        if min(self.seeds) < 0:
            raise SpecError(f"seeds={list(self.seeds)}: must be 0 or more")
        if self.until_s is not None and not 0 < self.until_s <= HORIZON_S:
            raise SpecError(f"until_s={self.until_s}: must be above 0, at most {HORIZON_S:.0f}")
        self.cluster_for(self.policies[0], Trace(np.zeros(1), np.ones(1, np.int64), np.ones(1, np.int64)), 0)
        return {policy.choose for policy in policies}

    def cluster_for(self, policy: str, trace: Trace, seed: int, arrival_scale: float = 1.0) -> Cluster:
        """The cluster of the plan under a policy and a trace; arrival_scale: the factor on its rate, for tables."""
        return make_cluster(
            self.model,
            self.cluster,
            policy,
            trace,
            self.engine.load(),
            seed=seed,
            tp=self.tp,
            profile=self.profile,
            scenario_label=self.scenario.label(),
            arrival_scale=arrival_scale,
        )


@dataclass(frozen=True)
class Job:
    """One run."""

    plan: EvaluationPlan
    policy: str
    workload: WorkloadConfig
    seed: int

    def make(self) -> Cluster:
        """The cluster of this run, with its workload at the scenario's load."""
        trace = self.workload.load(self.seed)
        cluster = self.plan.cluster_for(self.policy, trace, self.seed, self.workload.speedup)
        load = self.plan.scenario.load
        if load is None:
            return cluster
        trace, factor = scale_to_load(trace, load, cluster.n_replicas, cluster.profile, cluster.engine)
        return self.plan.cluster_for(self.policy, trace, self.seed, self.workload.speedup * factor)

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
            [self.policy, asdict(self.workload), asdict(plan.scenario), self.seed, plan.until_s],
            [stat.st_size, stat.st_mtime_ns] if stat is not None else [],
        ]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return f"{re.sub('[^A-Za-z0-9_-]', '.', self.policy)}-seed{self.seed}-{digest}"


@cache
def _package_hash() -> str:
    """A hash of everything in the package that can change a result: code, profiles, specifications, tables."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__}".encode())
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".yaml", ".json")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + path.read_bytes())
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
