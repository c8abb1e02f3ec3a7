"""The parts of an evaluation as configuration: engine, rules for longs, workload, scenario."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Any, Optional, get_type_hints

from hydra.core.config_store import ConfigStore

from pecgym.engine import EngineSettings, LongRules, load_engine
from pecgym.engine.orders import OrderRules
from pecgym.engine.variants import variant_names
from pecgym.errors import SpecError
from pecgym.predictors import Predictor, load_predictor, with_predictions
from pecgym.units import HORIZON_S
from pecgym.workload import (
    REGISTRY,
    Trace,
    cached_trace,
    draw_chat,
    draw_offline,
    generate,
    load_trace,
    offline,
    rewrite_long,
)
from pecgym.workload.chat import CHAT
from pecgym.workload.generator import generator_names, is_generator_name
from pecgym.workload.offline import OFFLINE
from pecgym.workload.prompts import read_prompts

LONG_CONTEXTS = {
    "none": (),
    "paper": ("long_low_tokens", "long_high_tokens", "long_percentile"),
    "linear": ("long_low_tokens", "long_high_tokens"),
    "rank": ("long_low_tokens", "long_high_tokens", "long_percentile"),
}
"""The long-context rewrites, and which options each of them takes."""
_DRAWN, _LISTED = ("requests", "input_range", "output_range"), ("input_tokens", "output_tokens")
_OF_CHAT = ("requests", "rate_rps", "cv", "input_range", "prompts")
_MADE = {OFFLINE: _DRAWN + _LISTED, CHAT: _OF_CHAT}
"""The workloads that are made of numbers alone, and their keys; there are two ways to say what an offline one is."""


def _changes_of(settings: type[Any], name: str) -> type[Any]:
    """A dataclass of the same keys, each None: keep what is there."""
    hints = get_type_hints(settings)
    keys = [(f.name, Optional[hints[f.name]], field(default=None)) for f in fields(settings) if f.name != "name"]  # noqa: UP045 - OmegaConf reads it
    return make_dataclass(name, keys)


def _given(changes: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(changes).items() if key != "name" and value is not None}


_EngineChanges = _changes_of(EngineSettings, "_EngineChanges")
_LongChanges = _changes_of(LongRules, "_LongChanges")
_OrderChanges = _changes_of(OrderRules, "_OrderChanges")


@dataclass
class EngineConfig(_EngineChanges):  # type: ignore[misc, valid-type]
    """An engine preset by name (or a .yaml by path), and what to change in it; None keeps the preset's value."""

    name: str = "vllm"

    def load(self) -> EngineSettings:
        """The settings. Raises SpecError."""
        return load_engine(self.name, **_given(self))


def store_variants() -> None:
    """Makes the derived presets, which have no file in conf/engine, choices of Hydra's group `engine`."""
    for name in variant_names():
        ConfigStore.instance().store(group="engine", name=name, node=EngineConfig(name=name))


@dataclass
class LongConfig(_LongChanges):  # type: ignore[misc, valid-type]
    """What to change in the rules for long requests of every policy (LongRules); None keeps the policy's value."""

    def changes(self) -> dict[str, Any]:
        """The rules that were given."""
        return _given(self)


@dataclass
class OrderConfig(_OrderChanges):  # type: ignore[misc, valid-type]
    """What to change in the parameters of the orders of every policy (OrderRules); None keeps the policy's value."""

    def changes(self) -> dict[str, Any]:
        """The parameters that were given."""
        return _given(self)


