"""The simulator against real end-to-end runs (docs/fidelity.md, "Real runs").

For each family of runs AIConfigurator's kernel times give a profile per deployment. Six numbers (effects.py) are fitted
to at most half of the family's configurations; every run is then simulated with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pecgym.engine import EngineSettings, load_engine
from pecgym.errors import ProfileError
from pecgym.validation.client import Means, simulate
from pecgym.validation.comparison import Bar, Row, Summary, summarize
from pecgym.validation.deployments import KV_TYPES, Aic
from pecgym.validation.effects import NONE, Effects, fit_effects
from pecgym.validation.known_settings import with_known_settings
from pecgym.validation.runs import Deployment, Family, Run

ENGINES = {"vllm": "vllm_v1_async", "sglang": "sglang", "trtllm": "trtllm"}
PLENTY_TOKENS = 2**36
# KV memory decides a run where, with all the memory in the world, its TTFT would be this much shorter.
OVERFLOW_FACTOR = 1.5
FEWEST_FITTED = 4

FITTED, HELD_OUT, OVERFLOW, AIC = "fitted", "held out", "KV overflow", "AIConfigurator, held out"
TTFT, TPOT = "ttft_ms", "tpot_ms"
BARS = {
    (HELD_OUT, TTFT): Bar(median=0.12, p90=0.30),
    (HELD_OUT, TPOT): Bar(median=0.04, p90=0.10),
    (OVERFLOW, TTFT): Bar(worst=0.5),
}


@dataclass(frozen=True)
class RunResult:
    """A run, simulated. aic_ms: AIConfigurator's own TTFT and TPOT; None where it has none."""

    run: Run
    group: str
    simulated: Means
    aic_ms: tuple[float, float] | None


@dataclass(frozen=True)
class FamilyResult:
    """A family's effects, the KV type that its fitted runs speak for, its runs, and deployments that were left out."""

    family: Family
    kv_type: str
    effects: Effects
    runs: tuple[RunResult, ...]
    left_out: dict[str, int]

    def rows(self) -> list[Row]:
        """The simulator's rows, then AIConfigurator's for the runs that were held out."""
        rows = []
        for each in self.runs:
            for metric in (TTFT, TPOT):
                reference = getattr(each.run, metric)
                rows.append(Row(each.run.case, metric, reference, getattr(each.simulated, metric), each.group))
        for each in self.runs:
            if each.group == HELD_OUT and each.aic_ms is not None:
                for metric, own in zip((TTFT, TPOT), each.aic_ms, strict=True):
                    rows.append(Row(each.run.case, metric, getattr(each.run, metric), own, AIC))
        return rows

    def summaries(self) -> list[Summary]:
        """Errors by group and metric, against the bars."""
        return summarize(self.rows(), BARS)


