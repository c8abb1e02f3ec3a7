"""What replicas have done lately and are doing now, and who has waited, in narrow columns of time.

A column is what one pixel of a picture shows. Where a replica does several things within one, the column goes to the
one that is most behind on columns, so that over some columns each has its share of them; none is shown where it did
not occur. Memory depends on the numbers of columns and replicas, not on how long the run is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pecgym.analysis.timeline import COLOCATED, DECODE, KIND_NAMES, LONG_DECODE, LONG_PREFILL, MIXED, PREFILL
from pecgym.engine import state as layout
from pecgym.errors import EngineError
from pecgym.units import PS_PER_S

SUSPENDED, IDLE, FUTURE = len(KIND_NAMES), len(KIND_NAMES) + 1, len(KIND_NAMES) + 2
ACTIVITY_NAMES = (*KIND_NAMES, "long suspended", "idle")
_N_KINDS = len(ACTIVITY_NAMES)

COUNTS = ("queued", "waiting", "longs", "running", "kv_blocks")
"""Shorts in the global queue; shorts that wait there or at replicas for their first execution; longs that wait in their
queue; requests in the batches of replicas, and KV blocks in use on them, as of the last iteration boundary of each."""
_WAITS = 3  # so many of these are known for every moment


class Segments(NamedTuple):
    """Parts of replicas' time, int64[n] each; row: of the long it was for, else NONE."""

    replica: Any
    kind: Any
    start_ps: Any
    end_ps: Any
    row: Any

    def where(self, chosen: Any) -> Segments:
        """Those that an index or a mask chooses."""
        return Segments(*(column[chosen] for column in self))


