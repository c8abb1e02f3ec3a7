"""The whole study: cells of all experiments, their results in files, and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pecgym.engine.entry import warm_up
from pecgym.errors import SpecError
from pecgym.evaluation.infermax import five_minutes, offline, online, swap
from pecgym.evaluation.infermax.cells import Cell, Row
from pecgym.evaluation.infermax.config import InfermaxConfig
from pecgym.evaluation.infermax.page_text import write_text
from pecgym.evaluation.infermax.runs import Found, run_cells, write_rows
from pecgym.policies import load_policy

Rows = dict[str, list[Row]]
"""By experiment."""

Reader = Callable[[list[Cell], list[Found]], list[Row]]

EXPERIMENTS = ("offline", "online", "five_minutes", "swap")
SETTINGS = "settings.json"
"""Of the rows that a folder holds, by experiment."""


def run(config: InfermaxConfig) -> Rows:
    """Runs the chosen experiments, writes `EXPERIMENT.json` of each into `out` (a row for every run) and returns the
    rows of all that `out` holds.

    Raises:
        PecGymError: something does not exist, or a run cannot be done.
        KeyboardInterrupt: interrupted; what had ended is kept.
    """
    if unknown := sorted(set(config.experiments) - set(EXPERIMENTS)):
        raise SpecError(f"experiments: {', '.join(unknown)} does not exist; choose of {', '.join(EXPERIMENTS)}")
    config.check()
    settings = {name: config.settings_of(name) for name in config.experiments}
    config = config.thinned()
    out, limits = Path(config.out), config.limits
    made: dict[str, tuple[list[Cell], Reader]] = {
        "offline": (offline.cells(config.offline, limits), offline.rows),
        "online": (online.cells(config.online, config.workload, limits), online.rows),
        "swap": (swap.cells(config.swap, config.online, config.workload, limits), swap.rows),
    }
    chosen = {name: each for name, each in made.items() if name in config.experiments}
    cells = [cell for each, _ in chosen.values() for cell in each]
    if cells:
        warm_up({load_policy("fifo").choose})
    found = run_cells(cells, out, workers=config.workers, fresh=config.fresh)
    first = 0
    for name, (each, rows) in chosen.items():
        write_rows(out / f"{name}.json", rows(each, found[first : first + len(each)]))
        first += len(each)
    if "five_minutes" in config.experiments:
        write_rows(out / "five_minutes.json", five_minutes.rows(config.five_minutes))
    if settings:
        write_text(out / SETTINGS, json.dumps(settings_in(out) | settings, indent=1) + "\n")
    files = {name: out / f"{name}.json" for name in EXPERIMENTS}
    return {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()}


def settings_in(out: Path) -> dict[str, Any]:
    """By experiment, what its rows in `out` were made with: InfermaxConfig.settings_of."""
    path = out / SETTINGS
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
