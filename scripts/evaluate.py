"""The main job: policies x workloads x seeds x windows in parallel, to tables, per-request Parquet and summaries.

    python scripts/evaluate.py policies=[fifo,jsq_tokens] seeds=[0,1] workload.path=my_trace.csv out=results/mine
    python scripts/evaluate.py --config-name paper    # PecSched's tables, as docs/pecsched.md
    python scripts/evaluate.py --config-name ssjf     # what length predictions buy, as docs/ssjf.md

docs/evaluate.md lists the keys. A run that was interrupted continues where it stopped when it is started again.
"""

from __future__ import annotations

import re
import shlex
import signal
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from pecgym.analysis import comparison_table, distance_table, predictor_lines, results_table
from pecgym.configs import store_variants
from pecgym.errors import PecGymError
from pecgym.evaluation import (
    EngineConfig,
    EvaluationPlan,
    LongConfig,
    OrderConfig,
    ScenarioConfig,
    WorkloadConfig,
    evaluate,
)
from pecgym.evaluation.paper import PaperConfig, reproduce, write_page
from pecgym.evaluation.ssjf import SsjfConfig, study

SHORT_POLICIES = ("fifo", "round_robin", "random", "power_of_two", "jsq_requests", "jsq_tokens", "sjf", "srpt")
LONG_POLICIES = (
    *("fifo", "reservation", "priority"),
    *("pecsched", "pecsched/PE", "pecsched/Dis", "pecsched/CoL", "pecsched/FSP"),
)


@dataclass
class NameConfig:
    """A thing known by its name, or by the path of its .yaml."""

    name: str = "???"


