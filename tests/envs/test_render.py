"""Rendering: the picture against the timeline of the same run, the table against the state, windows and files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from PIL import Image, ImageSequence

from pecgym import Cluster, make_cluster
from pecgym.analysis import report
from pecgym.analysis.timeline import DECODE as DECODE_SLICE
from pecgym.analysis.timeline import KIND_NAMES, LONG_DECODE, LONG_PREFILL, PREFILL
from pecgym.engine import Simulator
from pecgym.engine.state import DECODE, NONE, SUSPENDED_LONG
from pecgym.envs.render import Gantt, Window, live_table, save_gif
from pecgym.envs.render.activity import ACTIVITY_NAMES, COUNTS, FUTURE, IDLE, SUSPENDED, Activity
from pecgym.envs.render.colours import COLOURS, PAPER
from pecgym.errors import EngineError, PecGymError
from pecgym.policies.view import group, placement
from pecgym.random import random_stream
from pecgym.units import PS_PER_S
from pecgym.workload import generate, rewrite_long
from tests.engine.group_world import FAST, LONG, PS, SHORT, Request, make

N_PS = 60_000


def busy_requests(seed: int, n: int = 60) -> list[Request]:
    """Shorts and longs that meet, in the world of tests/engine/group_world.py, all served within N_PS."""
    random = random_stream(seed, "requests")
    arrivals = np.sort(random.integers(0, N_PS // 6, n))
    return [
        (int(at), int(random.integers(20, 60)), int(random.integers(1, 12)), LONG)
        if random.random() < 0.2
        else (int(at), int(random.integers(1, 9)), int(random.integers(1, 9)), SHORT)
        for at in arrivals
    ]


def drawn_by_hand(simulator: Simulator, n_ps: int) -> Any:
    """uint8[n_ps, R]: the kind of every picosecond, from the log and the whole timeline of a run that has ended.

    A long is suspended where it has begun and not ended on a replica, and nothing runs there.
    """
    shown = np.full((n_ps, len(simulator.state.replicas)), IDLE, np.uint8)
    slices = simulator.timeline()
    ends = {int(row.row): int(row.finish_ps) for row in simulator.finished()}
    for entry in slices[slices.row != NONE]:
        shown[entry.start_ps : ends[int(entry.row)], entry.replica] = SUSPENDED
    for entry in slices:
        shown[entry.start_ps : entry.end_ps, entry.replica] = entry.kind
    return shown


def take_every_decision(simulator: Simulator, at_each: Callable[[], None]) -> None:
    """Shorts in turn to all replicas, where they preempt; a long to two replicas as soon as two serve none."""
    n, turn = len(simulator.state.replicas), 0
    while (decision := simulator.next_decision()) is not None:
        at_each()
        free = np.flatnonzero(simulator.state.replicas.lead == NONE)
        if decision.kind == "place":
            simulator.apply(placement(turn % n, NONE, True))
            turn += 1
        else:
            simulator.apply(group(int(free[0]), 2, FAST) if len(free) >= 2 else NONE)


@pytest.mark.parametrize(
    ("policy", "rules"),
    [
        ("pecsched", {"sp_degree": 2}),
        ("pecsched", {"sp_degree": 2, "colocation_tokens": 0}),
        ("pecsched", {"colocation_tokens": 6, "decode_replicas": 2.0, "sp_degree": 2}),
        ("fifo", {"sp_degree": 2}),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_picosecond_has_the_kind_of_the_timeline(policy: str, rules: dict[str, Any], seed: int) -> None:
    options: dict[str, Any] = {"policy": policy, "replicas": 4, "per_node": 2, "rules": rules, "record": True}
    whole, watched = (make(busy_requests(seed), **options) for _ in range(2))
    assert whole.run(N_PS * PS)
    activity, random = Activity(4, N_PS, 1, 0), random_stream(seed, "updates")
    for until_ps in np.sort(random.integers(0, N_PS, 300)):
        watched.run(int(until_ps) * PS)
        activity.update(watched.state)
    watched.run(N_PS * PS)
    activity.update(watched.state)
    shown = drawn_by_hand(whole, N_PS)
    np.testing.assert_array_equal(activity.kinds()[: activity.now_ps], shown[: activity.now_ps])
    if policy == "pecsched":
        assert {SUSPENDED, LONG_PREFILL, PREFILL, IDLE} <= set(np.unique(shown))


def test_what_is_drawn_at_decisions_is_right_where_the_long_has_just_ended_a_part() -> None:
    requests = busy_requests(4)
    whole = make(requests, policy=None, replicas=4, record=True)
    take_every_decision(whole, lambda: None)
    watched = make(requests, policy=None, replicas=4, record=True)
    activity = Activity(4, N_PS, 1, 0)
    take_every_decision(watched, lambda: activity.update(watched.state))
    activity.update(watched.state)
    assert activity.now_ps > 0
    shown = drawn_by_hand(whole, N_PS)
    np.testing.assert_array_equal(activity.kinds()[: activity.now_ps], shown[: activity.now_ps])
    assert set(np.unique(shown)) >= {SUSPENDED, LONG_PREFILL, LONG_DECODE}


def test_one_update_draws_what_many_do_and_the_window_slides() -> None:
    options: dict[str, Any] = {"policy": "pecsched", "replicas": 3, "record": True}
    often, once, whole = (make(busy_requests(5), **options) for _ in range(3))
    whole.run(N_PS * PS)
    end_ps, n_columns = 12_000, 700
    activities = [Activity(3, n_columns, 1, 0) for _ in range(2)]
    for until_ps in range(0, end_ps + 1, 100):
        often.run(until_ps * PS)
        activities[0].update(often.state)
    once.run(end_ps * PS)
    activities[1].update(once.state)
    expected = drawn_by_hand(whole, N_PS)[end_ps - n_columns + 1 : end_ps]
    for activity in activities:
        assert activity.first == end_ps - n_columns + 1
        kinds = activity.kinds()
        np.testing.assert_array_equal(kinds[:-1], expected)
        assert (kinds[-1] == FUTURE).all()  # the column that begins now


@pytest.mark.parametrize(("column_ps", "seed"), [(100, 8), (300, 7), (500, 6)])
def test_wide_columns_show_only_what_occurs_and_each_kind_for_its_time(column_ps: int, seed: int) -> None:
    n = 3
    options: dict[str, Any] = {"policy": "pecsched", "replicas": n, "record": True}
    whole, watched = (make(busy_requests(seed), **options) for _ in range(2))
    whole.run(N_PS * PS)
    activity = Activity(n, N_PS // column_ps, column_ps, 0)
    for until_ps in range(0, N_PS, 37):
        watched.run(until_ps * PS)
        activity.update(watched.state)
    n_columns = activity.now_ps // column_ps
    exact = drawn_by_hand(whole, N_PS)[: n_columns * column_ps].reshape(n_columns, column_ps, n)
    kinds = activity.kinds()[:n_columns]
    assert (exact == kinds[:, None, :]).any(axis=1).all()
    columns_of = (kinds[..., None] == np.arange(IDLE + 1)).sum(axis=0)
    time_of = (exact[..., None] == np.arange(IDLE + 1)).sum(axis=(0, 1)) / column_ps
    assert np.abs(columns_of - time_of).max() < 1.5
    assert time_of.max(axis=0)[[PREFILL, LONG_PREFILL]].min() > 3


def paper_cluster(policy: str = "pecsched/Dis", rate: float = 1.0, model: str = "mistral-7b") -> Cluster:
    """32 replicas (mistral-7b) or 8 (llama-3.1-70b) under Azure-like shorts and the paper's longs."""
    hour = rewrite_long(generate("azure2023_conv+azure2023_code"), "paper").scale_rate(rate)
    return make_cluster(model, "p4de_x4", policy=policy, workload=hour, record=True)