def joined(*parts: Segments) -> Segments:
    """All segments, one part after the other."""
    return Segments(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def phases_of_longs(state: layout.State) -> Any:
    """int64[R]: the phase of the group that each replica is in (pecgym.engine.state), NONE without one."""
    leads = state.replicas.lead
    return np.where(leads == layout.NONE, layout.NONE, state.groups.phase[leads])


def rows_of_longs(state: layout.State) -> Any:
    """int64[R]: the row of the long that each replica serves or has suspended, NONE without one or while it gathers."""
    begun = phases_of_longs(state) > layout.GROUP_GATHERING
    slots = state.groups.slot[state.replicas.lead]
    return np.where(begun, state.requests.row[np.where(begun, slots, 0)], layout.NONE)


def segments_now(state: layout.State) -> Segments:
    """What replicas are doing, from its start to now; at most one segment each, none for one that does nothing.

    The engine's timeline has it only when it has ended.
    """
    replicas, now_ps, phases = state.replicas, int(state.cluster[0].now_ps), phases_of_longs(state)
    # A group whose part has just ended keeps its status until its members go on together, but has no event.
    serving = (replicas.status == layout.SERVING) & (state.event_ps[replicas.lead] != layout.NEVER_PS)
    decodes, prefills = replicas.with_decodes == 1, replicas.with_prefills == 1
    of_shorts = np.where(decodes, np.where(prefills, MIXED, DECODE), PREFILL)
    of_long = np.where(decodes | prefills, COLOCATED, LONG_DECODE)
    of_long = np.where(phases < layout.DECODE, LONG_PREFILL, of_long)
    stalled = serving & ((phases == layout.PREFILL_STALLED) | (phases == layout.DECODE_STALLED))
    return Segments(
        replica=np.arange(len(replicas)),
        kind=np.where(serving, of_long, of_shorts),
        start_ps=replicas.started_ps,
        end_ps=np.where(stalled, np.minimum(now_ps, state.groups.stop_ps[replicas.lead]), now_ps),
        row=np.where(serving, rows_of_longs(state), layout.NONE),
    ).where(serving | (replicas.status == layout.RUNNING))


def suspensions(segments: Segments, before: Any, after: Any, from_ps: int, to_ps: int) -> Segments:
    """The gaps, between two times, in which a replica has a long and nothing runs there.

    segments: all that lies between the times, each replica's in order. before, after: int64[R], `rows_of_longs` at
    the two times. A gap is a suspension if the long that was last seen there is the next to be seen there.
    """
    every = np.arange(len(before))
    first = Segments(
        every, np.full_like(every, IDLE), np.full_like(every, from_ps), np.full_like(every, from_ps), before
    )
    last = first._replace(start_ps=np.full_like(every, to_ps), end_ps=np.full_like(every, to_ps), row=after)
    line = joined(first, segments, last)
    line = line.where(np.argsort(line.replica, kind="stable"))
    seen = (line.row != layout.NONE) | (line.kind == IDLE)
    index = np.arange(len(seen))
    last_seen = np.maximum.accumulate(np.where(seen, index, 0))[:-1]
    next_seen = np.minimum.accumulate(np.where(seen, index, len(seen) - 1)[::-1])[::-1][1:]
    same_long = (line.row[last_seen] == line.row[next_seen]) & (line.row[last_seen] != layout.NONE)
    start, end = line.end_ps[:-1], line.start_ps[1:]
    gap = np.flatnonzero(same_long & (line.replica[:-1] == line.replica[1:]) & (start < end))
    kind = np.full(len(gap), SUSPENDED)
    return Segments(line.replica[gap], kind, start[gap], end[gap], line.row[last_seen[gap]])


def time_in_columns(segments: Segments, n_replicas: int, n_columns: int, column_ps: int) -> Any:
    """int64[n_columns, R, kinds]: picoseconds of each kind in columns that begin at time 0."""
    cells = segments.replica * _N_KINDS + segments.kind
    # Up to an edge every column is full, and the edge's own has the rest: ends count, starts count against.
    edges = np.concatenate([segments.end_ps, segments.start_ps])
    sign = np.repeat([1, -1], len(cells))
    column, rest_ps = np.divmod(edges, column_ps)
    where = (column, np.concatenate([cells, cells]))
    count = np.zeros((n_columns, n_replicas * _N_KINDS), np.int64)
    time_ps = np.zeros_like(count)
    np.add.at(count, where, sign)
    np.add.at(time_ps, where, sign * rest_ps)
    time_ps += (np.cumsum(count[::-1], axis=0)[::-1] - count) * column_ps
    return time_ps.reshape(n_columns, n_replicas, _N_KINDS)


def who_waited(state: layout.State, n_logged: int) -> list[tuple[Any, Any]]:
    """For each of the first COUNTS, when those who waited came and when they left, int64[n] and int64[m], in order.

    They are those who are in the system, and those who have finished since the log had `n_logged` rows. Raises
    EngineError if one of these was loaded with an earlier part of a workload.
    """
    cluster = state.cluster[0]
    live = np.ones(len(state.requests), bool)
    live[state.free_slots[: cluster.n_free]] = False
    requests, done = state.requests[live], state.log[n_logged : cluster.n_logged]
    if len(done) and done.row.min() < cluster.row_offset:
        raise EngineError("a workload that is loaded in parts cannot be drawn: load it as one")
    arrival, placed, start = (
        np.concatenate([requests[name], done[name]]) for name in ("arrival_ps", "placed_ps", "start_ps")
    )
    is_long = np.concatenate([requests.is_long, state.trace.is_long[done.row - cluster.row_offset]]) == 1
    return [
        (np.sort(arrival[whose]), np.sort(left[whose & (left != layout.NONE)]))
        for whose, left in ((~is_long, placed), (~is_long, start), (is_long, placed))
    ]


def most_in_columns(came_ps: Any, left_ps: Any, from_ps: int, to_ps: int, column_ps: int, n_columns: int) -> Any:
    """int64[n_columns]: the most who were there together between two times, in columns that begin at time 0; nobody is
    there who leaves at the moment when he comes."""
    edges = np.arange(n_columns) * column_ps
    times = np.unique(np.concatenate([edges, came_ps, left_ps, [from_ps, to_ps]]))
    begins = times[(times >= from_ps) & (times < to_ps)]
    there = np.searchsorted(came_ps, begins, "right") - np.searchsorted(left_ps, begins, "right")
    most = np.zeros(n_columns, np.int64)
    np.maximum.at(most, begins // column_ps, there)
    return most


class Activity:
    """The last `n_columns` columns of `column_ps` picoseconds each, counted from `start_ps`.

    The timeline that the simulator records is consumed: its slices are taken at every update, and none are left.
    """

    def __init__(self, n_replicas: int, n_columns: int, column_ps: int, start_ps: int) -> None:
        self.n_replicas, self.n_columns, self.column_ps, self.start_ps = n_replicas, n_columns, column_ps, start_ps
        self.now_ps = start_ps
        self._kinds = np.full((n_columns, n_replicas), FUTURE, np.uint8)
        self._counts = np.zeros((n_columns, len(COUNTS)), np.int64)
        self._latest, self._noted, self._n_logged = np.zeros(len(COUNTS), np.int64), -1, 0
        self._longs = np.full(n_replicas, layout.NONE)
        self._open_ps = np.zeros((n_replicas, _N_KINDS), np.int64)  # of the column that has not ended
        self._owed = np.zeros((n_replicas, _N_KINDS))  # columns that each kind is behind

    @property
    def column(self) -> int:
        """The number of the column that has not ended."""
        return (self.now_ps - self.start_ps) // self.column_ps

    @property
    def first(self) -> int:
        """The number of the first column that is kept."""
        return max(0, self.column - self.n_columns + 1)

    def update(self, state: layout.State) -> None:
        """Takes in what has happened since the last update, and what is under way.

        Raises EngineError if no timeline is recorded, or the simulator has gone back in time.
        """
        cluster = state.cluster[0]
        since_ps, now_ps = self.now_ps, int(cluster.now_ps)
        if state.settings[0].record == 0:
            raise EngineError("the simulator keeps no timeline to draw: make it with record=True")
        if now_ps < self.now_ps and self.now_ps != self.start_ps:
            then_s, now_s = self.now_ps / PS_PER_S, now_ps / PS_PER_S
            raise EngineError(
                f"the simulator has gone back from {then_s} s to {now_s} s since the last update: reset the picture"
            )
        slices = state.slices[: cluster.n_slices]
        done = Segments(*(slices[name].astype(np.int64) for name in Segments._fields))
        cluster.n_slices = 0
        if now_ps > self.now_ps:
            self._advance(joined(done, segments_now(state)), rows_of_longs(state), now_ps)
        self._longs = rows_of_longs(state)
        self._note_counts(state, since_ps)

    def kinds(self) -> Any:
        """uint8[n_columns, R]: what to show in the columns from `first` on; FUTURE in those that have not begun."""
        return self._kinds[(self.first + np.arange(self.n_columns)) % self.n_columns]

    def counts(self) -> dict[str, Any]:
        """int64[n_columns] of each of COUNTS: the most in each column from `first` on; 0 in those that have not begun.

        What is known only for the updates is between two of them as it was at the first.
        """
        rows = self._counts[(self.first + np.arange(self.n_columns)) % self.n_columns]
        rows[self.column - self.first + 1 :] = 0
        return dict(zip(COUNTS, rows.T, strict=True))

    def latest(self) -> dict[str, int]:
        """COUNTS at the last update."""
        return dict(zip(COUNTS, self._latest.tolist(), strict=True))

    def _advance(self, segments: Segments, longs: Any, now_ps: int) -> None:
        before, width = self.column, self.column_ps
        since_ps, self.now_ps = self.now_ps, now_ps
        if before < self.first:  # what lies between has left the window already
            before, since_ps = self.first, self.start_ps + self.first * width
            self._open_ps[:] = 0
        start, end = (np.clip(edge, since_ps, now_ps) for edge in (segments.start_ps, segments.end_ps))
        segments = segments._replace(start_ps=start, end_ps=end)
        gaps = suspensions(segments, self._longs, longs, since_ps, now_ps)
        segments = joined(segments, gaps)
        origin_ps = self.start_ps + before * width
        segments = segments._replace(start_ps=segments.start_ps - origin_ps, end_ps=segments.end_ps - origin_ps)
        time_ps = time_in_columns(segments, self.n_replicas, self.column - before + 1, width)
        time_ps[0] += self._open_ps
        self._open_ps = time_ps[-1].copy()
        for i, spent in enumerate(time_ps[:-1]):
            kinds, self._owed = self._choose(spent, width)
            self._kinds[(before + i) % self.n_columns] = kinds
        present_ps = now_ps - self.start_ps - self.column * width
        present = self._choose(self._open_ps, present_ps)[0] if present_ps else np.full(self.n_replicas, FUTURE)
        self._kinds[self.column % self.n_columns] = present

    def _choose(self, spent_ps: Any, width_ps: int) -> tuple[Any, Any]:
        """uint8[R]: the kind that each replica shows in a column; and what is owed to all kinds afterwards."""
        share = spent_ps / width_ps
        share[:, IDLE] = 1.0 - spent_ps.sum(axis=1) / width_ps
        owed = self._owed + share
        kinds = np.where(share > 0, owed, -np.inf).argmax(axis=1)
        owed[np.arange(self.n_replicas), kinds] -= 1.0
        return kinds.astype(np.uint8), owed

    def _note_counts(self, state: layout.State, since_ps: int) -> None:
        cluster, replicas, column = state.cluster[0], state.replicas, self.column
        begin = max((since_ps - self.start_ps) // self.column_ps, self.first)
        columns = np.arange(begin, column + 1) % self.n_columns
        noted = self._counts[columns[0]].copy() if begin == self._noted else np.zeros(len(COUNTS), np.int64)
        origin_ps = self.start_ps + begin * self.column_ps
        span_ps = max(since_ps - origin_ps, 0), self.now_ps - origin_ps
        n_logged = self._n_logged if self._n_logged <= cluster.n_logged else 0  # the log was handed to a sink
        for k, (came_ps, left_ps) in enumerate(who_waited(state, n_logged)):
            most = most_in_columns(came_ps - origin_ps, left_ps - origin_ps, *span_ps, self.column_ps, len(columns))
            self._counts[columns, k] = most
        queued = int(cluster.n_queued)
        latest = np.array(
            [
                queued,
                queued + replicas.n_waiting.sum(),
                cluster.n_longs,
                (replicas.n_prefills + replicas.n_decodes).sum(),
                replicas.used_blocks.sum(),
            ]
        )
        self._counts[columns[:-1], _WAITS:] = self._latest[_WAITS:]
        self._counts[columns[-1], _WAITS:] = latest[_WAITS:]
        self._counts[columns[0]] = np.maximum(self._counts[columns[0]], noted)
        self._latest, self._noted, self._n_logged = latest, column, int(cluster.n_logged)
