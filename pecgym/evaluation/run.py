"""Evaluations: many runs in parallel processes, each kept as it ends, and their summary files."""

from __future__ import annotations

import csv
import json
import math
import os
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pecgym.engine.simulator import warm_up
from pecgym.errors import EngineError, PecGymError, SpecError
from pecgym.evaluation.plan import EvaluationPlan, Job

OUTPUTS = ("summary.json", "table.csv", "requests.parquet")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave, and where it is."""

    rows: list[dict[str, Any]]
    out: Path
    has_requests: bool

    def where(self) -> str:
        """One line that says which files there are."""
        names = ["summary.json", "table.csv"] + (["requests.parquet"] if self.has_requests else [])
        return "written: " + ", ".join(str(self.out / name) for name in names)


def evaluate(
    plan: EvaluationPlan, out: Path, *, workers: int | None = None, keep_requests: bool = True, fresh: bool = False
) -> Evaluation:
    """Runs a plan and writes `summary.json`, `table.csv` and `requests.parquet` into `out`.

    Each run is kept in `out/runs` as it ends; a run that is there already is not done again unless `fresh`. workers:
    processes, None: one per core. keep_requests: whether to write every request (a row each).

    Raises:
        PecGymError: the plan names something that does not exist, or a run cannot be done.
        KeyboardInterrupt: interrupted; the files hold what was done.
    """
    choices = plan.check()
    if workers is not None and workers < 1:
        raise SpecError(f"workers={workers}: must be 1 or more")
    jobs = plan.jobs()
    runs = out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        (out / name).unlink(missing_ok=True)
    todo = [job for job in jobs if fresh or not _done(runs, job, keep_requests)]
    try:
        if todo:
            warm_up(choices)
            _run_all(todo, runs, workers or os.cpu_count() or 1, keep_requests)
    finally:
        kept = [job for job in jobs if _done(runs, job, keep_requests)]
        rows = [json.loads((runs / f"{job.key()}.json").read_text()) for job in kept]
        if len(kept) < len(jobs):
            Console(stderr=True).print(f"{len(kept)} of {len(jobs)} runs are done and in the summary", highlight=False)
        if rows:
            _write_summary(rows, out)
            if keep_requests:
                _join_requests([runs / f"{job.key()}.parquet" for job in kept], out / "requests.parquet")
    return Evaluation(rows, out, keep_requests)


def run_job(job: Job, runs: Path, keep_requests: bool) -> None:
    """Does one run and leaves its files in `runs`; a run that was interrupted leaves none.

    Raises PecGymError, also for an exception in a user's policy, which it names with the place.
    """
    try:
        log = job.make().run(math.inf if job.plan.until_s is None else job.plan.until_s)
    except PecGymError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise EngineError(
            f"policy {job.policy} on workload {job.workload.label()}, seed {job.seed}: {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})"
        ) from error
    row = log.metrics() | {"digest": log.digest()}
    if keep_requests:
        labels = {key: row[key] for key in ("policy", "workload", "scenario", "seed")}
        with _replacing(runs / f"{job.key()}.parquet") as path:
            log.write_parquet(path, **labels)
    with _replacing(runs / f"{job.key()}.json") as path:
        path.write_text(json.dumps(row, indent=1))


def _run_all(jobs: list[Job], runs: Path, workers: int, keep_requests: bool) -> None:
    workers = min(len(jobs), workers)
    progress = Progress(
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task("runs", total=len(jobs))
        if workers == 1:
            for job in jobs:
                run_job(job, runs, keep_requests)
                progress.advance(task)
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            futures = [pool.submit(run_job, job, runs, keep_requests) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.advance(task)
            except BaseException as error:
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, BrokenProcessPool):
                    raise EngineError(
                        "a worker process died, most likely for want of memory; what had ended is kept: the same "
                        "command with workers=1 continues"
                    ) from error
                raise


def _end_with_parent() -> None:
    """A worker does not outlive the evaluation, even one that was killed."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _done(runs: Path, job: Job, keep_requests: bool) -> bool:
    key = job.key()
    return (runs / f"{key}.json").exists() and (not keep_requests or (runs / f"{key}.parquet").exists())


def _write_summary(rows: list[dict[str, Any]], out: Path) -> None:
    with _replacing(out / "summary.json") as path:
        path.write_text(json.dumps(rows, indent=1))
    with _replacing(out / "table.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [key for key in rows[0] if key != "notes"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _join_requests(parts: list[Path], target: Path) -> None:
    with _replacing(target) as path:
        schema = pq.read_schema(parts[0])
        with pq.ParquetWriter(path, schema) as writer:
            for part in parts:
                table: pa.Table = pq.read_table(part)
                writer.write_table(table.cast(schema))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block has succeeded."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