def split(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """Fitted and held-out runs of a family: whole configurations (deployment, lengths), as on a chess board.

    Of a family with deployments 0, 1, ... and lengths 0, 1, ..., those whose numbers have an odd sum are fitted: at
    most half of the configurations and never a whole deployment or length, unless there is only one. A family with a
    single configuration is split by concurrency.
    """
    runs = sorted(runs)
    deployments = sorted({run.deployment for run in runs})
    lengths = sorted({(run.input_tokens, run.output_tokens) for run in runs})
    odd = {
        run: (deployments.index(run.deployment) + lengths.index((run.input_tokens, run.output_tokens))) % 2 == 1
        for run in runs
    }
    if not any(odd.values()):
        odd = {run: i % 2 == 1 for i, run in enumerate(runs)}
    return [run for run in runs if odd[run]], [run for run in runs if not odd[run]]


class Silicon:
    """Simulates runs of any family; AIConfigurator's profiles are made once."""

    def __init__(self, range_ratio: float = 0.8) -> None:
        self.aic = Aic()
        self.range_ratio = range_ratio

    def simulate(self, run: Run, kv_type: str, effects: Effects, engine: EngineSettings | None = None) -> Means:
        """A run with those effects; `engine`: None for the preset of the family's engine."""
        profile = effects.on_profile(self.aic.profile(run.deployment, kv_type))
        return self._simulate(run, profile.kv_capacity_tokens, kv_type, effects, engine)

    def _simulate(
        self, run: Run, capacity: int, kv_type: str, effects: Effects, engine: EngineSettings | None = None
    ) -> Means:
        profile = replace(effects.on_profile(self.aic.profile(run.deployment, kv_type)), kv_capacity_tokens=capacity)
        settings = effects.on_engine(engine or _engine(run))
        return simulate(run, profile, settings, effects.frontend_ms, self.range_ratio)

    def overflows(self, run: Run, kv_type: str, effects: Effects) -> bool:
        """Whether KV memory decides the TTFT of a run."""
        capacity = self.aic.profile(run.deployment, kv_type).kv_capacity_tokens
        if run.concurrency * (run.input_tokens + run.output_tokens) <= capacity:
            return False
        with_memory = self._simulate(run, PLENTY_TOKENS, kv_type, effects).ttft_ms
        return self.simulate(run, kv_type, effects).ttft_ms > OVERFLOW_FACTOR * with_memory

    def compare(self, runs: Sequence[Run], progress: Callable[[str], None] = lambda text: None) -> FamilyResult:
        """Fits one family's effects on one half of its configurations and simulates all.

        The type of the KV cache is not recorded with the runs: both are tried on the fitted half. Raises ProfileError
        where AIConfigurator knows no deployment of the family, or too few runs are left.
        """
        family = runs[0].deployment.family
        known, left_out = self._known(runs)
        fitted, _ = split(known)
        tried = []
        for kv_type in self._kv_types(known):
            usable = [run for run in fitted if not self.overflows(run, kv_type, NONE)]
            if len(usable) < FEWEST_FITTED:
                continue
            progress(f"{family}: fitting, KV cache {kv_type}")
            effects = fit_effects(usable, lambda run, effects, kv=kv_type: self.simulate(run, kv, effects))
            tried.append((self._cost(fitted, kv_type, effects), kv_type, effects))
        if not tried:
            raise ProfileError(f"{family}: fewer than {FEWEST_FITTED} runs to fit with; compare a larger family")
        _, kv_type, effects = min(tried, key=lambda each: each[0])
        progress(f"{family}: simulating {len(known)} runs")
        results = tuple(self._result(run, kv_type, effects, set(fitted)) for run in known)
        return FamilyResult(family, kv_type, effects, results, left_out)

    def _known(self, runs: Sequence[Run]) -> tuple[list[Run], dict[str, int]]:
        """The runs whose deployments AIConfigurator has times for, and why it has none for the others."""
        reasons: dict[Deployment, str] = {}
        for deployment in {run.deployment for run in runs}:
            for kv_type in KV_TYPES:
                try:
                    self.aic.profile(deployment, kv_type)
                    reasons.pop(deployment, None)
                    break
                except ProfileError as problem:
                    reasons[deployment] = str(problem)
        left_out: dict[str, int] = {}
        for run in runs:
            if run.deployment in reasons:
                reason = reasons[run.deployment]
                left_out[reason] = left_out.get(reason, 0) + 1
        known = [run for run in runs if run.deployment not in reasons]
        if not known:
            raise ProfileError("; ".join(left_out))
        return known, left_out

    def _kv_types(self, runs: Sequence[Run]) -> list[str]:
        """The KV types for which there are times of all the runs' deployments."""
        types = []
        for kv_type in KV_TYPES:
            try:
                for run in runs:
                    self.aic.profile(run.deployment, kv_type)
                types.append(kv_type)
            except ProfileError:
                continue
        return types

    def _cost(self, runs: Sequence[Run], kv_type: str, effects: Effects) -> float:
        """Median error of TTFT and TPOT over runs, those with too little KV memory included."""
        rows = []
        for run in runs:
            means = self.simulate(run, kv_type, effects)
            rows += [Row(run.case, metric, getattr(run, metric), getattr(means, metric)) for metric in (TTFT, TPOT)]
        return sum(abs(row.error) for row in rows) / len(rows)

    def _result(self, run: Run, kv_type: str, effects: Effects, fitted: set[Run]) -> RunResult:
        group = OVERFLOW if self.overflows(run, kv_type, effects) else FITTED if run in fitted else HELD_OUT
        try:
            own = self.aic.prediction_ms(run, kv_type, _engine(run).max_batch_tokens)
        except ProfileError:
            own = None
        return RunResult(run, group, self.simulate(run, kv_type, effects), own)


@cache
def _preset(name: str) -> EngineSettings:
    return load_engine(name)


def _engine(run: Run) -> EngineSettings:
    """The preset of the run's engine, with a slot for each user and what else is known of its settings."""
    preset = _preset(ENGINES[run.deployment.family.engine])
    return with_known_settings(preset.with_changes(max_batch_requests=run.concurrency), run)
