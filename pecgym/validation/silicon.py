"""The simulator against real end-to-end runs (docs/fidelity.md, "Real runs").

For each family of runs AIConfigurator's kernel times give a profile per deployment. Eight numbers (effects.py) are
fitted to at most half of the family's runs, whole configurations; every run is then simulated with them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from statistics import median
from typing import Any

from pecgym.costs import Profile
from pecgym.engine import EngineSettings, load_engine
from pecgym.errors import ProfileError
from pecgym.validation.client import RANGE_RATIO, Means, simulate
from pecgym.validation.comparison import Bar, Row, Summary, summarize
from pecgym.validation.deployments import KV_TYPES, Aic
from pecgym.validation.effects import MOST_EVALUATIONS, NONE, Effects, fit_effects
from pecgym.validation.known_settings import with_known_settings
from pecgym.validation.runs import ENGINES, Family, Run

PLENTY_TOKENS = 2**36
# AIConfigurator predicts for a number of prompt tokens per iteration; the one that is best for it is taken.
AIC_BUDGETS_TOKENS = (1024, 2048, 4096, 8192)
# KV memory decides a run where, with all the memory in the world, its TTFT would be this much shorter.
OVERFLOW_FACTOR = 1.5
FEWEST_FITTED = 4
FITTING_SHARE = 0.95  # of the work

Progress = Callable[[str, float], None]
FITTED, HELD_OUT, OVERFLOW, OVERFLOW_FITTED = "fitted", "held out", "KV overflow", "overflow, fitted"
AIC = "AIConfigurator"  # its own predictions, of the runs held out
TTFT, TPOT = "ttft_ms", "tpot_ms"
BARS = {
    (HELD_OUT, TTFT): Bar(median=0.12, p90=0.30),
    (HELD_OUT, TPOT): Bar(median=0.04, p90=0.10),
    (OVERFLOW, TTFT): Bar(factor=1.5),
    (OVERFLOW_FITTED, TTFT): Bar(factor=1.5),
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
    """A run, simulated.

    group: FITTED or HELD_OUT; OVERFLOW and OVERFLOW_FITTED where KV memory decides the TTFT, in the half held out and
    in the fitted one (where such runs have a say in the type of the KV cache only). aic_ms: AIConfigurator's own TTFT
    and TPOT by prompt tokens per iteration; empty where it has none.
    """

    run: Run
    group: str
    simulated: Means
    aic_ms: Mapping[int, tuple[float, float]]


@dataclass(frozen=True)
class FamilyResult:
    """A family's effects, the setup that its fitted runs speak for, its runs, and why others were left out."""

    family: Family
    setup: Setup
    effects: Effects
    runs: tuple[RunResult, ...]
    left_out: dict[str, int]

    def rows(self) -> list[Row]:
        """The simulator's rows."""
        return rows_of((each.run, each.group, each.simulated) for each in self.runs)

    def aic_rows(self) -> list[Row]:
        """AIConfigurator's own predictions of the runs held out, each metric with the prompt tokens per iteration with
        which its median error is least."""
        asked = [each for each in self.runs if each.group == HELD_OUT and each.aic_ms]
        rows: list[Row] = []
        for column, metric in enumerate((TTFT, TPOT)):
            tried = [
                [Row(each.run.case, metric, getattr(each.run, metric), each.aic_ms[n][column], AIC) for each in asked]
                for n in AIC_BUDGETS_TOKENS
            ]
            rows += min(tried, key=lambda of: median(abs(row.error) for row in of)) if asked else []
        return rows

    def summaries(self) -> list[Summary]:
        """Errors by group and metric against the bars, then AIConfigurator's."""
        return summarize([*self.rows(), *self.aic_rows()], BARS)

    def better_than_aic(self) -> dict[str, bool | None]:
        """By metric, whether the median error of the runs held out is below AIConfigurator's; None: it has none."""
        found = {(each.group, each.metric): each.median_error for each in self.summaries()}
        pairs = {metric: (found.get((HELD_OUT, metric)), found.get((AIC, metric))) for metric in (TTFT, TPOT)}
        return {metric: None if ours is None or own is None else ours < own for metric, (ours, own) in pairs.items()}

    def facts(self) -> dict[str, Any]:
        """The family, what was fitted and what was left out, for a JSON file."""
        return {
            "family": asdict(self.family),
            "setup": asdict(self.setup),
            "effects": asdict(self.effects),
            "left_out": self.left_out,
            "better_than_aiconfigurator": self.better_than_aic(),
            "summary": [asdict(each) for each in self.summaries()],
        }


