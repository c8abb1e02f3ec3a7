"""What a report is made from, whatever form it was given in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pecgym.analysis.request_log import RequestLog
from pecgym.analysis.timeline import Timeline, timeline_labels
from pecgym.errors import PecGymError

Row = dict[str, Any]
Requests: TypeAlias = str | Path | pa.Table | Sequence[RequestLog]
Timelines: TypeAlias = str | Path | Mapping[str, Timeline]
SAME_ON_A_PAGE = ("model", "cluster", "engine", "profile")
CASE_LABELS = ("workload", "scenario")
RUN_LABELS = ("policy", *CASE_LABELS)
_NEEDED = (*RUN_LABELS, "arrival_s", "start_s", "first_token_s", "finish_s", "is_long")


@dataclass(frozen=True)
class Case:
    """One workload in one scenario: the runs of every policy on it, and what each of their requests met.

    Attributes:
        workload, scenario: as in the rows.
        rows: the runs.
        delays: by policy, the measures of curves.MEASURES in seconds, float64[requests of its class over all seeds],
            NaN where it has not happened; empty if no requests were given.
        timelines: by policy, that of one seed.
        bounds: rows of what no policy can beat; empty if none were given.
    """

    workload: str
    scenario: str
    rows: list[Row]
    delays: dict[str, dict[str, Any]]
    timelines: dict[str, Timeline]
    bounds: list[Row] = field(default_factory=list)

    @property
    def policies(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(row["policy"] for row in self.rows))

    def of(self, policy: str) -> list[Row]:
        """The runs of one policy, one per seed."""
        return [row for row in self.rows if row["policy"] == policy]

    @property
    def label(self) -> str:
        """What the page calls it."""
        return f"{self.workload}, {self.scenario}"


def read_cases(
    given: Sequence[Row] | str | Path,
    requests: Requests | None,
    timelines: Timelines | None,
    bounds: Sequence[Row] = (),
) -> list[Case]:
    """The cases of a report, in order of appearance.

    Raises PecGymError for no rows, for rows that do not share a model, cluster, engine and profile, and for requests or
    timelines of runs that are not among the rows.
    """
    rows: list[Row] = json.loads(Path(given).read_text()) if isinstance(given, str | Path) else list(given)
    if not rows:
        raise PecGymError("a report needs at least one row of results")
    for label in SAME_ON_A_PAGE:
        values = sorted({str(row[label]) for row in rows})
        if len(values) > 1:
            raise PecGymError(
                f"a report is of one {label}, the rows have {', '.join(values)}: write one report for each"
            )
    cases = list(dict.fromkeys((row["workload"], row["scenario"]) for row in rows))
    delays = _read_requests(requests)
    lines = _read_timelines(timelines, cases)
    runs = {(row["policy"], row["workload"], row["scenario"]) for row in rows}
    for what, named in (("requests", set(delays)), ("timelines", set(lines))):
        if unknown := sorted(named - runs):
            raise PecGymError(
                f"{what} of {', '.join(unknown[0])} belong to no row of the results: give the files of one evaluation"
            )
    return [
        Case(
            workload,
            scenario,
            [row for row in rows if (row["workload"], row["scenario"]) == (workload, scenario)],
            {run[0]: values for run, values in delays.items() if run[1:] == (workload, scenario)},
            {run[0]: line for run, line in lines.items() if run[1:] == (workload, scenario)},
            [row for row in bounds if (row["workload"], row["scenario"]) == (workload, scenario)],
        )
        for workload, scenario in cases
    ]


def _read_requests(requests: Requests | None) -> dict[tuple[str, ...], dict[str, Any]]:
    """By policy, workload and scenario: the delays of all requests."""
    if requests is None:
        return {}
    if isinstance(requests, pa.Table):
        table = requests
    elif isinstance(requests, str | Path):
        table = pq.read_table(requests, columns=list(_NEEDED))
    else:
        tables = [log.to_table(**{label: log.facts.labels[label] for label in RUN_LABELS}) for log in requests]
        table = pa.concat_tables(tables).select(_NEEDED) if tables else pa.table({name: [] for name in _NEEDED})
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        raise PecGymError(f"the requests have no column {', '.join(missing)} (docs/evaluate.md lists them)")
    return {run: _delays(part) for run, part in _split(table)}


def _split(table: pa.Table) -> list[tuple[tuple[str, ...], pa.Table]]:
    """The table by run, in order of appearance."""
    codes, names = [], []
    for label in RUN_LABELS:
        column = table.column(label).combine_chunks().cast(pa.string()).dictionary_encode()
        codes.append(column.indices.to_numpy(zero_copy_only=False))
        names.append(column.dictionary.to_pylist())
    runs, run_of = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
    return [
        (tuple(known[code] for known, code in zip(names, run, strict=True)), table.filter(run_of.reshape(-1) == i))
        for i, run in enumerate(runs)
    ]


def _delays(table: pa.Table) -> dict[str, Any]:
    columns = {name: table.column(name).to_numpy() for name in _NEEDED if name not in RUN_LABELS}
    is_long = columns["is_long"].astype(bool)
    since = {event: columns[f"{event}_s"] - columns["arrival_s"] for event in ("start", "first_token", "finish")}
    return {
        "short_queueing_delay": since["start"][~is_long],
        "ttft": since["first_token"],
        "long_jct": since["finish"][is_long],
    }


def _read_timelines(timelines: Timelines | None, cases: list[tuple[str, str]]) -> dict[tuple[str, ...], Timeline]:
    """By policy, workload and scenario; of a folder with several seeds and windows, the lowest."""
    if timelines is None:
        return {}
    if isinstance(timelines, Mapping):
        if len(cases) > 1:
            raise PecGymError(
                "timelines by policy are for results of one workload and scenario: give a folder of files"
            )
        return {(policy, *cases[0]): timeline for policy, timeline in timelines.items()}
    found: dict[tuple[str, ...], tuple[tuple[int, int], Path]] = {}
    for path in sorted(Path(timelines).glob("*.parquet")):
        try:
            labels = timeline_labels(pq.read_schema(path))
            run = tuple(str(labels[label]) for label in RUN_LABELS)
            number = int(labels["seed"]), int(labels.get("window", 0))
        except KeyError as error:
            raise PecGymError(f"{path}: not a timeline with labels, it has no {error}") from None
        found[run] = min(found.get(run, (number, path)), (number, path))
    return {run: Timeline.load(path) for run, (_, path) in found.items()}
