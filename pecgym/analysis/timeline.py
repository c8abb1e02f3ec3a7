"""What every replica did when, as slices of time: for the cluster's timeline in reports and traces."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pecgym.errors import PecGymError
from pecgym.units import PS_PER_S, seconds_to_ps

PREFILL, DECODE, MIXED, LONG_PREFILL, LONG_DECODE, COLOCATED = range(6)
KIND_NAMES = ("prefill", "decode", "prefill + decode", "long prefill", "long decode", "long decode + shorts")
COLUMNS = ("replica", "kind", "start_ps", "end_ps", "row")
_FINEST_PS = PS_PER_S // 1000
_METADATA = b"pecgym"


@dataclass(frozen=True)
class Timeline:
    """Slices of one run, int64[n] each, sorted by replica and start; slices of one replica never overlap.

    A long is suspended between two LONG_PREFILL slices of its row.

    Attributes:
        replica: where.
        kind: PREFILL (batch of short prefills), DECODE (run of short decodes), MIXED (both in one batch), LONG_PREFILL
            (a part of a long's prefill between suspensions), LONG_DECODE (sharded decode of a long) or COLOCATED
            (iterations of a long's decode with short work on this member).
        start_ps, end_ps: picoseconds since the workload's time zero.
        row: number of the long in the workload; -1 for batches of shorts.
        n_replicas: replicas in the cluster, also those that did nothing; default: the highest that occurs, plus one.
        replicas_per_node: replicas r with equal r // replicas_per_node share a node; default: all.

    Raises PecGymError for arrays of unequal lengths, unknown kinds, slices that end before they start, or overlaps.
    """

    replica: Any = field(repr=False)
    kind: Any = field(repr=False)
    start_ps: Any = field(repr=False)
    end_ps: Any = field(repr=False)
    row: Any = field(repr=False)
    n_replicas: int = 0
    replicas_per_node: int = 0

    def __post_init__(self) -> None:
        columns = [np.asarray(getattr(self, name), np.int64) for name in COLUMNS]
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in zip(COLUMNS, columns, strict=True))
            raise PecGymError(f"timeline: columns of unequal lengths ({lengths})")
        replica, kind, start, end, _ = columns
        order = np.lexsort((start, replica))
        if np.any(order[1:] < order[:-1]):
            columns = [column[order] for column in columns]
            replica, kind, start, end, _ = columns
        _refuse(kind, (kind < 0) | (kind >= len(KIND_NAMES)), "has a kind outside 0..5", replica, start)
        _refuse(end, end < start, "ends before it starts", replica, start)
        overlaps = np.zeros(len(start), bool)
        overlaps[1:] = (replica[1:] == replica[:-1]) & (start[1:] < end[:-1])
        _refuse(start, overlaps, "starts before the one in front of it ends", replica, start)
        for name, column in zip(COLUMNS, columns, strict=True):
            object.__setattr__(self, name, column)
        used = int(replica.max(initial=-1)) + 1
        object.__setattr__(self, "n_replicas", self.n_replicas or used)
        object.__setattr__(self, "replicas_per_node", self.replicas_per_node or max(self.n_replicas, 1))
        if used > self.n_replicas or replica.min(initial=0) < 0:
            raise PecGymError(f"timeline: a slice on a replica outside 0..{self.n_replicas - 1}")

    def __len__(self) -> int:
        return len(self.replica)

    @property
    def end_s(self) -> float:
        """When the last slice ends, seconds; 0 without slices."""
        return float(self.end_ps.max(initial=0)) / PS_PER_S

    def seconds_by_kind(self) -> Any:
        """float64[n_replicas, kinds]: how long each replica did what."""
        cell = self.replica * len(KIND_NAMES) + self.kind
        cells = np.bincount(cell, self.end_ps - self.start_ps, self.n_replicas * len(KIND_NAMES))
        return cells.reshape(self.n_replicas, len(KIND_NAMES)) / PS_PER_S

    def between(self, start_s: float, stop_s: float) -> Timeline:
        """The part of every slice that lies in a window, seconds; times stay as they are."""
        first, last = int(seconds_to_ps(start_s)), int(seconds_to_ps(stop_s))
        inside = (self.end_ps > first) & (self.start_ps < last)
        kept = {name: getattr(self, name)[inside] for name in COLUMNS}
        kept["start_ps"] = np.maximum(kept["start_ps"], first)
        kept["end_ps"] = np.minimum(kept["end_ps"], last)
        return replace(self, **kept)

    def merged(self, resolution_s: float) -> Timeline:
        """For plots: slices thinner than `resolution_s` put together, keeping the time spent on each kind and row.

        Thin neighbours that start in the same `resolution_s` of time become one slice per kind and row, laid one after
        the other from where the first of them started: what is wrong about the picture is only their order.
        """
        resolution_ps = int(seconds_to_ps(resolution_s))
        if resolution_ps < 1:
            raise PecGymError(f"timeline: resolution_s={resolution_s} must be above 0")
        lines = self._joined()
        if not len(lines):
            return lines
        width = lines.end_ps - lines.start_ps
        thin, step = width < resolution_ps, lines.start_ps // resolution_ps
        with_previous = thin[1:] & thin[:-1] & (lines.replica[1:] == lines.replica[:-1]) & (step[1:] == step[:-1])
        group = np.concatenate([[0], np.cumsum(~with_previous)])
        group_start = lines.start_ps[np.flatnonzero(np.concatenate([[True], ~with_previous]))]
        order = np.lexsort((lines.row, lines.kind, group))
        keys = np.stack([group, lines.kind, lines.row])[:, order]
        firsts = np.flatnonzero(np.concatenate([[True], np.any(keys[:, 1:] != keys[:, :-1], axis=0)]))
        spent = np.add.reduceat(width[order], firsts)
        group = group[order][firsts]
        before = np.cumsum(spent) - spent
        start = group_start[group] + before - before[np.searchsorted(group, group)]
        first = order[firsts]
        return replace(
            self,
            replica=lines.replica[first],
            kind=lines.kind[first],
            start_ps=start,
            end_ps=start + spent,
            row=lines.row[first],
        )._joined()

    def fitted(self, max_slices: int) -> tuple[Timeline, float]:
        """The timeline merged to at most `max_slices` (or one per replica, kind and row), and its resolution, seconds.

        The resolution is 0 where nothing had to be merged, else the finest of 1 ms, 2 ms, 4 ms, ... that is enough.
        """
        lines, resolution_ps = self._joined(), 0
        while len(lines) > max_slices and resolution_ps < 2 * (self.end_ps.max() - self.start_ps.min()):
            resolution_ps = 2 * resolution_ps or _FINEST_PS
            lines = lines.merged(resolution_ps / PS_PER_S)
        return lines, resolution_ps / PS_PER_S

    def to_table(self, **labels: Any) -> pa.Table:
        """As an Arrow table; `labels` (policy, workload, scenario, seed, ...) go into its metadata."""
        labels |= {"n_replicas": self.n_replicas, "replicas_per_node": self.replicas_per_node}
        table = pa.table({name: getattr(self, name) for name in COLUMNS})
        return table.replace_schema_metadata({_METADATA: json.dumps(labels)})

    @classmethod
    def from_table(cls, table: pa.Table) -> Timeline:
        """The timeline of a table made by `to_table`."""
        labels = timeline_labels(table.schema)
        columns = {name: table.column(name).to_numpy() for name in COLUMNS}
        return cls(**columns, n_replicas=labels["n_replicas"], replicas_per_node=labels["replicas_per_node"])

    def save(self, path: str | Path, **labels: Any) -> None:
        """Writes `to_table(**labels)` as Parquet."""
        pq.write_table(self.to_table(**labels), path, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> Timeline:
        """Reads what `save` wrote. Raises PecGymError for a file that is something else."""
        try:
            return cls.from_table(pq.read_table(path))
        except KeyError as error:
            raise PecGymError(f"{path}: not a timeline, it has no {error}; write it with Timeline.save") from None

    def _joined(self) -> Timeline:
        """Touching neighbours of one replica, kind and row as one slice; empty slices dropped."""
        kept = np.flatnonzero(self.end_ps > self.start_ps)
        columns = {name: getattr(self, name)[kept] for name in COLUMNS}
        if not len(kept):
            return replace(self, **columns)
        same = columns["start_ps"][1:] == columns["end_ps"][:-1]
        for name in ("replica", "kind", "row"):
            same &= columns[name][1:] == columns[name][:-1]
        firsts = np.flatnonzero(np.concatenate([[True], ~same]))
        lasts = np.flatnonzero(np.concatenate([~same, [True]]))
        ends = columns["end_ps"][lasts]
        return replace(self, **{name: column[firsts] for name, column in columns.items()} | {"end_ps": ends})


def timeline_labels(schema: pa.Schema) -> dict[str, Any]:
    """The labels of a saved timeline, from its schema alone. Raises KeyError if it has none."""
    labels: dict[str, Any] = json.loads((schema.metadata or {})[_METADATA])
    return labels


def _refuse(values: Any, wrong: Any, what: str, replica: Any, start: Any) -> None:
    if np.any(wrong):
        i = int(np.flatnonzero(wrong)[0])
        raise PecGymError(
            f"timeline: the slice of replica {replica[i]} at {start[i] / PS_PER_S} s {what} ({int(values[i])})"
        )