def colours_of(gantt: Gantt, frame: np.ndarray, n_replicas: int, times_s: Any) -> Any:
    """uint8[times, R, 3]: the pixels that show these times."""
    pixels = [[frame[gantt.position(r, t)[::-1]] for r in range(n_replicas)] for t in times_s]
    return np.array(pixels)


@pytest.mark.parametrize("model", ["llama-3.1-70b", "mistral-7b"])
def test_pixels_have_the_colour_of_what_the_timeline_says(model: str) -> None:
    whole, watched = paper_cluster(model=model), paper_cluster(model=model)
    whole.simulator.run(400.0)
    gantt = Gantt(60.0, (800, 450))
    for second in range(1, 201):
        watched.simulator.run(float(second))
        gantt.update(watched.simulator)
    frame = gantt.frame("a caption")
    assert frame.shape == (450, 800, 3)
    assert frame.dtype == np.uint8
    timeline = whole.log().timeline
    assert timeline is not None
    # Wide slices only: a pixel shows 0.09 s.
    wide = timeline.between(141.0, 200.0)
    for i in np.flatnonzero(wide.end_ps - wide.start_ps > PS_PER_S):
        middle_s = float((wide.start_ps[i] + wide.end_ps[i]) / 2 / PS_PER_S)
        pixel = colours_of(gantt, frame, watched.n_replicas, [middle_s])[0, wide.replica[i]]
        assert pixel.tolist() == COLOURS[wide.kind[i]].tolist()
    # Over the window, every replica has as many pixels of a kind as it has time of it.
    times_s = np.arange(142.0, 198.0, 0.01)
    shown = colours_of(gantt, frame, watched.n_replicas, times_s)
    spent = timeline.between(142.0, 198.0).seconds_by_kind()
    for kind in range(len(KIND_NAMES)):
        seen_s = (shown == COLOURS[kind]).all(axis=2).sum(axis=0) * 0.01
        assert np.abs(seen_s - spent[:, kind]).max() < 0.5
    assert {LONG_PREFILL, PREFILL} <= set(timeline.kind.tolist())