def overall(results: Sequence[FamilyResult]) -> list[Summary]:
    """Errors of several families together, against the bars, then AIConfigurator's."""
    rows = [row for result in results for row in result.rows()]
    return summarize([*rows, *(row for result in results for row in result.aic_rows())], BARS)


def rows_of(simulated: Iterable[tuple[Run, str, Means]]) -> list[Row]:
    """TTFT and TPOT of (run, group, simulated) as rows."""
    return [
        Row(run.case, metric, getattr(run, metric), getattr(means, metric), group)
        for run, group, means in simulated
        for metric in (TTFT, TPOT)
    ]


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

    def overflows(self, run: Run, setup: Setup) -> bool:
        """Whether KV memory decides the TTFT of a run, by the kernels alone."""
        capacity = self.aic.profile(run.deployment, setup.kv_type).kv_capacity_tokens
        if run.concurrency * (run.input_tokens + run.output_tokens) <= capacity:
            return False
        with_memory = self.simulate(run, setup, NONE, kv_capacity_tokens=PLENTY_TOKENS)
        return self.simulate(run, setup, NONE).ttft_ms > OVERFLOW_FACTOR * with_memory.ttft_ms

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
        if not setups:
            raise ProfileError(f"{family}: no type of KV cache with which all of its runs are possible")
        for number, setup in enumerate(setups):
            usable = [run for run in fitted if not self.overflows(run, setup)]
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
        types = [kv_type for kv_type in KV_TYPES if self.possible(runs, Setup(kv_type))]
        ratios = (RANGE_RATIO,) if all(run.of_inference_max for run in runs) else (RANGE_RATIO, 1.0)
        return [Setup(kv_type, ratio) for kv_type in types for ratio in ratios]

    def possible(self, runs: Sequence[Run], setup: Setup) -> bool:
        """Whether all the runs can be simulated so."""
        return not any(self._why_not(run, setup.kv_type) for run in runs)

    def _mean_error(self, runs: Sequence[Run], setup: Setup, effects: Effects) -> float:
        """Mean error of TTFT and TPOT over runs, those with too little KV memory included."""
        errors = []
        for run in runs:
            means = self.simulate(run, setup, effects)
            errors += [abs(math.log(getattr(means, metric) / getattr(run, metric))) for metric in (TTFT, TPOT)]
        return sum(errors) / len(errors)

    def _result(self, run: Run, setup: Setup, effects: Effects, fitted: bool) -> RunResult:
        group = FITTED if fitted else HELD_OUT
        if self.overflows(run, setup):
            group = OVERFLOW_FITTED if fitted else OVERFLOW
        try:
            own = {n: self.aic.prediction_ms(run, setup.kv_type, n) for n in AIC_BUDGETS_TOKENS}
        except ProfileError:
            own = {}
        return RunResult(run, group, self.simulate(run, setup, effects), own)


@cache
def _preset(name: str) -> EngineSettings:
    return load_engine(name)


def engine_of(run: Run) -> EngineSettings:
    """The preset of the run's engine, with a slot for each user and what else is known of its settings."""
    preset = _preset(ENGINES[run.deployment.family.engine])
    return with_known_settings(preset.with_changes(max_batch_requests=run.concurrency), run)
