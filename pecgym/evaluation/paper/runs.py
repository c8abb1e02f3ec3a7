"""The runs of the reproduction: four models, at the native rate, at the fitted one, and at steady loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pecgym.configs import ScenarioConfig
from pecgym.costs import load_cluster
from pecgym.engine.entry import warm_up
from pecgym.errors import SpecError
from pecgym.evaluation.paper.fit import Fit, Point, fit
from pecgym.evaluation.paper.targets import WITHOUT_LONGS, models, targets
from pecgym.evaluation.pictures import report_of
from pecgym.evaluation.plan import EvaluationPlan, Job
from pecgym.evaluation.run import Keep, Runner, write_summary

NATIVE, FITTED = "native", "fitted"
ALL_MODELS = "paper"
LARGE_GPUS = 8192
Results = dict[str, dict[str, dict[str, list[dict[str, Any]]]]]
"""By model, case and policy: the rows of all seeds."""


@dataclass
class PaperConfig:
    """How PecSched's tables are reproduced.

    Attributes:
        loads: offered loads of the steady cases.
        scales: arrival scales of the curve on which the fit starts, ascending.
        bisection_steps: of the fit.
        page: the Markdown page that is written.
    """

    loads: list[float] = field(default_factory=lambda: [0.5, 0.8, 0.95])
    scales: list[float] = field(default_factory=lambda: [2.0**k for k in range(-8, 9)])
    bisection_steps: int = 8
    page: str = "docs/pecsched.md"

    def check(self) -> None:
        """Raises SpecError for values that cannot work."""
        if len(self.scales) < 2 or sorted(set(self.scales)) != self.scales or self.scales[0] <= 0:
            raise SpecError("paper.scales: give at least two arrival scales above 0, ascending")
        if self.bisection_steps < 0 or not all(load > 0 for load in self.loads):
            raise SpecError("paper: bisection_steps must be 0 or more, loads above 0")


@dataclass(frozen=True)
class Reproduction:
    """What the reproduction gave: the fit and the results by model, and PecSched's runs on a large cluster."""

    plan: EvaluationPlan
    models: tuple[str, ...]
    cases: dict[str, str]
    fits: dict[str, Fit]
    results: Results
    large: dict[str, dict[str, Any]]
    files: list[Path]


def reproduce(
    plan: EvaluationPlan,
    config: PaperConfig,
    out: Path,
    *,
    workers: int | None = None,
    fresh: bool = False,
    report: bool = True,
    command: str | None = None,
) -> Reproduction:
    """Does all runs (each is kept in `out/runs` as it ends) and writes `summary.json`, `table.csv` and, for each model,
    `MODEL/report.html` into `out`.

    plan: policies, cluster, engine, workload, seeds, and the model; ALL_MODELS: the paper's four. Its scenario must be
    "paper" without an arrival scale, as the cases are set here. Raises PecGymError.
    """
    config.check()
    if plan.scenario != ScenarioConfig("paper") or plan.workloads is not None:
        raise SpecError(
            "the reproduction sets scenarios itself and has one workload: leave scenario and workloads alone"
        )
    if plan.cut().numbers() != [None] or plan.baseline is not None:
        raise SpecError("the reproduction is of whole workloads: leave split, windows and baseline out")
    chosen = models() if plan.model == ALL_MODELS else (plan.model,)
    if plan.model not in (ALL_MODELS, *models()):
        raise SpecError(f"model={plan.model}: the paper's are {', '.join(models())}, or {ALL_MODELS} for all")
    used = (name for target in targets() for name in (target.policy, target.against))
    needed = {name for name in used if name is not None and name != WITHOUT_LONGS}
    if missing := sorted(needed - set(plan.policies)):
        raise SpecError(f"policies: the paper's tables need {', '.join(missing)} too")
    choices = [rule for model in chosen for rule in replace(plan, model=model).check()]
    cases = [NATIVE, FITTED, *(f"steady-{load:g}" for load in config.loads)]
    pairs = 2 * len(plan.seeds)
    per_model = pairs * (len(config.scales) + config.bisection_steps + 3)
    per_model += len(cases) * len(plan.policies) * len(plan.seeds) + 1
    runner = Runner(out / "runs", Keep(False), total=len(chosen) * per_model, workers=workers, fresh=fresh)
    warm_up(set(choices))
    with runner:
        study = _Study(plan, runner, chosen)
        fits = fit(_targets(chosen), config.scales, config.bisection_steps, study.fifo)
        results: Results = {model: {} for model in chosen}
        scenarios: dict[str, dict[str, ScenarioConfig]] = {
            model: {
                NATIVE: ScenarioConfig("paper"),
                FITTED: ScenarioConfig("paper", arrival_scale=fits[model].point.scale),
            }
            | {f"steady-{load:g}": ScenarioConfig("steady", load) for load in config.loads}
            for model in chosen
        }
        study.everything(scenarios, results)
        large = study.large(out, {model: fits[model].point.scale for model in chosen})
    rows = [row for model in chosen for case in cases for runs in results[model][case].values() for row in runs]
    files = write_summary(rows, out)
    found = {
        model: {"anchor": each.anchor, "at": each.point.to_json(), "curve": [point.to_json() for point in each.curve]}
        for model, each in fits.items()
    }
    (out / "fit.json").write_text(json.dumps(found, indent=1))
    files.append(out / "fit.json")
    if report:
        files += _reports(results, out, command)
    titles = {NATIVE: "at the native rate", FITTED: "at the fitted rate"}
    titles |= {f"steady-{load:g}": f"at a steady load of {load:g}" for load in config.loads}
    return Reproduction(plan, chosen, titles, fits, results, large, files)


