"""Evaluations: many runs in parallel processes, each kept as it ends, and their summary files."""

from __future__ import annotations

import csv
import json
import os
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pecgym.analysis.distance import distances, with_bounds
from pecgym.engine.entry import warm_up
from pecgym.envs.driver import warm_up_agents
from pecgym.errors import EngineError, PecGymError, SpecError
from pecgym.evaluation.bounds import BoundJob, bound_jobs
from pecgym.evaluation.pictures import write_pictures
from pecgym.evaluation.plan import EvaluationPlan, Job
from pecgym.policies.agents import is_agent_name

OUTPUTS = (
    *("summary.json", "bound.json", "distances.csv", "comparison.json", "table.csv"),
    *("requests.parquet", "report.html"),
)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave, and the files that it wrote. comparison: None where there was nothing to pair. bounds:
    what no policy can beat, a row for each workload, seed and window; none if it was not asked for."""

    rows: list[dict[str, Any]]
    files: list[Path]
    comparison: dict[str, Any] | None = None
    bounds: list[dict[str, Any]] = field(default_factory=list)

    def where(self) -> str:
        """One line that says which files there are."""
        return "written: " + ", ".join(map(str, self.files))


@dataclass(frozen=True)
class Keep:
    """What is kept of every run beside its row of metrics: every request, and the timeline of every replica."""

    requests: bool = True
    timelines: bool = False

    def files(self, runs: Path, job: Job | BoundJob) -> list[Path]:
        """The files of a run; of bounds a row only."""
        key = job.key()
        kept = [runs / f"{key}.json"]
        if isinstance(job, BoundJob):
            return kept
        kept += [runs / f"{key}.parquet"] if self.requests else []
        return kept + ([runs / f"{key}.timeline.parquet"] if self.timelines else [])

    def is_done(self, runs: Path, job: Job | BoundJob) -> bool:
        """Whether all of them are there."""
        return all(path.exists() for path in self.files(runs, job))


def evaluate(
    plan: EvaluationPlan,
    out: Path,
    *,
    workers: int | None = None,
    keep_requests: bool = True,
    fresh: bool = False,
    record: bool = False,
    report: bool = False,
    trace: str | None = None,
    command: str | None = None,
    bound: bool = True,
) -> Evaluation:
    """Runs a plan and writes `summary.json`, `table.csv` and `requests.parquet` into `out`, and, of several policies on
    at least two runs, `comparison.json`. bound: whether to find what no policy can beat, and how far every run is from
    it (`bound.json`, `distances.csv`).

    Each run is kept in `out/runs` as it ends; a run that is there already is not done again unless `fresh`. workers:
    processes, None: one per core. keep_requests: whether to write every request (a row each). record: whether to keep
    every run's timeline too. report: whether to write `report.html`; command: what it says was run. trace: the path of
    a Chrome trace of the first run, or, with "{policy}" in it, one of each policy.

    Raises:
        PecGymError: the plan names something that does not exist, or a run cannot be done.
        KeyboardInterrupt: interrupted; the files hold what was done.
    """
    choices = plan.check()
    jobs = plan.jobs()
    of_bounds = bound_jobs(plan) if bound else []
    runs = out / "runs"
    keep = Keep(keep_requests, record)
    runner = Runner(runs, keep, workers=workers, total=len(jobs) + len(of_bounds), fresh=fresh)
    for name in OUTPUTS:
        (out / name).unlink(missing_ok=True)
    files: list[Path] = []
    rows: list[dict[str, Any]] = []
    bounds: list[dict[str, Any]] = []
    try:
        if runner.todo(jobs):
            warm_up(choices)
            if any(is_agent_name(job.policy) for job in jobs if not keep.is_done(runs, job)):
                warm_up_agents()
        with runner:
            runner.run([*jobs, *of_bounds])
    finally:
        kept = [job for job in jobs if keep.is_done(runs, job)]
        rows = [read_row(runs, job) for job in kept]
        bounds = [read_row(runs, job) for job in of_bounds if keep.is_done(runs, job)]
        if len(kept) < len(jobs):
            Console(stderr=True).print(f"{len(kept)} of {len(jobs)} runs are done and in the summary", highlight=False)
        if rows:
            files += write_summary(rows, out, bounds)
            if keep_requests:
                _join_requests([runs / f"{job.key()}.parquet" for job in kept], out / "requests.parquet")
                files.append(out / "requests.parquet")
    comparison = plan.compare(rows)
    if comparison is not None:
        with _replacing(out / "comparison.json") as path:
            path.write_text(json.dumps(comparison, indent=1, allow_nan=False))
        files.append(out / "comparison.json")
    timelines = [runs / f"{job.key()}.timeline.parquet" for job in jobs] if record else []
    files += write_pictures(
        plan,
        rows,
        out,
        keep_requests=keep_requests,
        timelines=timelines,
        comparison=comparison,
        bounds=bounds,
        report=report,
        trace=trace,
        command=command,
    )
    return Evaluation(rows, files, comparison, bounds)


def run_job(job: Job | BoundJob, runs: Path, keep: Keep, key: str) -> None:
    """Does one run and leaves its files in `runs` under its key; a run that was interrupted leaves none.

    Raises PecGymError, also for an exception in a user's policy, which it names with the place.
    """
    if isinstance(job, BoundJob):
        _write_row(job.row(), runs, key)
        return
    try:
        log = job.run(keep.timelines)
    except PecGymError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise EngineError(
            f"policy {job.policy} on {job.where()}: {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})"
        ) from error
    row = log.metrics() | {"digest": log.digest()}
    labels = {key: row[key] for key in ("policy", "workload", "scenario", "seed", *job.window_labels())}
    if log.timeline is not None:
        with _replacing(runs / f"{key}.timeline.parquet") as path:
            log.timeline.save(path, **labels)
    if keep.requests:
        with _replacing(runs / f"{key}.parquet") as path:
            log.write_parquet(path, **labels)
    _write_row(row, runs, key)


def _write_row(row: dict[str, Any], runs: Path, key: str) -> None:
    with _replacing(runs / f"{key}.json") as path:
        path.write_text(json.dumps(row, indent=1))


def read_row(runs: Path, job: Job | BoundJob) -> dict[str, Any]:
    """The metrics of a run that was done."""
    row: dict[str, Any] = json.loads((runs / f"{job.key()}.json").read_text())
    return row


class Runner:
    """Does jobs in parallel processes, shows how far it is, and keeps each run in `runs` as it ends.

    A context; it may be given jobs several times. workers: processes, None: one per core. total: how many jobs it will
    be given. fresh: whether to do again what is there.
    """

    def __init__(self, runs: Path, keep: Keep, *, total: int, workers: int | None = None, fresh: bool = False) -> None:
        if workers is not None and workers < 1:
            raise SpecError(f"workers={workers}: must be 1 or more")
        self.runs, self.keep, self.fresh = runs, keep, fresh
        self._workers = min(total, workers or os.cpu_count() or 1)
        self._pool: ProcessPoolExecutor | None = None
        self._progress = Progress(
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
        self._task = self._progress.add_task("runs", total=total)
        runs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Runner:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def todo(self, jobs: Sequence[Job | BoundJob]) -> list[Job | BoundJob]:
        """Those that are not there yet."""
        return [job for job in jobs if self.fresh or not self.keep.is_done(self.runs, job)]

    def run(self, jobs: Sequence[Job | BoundJob]) -> None:
        """Does the jobs that are not there yet. Raises PecGymError for a run that cannot be done."""
        todo = self.todo(jobs)
        self._progress.advance(self._task, len(jobs) - len(todo))
        if self._workers == 1 or not todo:
            for job in todo:
                run_job(job, self.runs, self.keep, job.key())
                self._progress.advance(self._task)
            return
        if self._pool is None:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=context, initializer=end_with_parent)
        futures = [self._pool.submit(run_job, job, self.runs, self.keep, job.key()) for job in todo]
        try:
            for future in as_completed(futures):
                future.result()
                self._progress.advance(self._task)
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process died, most likely for want of memory; what had ended is kept: the same command with "
                "workers=1 continues"
            ) from error

    def rows(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """The metrics of the jobs, which are done first."""
        self.run(jobs)
        return [read_row(self.runs, job) for job in jobs]


def end_with_parent() -> None:
    """A worker does not outlive the evaluation, even one that was killed."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_summary(rows: list[dict[str, Any]], out: Path, bounds: Sequence[dict[str, Any]] = ()) -> list[Path]:
    """Writes `summary.json` and `table.csv` with a row per run; with bounds also `bound.json`, their rows at the end of
    `table.csv`, and every run's distance to its bounds, `distances.csv`. Returns the paths."""
    with_all = with_bounds(rows, bounds)
    tables = {"table.csv": with_all}
    lists = {"summary.json": rows}
    if bounds:
        lists["bound.json"] = with_all[len(rows) :]
        if known := distances(rows, bounds):
            tables["distances.csv"] = known
    for name, content in lists.items():
        with _replacing(out / name) as path:
            path.write_text(json.dumps(content, indent=1))
    for name, content in tables.items():
        with _replacing(out / name) as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [key for key in content[0] if key != "notes"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(content)
    return [out / name for name in (*lists, *tables)]


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
