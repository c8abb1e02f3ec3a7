"""Evaluations: many runs in parallel processes, each kept as it ends, and their summary files."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pecgym.cluster import Cluster, make_cluster
from pecgym.costs import find_profile, load_cluster, load_model, load_profile
from pecgym.engine import EngineSettings, load_engine
from pecgym.engine.compiled import sources_hash
from pecgym.engine.simulator import warm_up
from pecgym.errors import PecGymError, SpecError
from pecgym.policies import load_policy
from pecgym.scenario import scale_to_load
from pecgym.workload import Trace, generate, load_trace
from pecgym.workload.generator import generator_names, is_generator_name


@dataclass
class EngineConfig:
    """An engine preset by name (or a .yaml by path) and what to change in it; None keeps the preset's value."""

    name: str = "vllm"
    batching: str | None = None
    static_batch_size: int | None = None
    static_timeout_s: float | None = None
    max_batch_requests: int | None = None
    max_batch_tokens: int | None = None
    group_order: str | None = None
    mixing: bool | None = None
    chunk_tokens: int | None = None
    reservation: str | None = None
    victim: str | None = None
    eviction: str | None = None
    swap_gb_per_s: float | None = None
    queue_order: str | None = None
    preemptive: bool | None = None
    block_tokens: int | None = None
    watermark: float | None = None
    kv_capacity_tokens: int | None = None

    def load(self) -> EngineSettings:
        """The settings. Raises SpecError."""
        changes = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return load_engine(self.name, **{key: value for key, value in changes.items() if value is not None})


@dataclass
class WorkloadConfig:
    """An embedded workload by name, or a trace file by path (path wins); then a part of it, thinned or sped up.

    Attributes:
        name: an embedded workload; also the label of results without a path.
        path: a trace file of any known format.
        duration_s: embedded workload: its length; None: that of the trace it imitates.
        arrivals: embedded workload: its arrival process; None: the workload's own.
        start_s, stop_s: only the requests that arrive in this window.
        rate_scale: factor on the arrival rate, by stretching time.
    """

    name: str = "azure2023_conv"
    path: str | None = None
    duration_s: float | None = None
    arrivals: str | None = None
    start_s: float | None = None
    stop_s: float | None = None
    rate_scale: float = 1.0

    def load(self, seed: int) -> Trace:
        """The trace under a seed (files do not depend on it). Raises TraceError or SpecError."""
        if self.path is None and is_generator_name(self.name):
            trace = generate(self.name, seed, self.duration_s, self.arrivals)
        elif self.duration_s is not None or self.arrivals is not None:
            raise SpecError(
                "workload.duration_s and workload.arrivals are for embedded workloads; use start_s and stop_s"
            )
        else:
            trace = load_trace(Path(self.path) if self.path is not None else self.name)
        if self.start_s is not None or self.stop_s is not None:
            trace = trace.between(self.start_s or 0.0, math.inf if self.stop_s is None else self.stop_s)
        if self.rate_scale != 1.0:
            trace = trace.scale_rate(self.rate_scale)
        if not len(trace):
            raise SpecError(f"workload {trace.name!r}: no request arrives in the chosen window")
        return trace