def test_an_idle_replica_what_runs_now_and_the_time_to_come() -> None:
    """The long of 0 decodes alone in one run, of which the timeline has nothing before its end."""
    simulator = make([(0, 30, 50, LONG)], replicas=3, rules={"sp_degree": 2}, record=True)
    gantt = Gantt(20_000 * PS, (800, 450))
    simulator.run(3000 * PS)
    gantt.update(simulator)
    assert len(simulator.timeline()) == 0
    simulator.run(6000 * PS)
    assert len(simulator.timeline()) == 0
    assert simulator.state.groups[0].phase == DECODE
    gantt.update(simulator)
    frame = gantt.frame()
    prefill_s, decode_s, later_s = 450 * PS, 5000 * PS, 6200 * PS
    shown = colours_of(gantt, frame, 3, [prefill_s, decode_s, later_s])
    assert shown[0, :2].tolist() == [COLOURS[LONG_PREFILL].tolist()] * 2
    assert shown[1, :2].tolist() == [COLOURS[LONG_DECODE].tolist()] * 2
    assert shown[:2, 2].tolist() == [COLOURS[IDLE].tolist()] * 2
    assert (shown[2] == PAPER).all()
    with pytest.raises(EngineError, match="not in the picture"):
        gantt.position(3, prefill_s)
    with pytest.raises(EngineError, match="not in the picture"):
        gantt.position(0, 30_000 * PS)


def test_a_suspended_long_is_shown_on_the_members_that_do_nothing() -> None:
    """The long computes until 600 on both; from 610 the short of 500 prefills for 150 on one of them, then decodes."""
    simulator = make([(0, 30, 3, LONG), (500, 5, 20, SHORT)], replicas=2, rules={"sp_degree": 2}, record=True)
    gantt = Gantt(4000 * PS, (800, 450))
    simulator.run(800 * PS)
    assert (simulator.state.replicas.place_class == SUSPENDED_LONG).all()
    gantt.update(simulator)
    frame = gantt.frame()
    short = int(simulator.state.requests.replica[simulator.state.requests.row == 1][0])
    times_s = [time_ps * PS for time_ps in (100, 595, 606, 700, 790)]
    kinds = [[LONG_PREFILL, LONG_PREFILL, SUSPENDED, PREFILL, DECODE_SLICE], [LONG_PREFILL] * 2 + [SUSPENDED] * 3]
    shown = colours_of(gantt, frame, 2, times_s)
    for r, expected in zip((short, 1 - short), kinds, strict=True):
        np.testing.assert_array_equal(shown[:, r], COLOURS[expected])


