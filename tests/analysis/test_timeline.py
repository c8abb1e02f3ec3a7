"""Timelines: what is refused, what merging keeps, what a file brings back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pecgym.analysis.timeline import COLUMNS, DECODE, LONG_PREFILL, PREFILL, Timeline, timeline_labels
from pecgym.errors import PecGymError
from pecgym.random import random_stream
from pecgym.units import PS_PER_S
from tests.analysis.synthetic import synthetic_run


def random_timeline(seed: int, n: int = 4000) -> Timeline:
    """Slices of 0.1 ms to 10 s with gaps, on five replicas."""
    random = random_stream(seed, "timeline")
    replica = np.sort(random.integers(0, 5, n))
    steps = (10.0 ** random.uniform(-4, 1, (n, 2)) * PS_PER_S).astype(np.int64)
    steps[random.random(n) < 0.5, 0] = 0
    end = np.cumsum(steps.sum(axis=1))
    kind = random.integers(0, 6, n)
    row = np.where(kind >= LONG_PREFILL, random.integers(0, 3, n), -1)
    return Timeline(replica, kind, end - steps[:, 1], end, row, n_replicas=6, replicas_per_node=2)


@pytest.mark.parametrize("resolution_s", [0.001, 0.3, 20.0, 1e5])
def test_merging_keeps_the_time_of_each_kind_and_row_and_stays_in_place(resolution_s: float) -> None:
    timeline = random_timeline(1)
    merged = timeline.merged(resolution_s)
    for name in ("kind", "row"):
        for value in np.unique(getattr(timeline, name)):
            spent = [np.sum((t.end_ps - t.start_ps)[getattr(t, name) == value]) for t in (timeline, merged)]
            assert spent[0] == spent[1]
    np.testing.assert_allclose(merged.seconds_by_kind(), timeline.seconds_by_kind(), rtol=1e-12)
    for edges in (0.25, 0.5, 0.75):
        cut_s = timeline.end_s * edges
        before = [t.between(0, cut_s).seconds_by_kind().sum() for t in (timeline, merged)]
        assert before[0] == pytest.approx(before[1], abs=2 * 5 * min(resolution_s, timeline.end_s))


def test_a_slice_that_is_thick_enough_stays_where_it_is() -> None:
    timeline = random_timeline(2)
    merged = timeline.merged(1.0)
    thick = (timeline.end_ps - timeline.start_ps) >= PS_PER_S
    assert thick.sum() > 100
    covers = (merged.start_ps <= timeline.start_ps[thick, None]) & (merged.end_ps >= timeline.end_ps[thick, None])
    for name in ("replica", "kind", "row"):
        covers &= getattr(merged, name) == getattr(timeline, name)[thick, None]
    assert covers.any(axis=1).all()


def test_fitting_takes_the_finest_resolution_that_is_enough() -> None:
    timeline = random_timeline(3)
    fitted, resolution_s = timeline.fitted(1000)
    assert len(fitted) <= 1000
    assert len(timeline.fitted(len(timeline))[0]) > 1000
    assert timeline.fitted(len(timeline))[1] == 0
    assert np.log2(resolution_s / 0.001) % 1 == 0
    assert len(timeline.fitted(1)[0]) <= 6 * 6 * 4


def test_a_window_cuts_slices_at_its_edges() -> None:
    timeline = Timeline(
        [0, 0, 1], [PREFILL] * 3, [0, 5 * PS_PER_S, 9 * PS_PER_S], np.arange(4, 13, 4) * PS_PER_S, [-1] * 3
    )
    window = timeline.between(3.0, 7.0)
    assert (window.start_ps / PS_PER_S).tolist() == [3.0, 5.0]
    assert (window.end_ps / PS_PER_S).tolist() == [4.0, 7.0]
    assert window.n_replicas == 2


def test_a_file_brings_back_slices_cluster_and_labels(tmp_path: Path) -> None:
    _, timeline = synthetic_run()
    timeline.save(tmp_path / "t.parquet", policy="pecsched/PE", seed=3)
    back = Timeline.load(tmp_path / "t.parquet")
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(back, name), getattr(timeline, name))
    assert (back.n_replicas, back.replicas_per_node) == (8, 4)
    labels = timeline_labels(pq.read_schema(tmp_path / "t.parquet"))
    assert (labels["policy"], labels["seed"]) == ("pecsched/PE", 3)
    pq.write_table(pq.read_table(tmp_path / "t.parquet").replace_schema_metadata(None), tmp_path / "other.parquet")
    with pytest.raises(PecGymError, match="not a timeline"):
        Timeline.load(tmp_path / "other.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0], [0, 1], [0], [1], [-1]), "unequal lengths"),
        (([0], [6], [0], [1], [-1]), "kind outside"),
        (([0], [0], [2], [1], [-1]), "ends before it starts"),
        (([0, 0], [0, 0], [0, 5], [6, 9], [-1, -1]), "starts before the one in front of it ends"),
        (([-1], [0], [0], [1], [-1]), "outside 0..-1"),
    ],
)
def test_what_cannot_be_is_refused(columns: tuple[list[int], ...], message: str) -> None:
    with pytest.raises(PecGymError, match=message):
        Timeline(*columns)


def test_slices_come_sorted_and_empty_timelines_work() -> None:
    timeline = Timeline([1, 0, 0], [DECODE] * 3, [0, 7, 2], [1, 8, 3], [-1] * 3)
    assert timeline.replica.tolist() == [0, 0, 1]
    assert timeline.start_ps.tolist() == [2, 7, 0]
    empty = Timeline([], [], [], [], [], n_replicas=3)
    assert len(empty.merged(1.0)) == len(empty.fitted(5)[0]) == 0
    assert empty.seconds_by_kind().shape == (3, 6)