@dataclass
class ScenarioConfig:
    """ "native": the workload at its own rate; "steady": at `load` times the simulated capacity."""

    name: str = "native"
    load: float | None = None

    def label(self) -> str:
        """The name in tables."""
        return self.name if self.load is None else f"{self.name}-{self.load:g}"


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: every policy on every workload under every seed.

    `workloads`, names or paths, takes the place of `workload`.
    """

    policies: tuple[str, ...]
    model: str = "llama-3.1-70b"
    cluster: str = "p4de_x4"
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    workloads: tuple[str, ...] | None = None
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    seeds: tuple[int, ...] = (0,)
    profile: str | None = None
    tp: int | None = None
    until_s: float | None = None

    def jobs(self) -> list[Job]:
        """One job per run, those that share a workload side by side."""
        chosen = [self.workload]
        if self.workloads is not None:
            chosen = [
                replace(self.workload, name=name, path=None)
                if is_generator_name(name)
                else replace(self.workload, path=name, duration_s=None, arrivals=None)
                for name in self.workloads
            ]
        jobs = [
            Job(self, policy, workload, seed) for workload in chosen for seed in self.seeds for policy in self.policies
        ]
        if not jobs:
            raise SpecError("nothing to run: give at least one policy, one workload and one seed")
        if len({job.key() for job in jobs}) < len(jobs):
            raise SpecError("a policy, workload or seed is named twice")
        return jobs

    def check(self) -> set[Callable[..., Any] | None]:
        """Raises PecGymError for a name or path that does not exist, before anything is compiled or run.

        Returns the functions that decide for the policies.
        """
        self.engine.load()
        model, cluster = load_model(self.model), load_cluster(self.cluster)
        if self.profile is None:
            find_profile(model.name, cluster.gpu, self.tp or model.default_tp)
        else:
            load_profile(self.profile)
        for path in {job.workload.path for job in self.jobs()} - {None}:
            if not Path(str(path)).exists():
                raise SpecError(
                    f"workload {path}: no such file; the embedded workloads are {', '.join(generator_names())}"
                )
        return {load_policy(name).choose for name in self.policies}


@dataclass(frozen=True)
class Job:
    """One run."""

    plan: EvaluationPlan
    policy: str
    workload: WorkloadConfig
    seed: int

    def key(self) -> str:
        """A name for its files that changes with anything that may change its result."""
        plan = {k: v for k, v in asdict(self.plan).items() if k not in ("policies", "seeds", "workload", "workloads")}
        identity = [plan, self.policy, asdict(self.workload), self.seed, sources_hash()]
        if self.workload.path is not None and Path(self.workload.path).exists():
            stat = Path(self.workload.path).stat()
            identity.append([stat.st_size, stat.st_mtime_ns])
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.policy.replace(':', '.').replace('/', '.')}-seed{self.seed}-{digest}"

    def make(self) -> Cluster:
        """The cluster of this run."""
        plan = self.plan
        engine = plan.engine.load()
        trace = self.workload.load(self.seed)

        def cluster(trace: Trace) -> Cluster:
            return make_cluster(
                plan.model,
                plan.cluster,
                self.policy,
                trace,
                engine,
                seed=self.seed,
                tp=plan.tp,
                profile=plan.profile,
                scenario=plan.scenario.label(),
            )

        made = cluster(trace)
        if plan.scenario.name == "steady":
            if plan.scenario.load is None:
                raise SpecError("scenario=steady needs scenario.load, the share of the simulated capacity")
            trace, _ = scale_to_load(trace, plan.scenario.load, made.n_replicas, made.profile, engine)
            return cluster(trace)
        if plan.scenario.name != "native" or plan.scenario.load is not None:
            raise SpecError(f"scenario {plan.scenario.label()!r}: choose native (no load), or steady with a load")
        return made


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
    jobs = plan.jobs()
    choices = plan.check()
    runs = out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    todo = [job for job in jobs if fresh or not _done(runs, job, keep_requests)]
    try:
        if todo:
            warm_up(choices)
            _run_all(todo, runs, workers, keep_requests)
    finally:
        kept = [job for job in jobs if _done(runs, job, keep_requests)]
        rows = [json.loads((runs / f"{job.key()}.json").read_text()) for job in kept]
        if rows:
            _write_summary(rows, out)
            if keep_requests:
                _join_requests([runs / f"{job.key()}.parquet" for job in kept], out / "requests.parquet")
    return Evaluation(rows, out, keep_requests)


def run_job(job: Job, runs: Path, keep_requests: bool) -> None:
    """Does one run and leaves its files in `runs`; a run that was interrupted leaves none."""
    log = job.make().run(math.inf if job.plan.until_s is None else job.plan.until_s)
    row = log.metrics() | {"digest": log.digest()}
    if keep_requests:
        labels = {key: row[key] for key in ("policy", "workload", "scenario", "seed")}
        with _replacing(runs / f"{job.key()}.parquet") as path:
            log.write_parquet(path, **labels)
    with _replacing(runs / f"{job.key()}.json") as path:
        path.write_text(json.dumps(row, indent=1))


def _run_all(jobs: list[Job], runs: Path, workers: int | None, keep_requests: bool) -> None:
    workers = min(len(jobs), workers or os.cpu_count() or 1)
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
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = [pool.submit(run_job, job, runs, keep_requests) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
                    progress.advance(task)
            except (KeyboardInterrupt, PecGymError):
                pool.shutdown(wait=True, cancel_futures=True)
                raise


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