@pytest.mark.parametrize("seed", [4, 9])
def test_who_waits_is_right_at_every_picosecond_though_it_is_looked_at_in_decisions_alone(seed: int) -> None:
    requests = busy_requests(seed)
    simulator = make(requests, policy=None, replicas=4, record=True)
    activity = Activity(4, N_PS, 1, 0)
    take_every_decision(simulator, lambda: activity.update(simulator.state))
    activity.update(simulator.state)
    log, counts = simulator.finished(), activity.counts()
    is_long = np.array([requests[row][3] == LONG for row in log.row])
    for name, whose, left in (
        ("queued", ~is_long, log.placed_ps),
        ("waiting", ~is_long, log.start_ps),
        ("longs", is_long, log.placed_ps),
    ):
        expected = np.zeros(N_PS, np.int64)
        for came_ps, left_ps in zip(log.arrival_ps[whose], left[whose], strict=True):
            expected[came_ps:left_ps] += 1
        np.testing.assert_array_equal(counts[name][: activity.now_ps], expected[: activity.now_ps])
        assert expected.max() > 1 or name == "queued"  # every short is placed at once


def test_queue_lengths_are_the_most_in_a_column_and_batches_as_seen_last() -> None:
    """One at a time: the short of 0 ends at 370, and the next of the seven that come at 100 begins."""
    requests: list[Request] = [(0, 5, 3, SHORT), *[(100, 5, 3, SHORT)] * 7]
    simulator = make(requests, policy="fifo", batching="none", record=True)
    activity = Activity(1, 20, 100, 0)
    seen = []
    for until_ps in (50, 150, 330, 350, 390, 720):
        simulator.run(until_ps * PS)
        activity.update(simulator.state)
        seen.append(activity.latest())
    assert [each["waiting"] for each in seen] == [0, 7, 7, 7, 6, 6]
    assert [each["running"] for each in seen] == [1, 1, 1, 1, 1, 1]
    counts = activity.counts()
    assert counts["waiting"].tolist() == [0, 7, 7, 7, 6, 6, 6, 6] + [0] * 12
    assert counts["kv_blocks"][7] == seen[-1]["kv_blocks"] > 0
    assert set(counts) == set(COUNTS)
    assert (counts["queued"] <= counts["waiting"]).all()


def test_memory_stays_as_it_is_over_thousands_of_updates() -> None:
    simulator = paper_cluster(rate=0.9).simulator
    gantt = Gantt(30.0)
    sizes, n_taken = set(), 0
    for i in range(1, 3001):
        simulator.run(i * 0.3)
        n_taken += len(simulator.timeline())
        gantt.update(simulator)
        assert len(simulator.timeline()) == 0
        if i >= 300 and i % 300 == 0:
            gantt.frame()
            arrays = [a for a in vars(gantt._activity).values() if isinstance(a, np.ndarray)]
            sizes.add(sum(a.nbytes for a in arrays))
    assert len(sizes) == 1
    assert len(simulator.state.slices) < n_taken / 20


