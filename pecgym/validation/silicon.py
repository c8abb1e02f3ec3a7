"""The simulator against real end-to-end runs (docs/fidelity.md, "Real runs").

For each family of runs AIConfigurator's kernel times give a profile per deployment. Eight numbers (effects.py) are
fitted to at most half of the family's runs, whole configurations; every run is then simulated with them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import Any

from pecgym.costs import Profile
from pecgym.engine import EngineSettings, load_engine
from pecgym.errors import ProfileError
from pecgym.validation.client import RANGE_RATIO, Means, simulate
from pecgym.validation.comparison import Bar, Row, Summary, summarize
from pecgym.validation.deployments import KV_TYPES, Aic
from pecgym.validation.effects import MOST_EVALUATIONS, NONE, Effects, fit_effects
from pecgym.validation.known_settings import with_known_settings
from pecgym.validation.runs import Family, Run

ENGINES = {"vllm": "vllm_v1_async", "sglang": "sglang", "trtllm": "trtllm"}
PLENTY_TOKENS = 2**36
AIC_BUDGET_TOKENS = 8192  # prompt tokens per iteration for which AIConfigurator predicts; more make it no better
# KV memory decides a run where, with all the memory in the world, its TTFT would be this much shorter.
OVERFLOW_FACTOR = 1.5
FEWEST_FITTED = 4
FITTING_SHARE = 0.95  # of the work

Progress = Callable[[str, float], None]
# AIConfigurator's own predictions are of the runs held out.
FITTED, HELD_OUT, OVERFLOW, AIC = "fitted", "held out", "KV overflow", "AIConfigurator"
TTFT, TPOT = "ttft_ms", "tpot_ms"
BARS = {
    (HELD_OUT, TTFT): Bar(median=0.12, p90=0.30),
    (HELD_OUT, TPOT): Bar(median=0.04, p90=0.10),
    (OVERFLOW, TTFT): Bar(factor=1.5),
}


@dataclass(frozen=True)
class Setup:
    """What is not recorded with runs: the type of KV cache elements, and how far lengths spread (client.py)."""

    kv_type: str
    range_ratio: float = RANGE_RATIO

    def __str__(self) -> str:
        return f"KV cache {self.kv_type}, lengths from {self.range_ratio:g} of the nominal ones"


@dataclass(frozen=True)
class RunResult:
    """A run, simulated. aic_ms: AIConfigurator's own TTFT and TPOT; None where it has none."""

    run: Run
    group: str
    simulated: Means
    aic_ms: tuple[float, float] | None


@dataclass(frozen=True)
class FamilyResult:
    """A family's effects, the setup that its fitted runs speak for, its runs, and why others were left out."""

    family: Family
    setup: Setup
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

    def facts(self) -> dict[str, Any]:
        """The family, what was fitted and what was left out, for a JSON file."""
        return {
            "family": asdict(self.family),
            "setup": asdict(self.setup),
            "effects": asdict(self.effects),
            "left_out": self.left_out,
        }


def overall(results: Sequence[FamilyResult]) -> list[Summary]:
    """Errors of several families together, against the bars."""
    return summarize([row for result in results for row in result.rows()], BARS)


