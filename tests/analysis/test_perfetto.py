"""The Chrome trace, read back and held against its format's rules and against the log."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.analysis.perfetto import write_trace
from pecgym.analysis.timeline import LONG_PREFILL
from pecgym.errors import PecGymError
from pecgym.units import PS_PER_S
from tests.analysis.synthetic import GROUP, synthetic_run

LOG, TIMELINE = synthetic_run()


def ps(event: dict[str, Any]) -> int:
    return round(event["ts"] * 10**6)


def written(path: Path, **options: Any) -> list[dict[str, Any]]:
    write_trace(LOG, path, timeline=TIMELINE, **options)
    events: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    return events


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return written(tmp_path_factory.mktemp("trace") / "trace.json")


def threads(events: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """The B, E and flow events of each thread, in the order of the file."""
    by_thread = defaultdict(list)
    for event in events:
        if event["ph"] in "BEsf":
            by_thread[event["pid"], event["tid"]].append(event)
    return by_thread


def test_slices_of_a_thread_are_closed_before_the_next_opens_in_order_of_time(events: list[dict[str, Any]]) -> None:
    for on_thread in threads(events).values():
        times = [ps(event) for event in on_thread]
        assert times == sorted(times)
        depth = 0
        for event in on_thread:
            depth += {"B": 1, "E": -1}.get(event["ph"], 0)
            assert depth in (0, 1)
        assert depth == 0


def test_every_arrow_has_two_ends_inside_slices(events: list[dict[str, Any]]) -> None:
    ends: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    for on_thread in threads(events).values():
        opened = None
        for event in on_thread:
            if event["ph"] in "BE":
                opened = event if event["ph"] == "B" else None
            else:
                assert opened is not None
                assert ps(opened) <= ps(event)
                assert event["ph"] not in ends[event["id"]]
                ends[event["id"]][event["ph"]] = event | {"in": opened["name"]}
    assert all(set(pair) == {"s", "f"} and ps(pair["s"]) <= ps(pair["f"]) for pair in ends.values())
    names = [pair["s"]["name"] for pair in ends.values()]
    assert names.count("arrival") == np.sum(LOG.ps["start"] >= 0)
    assert names.count("KV push") == np.sum(LOG.ps["pushed"] >= 0)
    for identity, pair in ends.items():
        request, is_push = divmod(identity, 2)
        replica = LOG.counts["decode_replica" if is_push else "replica"][request]
        assert pair["f"]["pid"] == replica + 2
        if not is_push:
            assert pair["f"]["in"] == (f"long {request} prefill" if LOG.is_long[request] else "prefill")
            assert ps(pair["s"]) == LOG.ps["arrival"][request]


def test_engines_show_the_timeline_to_the_picosecond(events: list[dict[str, Any]]) -> None:
    shown = []
    for (process, _), on_thread in threads(events).items():
        if process > 1:
            slices = [event for event in on_thread if event["ph"] in "BE"]
            shown += [(process - 2, ps(b), ps(e)) for b, e in zip(slices[::2], slices[1::2], strict=True)]
    columns = (TIMELINE.replica, TIMELINE.start_ps, TIMELINE.end_ps)
    assert sorted(shown) == sorted(zip(*(column.tolist() for column in columns), strict=True))
    names = {event["name"] for event in events if event["ph"] == "B"}
    rows = np.unique(TIMELINE.row[TIMELINE.kind == LONG_PREFILL])
    assert {f"long {row} prefill" for row in rows} | {"prefill", "decode", "short arrives"} <= names


def test_phases_of_a_request_follow_each_other_from_arrival_to_finish(events: list[dict[str, Any]]) -> None:
    phases: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
    opened = {}
    for event in events:
        key = (event["pid"], event.get("cat"), json.dumps(event.get("id2")))
        if event["ph"] == "b":
            assert key not in opened
            opened[key] = event
        elif event["ph"] == "e":
            began = opened.pop(key)
            phases[began["args"]["request"]][event["name"]] = (ps(began), ps(event))
    assert not opened
    request = int(np.flatnonzero(~LOG.is_long)[7])
    event_ps = {name: int(values[request]) for name, values in LOG.ps.items()}
    assert phases[request]["KV push"] == (event_ps["first_token"], event_ps["pushed"])
    assert phases[request]["decode"] == (event_ps["pushed"], event_ps["finish"])
    for request in range(len(LOG)):
        spans = sorted(phases[request].values())
        assert spans[0][0] == LOG.ps["arrival"][request]
        assert all(before[1] == after[0] for before, after in pairwise(spans))
        unfinished = LOG.ps["finish"][request] < 0
        assert spans[-1][1] == (round(LOG.facts.end_s * PS_PER_S) if unfinished else LOG.ps["finish"][request])


def test_arguments_are_the_tokens_and_delays_of_the_request(events: list[dict[str, Any]]) -> None:
    last_long = int(np.flatnonzero(LOG.is_long)[-1])
    args = next(
        e["args"] for e in events if e["ph"] == "b" and e["name"] == "prefill" and e["args"]["request"] == last_long
    )
    assert args["unfinished"]
    assert args["jct_s"] is None
    assert args["sp_degree"] == len(GROUP)
    assert args["input_tokens"] == LOG.counts["input_tokens"][last_long]
    assert args["queueing_delay_s"] == pytest.approx(
        float(LOG.ps["start"][last_long] - LOG.ps["arrival"][last_long]) / PS_PER_S
    )


def test_counter_is_the_length_of_the_global_queue(events: list[dict[str, Any]]) -> None:
    counters = [event for event in events if event["ph"] == "C"]
    assert len(counters) > 100
    for event in counters:
        now = ps(event)
        waits = (LOG.ps["arrival"] <= now) & ((LOG.ps["placed"] > now) | (LOG.ps["placed"] < 0))
        assert event["args"] == {"shorts": np.sum(waits & ~LOG.is_long), "longs": np.sum(waits & LOG.is_long)}


def test_processes_are_named_and_sorted_by_replica(events: list[dict[str, Any]]) -> None:
    names = {e["pid"]: e["args"]["name"] for e in events if e.get("name") == "process_name"}
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e.get("name") == "process_sort_index"}
    in_order = [names[process] for process in sorted(order, key=order.__getitem__)]
    assert in_order == ["global queue", *(f"replica {r} (node {r // 4})" for r in range(8))]


def test_a_window_holds_only_what_overlaps_it_and_its_arrows_stay_whole(tmp_path: Path) -> None:
    window = written(tmp_path / "w.json", start_s=40.0, stop_s=60.0)
    timed = [ps(event) for event in window if event["ph"] != "M"]
    assert min(timed) >= 40 * PS_PER_S
    assert max(timed) <= 60 * PS_PER_S
    starts, ends = ({e["id"] for e in window if e["ph"] == phase} for phase in "sf")
    assert starts == ends
    assert len(starts) > 50
    counts = [event["args"] for event in window if event["ph"] == "C"]
    now = 40 * PS_PER_S
    assert counts[0]["longs"] == np.sum((LOG.ps["arrival"] <= now) & (LOG.ps["placed"] > now) & LOG.is_long)


def test_a_compressed_trace_is_the_same_and_repeats_to_the_byte(tmp_path: Path) -> None:
    written(tmp_path / "t.json")
    for name in ("a.json.gz", "b.json.gz"):
        write_trace(LOG, tmp_path / name, timeline=TIMELINE)
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "t.json").read_bytes()
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_no_timeline_and_empty_windows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PecGymError, match="no timeline"):
        write_trace(LOG, tmp_path / "t.json")
    with pytest.raises(PecGymError, match="nothing happens"):
        write_trace(LOG, tmp_path / "t.json", timeline=TIMELINE, start_s=1e6)
    assert not list(tmp_path.iterdir())