def test_a_picture_begins_where_it_is_reset_and_must_be_when_time_goes_back() -> None:
    cluster = paper_cluster(rate=0.5, model="llama-3.1-70b")
    gantt = Gantt(60.0)
    cluster.simulator.run(100.0)
    start = cluster.snapshot()
    gantt.reset(100.0)
    gantt.update(cluster.simulator)
    cluster.simulator.run(130.0)
    gantt.update(cluster.simulator)
    first = gantt.frame()
    assert gantt.position(0, 100.0)[0] < gantt.position(0, 159.0)[0]
    with pytest.raises(EngineError, match="not in the picture"):
        gantt.position(0, 99.0)
    cluster.restore(start)
    with pytest.raises(EngineError, match=r"gone back from 130\.0 s to 100\.0 s"):
        gantt.update(cluster.simulator)
    gantt.reset(100.0)
    for until_s in (100.0, 130.0):
        cluster.simulator.run(until_s)
        gantt.update(cluster.simulator)
    np.testing.assert_array_equal(gantt.frame(), first)


@pytest.mark.parametrize(("n", "per_node"), [(1, 1), (8, 2), (32, 8), (300, 4), (1500, 8)])
def test_clusters_of_any_size_have_rows_in_the_frame(n: int, per_node: int) -> None:
    simulator = make([(0, 50, 9, SHORT)], policy="fifo", replicas=n, per_node=per_node, record=True)
    gantt = Gantt(100_000 * PS)
    simulator.run(500 * PS)
    gantt.update(simulator)
    frame = gantt.frame("caption " * 60)
    x, y = gantt.position(0, 400 * PS)
    assert frame[y, x].tolist() == COLOURS[PREFILL].tolist()
    lines = []
    for r in range(n):
        try:
            lines.append(gantt.position(r, 0.0)[1])
        except EngineError:
            assert n > 540
    assert lines == sorted(set(lines))
    assert len(lines) >= min(n, 250)
    assert 0 < min(lines) <= max(lines) < 540


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(PecGymError, match="480 x 320"):
        Gantt(size=(300, 200))
    for window_s in (0.0, -1.0, float("nan"), float("inf"), 1e-12):
        with pytest.raises(PecGymError, match="window_s"):
            Gantt(window_s)
    with pytest.raises(EngineError, match="call update"):
        Gantt().frame()
    with pytest.raises(EngineError, match="record=True"):
        Gantt().update(make([(0, 5, 1, SHORT)]))