def split(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """Fitted and held-out runs of a family: whole configurations (deployment, lengths), as on a chess board.

    Of a family with deployments 0, 1, ... and lengths 0, 1, ... the configurations whose numbers have an odd sum are on
    one side and the others on the other; the side with fewer runs is fitted. So at most half of the runs are, and never
    all of a deployment or of a length, unless there is only one. A single configuration is split by concurrency.
    """
    runs = sorted(runs)
    deployments = sorted({run.deployment for run in runs})
    lengths = sorted({(run.input_tokens, run.output_tokens) for run in runs})
    sides: tuple[list[Run], list[Run]] = ([], [])
    for run in runs:
        number = deployments.index(run.deployment) + lengths.index((run.input_tokens, run.output_tokens))
        sides[number % 2].append(run)
    if not sides[1]:
        sides = (runs[::2], runs[1::2])
    even, odd = sides
    return (even, odd) if len(even) < len(odd) else (odd, even)


class Silicon:
    """Simulates runs of any family; AIConfigurator's profiles are made once."""

    def __init__(self) -> None:
        self.aic = Aic()

    def simulate(
        self,
        run: Run,
        setup: Setup,
        effects: Effects,
        engine: EngineSettings | None = None,
        kv_capacity_tokens: int | None = None,
        profile: Callable[[Profile], Profile] = lambda kernels: kernels,
    ) -> Means:
        """A run with those effects.

        engine: None for its engine's preset. kv_capacity_tokens: None for the computed. profile: a change of the
        kernels' profile.
        """
        kernels = profile(self.aic.profile(run.deployment, setup.kv_type))
        served = effects.on_profile(kernels)
        if kv_capacity_tokens is not None:
            served = replace(served, kv_capacity_tokens=kv_capacity_tokens)
        settings = effects.on_engine(engine or engine_of(run))
        return simulate(run, served, settings, effects.frontend_ms, setup.range_ratio)

    def overflows(self, run: Run, setup: Setup, effects: Effects) -> bool:
        """Whether KV memory decides the TTFT of a run."""
        capacity = self.aic.profile(run.deployment, setup.kv_type).kv_capacity_tokens
        if run.concurrency * (run.input_tokens + run.output_tokens) <= capacity:
            return False
        with_memory = self.simulate(run, setup, effects, kv_capacity_tokens=PLENTY_TOKENS)
        return self.simulate(run, setup, effects).ttft_ms > OVERFLOW_FACTOR * with_memory.ttft_ms

    def compare(self, runs: Sequence[Run], progress: Progress = lambda text, share: None) -> FamilyResult:
        """Fits one family's effects on one half of its configurations and simulates all.

        What is not recorded with the runs (Setup) is tried, and the fitted half decides. progress: told what is being
        done, and which share of the work is done. Raises ProfileError where AIConfigurator knows no deployment of the
        family, or too few runs are left to fit with.
        """
        family = runs[0].deployment.family
        known, left_out = self._known(runs)
        fitted, _ = split(known)
        tried = []
        setups = self._setups(known)
        for number, setup in enumerate(setups):
            usable = [run for run in fitted if not self.overflows(run, setup, NONE)]
            if len(usable) < FEWEST_FITTED:
                continue
            what = f"{family}: fitting {len(usable)} of {len(known)} runs, {setup}"
            done = itertools.count(1)

            def tick(what: str = what, number: int = number, done: Iterator[int] = done) -> None:
                progress(what, FITTING_SHARE * (number + next(done) / MOST_EVALUATIONS) / len(setups))

            effects = fit_effects(usable, partial(self._with, setup), tick)
            tried.append((self._mean_error(fitted, setup, effects), setup, effects))
        if not tried:
            raise ProfileError(f"{family}: fewer than {FEWEST_FITTED} runs to fit with; compare a larger family")
        _, setup, effects = min(tried, key=lambda each: each[0])
        progress(f"{family}: simulating {len(known)} runs", FITTING_SHARE)
        results = tuple(self._result(run, setup, effects, run in set(fitted)) for run in known)
        return FamilyResult(family, setup, effects, results, left_out)

    def _with(self, setup: Setup, run: Run, effects: Effects) -> Means:
        return self.simulate(run, setup, effects)

    def _known(self, runs: Sequence[Run]) -> tuple[list[Run], dict[str, int]]:
        """The runs that AIConfigurator has times for and whose requests fit into the computed KV memory; and why the
        others do not belong to them."""
        known, left_out = [], dict[str, int]()
        for run in runs:
            reasons = [self._why_not(run, kv_type) for kv_type in KV_TYPES]
            if "" in reasons:
                known.append(run)
            else:
                left_out[reasons[-1]] = left_out.get(reasons[-1], 0) + 1
        if not known:
            raise ProfileError("; ".join(left_out))
        return known, left_out

    def _why_not(self, run: Run, kv_type: str) -> str:
        """Why a run cannot be simulated with that type of KV cache; empty if it can."""
        try:
            capacity = self.aic.profile(run.deployment, kv_type).kv_capacity_tokens
        except ProfileError as problem:
            return str(problem)
        if run.input_tokens + run.output_tokens > capacity:
            where = f"{run.deployment.family}, TP{run.deployment.tp}"
            return f"{where}: a request of {run.input_tokens}/{run.output_tokens} tokens exceeds the computed KV memory"
        return ""

    def _setups(self, runs: Sequence[Run]) -> list[Setup]:
        """What may have been: KV types with which all the runs are possible, and the clients' lengths."""
        types = [kv_type for kv_type in KV_TYPES if not any(self._why_not(run, kv_type) for run in runs)]
        ratios = (RANGE_RATIO,) if all(run.of_inference_max for run in runs) else (RANGE_RATIO, 1.0)
        return [Setup(kv_type, ratio) for kv_type in types for ratio in ratios]

    def _mean_error(self, runs: Sequence[Run], setup: Setup, effects: Effects) -> float:
        """Mean error of TTFT and TPOT over runs, those with too little KV memory included."""
        errors = []
        for run in runs:
            means = self.simulate(run, setup, effects)
            errors += [abs(math.log(getattr(means, metric) / getattr(run, metric))) for metric in (TTFT, TPOT)]
        return sum(errors) / len(errors)

    def _result(self, run: Run, setup: Setup, effects: Effects, fitted: bool) -> RunResult:
        group = OVERFLOW if self.overflows(run, setup, effects) else FITTED if fitted else HELD_OUT
        try:
            own = self.aic.prediction_ms(run, setup.kv_type, AIC_BUDGET_TOKENS)
        except ProfileError:
            own = None
        return RunResult(run, group, self.simulate(run, setup, effects), own)


@cache
def _preset(name: str) -> EngineSettings:
    return load_engine(name)


def engine_of(run: Run) -> EngineSettings:
    """The preset of the run's engine, with a slot for each user and what else is known of its settings."""
    preset = _preset(ENGINES[run.deployment.family.engine])
    return with_known_settings(preset.with_changes(max_batch_requests=run.concurrency), run)
