"""The whole study: cells of all parts, their rows in files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pecgym.configs import ScenarioConfig
from pecgym.engine.entry import warm_up
from pecgym.errors import SpecError
from pecgym.evaluation.infermax.runs import run_cells, write_rows
from pecgym.evaluation.plan import EvaluationPlan
from pecgym.evaluation.ssjf.cases import Case, cases
from pecgym.evaluation.ssjf.cells import ACCURACY, Row
from pecgym.evaluation.ssjf.config import SsjfConfig


@dataclass(frozen=True)
class Found:
    """What the runs of a case gave: by policy a row for each seed, and how good the predictions were under each."""

    case: Case
    rows: dict[str, list[Row]]
    accuracy: list[Row]


@dataclass(frozen=True)
class Study:
    """What the study gave, by part.

    Attributes:
        config: as it was run, thinned if it was to be quick.
        plan: of the conversation.
        parts: the cases of each part, in order.
        files: that were written.
    """

    config: SsjfConfig
    plan: EvaluationPlan
    parts: dict[str, list[Found]]
    files: list[Path]


def study(
    plan: EvaluationPlan, config: SsjfConfig, out: Path, *, workers: int | None = None, fresh: bool = False
) -> Study:
    """Does all runs (each cell is kept in `out` as it ends) and writes `PART.json`, a row for every run.

    plan: policies, model, cluster, engine, workload and seeds (pecgym.evaluation.ssjf.cases.cases); its scenario must
    be the native one, as the loads are set here.

    Raises:
        PecGymError: something does not exist, or a run cannot be done.
        KeyboardInterrupt: interrupted; what had ended is kept.
    """
    config.check()
    if plan.scenario != ScenarioConfig() or plan.workloads is not None or plan.cut().numbers() != [None]:
        raise SpecError("the study sets loads itself, on one whole workload: leave scenario, workloads and windows out")
    if "fifo" not in plan.policies:
        raise SpecError("policies: the page compares with fifo")
    config = config.thinned()
    chosen = cases(config, plan)
    warm_up({rule for case in chosen for rule in case.cells[0].plan.check()})
    cells = [cell for case in chosen for cell in case.cells]
    done = iter(run_cells(cells, out, workers=workers, fresh=fresh, title="ssjf"))
    parts: dict[str, list[Found]] = {}
    for case in chosen:
        parts.setdefault(case.part, []).append(_found(case, [next(done) for _ in case.cells]))
    files = []
    for part, found in parts.items():
        files.append(out / f"{part}.json")
        write_rows(files[-1], [row for each in found for row in _flat(each)])
    return Study(config, plan, parts, files)


def _found(case: Case, cells: Sequence[dict[str, list[Row]]]) -> Found:
    policies = [policy for policy in cells[0] if policy != ACCURACY]
    rows = {policy: [row for cell in cells for row in cell[policy]] for policy in policies}
    return Found(case, rows, [row for cell in cells for row in cell.get(ACCURACY, [])])


def _flat(found: Found) -> list[dict[str, Any]]:
    case = found.case
    where = {"case": case.key, "predictor": case.predictor}
    flat = []
    for policy, rows in found.rows.items():
        for i, (cell, row) in enumerate(zip(case.cells, rows, strict=True)):
            said = {f"prediction_{key}": value for key, value in found.accuracy[i].items()} if found.accuracy else {}
            flat.append(where | {"policy": policy, "seed": cell.seed} | row | said)
    return flat