@dataclass
class WorkloadConfig:
    """An embedded workload or public trace by name, or a trace file by path (path wins); then a part of it, or faster.

    Attributes:
        name: an embedded workload, several joined by "+", a public trace that was fetched, "offline": requests that
            all wait at time 0, drawn from ranges under the run's seed, or as they are listed, or "chat": SSJF's
            requests, with the output lengths of LMSYS-Chat-1M.
        path: a trace file of any known format.
        duration_s: embedded workload: its length; None: that of the trace it imitates.
        arrivals: embedded workload: its arrival process; None: the workload's own. Of chat: "poisson" (None), "gamma"
            or "burst", all at time 0.
        start_s: only the requests that arrive from here on, seconds.
        stop_s: and before this time.
        speedup: factor on the arrival rate, by shrinking time.
        on_empty: file, also of prompts: what to do with rows of zero tokens, "error", "one" or "drop"
            (docs/workloads.md).
        sort: file: whether to sort rows that are out of order, in place of an error.
        long_context: which inputs become long (docs/workloads.md), under the run's seed and before the window is cut
            out: "none", "paper", "linear" or "rank"; None: "paper" in the scenario paper, else "none".
        long_low_tokens: option of the rewrite; None: its own.
        long_high_tokens: likewise.
        long_percentile: likewise.
        predictor: a length predictor by name or path (docs/predictors.md), applied after the rewrite and before the
            window is cut out, so that a request has the same prediction in every window and at every speedup; None or
            "none": the trace's own predictions, where it has some.
        only_shorts: whether the longs are left out after the rewrite: what it would be without them.
        requests: offline and chat: how many are drawn.
        rate_rps: chat: requests per second, unless they come as a burst.
        cv: chat: coefficient of variation of the gaps of gamma arrivals.
        prompts: chat: a file of prompts whose last 20% give lengths and texts in place of the released ones.
        input_range: offline and chat: lowest and highest input length, tokens; of chat None: as in `prompts`, else 6.
        output_range: offline: likewise of outputs.
        input_tokens: offline, in place of those three: the input length of each request.
        output_tokens: likewise of outputs.
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
    long_context: str | None = None
    long_low_tokens: int | None = None
    long_high_tokens: int | None = None
    long_percentile: float | None = None
    predictor: str | None = None
    only_shorts: bool = False
    requests: int | None = None
    rate_rps: float | None = None
    cv: float | None = None
    prompts: str | None = None
    input_range: list[int] | None = None
    output_range: list[int] | None = None
    input_tokens: list[int] | None = None
    output_tokens: list[int] | None = None

    @staticmethod
    def of(name_or_path: str, like: WorkloadConfig) -> WorkloadConfig:
        """The workload of that name or path, with the window, speedup and longs of another."""
        if name_or_path == OFFLINE:
            return replace(like, name=OFFLINE, path=None, duration_s=None, arrivals=None)
        if name_or_path == CHAT:
            return replace(like, name=CHAT, path=None, duration_s=None)
        none: dict[str, Any] = dict.fromkeys(key for keys in _MADE.values() for key in keys)
        like = replace(like, **none)
        if is_generator_name(name_or_path):
            return replace(like, name=name_or_path, path=None)
        known = {"name": name_or_path, "path": None} if name_or_path in REGISTRY else {"path": name_or_path}
        return replace(like, **known, duration_s=None, arrivals=None)

    def file(self) -> Path | None:
        """The file that holds the workload, None for an embedded one."""
        if self.path is not None:
            return Path(self.path)
        if self.prompts is not None:
            return Path(self.prompts)
        return cached_trace(self.name) if self.name in REGISTRY else None

    def check(self) -> None:
        """Raises SpecError for a name, path or option that cannot work, without reading the trace."""
        self._check_made()
        embedded = self.path is None and is_generator_name(self.name)
        if self.path is None and not embedded and self.name not in REGISTRY and self._made is None:
            raise SpecError(
                f"workload {self.name!r} does not exist; choose one of {', '.join((*generator_names(), *_MADE))}, a "
                f"public trace ({', '.join(REGISTRY)}), or give workload.path=FILE"
            )
        if self.path is not None and not Path(self.path).exists():
            raise SpecError(f"workload {self.path}: no such file; embedded workloads: {', '.join(generator_names())}")
        if self.prompts is not None and not Path(self.prompts).exists():
            raise SpecError(f"workload.prompts={self.prompts}: no such file")
        if (embedded or self._made) and (self.sort or (self.on_empty is not None and self.prompts is None)):
            raise SpecError("workload.on_empty and .sort are for files; an embedded workload needs neither")
        arrivals = None if self._made == CHAT else self.arrivals
        if not embedded and (self.duration_s is not None or arrivals is not None):
            raise SpecError("workload.duration_s and .arrivals are for embedded workloads; use start_s and stop_s")
        if self.duration_s is not None and not 0 < self.duration_s <= HORIZON_S:
            raise SpecError(f"workload.duration_s={self.duration_s}: must be above 0, at most {HORIZON_S:.0f}")
        if not (self.speedup > 0 and math.isfinite(self.speedup)):
            raise SpecError(f"workload.speedup={self.speedup}: must be above 0")
        self.length_predictor()
        self._check_longs()

    def length_predictor(self) -> Predictor | None:
        """What predicts output lengths, None where nothing does. Raises SpecError for one that cannot be loaded."""
        return None if self.predictor in (None, "none") else load_predictor(self.predictor)

    @property
    def _made(self) -> str | None:
        """The name of a workload that is made of numbers alone; None: it is another one."""
        return self.name if self.path is None and self.name in _MADE else None

    def _check_made(self) -> None:
        given = {key for keys in _MADE.values() for key in keys if getattr(self, key) is not None}
        if foreign := sorted(given - set(_MADE[self._made] if self._made else ())):
            owners = [name for name, keys in _MADE.items() if foreign[0] in keys]
            raise SpecError(
                f"workload.{', .'.join(foreign)}: of name={' or '.join(owners)} alone, not of {self.label()}"
            )
        if self._made == OFFLINE and given not in (set(_DRAWN), set(_LISTED)):
            raise SpecError(
                f"workload {OFFLINE}: give {', '.join(_DRAWN)}, or in their place {' and '.join(_LISTED)}, not "
                f"{', '.join(sorted(given)) or 'nothing'}"
            )
        if self._made == CHAT and self.requests is None:
            raise SpecError(f"workload {CHAT}: give requests, how many are drawn")
        if self._all_at_once and self.speedup != 1.0:
            raise SpecError(f"workload {self.name}: everything is there at time 0; leave speedup and arrival_scale out")

    @property
    def _all_at_once(self) -> bool:
        return self._made == OFFLINE or (self._made == CHAT and self.arrivals == "burst")

    def _check_longs(self) -> None:
        chosen = self.long_context or "none"
        if chosen not in LONG_CONTEXTS:
            raise SpecError(f"workload.long_context={chosen!r}: choose one of {', '.join(LONG_CONTEXTS)}")
        for key in LONG_CONTEXTS["paper"]:
            if getattr(self, key) is not None and key not in LONG_CONTEXTS[chosen]:
                takes = [name for name, options in LONG_CONTEXTS.items() if key in options]
                raise SpecError(f"workload.{key} is of long_context={' or '.join(takes)}, not of {chosen}")

    def load(self, seed: int) -> Trace:
        """The trace under a seed; of a file, only the longs' lengths depend on it. Raises TraceError or SpecError."""
        self.check()
        if self.path is None and is_generator_name(self.name):
            trace = generate(self.name, seed, self.duration_s, self.arrivals)
        elif self._made:
            trace = self._offline(seed) if self._made == OFFLINE else self._chat(seed)
        else:
            options = self._of_rows | ({"sort": True} if self.sort else {})
            trace = load_trace(self.name if self.path is None else Path(self.path), **options)
        chosen = self.long_context or "none"
        if chosen != "none":
            given = {key: getattr(self, key) for key in LONG_CONTEXTS[chosen] if getattr(self, key) is not None}
            changes = {key.removeprefix("long_"): value for key, value in given.items()}
            trace = rewrite_long(trace, chosen, seed=seed, **changes)  # type: ignore[arg-type]
        predictor = self.length_predictor()
        if predictor is not None:
            trace = with_predictions(trace, predictor, seed)
        if self.only_shorts:
            trace = replace(trace.take(~trace.is_long), name=f"{trace.name} without longs")
        if self.start_s is not None or self.stop_s is not None:
            trace = trace.between(self.start_s or 0.0, math.inf if self.stop_s is None else self.stop_s)
        if self.speedup != 1.0:
            trace = trace.scale_rate(self.speedup)
        if not len(trace):
            raise SpecError(f"workload {trace.name!r}: no request arrives in the chosen window")
        return trace

    @property
    def _of_rows(self) -> dict[str, Any]:
        """What readers of files are told."""
        return {} if self.on_empty is None else {"on_empty": self.on_empty}

    def _offline(self, seed: int) -> Trace:
        if self.input_tokens is not None and self.output_tokens is not None:
            return offline(self.input_tokens, self.output_tokens)
        assert self.requests is not None
        assert self.input_range is not None
        assert self.output_range is not None
        return draw_offline(self.requests, self.input_range, self.output_range, seed)

    def _chat(self, seed: int) -> Trace:
        assert self.requests is not None
        prompts = None if self.prompts is None else read_prompts(self.prompts, **self._of_rows)
        kind = self.arrivals or "poisson"
        return draw_chat(self.requests, kind, self.rate_rps, self.cv, self.input_range, seed, prompts)

    def label(self) -> str:
        """What tables call it."""
        return Path(self.path).stem if self.path is not None else self.name


