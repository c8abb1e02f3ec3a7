"""Runs the cells in parallel processes and keeps each in a file as it ends, so that an interrupted run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pecgym.errors import EngineError, SpecError
from pecgym.evaluation.infermax.cells import Row
from pecgym.evaluation.run import end_with_parent

KEPT = "cells.jsonl"
Found = dict[str, list[Row]]


class Runnable(Protocol):
    """A cell of a study."""

    def key(self) -> str:
        """A hash of all that may change its result."""

    def run(self) -> Found:
        """Its result, as JSON can hold it. Raises PecGymError."""


def run_cells(
    cells: Sequence[Runnable],
    out: Path,
    *,
    workers: int | None = None,
    fresh: bool = False,
    show: bool = True,
    title: str = "infermax",
) -> list[Found]:
    """What each cell gave. Those that `out` holds are not run again unless `fresh`; a new one is kept there as it ends.

    workers: processes, None: one per core. show: whether to show how far it is, under `title`. Raises PecGymError.
    """
    if workers is not None and workers < 1:
        raise SpecError(f"workers={workers}: must be 1 or more")
    out.mkdir(parents=True, exist_ok=True)
    if fresh:
        (out / KEPT).unlink(missing_ok=True)
    keys = [cell.key() for cell in cells]
    kept = _kept(out / KEPT)
    todo = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in kept}
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
        disable=not show,
    )
    with bar, (out / KEPT).open("a", encoding="utf-8") as file:
        task = bar.add_task("cells", total=len(keys), completed=len(keys) - len(todo))
        for key, found in _done(todo, min(workers or os.cpu_count() or 1, len(todo))):
            kept[key] = found
            _keep(file, key, found)
            bar.advance(task)
    return [kept[key] for key in keys]


def _done(todo: Mapping[str, Runnable], workers: int) -> Iterator[tuple[str, Found]]:
    """Each key with what its cell gave, as they end."""
    if workers <= 1:
        for key, cell in todo.items():
            yield key, cell.run()
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        futures = {pool.submit(cell.run): key for key, cell in todo.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process died, most likely for want of memory; what had ended is kept: the same command with "
                "workers=1 continues"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _keep(file: TextIO, key: str, found: Found) -> None:
    file.write(json.dumps({"key": key, "found": found}) + "\n")
    file.flush()


def _kept(path: Path) -> dict[str, Found]:
    """What a file of kept cells holds; a line that was cut off by a kill is left out, and cut off from the file."""
    kept: dict[str, Found] = {}
    if not path.exists():
        return kept
    whole = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            cell = json.loads(line)
            kept[cell["key"]] = cell["found"]
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return kept


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """A JSON file with a row in each line; whole or not at all."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    temporary.replace(path)
