"""The whole study: the cells of all grids, and their results in files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from pecgym.engine.entry import warm_up
from pecgym.evaluation.infermax.cells import Burst, Row
from pecgym.evaluation.infermax.runs import run_cells, write_rows
from pecgym.evaluation.optimum.cells import OptimumCell
from pecgym.evaluation.optimum.config import OptimumConfig
from pecgym.evaluation.optimum.gaps import gap_of
from pecgym.policies import load_policy

OPTIMA, GAPS = "optima", "gaps"
Rows = dict[str, list[Row]]
"""OPTIMA: a row for each cell and rule; GAPS: one for each cell and engine."""


def cells(config: OptimumConfig) -> list[tuple[str, OptimumCell]]:
    """Each with the name of its grid."""
    settings = config.settings()
    return [
        (name, OptimumCell(config.profile, work, capacity, settings, config.time_limit_s))
        for name, grid in config.grids.items()
        for requests in grid.requests
        for outputs in grid.output_tokens
        for inputs in grid.input_tokens
        for work in [Burst(requests, inputs, outputs)]
        for capacity in grid.capacities(work)
    ]


def run(config: OptimumConfig) -> Rows:
    """Runs what `out` does not hold, writes `optima` and `gaps` there as JSON and CSV, and returns their rows.

    Raises:
        PecGymError: something does not exist, or a run cannot be done.
        KeyboardInterrupt: interrupted; what had ended is kept.
    """
    config.check()
    config = config.thinned()
    named = cells(config)
    out = Path(config.out)
    warm_up({load_policy("fifo").choose})
    found = run_cells([cell for _, cell in named], out, workers=config.workers, fresh=config.fresh, title="optimum")
    rows: Rows = {OPTIMA: [], GAPS: []}
    for (grid, cell), result in zip(named, found, strict=True):
        where = {"grid": grid, "profile": cell.profile, "requests": cell.work.requests}
        where |= {"input_tokens": cell.work.input_tokens, "output_tokens": cell.work.output_tokens}
        where |= {"capacity_tokens": cell.capacity_tokens}
        optima = {row["rule"]: row for row in result["optima"]}
        rows[OPTIMA] += [where | row for row in optima.values()]
        rows[GAPS] += [where | row | gap_of(row, optima[row["reference"]]) for row in result["engines"]]
    for name, each in rows.items():
        write_rows(out / f"{name}.json", each)
        _write_csv(out / f"{name}.csv", each)
    return {name: json.loads((out / f"{name}.json").read_text()) for name in rows}


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