@dataclass
class _Study:
    plan: EvaluationPlan
    runner: Runner
    models: tuple[str, ...]

    def fifo(self, scales: Mapping[str, float]) -> dict[str, Point]:
        """FIFO with and without longs at one arrival scale of each model."""
        with_longs = [job for model, scale in scales.items() for job in self._fifo_jobs(model, scale, False)]
        without = [job for model, scale in scales.items() for job in self._fifo_jobs(model, scale, True)]
        rows = self.runner.rows(with_longs + without)
        pairs = list(zip(rows[: len(with_longs)], rows[len(with_longs) :], strict=True))
        seeds = len(self.plan.seeds)
        return {
            model: Point.of(scale, pairs[i * seeds : (i + 1) * seeds])
            for i, (model, scale) in enumerate(scales.items())
        }

    def everything(self, scenarios: Mapping[str, Mapping[str, ScenarioConfig]], results: Results) -> None:
        """Every policy in every case, and FIFO without longs where the rate is the same for all seeds."""
        jobs: list[tuple[str, str, str, Job]] = []
        for model, by_case in scenarios.items():
            for case, scenario in by_case.items():
                workload = replace(self.plan.workload, long_context=self.plan.workload.long_context or "paper")
                plan = replace(self.plan, model=model, scenario=scenario, workload=workload)
                jobs += [(model, case, job.policy, job) for job in plan.jobs()]
                if scenario.load is None:
                    fifo = self._fifo_jobs(model, scenario.arrival_scale, True)
                    jobs += [(model, case, WITHOUT_LONGS, job) for job in fifo]
        rows = self.runner.rows([job for *_, job in jobs])
        for (model, case, policy, _), row in zip(jobs, rows, strict=True):
            results[model].setdefault(case, {}).setdefault(policy, []).append(row)

    def large(self, out: Path, scales: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        """PecSched on a cluster of LARGE_GPUS, with as many times the rate."""
        spec = load_cluster(self.plan.cluster)
        nodes = LARGE_GPUS // spec.gpus_per_node
        file = out / f"cluster_{LARGE_GPUS}.yaml"
        file.write_text(
            f"name: {spec.name}_large\ngpu: {spec.gpu}\nnodes: {nodes}\ngpus_per_node: {spec.gpus_per_node}\n"
            f"inter_node_gb_per_s: {spec.inter_node_gb_per_s}\nsources: [as {spec.name}]\n"
        )
        jobs = []
        for model, scale in scales.items():
            scenario = ScenarioConfig("paper", arrival_scale=scale * nodes / spec.nodes)
            plan = replace(
                self.plan,
                model=model,
                cluster=str(file),
                policies=("pecsched",),
                seeds=self.plan.seeds[:1],
                scenario=scenario,
            )
            jobs += plan.jobs()
        return dict(zip(scales, self.runner.rows(jobs), strict=True))

    def _fifo_jobs(self, model: str, scale: float, only_shorts: bool) -> list[Job]:
        workload = replace(self.plan.workload, only_shorts=only_shorts)
        scenario = ScenarioConfig("paper", arrival_scale=scale)
        return replace(self.plan, model=model, policies=("fifo",), workload=workload, scenario=scenario).jobs()


def _targets(chosen: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """By model: the paper's ratios of FIFO with longs over without."""
    by_key = {target.key: target.paper for target in targets()}
    at = {model: models().index(model) for model in chosen}
    return {model: (by_key["fifo_p99"][i], by_key["fifo_throughput"][i]) for model, i in at.items()}


def _reports(results: Results, out: Path, command: str | None) -> list[Path]:
    """A report for each model, with its targets at the fitted rate."""
    files = []
    for model, by_case in results.items():
        lines = []
        for target in targets():
            measured = target.measured(by_case[FITTED])
            paper = target.of_paper(models().index(model))
            if measured is not None and paper is not None:
                shown = target.show(measured.median)
                said = " to ".join(target.show(end) for end in dict.fromkeys(paper))
                lines.append({"metric": target.what, "paper": said, "measured": shown, "note": "at the fitted rate"})
        rows = [
            row for case in by_case.values() for policy, runs in case.items() if policy != WITHOUT_LONGS for row in runs
        ]
        folder = out / model
        folder.mkdir(parents=True, exist_ok=True)
        title = f"PecSched's tables, {model}"
        report_of(rows, folder / "report.html", title=title, targets=lines, command=command)
        files.append(folder / "report.html")
    return files