@dataclass
class ScenarioConfig:
    """The load.

    Attributes:
        name: "native": the workload at its own rate; "paper": the same, with PecSched's long requests unless the
            workload says otherwise; "steady": at `load` times the simulated capacity.
        load: of steady.
        arrival_scale: of native and paper: factor on the arrival rate, by shrinking time.
    """

    name: str = "native"
    load: float | None = None
    arrival_scale: float = 1.0

    def label(self) -> str:
        """What tables call it."""
        scaled = "" if self.arrival_scale == 1.0 else f"-x{self.arrival_scale:.4g}"
        return self.name + scaled if self.load is None else f"{self.name}-{self.load:g}"

    def check(self) -> None:
        """Raises SpecError for a scenario that does not exist, or a value that does not belong to it."""
        if self.name not in ("native", "paper", "steady"):
            raise SpecError(f"scenario {self.name!r} does not exist; choose native, paper or steady")
        if self.name == "steady" and self.load is None:
            raise SpecError("scenario steady needs scenario.load, a share of the capacity such as 0.8")
        if self.name != "steady" and self.load is not None:
            raise SpecError(
                f"scenario {self.name} takes no load: leave scenario.load={self.load} out, or choose steady"
            )
        if not (self.arrival_scale > 0 and math.isfinite(self.arrival_scale)):
            raise SpecError(f"scenario.arrival_scale={self.arrival_scale}: must be above 0")
        if self.name == "steady" and self.arrival_scale != 1.0:
            raise SpecError("scenario.arrival_scale is of native and paper: steady sets the rate by scenario.load")

    def applied_to(self, workload: WorkloadConfig) -> WorkloadConfig:
        """The workload as this scenario has it: its longs and its rate, but for that of steady."""
        return replace(
            workload,
            long_context=workload.long_context or ("paper" if self.name == "paper" else "none"),
            speedup=workload.speedup * self.arrival_scale,
        )