def test_colours_are_those_of_the_report() -> None:
    css = (Path(report.__file__).parent / "page.css").read_text()
    light = re.findall(r"--kind(\d): light-dark\(#(\w{6})", css)
    assert [int(kind) for kind, _ in light] == list(range(len(KIND_NAMES)))
    assert [bytes(COLOURS[int(kind)]).hex() for kind, _ in light] == [colour for _, colour in light]
    assert len({tuple(colour) for colour in COLOURS.tolist()}) == len(COLOURS) == len(ACTIVITY_NAMES) + 1


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, pecgym.envs.render; assert not {'matplotlib', 'pygame', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the table ------------------------------------------------------------------------------------------------------


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def test_the_table_says_what_the_state_says_and_keeps_its_columns() -> None:
    simulator = paper_cluster(rate=1.2).simulator
    starts, doing = set(), set()
    for until_s in (0.0, 50.0, 200.0, 800.0):
        simulator.run(until_s)
        text = live_table(simulator, f"pecsched at {until_s}")
        lines = plain(text)
        assert "\x1b[" in text
        assert max(map(len, lines)) <= 100
        assert lines[0] == f"pecsched at {until_s}"
        cluster, state = simulator.state.cluster[0], simulator.state
        assert lines[1].startswith(f"{until_s:.3f} s   waiting: {cluster.n_queued} shorts in the global queue")
        assert f"{cluster.n_longs} longs" in lines[1]
        heading = next(line for line in lines if "doing" in line)
        starts.add(heading.index("KV memory"))
        rows = lines[-32:]
        for r, (row, replica) in enumerate(zip(rows, state.replicas, strict=True)):
            assert [int(word) for word in row.split()[:2]] == [r // 8, r]
            kv = replica.used_blocks / state.settings[0].capacity_blocks
            assert row.rstrip().endswith(f"{kv:.0%}")
            numbers = row[: starts.copy().pop()].split()[-3:]
            counts = (replica.n_prefills + replica.n_decodes, replica.n_waiting, replica.queued_tokens)
            assert numbers == [f"{count:,}" for count in counts]
            if replica.lead != NONE:
                assert f"#{state.requests.row[state.groups.slot[replica.lead]]} " in row
            doing |= {name for name in ACTIVITY_NAMES if f"■ {name}  " in row}
        assert len({row.index("■") for row in rows}) == 1
    assert len(starts) == 1
    assert doing >= {"decode", "long prefill", "long suspended", "idle"}


def test_the_progress_of_a_long_goes_up_to_its_end() -> None:
    """Prefill 0 to 1800; 25 tokens of decode from then; suspended by the short of 500."""
    simulator = make([(0, 30, 26, LONG), (500, 5, 1, SHORT)], record=False)
    seen = []
    for until_ps in (1, 450, 700, 1500, 2100, 3000, 5000):
        simulator.run(until_ps * PS)
        found = re.search(r"#0 (\w+) (\d+)%", plain(live_table(simulator))[-1])
        assert found
        seen.append((found[1], int(found[2])))
    assert seen[:2] == [("prefill", 0), ("prefill", 25)]
    assert seen[2] == ("prefill", 33)  # one of three operators, the short runs
    assert [phase for phase, _ in seen] == sorted((phase for phase, _ in seen), reverse=True)
    for phase in ("prefill", "decode"):
        shares = [share for said, share in seen if said == phase]
        assert shares == sorted(shares)
        assert len(set(shares)) >= 3
    simulator.run(N_PS * PS)
    assert "#0" not in plain(live_table(simulator))[-1]


# -- where frames go ------------------------------------------------------------------------------------------------


def some_frames(n: int) -> list[np.ndarray]:
    simulator, gantt, frames = paper_cluster().simulator, Gantt(120.0, (800, 450)), []
    for i in range(n):
        simulator.run(100.0 + 1.5 * i)
        gantt.update(simulator)
        frames.append(gantt.frame("pecsched/Dis"))
    return frames


def test_a_gif_keeps_frames_colours_and_time_and_is_small(tmp_path: Path) -> None:
    frames, path = some_frames(100), tmp_path / "picture.gif"
    save_gif(frames, path, 0.12)
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as file:
        pictures = [(frame.info["duration"], np.array(frame.convert("RGB"))) for frame in ImageSequence.Iterator(file)]
        assert file.info["loop"] == 0
    assert len(pictures) == 100
    assert {duration for duration, _ in pictures} == {120}
    for (_, picture), frame in zip(pictures, frames, strict=True):
        of_kinds = np.isin(frame.astype(int) @ [65536, 256, 1], COLOURS.astype(int) @ [65536, 256, 1])
        np.testing.assert_array_equal(picture[of_kinds], frame[of_kinds])
        assert np.abs(picture.astype(int) - frame).max() < 64


def test_a_gif_of_nothing_is_refused(tmp_path: Path) -> None:
    frame = np.zeros((4, 6, 3), np.uint8)
    for frames in ([], [frame, frame[:2]]):
        with pytest.raises(PecGymError, match="frames of one size"):
            save_gif(frames, tmp_path / "x.gif")
    with pytest.raises(PecGymError, match=r"0\.02"):
        save_gif([frame], tmp_path / "x.gif", 0.0)


def test_a_window_shows_frames_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pygame = pytest.importorskip("pygame")
    frame = some_frames(1)[0]
    window = Window((800, 450), "a title", frames_per_s=1000.0)
    window.show(frame)
    on_screen = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(on_screen, frame)
    assert pygame.display.get_caption()[0] == "a title"
    with pytest.raises(PecGymError, match="800 x 450"):
        window.show(frame[:100])
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(frame)
    assert not window.is_open
    window.show(frame)
    window.close()
    again = Window((800, 450))
    again.show(frame)
    again.close()
    assert not again.is_open


def test_without_pygame_a_window_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(DependencyNotInstalled, match=r'pip install "pecgym\[render\]"'):
        Window((800, 450))
