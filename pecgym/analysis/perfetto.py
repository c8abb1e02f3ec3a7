"""A run as a Chrome trace (JSON), which ui.perfetto.dev and chrome://tracing open.

Format: "Trace Event Format" (Chromium project), in the subset that Perfetto imports.

- One process per replica. Its thread "engine" has the slices of the timeline; beside it lie the phases of the requests
  (waiting, prefill, KV push, decode) as asynchronous slices, one per request.
- One process "global queue": a thread with the arrivals, the phase "queued" of every request, and the counter of
  shorts and longs in the queue.
- Arrows lead from a request's arrival to its prefill, and from there to its decode where the KV cache was pushed to
  another replica.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from pecgym.analysis.timeline import (
    COLOCATED,
    DECODE,
    KIND_NAMES,
    LONG_DECODE,
    LONG_PREFILL,
    MIXED,
    PREFILL,
    Timeline,
)
from pecgym.errors import PecGymError
from pecgym.units import PS_PER_S, seconds_to_ps

if TYPE_CHECKING:
    from pecgym.analysis.request_log import RequestLog

_QUEUE, _ENGINE, _ARRIVALS = 1, 1, 1
_LONGEST_ARRIVAL_PS = PS_PER_S // 1000
_PREFILL_KINDS = (PREFILL, MIXED, LONG_PREFILL, COLOCATED)
_DECODE_KINDS = (DECODE, MIXED, LONG_DECODE, COLOCATED)
_BLOCK = 1 << 16


def write_trace(
    log: RequestLog,
    path: str | Path,
    *,
    timeline: Timeline | None = None,
    start_s: float | None = None,
    stop_s: float | None = None,
) -> None:
    """Writes what happened in a window as a Chrome trace, compressed if `path` ends in .gz.

    Times are microseconds since the workload's time zero, with picoseconds as decimals. A phase that had not ended
    when the run (or the window) ended is cut there, with "unfinished": true among its arguments in the former case.

    Args:
        log: the requests.
        path: of the file to write; .gz compresses it.
        timeline: what the replicas did; default: the log's own.
        start_s: only what overlaps the window from here; default: from the beginning.
        stop_s: to here; default: to the end.

    Raises PecGymError if there is no timeline, or the window is empty.
    """
    timeline = timeline if timeline is not None else log.timeline
    if timeline is None:
        raise PecGymError("the run has no timeline: record one (record=true) before writing a trace")
    first_s, last_s = start_s or 0.0, math.inf if stop_s is None else stop_s
    last_s = min(last_s, max(log.facts.end_s, timeline.end_s))
    if not first_s < last_s:
        raise PecGymError(f"a trace from {first_s} s to {last_s} s: nothing happens in this window")
    window = (int(seconds_to_ps(first_s)), int(seconds_to_ps(last_s)))
    inside = timeline.between(first_s, last_s)
    flows = _Flows.of(log, inside, window)
    with _opened(Path(path)) as file:
        file.write('{"displayTimeUnit":"ms","otherData":')
        file.write(json.dumps({key: str(value) for key, value in log.facts.labels.items()}))
        file.write(',"traceEvents":[\n')
        events = chain(
            _names(timeline),
            _arrivals(log, flows, window),
            _queue_length(log, window),
            _engines(inside, flows),
            _phases(log, window),
        )
        file.write(next(events))
        file.writelines(f",\n{event}" for event in events)
        file.write("\n]}\n")


@dataclass(frozen=True)
class _Flows:
    """Arrows: each starts and ends inside a slice, named by its index (arrivals: by the request's)."""

    arrival: Any  # int64[a, 3]: request, slice of its prefill, picoseconds of its start
    push: Any  # int64[p, 5]: request, slice at the end of its prefill, ps there, slice of its first decode, ps there

    @staticmethod
    def of(log: RequestLog, timeline: Timeline, window: tuple[int, int]) -> _Flows:
        """The arrows whose two ends lie in slices of the window's timeline."""
        ps, counts = log.ps, log.counts
        started = np.flatnonzero((ps["start"] >= 0) & (ps["arrival"] >= window[0]))
        prefill = _slice_at(timeline, _PREFILL_KINDS, counts["replica"][started], ps["start"][started])
        found = prefill >= 0
        arrival = np.stack([started, prefill, ps["start"][started]], axis=1)[found]

        pushed = np.flatnonzero((ps["pushed"] >= 0) & (counts["decode_replica"] >= 0))
        leaves = ps["first_token"][pushed] - 1
        source = _slice_at(timeline, _PREFILL_KINDS, counts["replica"][pushed], leaves)
        target = _slice_from(timeline, _DECODE_KINDS, counts["decode_replica"][pushed], ps["pushed"][pushed])
        lands = np.maximum(ps["pushed"][pushed], timeline.start_ps[target]) if len(timeline) else leaves
        finish = np.where(ps["finish"][pushed] < 0, np.iinfo(np.int64).max, ps["finish"][pushed])
        found = (source >= 0) & (target >= 0) & (lands < finish)
        return _Flows(arrival, np.stack([pushed, source, leaves, target, lands], axis=1)[found])


def _slice_from(timeline: Timeline, kinds: tuple[int, ...], replica: Any, ps: Any) -> Any:
    """int64[n]: the first slice of these kinds on a replica that ends after a time; -1 without one."""
    found = np.full(len(replica), -1)
    eligible = np.flatnonzero(np.isin(timeline.kind, kinds))
    order = np.argsort(replica, kind="stable")
    asked_replicas, firsts = np.unique(replica[order], return_index=True)
    bounds = np.searchsorted(timeline.replica[eligible], np.stack([asked_replicas, asked_replicas + 1]))
    for asked, begin, end in zip(np.split(order, firsts[1:]), *bounds, strict=False):
        slices = eligible[begin:end]
        place = np.searchsorted(timeline.end_ps[slices], ps[asked], side="right")
        there = place < len(slices)
        found[asked[there]] = slices[place[there]]
    return found


def _slice_at(timeline: Timeline, kinds: tuple[int, ...], replica: Any, ps: Any) -> Any:
    """int64[n]: the slice of these kinds that a replica is in at a time; -1 if it is in none."""
    found = _slice_from(timeline, kinds, replica, ps)
    if not len(timeline):
        return found
    return np.where(timeline.start_ps[found] <= ps, found, -1)


def _process(replica: int) -> int:
    return _QUEUE + 1 + replica


def _names(timeline: Timeline) -> Iterator[str]:
    yield _metadata("process_name", _QUEUE, 0, name="global queue")
    yield _metadata("process_sort_index", _QUEUE, 0, sort_index=0)
    yield _metadata("thread_name", _QUEUE, _ARRIVALS, name="arrivals")
    for replica in range(timeline.n_replicas):
        process, node = _process(replica), replica // timeline.replicas_per_node
        yield _metadata("process_name", process, 0, name=f"replica {replica} (node {node})")
        yield _metadata("process_sort_index", process, 0, sort_index=replica + 1)
        yield _metadata("thread_name", process, _ENGINE, name="engine")


def _metadata(what: str, process: int, thread: int, **args: Any) -> str:
    return json.dumps({"ph": "M", "name": what, "pid": process, "tid": thread, "args": args})


def _arrivals(log: RequestLog, flows: _Flows, window: tuple[int, int]) -> Iterator[str]:
    """A short slice at every arrival, for the arrows to start from; it ends where the next begins."""
    ps = log.ps["arrival"]
    order = np.argsort(ps, kind="stable")
    order = order[(ps[order] >= window[0]) & (ps[order] < window[1])]
    start = ps[order]
    following = np.append(start[1:], window[1])
    end = np.minimum(following, start + _LONGEST_ARRIVAL_PS)
    has_arrow = np.zeros(len(log), bool)
    has_arrow[flows.arrival[:, 0]] = True
    place = f'"pid":{_QUEUE},"tid":{_ARRIVALS}'
    for request, began, ended in _rows(order, start, end):
        name = "long" if log.is_long[request] else "short"
        args = f'{{"request":{log.counts["row"][request]},"input_tokens":{log.counts["input_tokens"][request]}}}'
        yield f'{{"ph":"B","name":"{name} arrives",{place},"ts":{_us(began)},"args":{args}}}'
        if has_arrow[request]:
            yield _flow("s", "arrival", 2 * request, place, began)
        yield f'{{"ph":"E",{place},"ts":{_us(ended)}}}'


def _queue_length(log: RequestLog, window: tuple[int, int]) -> Iterator[str]:
    """The counter of the global queue: requests that have arrived and have no replica yet."""
    arrival, placed, is_long = log.ps["arrival"], log.ps["placed"], log.is_long
    left = placed >= 0
    time = np.concatenate([arrival, placed[left]])
    change = np.concatenate([np.ones(len(arrival), np.int64), np.full(int(left.sum()), -1)])
    of_long = np.concatenate([is_long, is_long[left]])
    moment, at = np.unique(np.clip(time, window[0], None), return_inverse=True)
    n_shorts, n_longs = (
        np.cumsum(np.bincount(at, change * who, len(moment))).astype(np.int64) for who in (~of_long, of_long)
    )
    changed = np.ones(len(moment), bool)
    changed[1:] = (np.diff(n_shorts) != 0) | (np.diff(n_longs) != 0)
    kept = changed & (moment < window[1])
    for now, shorts, longs in _rows(moment[kept], n_shorts[kept], n_longs[kept]):
        counts = f'{{"shorts":{shorts},"longs":{longs}}}'
        yield f'{{"ph":"C","name":"queue length","pid":{_QUEUE},"ts":{_us(now)},"args":{counts}}}'


def _engines(timeline: Timeline, flows: _Flows) -> Iterator[str]:
    """The slices of the timeline as pairs of begin and end, with the ends of arrows between them.

    Pairs, not events with durations: viewers round to nanoseconds, and a duration rounded apart from its start could
    reach into the next slice.
    """
    ends = [
        (flows.arrival[:, 1], flows.arrival[:, 2], 2 * flows.arrival[:, 0], "f"),
        (flows.push[:, 1], flows.push[:, 2], 2 * flows.push[:, 0] + 1, "s"),
        (flows.push[:, 3], flows.push[:, 4], 2 * flows.push[:, 0] + 1, "f"),
    ]
    of_slice, ps, identity = (np.concatenate([end[i] for end in ends]) for i in range(3))
    phase = np.concatenate([np.full(len(end[0]), end[3]) for end in ends])
    order = np.lexsort((ps, of_slice))
    arrows = _rows(of_slice[order], ps[order], identity[order], phase[order])
    arrow = next(arrows, None)
    columns = (timeline.replica, timeline.kind, timeline.start_ps, timeline.end_ps, timeline.row)
    for index, (replica, kind, start, end, row) in enumerate(_rows(*columns)):
        place = f'"pid":{_process(replica)},"tid":{_ENGINE}'
        name, args = KIND_NAMES[kind], ""
        if row >= 0:
            name, args = name.replace("long", f"long {row}", 1), f',"args":{{"request":{row}}}'
        yield f'{{"ph":"B","name":"{name}","cat":"{KIND_NAMES[kind]}",{place},"ts":{_us(start)}{args}}}'
        while arrow is not None and arrow[0] == index:
            yield _flow(arrow[3], "KV push" if arrow[2] % 2 else "arrival", arrow[2], place, arrow[1])
            arrow = next(arrows, None)
        yield f'{{"ph":"E",{place},"ts":{_us(end)}}}'


def _flow(phase: str, name: str, identity: int, place: str, ps: int) -> str:
    binding = ',"bp":"e"' if phase == "f" else ""
    return f'{{"ph":"{phase}"{binding},"id":{identity},"name":"{name}","cat":"request",{place},"ts":{_us(ps)}}}'


def _phases(log: RequestLog, window: tuple[int, int]) -> Iterator[str]:
    """The phases of every request, each on the process where it happens, in order of the requests."""
    ps, counts = log.ps, log.counts
    end_of_run = int(seconds_to_ps(log.facts.end_s))
    was_pushed = (ps["pushed"] >= 0) & (counts["decode_replica"] >= 0)
    decoder = np.where(counts["decode_replica"] >= 0, counts["decode_replica"], counts["replica"])
    decode_from = np.where(was_pushed, ps["pushed"], ps["first_token"])
    yield from _phase(log, "queued", None, ps["arrival"], ps["placed"], end_of_run, window)
    yield from _phase(log, "waiting", counts["replica"], ps["placed"], ps["start"], end_of_run, window)
    yield from _phase(log, "prefill", counts["replica"], ps["start"], ps["first_token"], end_of_run, window)
    pushed_from = np.where(was_pushed, ps["first_token"], -1)
    yield from _phase(log, "KV push", counts["replica"], pushed_from, ps["pushed"], end_of_run, window)
    yield from _phase(log, "decode", decoder, decode_from, ps["finish"], end_of_run, window)


def _phase(
    log: RequestLog, name: str, replica: Any, start: Any, end: Any, end_of_run: int, window: tuple[int, int]
) -> Iterator[str]:
    until = np.where(end >= 0, end, end_of_run)
    shown = np.flatnonzero((start >= 0) & (until > window[0]) & (start < window[1]) & (until > start))
    process = np.full(len(shown), _QUEUE) if replica is None else _process(replica[shown])
    events = _rows(
        shown, process, np.maximum(start[shown], window[0]), np.minimum(until[shown], window[1]), end[shown] < 0
    )
    for request, pid, began, ended, unfinished in events:
        kind = "long" if log.is_long[request] else "short"
        row = log.counts["row"][request]
        track = f'"name":"{name}","cat":"{kind}","id2":{{"local":"{name} {row}"}},"pid":{pid},"tid":0'
        yield f'{{"ph":"b",{track},"ts":{_us(began)},"args":{_facts(log, request, unfinished)}}}'
        yield f'{{"ph":"e",{track},"ts":{_us(ended)}}}'


def _facts(log: RequestLog, request: int, unfinished: bool) -> str:
    """A request's tokens, counts and delays (None: has not happened), as JSON."""
    ps, counts = log.ps, log.counts
    arrival = ps["arrival"][request]
    facts: dict[str, Any] = {"request": int(counts["row"][request])}
    for name in ("input_tokens", "output_tokens", "sp_degree", "preemptions", "evictions", "recomputed_tokens"):
        facts[name] = int(counts[name][request])
    for name, event in (("queueing_delay_s", "start"), ("ttft_s", "first_token"), ("jct_s", "finish")):
        happened = ps[event][request]
        facts[name] = float(happened - arrival) / PS_PER_S if happened >= 0 else None
    if unfinished:
        facts["unfinished"] = True
    return json.dumps(facts)


def _us(ps: int) -> str:
    """Microseconds with all six decimals that picoseconds give: exact, which a float would not be."""
    return f"{ps // 1_000_000}.{ps % 1_000_000:06d}"


def _rows(*columns: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of arrays as Python numbers, a block at a time: lists of all would be many times the arrays."""
    for first in range(0, len(columns[0]), _BLOCK):
        blocks: Iterable[list[Any]] = (column[first : first + _BLOCK].tolist() for column in columns)
        yield from zip(*blocks, strict=True)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file to write, which takes its place when it is complete; equal traces give equal bytes, compressed too."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        if path.suffix == ".gz":
            with (
                temporary.open("wb") as raw,
                gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8") as file,
            ):
                yield file
        else:
            with temporary.open("w", encoding="utf-8") as file:
                yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
