"""Cells of INFERMAX's experiments: several engines on the same requests, on one replica."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pecgym.cluster import Cluster
from pecgym.configs import WorkloadConfig
from pecgym.costs import ClusterSpec, Profile, load_model, load_profile
from pecgym.engine import EngineSettings, LongRules, load_engine
from pecgym.engine.orders import OrderRules
from pecgym.evaluation.keys import package_hash
from pecgym.evaluation.windows import Cut
from pecgym.policies import load_policy
from pecgym.scenario import scale_to_load
from pecgym.workload import Trace

METRICS = (
    *("makespan_s", "gpu_hours", "cost_usd", "throughput_tokens_per_s", "mean_batch_size", "idle_rate"),
    *("ttft_mean_s", "ttft_p99_s", "tpot_mean_s", "tpot_p99_s", "jct_mean_s", "jct_p99_s"),
    *("evictions", "recomputed_tokens"),
)
"""What is kept of a run, as in pecgym.analysis.metrics."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """An engine preset by name with changes; label: what tables call it."""

    label: str
    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> EngineSettings:
        """Its settings. Raises SpecError."""
        return load_engine(self.preset, **self.changes)


@dataclass(frozen=True)
class Burst:
    """Equal requests, all at time zero."""

    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def peak_tokens(self) -> int:
        """KV tokens that one of them holds at its end."""
        return self.input_tokens + self.output_tokens - 1

    def traces(self, profile: Profile, settings: EngineSettings) -> list[Trace]:
        """The one trace."""
        inputs, outputs = np.full(self.requests, self.input_tokens), np.full(self.requests, self.output_tokens)
        return [Trace(np.zeros(self.requests), inputs, outputs, name=f"{self.input_tokens}-{self.output_tokens}")]

    def identity(self) -> list[Any]:
        """What it is, as JSON."""
        return list(asdict(self).values())


@dataclass(frozen=True)
class Windows:
    """Windows of a workload, at `load` times what one replica completes under the first engine of the cell."""

    workload: WorkloadConfig
    load: float
    seed: int
    windows: int
    window_requests: int

    def traces(self, profile: Profile, settings: EngineSettings) -> list[Trace]:
        """Each window from time zero. Raises TraceError or SpecError."""
        whole, _ = scale_to_load(self.workload.load(self.seed), self.load, 1, profile, settings)
        cut = Cut(None, self.windows, self.window_requests)
        return [cut.part(whole, self.seed, number)[0] for number in range(self.windows)]

    def identity(self) -> list[Any]:
        """What it is, as JSON: the file too."""
        file = self.workload.file()
        stat = file.stat() if file is not None else None
        return [asdict(self), [stat.st_size, stat.st_mtime_ns] if stat is not None else []]


@dataclass(frozen=True)
class Cell:
    """Several engines on the same requests, on one replica of a profile with so much KV memory."""

    profile: str
    capacity_tokens: int
    work: Burst | Windows
    engines: tuple[Engine, ...]

    def key(self) -> str:
        """A hash of all that may change its result."""
        engines = [[each.label, repr(each.load())] for each in self.engines]
        what = [package_hash(), repr(load_profile(self.profile)), self.capacity_tokens, self.work.identity(), engines]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]

    def settings(self, engine: Engine) -> EngineSettings:
        """Of an engine with the KV memory of this cell."""
        return engine.load().with_changes(kv_capacity_tokens=self.capacity_tokens)

    def run(self) -> dict[str, list[Row]]:
        """By engine, METRICS of each trace. Raises PecGymError."""
        profile = load_profile(self.profile)
        traces = self.work.traces(profile, self.settings(self.engines[0]))
        return {each.label: [serve(profile, self.settings(each), trace) for trace in traces] for each in self.engines}


def capacities(profile: str, wanted: Sequence[int | None]) -> list[int]:
    """KV memories, None: the profile's; each once, ascending."""
    return sorted({each or load_profile(profile).kv_capacity_tokens for each in wanted})


def serve(profile: Profile, settings: EngineSettings, trace: Trace) -> Row:
    """METRICS of one replica that serves a trace; what is waiting is taken in order of arrival."""
    spec = ClusterSpec("one replica", profile.gpu, 1, profile.tp, 1.0, ["one replica of the profile"])
    policy, model = load_policy("fifo"), load_model(profile.model)
    cluster = Cluster(
        model, spec, profile, settings, policy, trace, 0, "infermax", 1.0, LongRules(), OrderRules(), False
    )
    row = cluster.run().metrics()
    return {name: row[name] for name in METRICS}
