"""What an evaluation writes for looking at: the HTML report and Chrome traces."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pecgym.analysis.perfetto import write_trace
from pecgym.analysis.report import write_report
from pecgym.evaluation.plan import EvaluationPlan


def write_pictures(
    plan: EvaluationPlan,
    rows: Sequence[dict[str, Any]],
    out: Path,
    *,
    keep_requests: bool,
    timelines: Sequence[Path],
    comparison: dict[str, Any] | None,
    bounds: Sequence[dict[str, Any]],
    report: bool,
    trace: str | None,
    command: str | None,
) -> list[Path]:
    """Writes `report.html` into `out`, and the traces; see `pecgym.evaluation.evaluate`. Returns the files."""
    files: list[Path] = []
    if report:
        requests = out / "requests.parquet" if keep_requests else None
        options = {"comparison": comparison, "bounds": bounds, "command": command}
        report_of(rows, out / "report.html", requests=requests, timelines=timelines, **options)
        files.append(out / "report.html")
    if trace is not None:
        files += _write_traces(plan, trace)
    return files


def report_of(
    rows: Sequence[dict[str, Any]],
    path: Path,
    *,
    requests: Path | None = None,
    timelines: Sequence[Path] = (),
    **options: Any,
) -> None:
    """Writes the report of some runs; `timelines`: the files of theirs. options: as of `write_report`."""
    with TemporaryDirectory() as folder:
        for timeline in timelines:
            (Path(folder) / timeline.name).symlink_to(timeline.resolve())
        write_report(rows, requests, path, timelines=folder if timelines else None, **options)


def _write_traces(plan: EvaluationPlan, path: str) -> list[Path]:
    """A Chrome trace of the first run, or of the first one of each policy if the path has a place for its name."""
    first = plan.jobs()[: sum(map(len, plan.entries().values())) if "{policy}" in path else 1]
    files = [Path(path.replace("{policy}", re.sub("[^A-Za-z0-9_-]", ".", job.policy))) for job in first]
    for job, file in zip(first, files, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_trace(job.run(record=True), file)
    return files
