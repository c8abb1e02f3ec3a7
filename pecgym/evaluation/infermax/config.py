"""The keys of scripts/infermax.py: what each of INFERMAX's experiments is run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pecgym.configs import WorkloadConfig
from pecgym.costs import load_profile
from pecgym.engine import load_engine
from pecgym.engine.variants import BASES
from pecgym.errors import SpecError

NEVER, HIST, SRF = "_no_evict", "_hist", "_srf"


@dataclass
class OfflineConfig:
    """Equal requests at time zero, over their lengths and the KV memory.

    Attributes:
        profiles: cost profiles.
        presets: engines, each also with `_no_evict`.
        requests: how many.
        tokens: input and output lengths, each with each.
        capacity_tokens: KV memory (M).
    """

    profiles: list[str] = field(default_factory=list)
    presets: list[str] = field(default_factory=list)
    requests: int = 1024
    tokens: list[int] = field(default_factory=list)
    capacity_tokens: list[int] = field(default_factory=list)


@dataclass
class OnlineConfig:
    """Windows of the workload, over load and KV memory: who is evicted, and what is set aside.

    Attributes:
        profiles: cost profiles.
        presets: engines, each also with every suffix of `rules`.
        rules: suffixes of the presets that are compared with the preset itself.
        capacity_tokens: KV memory (M); null: the profile's.
        workloads: names or paths, in place of `workload`.
        loads: times what one replica completes under the preset with that memory.
        seeds: of the workload and of the windows' starts.
        windows, window_requests: for each seed.
    """

    profiles: list[str] = field(default_factory=list)
    presets: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    capacity_tokens: list[int | None] = field(default_factory=list)
    workloads: list[str] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    windows: int = 10
    window_requests: int = 1000


@dataclass
class FiveMinutesConfig:
    """How long a KV cache may lie unused before it is cheaper to compute it again.

    Attributes:
        profiles: cost profiles.
        context_tokens: how long the cache is.
        capacity_tokens: KV memory (M); null: the profile's.
    """

    profiles: list[str] = field(default_factory=list)
    context_tokens: list[int] = field(default_factory=list)
    capacity_tokens: list[int | None] = field(default_factory=list)


@dataclass
class SwapConfig:
    """Evicted KV caches in host memory against computing them again.

    Attributes:
        profiles: cost profiles.
        preset: the engine.
        shapes: [input, output] of equal requests at time zero.
        requests: how many.
        crowds: KV memory in peaks of a request: so many of them fit at their ends.
        gb_per_s: bandwidths between a replica and host memory; .inf: free.
        capacity_tokens, load: of the workload's windows, those of `online`.
    """

    profiles: list[str] = field(default_factory=list)
    preset: str = "vllm"
    shapes: list[list[int]] = field(default_factory=list)
    requests: int = 1024
    crowds: list[int] = field(default_factory=list)
    gb_per_s: list[float] = field(default_factory=list)
    capacity_tokens: int = 50000
    load: float = 1.1


@dataclass
class InfermaxConfig:
    """The keys of scripts/infermax.py; any other key is an error.

    Attributes:
        experiments: which are run, of "offline", "online", "five_minutes" and "swap"; of the others the page keeps
            what `out` holds.
        limits: settings of every engine: INFERMAX's budget, no watermark, slots that do not limit.
        offline, online, five_minutes, swap: the experiments.
        workload: of `online` and `swap`.
        out: folder of the results.
        page: the Markdown page that is written; null: page.md in `out`.
        figures: folder of its pictures; null: `out`.
        quick: whether to thin all of it out, to one profile and a few lengths, loads and windows, for a look.
        workers: processes; null: one per core.
        fresh: whether to do again what `out` holds.
    """

    experiments: list[str] = field(default_factory=list)
    limits: dict[str, Any] = field(default_factory=dict)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    five_minutes: FiveMinutesConfig = field(default_factory=FiveMinutesConfig)
    swap: SwapConfig = field(default_factory=SwapConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    out: str = "results/infermax"
    page: str | None = None
    figures: str | None = None
    quick: bool = False
    workers: int | None = None
    fresh: bool = False

    def thinned(self) -> InfermaxConfig:
        """What `quick` runs: of long lists the ends and the middle, of profiles, presets and seeds the first."""
        if not self.quick:
            return self
        groups = {name: getattr(self, name) for name in ("offline", "online", "five_minutes", "swap")}
        thin = {
            name: replace(group, **{key: _thin(key, values) for key, values in vars(group).items()})
            for name, group in groups.items()
        }
        thin["online"] = replace(thin["online"], windows=2, window_requests=200)
        return replace(self, **thin)

    def settings_of(self, experiment: str) -> dict[str, Any]:
        """What decides the results of an experiment."""
        whole = asdict(self.thinned())
        shared = {"five_minutes": (), "offline": ("limits",)}.get(experiment, ("limits", "workload"))
        settings = {name: whole[name] for name in (experiment, *shared)}
        if experiment == "swap":
            settings["online"] = {name: whole["online"][name] for name in ("seeds", "windows", "window_requests")}
        return settings

    def check(self) -> None:
        """Raises PecGymError for names that do not exist and values that cannot be."""
        for workload in (self.workload, *(WorkloadConfig.of(name, self.workload) for name in self.online.workloads)):
            workload.check()
        for group in ("offline", "online", "swap", "five_minutes"):
            chosen = getattr(self, group)
            for profile in chosen.profiles:
                load_profile(profile)
            for key, values in vars(chosen).items():
                if values == [] and key != "workloads":
                    raise SpecError(f"{group}.{key}: give at least one")
                _positive(f"{group}.{key}", values)
        for preset in (*self.offline.presets, *self.online.presets, self.swap.preset):
            load_engine(preset, **self.limits)
        for preset in self.offline.presets:
            _check_partner(preset)
        for preset in self.online.presets:
            for rule in self.online.rules:
                load_engine(preset + rule)
        if any(len(shape) != 2 for shape in self.swap.shapes):
            raise SpecError(f"swap.shapes={self.swap.shapes}: give pairs [input, output]")


def _thin(key: str, values: Any) -> Any:
    if not isinstance(values, list) or key == "rules":
        return values
    if key in ("profiles", "presets", "seeds", "workloads"):
        return values[:1]
    return values if len(values) < 4 else [values[0], values[len(values) // 2], values[-1]]


def _check_partner(preset: str) -> None:
    """Raises SpecError for an engine of the offline grid that has no never-preempting partner."""
    try:
        load_engine(preset + NEVER)
    except SpecError as error:
        raise SpecError(
            f"offline.presets: {preset!r} has no never-preempting partner {preset + NEVER!r}: "
            f"choose of {', '.join(BASES)}"
        ) from error


def _positive(key: str, values: Any) -> None:
    """Raises SpecError for a number that is not above 0 (seeds: not 0 or more), also within lists."""
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else [values]:
        if isinstance(value, list):
            _positive(key, value)
        elif isinstance(value, int | float) and not (value > 0 or (key.endswith("seeds") and value == 0)):
            raise SpecError(f"{key}: {value} must be above 0")