@dataclass
class EvaluateConfig:
    """The keys of scripts/evaluate.py; any other key is an error."""

    policies: list[str] | None = None
    model: NameConfig = field(default_factory=NameConfig)
    cluster: NameConfig = field(default_factory=NameConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    workloads: list[str] | None = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    long: LongConfig = field(default_factory=LongConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    seeds: list[int] = field(default_factory=lambda: [0])
    profile: str | None = None
    tp: int | None = None
    out: str = "results/evaluate"
    workers: int | None = None
    until_s: float | None = None
    split: str | None = None
    windows: int | None = None
    window_requests: int = 1000
    baseline: str | None = None
    bound: bool = True
    requests: bool = True
    fresh: bool = False
    record: bool = False
    report: bool = False
    trace: str | None = None
    paper: PaperConfig | None = None
    ssjf: SsjfConfig | None = None


store = ConfigStore.instance()
store.store(group="schema", name="evaluate", node=EvaluateConfig, package="_global_")
store.store(group="schema", name="engine", node=EngineConfig)
store.store(group="schema", name="workload", node=WorkloadConfig)
store.store(group="schema", name="scenario", node=ScenarioConfig)
store_variants()


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(config: EvaluateConfig) -> None:
    console = Console()
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        _fail(f"missing value of {', '.join(missing)}: give it on the command line, as {missing[0]}=...")
    values: EvaluateConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    out = Path(values.out)
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        out /= re.sub("[^A-Za-z0-9_.,=-]", "_", job.job.override_dirname) or str(job.job.num)
    plan = EvaluationPlan(
        policies=tuple(_default_policies(values) if values.policies is None else values.policies),
        model=values.model.name,
        cluster=values.cluster.name,
        engine=values.engine,
        workload=values.workload,
        workloads=None if values.workloads is None else tuple(values.workloads),
        scenario=values.scenario,
        long=values.long,
        order=values.order,
        seeds=tuple(values.seeds),
        profile=values.profile,
        tp=values.tp,
        until_s=values.until_s,
        split=values.split,
        windows=values.windows,
        window_requests=values.window_requests,
        baseline=values.baseline,
    )
    command = " ".join(["python", "scripts/evaluate.py", *(shlex.quote(argument) for argument in sys.argv[1:])])
    try:
        if values.paper is not None:
            _reproduce(plan, values, out, command, console)
            return
        if values.ssjf is not None:
            _study(plan, values, out, command, console)
            return
        result = evaluate(
            plan,
            out,
            workers=values.workers,
            keep_requests=values.requests,
            fresh=values.fresh,
            record=values.record,
            report=values.report,
            trace=values.trace,
            command=command,
            bound=values.bound,
        )
    except PecGymError as error:
        _fail(str(error))
    except OSError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: what was done is kept; the same command continues")
        sys.exit(130)
    if not console.is_terminal:
        console.width = 180
    console.print(results_table(result.rows, narrow=console.width < 145, bounds=result.bounds))
    if (distances := distance_table(result.rows, result.bounds, narrow=console.width < 100)) is not None:
        console.print(distances)
    if result.comparison is not None:
        console.print(comparison_table(result.comparison, narrow=console.width < 120))
    for line in predictor_lines(result.rows):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    for note in _notes(result.rows):
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    console.print(result.where(), highlight=False, soft_wrap=True)


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the runs noted; of notes that begin alike up to a colon, one."""
    notes = sorted({note for row in rows for note in row["notes"]})
    alike: dict[str, list[str]] = {}
    for note in notes:
        alike.setdefault(note.partition(":")[0], []).append(note)
    return [of[-1] + (f" (and {len(of) - 1} more like it)" if len(of) > 1 else "") for of in alike.values()]


def _default_policies(values: EvaluateConfig) -> tuple[str, ...]:
    """What is compared if nothing else is asked for: the policies for what arrives."""
    has_longs = values.scenario.applied_to(values.workload).long_context != "none"
    return LONG_POLICIES if has_longs else SHORT_POLICIES


def _reproduce(plan: EvaluationPlan, values: EvaluateConfig, out: Path, command: str, console: Console) -> None:
    """PecSched's tables."""
    assert values.paper is not None
    _keeps_metrics_only(values)
    found = reproduce(
        plan, values.paper, out, workers=values.workers, fresh=values.fresh, report=values.report, command=command
    )
    write_page(found, Path(values.paper.page), command)
    files = ", ".join(map(str, [values.paper.page, *found.files]))
    console.print(f"written: {files}", highlight=False, soft_wrap=True)


def _study(plan: EvaluationPlan, values: EvaluateConfig, out: Path, command: str, console: Console) -> None:
    """What length predictions buy, as SSJF has it and elsewhere."""
    assert values.ssjf is not None
    _keeps_metrics_only(values)
    if values.report:
        raise PecGymError("report: the study writes its own page; leave it off")
    try:
        from pecgym.evaluation.ssjf.page import write_page
    except ModuleNotFoundError as error:
        raise PecGymError(f"{error}: pip install matplotlib (part of the extra 'calibrate')") from error
    shipped: Any = OmegaConf.to_object(compose("ssjf"))
    found = study(plan, values.ssjf, out, workers=values.workers, fresh=values.fresh)
    is_shipped = _of_study(values) == _of_study(shipped)
    files = write_page(found, *values.ssjf.places(out), command, is_shipped)
    console.print(f"written: {', '.join(map(str, [*files, *found.files]))}", highlight=False, soft_wrap=True)


def _of_study(values: EvaluateConfig) -> dict[str, Any]:
    """What decides the study's numbers."""
    assert values.ssjf is not None
    places: dict[str, Any] = {"out": "", "workers": None, "fresh": False}
    return asdict(replace(values, **places, ssjf=replace(values.ssjf, page=None, figures=None)))


def _keeps_metrics_only(values: EvaluateConfig) -> None:
    """Raises PecGymError for outputs that reproductions do not have."""
    unused = {"requests": values.requests, "record": values.record, "trace": values.trace is not None}
    if any(unused.values()):
        names = ", ".join(name for name, given in unused.items() if given)
        raise PecGymError(f"{names}: the reproduction keeps the metrics of its runs only; leave them off")


def _fail(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), message), highlight=False)
    sys.exit(2)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _trace_as_key(arguments: list[str]) -> list[str]:
    """`--trace FILE`, as other tools spell it, becomes the key `trace`."""
    joined = re.sub("(^|\n)--trace[\n=]([^\n]+)", r'\1trace="\2"', "\n".join(arguments))
    return joined.split("\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.argv[1:] = _trace_as_key(sys.argv[1:]) if len(sys.argv) > 1 else []
    main()
