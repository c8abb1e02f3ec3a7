"""The study of the optimum, and its script as a user starts it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pecgym.engine import load_engine
from pecgym.errors import EngineError, PecGymError
from pecgym.evaluation.infermax.cells import Burst
from pecgym.evaluation.infermax.page import OPTIMUM_HEADING, optimum_of, write_optimum
from pecgym.evaluation.infermax.runs import KEPT
from pecgym.evaluation.optimum import OptimumConfig, run
from pecgym.evaluation.optimum.cells import CHUNKED, FREE, NEVER, PEAK, OptimumCell, share_what_is_known
from pecgym.evaluation.optimum.config import GridConfig
from pecgym.evaluation.optimum.gaps import Interval, gap_of, middle_and_most, points
from pecgym.evaluation.optimum.page import write_section
from pecgym.evaluation.optimum.tables import families, gains, reach
from pecgym.optimum.problem import make_problem, seconds
from pecgym.optimum.replay import schedule_of
from tests.conftest import REPOSITORY

PROFILE = "infermax-llama-2-7b-a100"
LIMITS = {"max_batch_tokens": 16384, "watermark": 0.0}
ENGINES = ["vllm", "vllm_no_evict", "sarathi_srf", "sarathi_hist"]


def config(folder: Path, **changes: Any) -> OptimumConfig:
    grids = {"tiny": GridConfig([3], [2, 40], [3], crowds=None)}
    made = OptimumConfig(PROFILE, grids, LIMITS, ENGINES, 5.0, out=str(folder), workers=1)
    return replace(made, **changes)


def cell(**changes: Any) -> OptimumCell:
    engines = {name: load_engine(name, **LIMITS) for name in ENGINES}
    return replace(OptimumCell(PROFILE, Burst(4, 8, 4), 34, engines, 10.0), **changes)


def test_a_cell_gives_the_optima_and_what_engines_do_as_schedules() -> None:
    found = cell().run()
    optima = {row["rule"]: row for row in found["optima"]}
    assert {rule: round(row["best_s"] * 1e3, 3) for rule, row in optima.items()} == {
        FREE: 24.613,
        NEVER: 29.419,
        PEAK: 29.419,
    }
    assert {row["status"] for row in optima.values()} == {"optimal"}
    problem = make_problem([8] * 4, [4] * 4, PROFILE, kv_capacity_tokens=34)
    for row in found["engines"]:
        schedule = schedule_of(problem, cell().settings(row["engine"]))
        assert row["makespan_s"] == pytest.approx(seconds(problem.cost_ps(schedule)), rel=1e-12)
        assert row["evictions"] == schedule.evictions
        assert row["reference"] == FREE
        assert row["makespan_s"] >= optima[PEAK if row["never_evicts"] else FREE]["best_s"] * (1 - 1e-9)
    assert [row["never_evicts"] for row in found["engines"]] == [False, True, False, False]


def test_every_memory_that_makes_a_difference_is_there() -> None:
    memories = GridConfig(crowds=None).capacities(Burst(3, 2, 3))
    assert memories == [4, 5, 6, 7, 8, 9, 10, 11, 12]
    memories = GridConfig(crowds=None).capacities(Burst(2, 40, 3))
    assert memories == [42, 80, 81, 82, 83, 84]
    times = {
        m: [row["best_s"] for row in cell(work=Burst(2, 40, 3), capacity_tokens=m).run()["optima"]] for m in memories
    }
    for low, high in ((42, 80), (84, 100)):
        between = cell(work=Burst(2, 40, 3), capacity_tokens=high - 1).run()["optima"]
        assert [row["best_s"] for row in between] == times[low]
    assert GridConfig(crowds=2).capacities(Burst(8, 4, 5)) == [8, 32, 48, 64]
    assert GridConfig(crowds=1).capacities(Burst(1, 4, 1)) == [4]


def test_an_engine_that_may_cut_prompts_is_measured_by_the_optimum_that_may() -> None:
    long = cell(work=Burst(2, 600, 2), capacity_tokens=1202)
    assert [long.reference(name) for name in ENGINES] == [FREE, FREE, CHUNKED, CHUNKED]
    assert {cell().reference(name) for name in ENGINES} == {FREE}
    full = cell(work=Burst(300, 60, 2), capacity_tokens=20000)
    assert full.reference("sarathi_srf") == CHUNKED
    assert replace(full, capacity_tokens=16384).reference("sarathi_srf") == FREE


def test_what_is_known_of_one_rule_bounds_the_others() -> None:
    def optimum(rule: str, bound_s: float, best_s: float) -> dict[str, Any]:
        return {"rule": rule, "bound_s": bound_s, "best_s": best_s, "by": "solve"}

    def engine(name: str, makespan_s: float, evictions: int, never_evicts: bool) -> dict[str, Any]:
        numbers = {"makespan_s": makespan_s, "evictions": evictions, "never_evicts": never_evicts}
        return {"engine": name, "reference": FREE, **numbers}

    optima = {FREE: optimum(FREE, 5.0, 10.0), NEVER: optimum(NEVER, 4.0, 9.0), PEAK: optimum(PEAK, 6.0, 12.0)}
    share_what_is_known(optima, [engine("a", 8.0, 3, False), engine("b", 8.5, 0, False), engine("c", 11.0, 0, True)])
    found = {rule: (row["bound_s"], row["best_s"], row["by"]) for rule, row in optima.items()}
    assert found == {FREE: (5.0, 8.0, "a"), NEVER: (5.0, 8.5, "b"), PEAK: (6.0, 11.0, "c")}
    with pytest.raises(EngineError, match=r"a needs 4\.0 s, less than the bound"):
        share_what_is_known(optima, [engine("a", 4.0, 1, False)])


def test_a_gap_is_an_interval_where_the_optimum_is_one() -> None:
    open_gap = gap_of({"makespan_s": 12.0}, {"best_s": 10.0, "bound_s": 8.0})
    assert (open_gap["gap_low"], open_gap["gap_high"]) == pytest.approx((0.2, 0.5))
    known = gap_of({"makespan_s": 12.0}, {"best_s": 10.0, "bound_s": 10.0 * (1 - 1e-6)})
    assert known["gap_low"] == known["gap_high"] == pytest.approx(0.2)
    median, most = middle_and_most([open_gap, known, known])
    assert (median, most) == (Interval(known["gap_low"], known["gap_low"]), Interval(known["gap_low"], 0.5))


def test_a_study_keeps_what_is_done_and_writes_rows(tmp_path: Path) -> None:
    rows = run(config(tmp_path))
    kept = (tmp_path / KEPT).read_text()
    assert run(config(tmp_path)) == rows
    assert (tmp_path / KEPT).read_text() == kept
    assert {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in rows} == rows
    for name, each in rows.items():
        with (tmp_path / f"{name}.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [row["grid"] for row in read] == ["tiny"] * len(each)
        assert set(read[0]) == set(each[0])
    found = points(rows["optima"], rows["gaps"])
    assert len(found) * len(ENGINES) == len(rows["gaps"])
    assert all(row["gap_low"] == row["gap_high"] >= 0 for row in rows["gaps"])
    head, lines = gains(found)
    assert [line[2] for line in lines] == ["2", "40"]
    assert len(head) == len(lines[0])
    short = [point for point in found if point.input_tokens == 2]
    assert max(point.saved(NEVER) for point in short) > 0.05
    assert lines[0][3].startswith(f"{max(point.saved(NEVER) for point in short):.1%} (M = ")
    head, lines = reach(found)
    assert [line[3:6] for line in lines] == [(rule, str(len(found)), str(len(found))) for rule in (FREE, NEVER, PEAK)]
    head, lines = families(found)
    assert sorted(name for line in lines for name in line[0].split(", ")) == sorted(ENGINES)


def test_conclusions_are_left_out_where_the_shipped_settings_are_others(tmp_path: Path) -> None:
    settings = config(tmp_path)
    rows = run(settings)
    found = points(rows["optima"], rows["gaps"])
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    for shipped, concludes in (
        (replace(settings, workers=3, out="elsewhere", page="a.md"), True),
        (replace(settings, time_limit_s=6.0), False),
        (replace(settings, engines=None), False),
        (replace(settings, grids={"tiny": GridConfig([3], [2], [3], crowds=None)}), False),
        (replace(settings, limits=LIMITS | {"watermark": 0.01}), False),
    ):
        page.write_text(f"# Page\n\nText.\n\n{OPTIMUM_HEADING}\n\nOld.\n\n## Data\n\nEnd.\n")
        write_section(found, settings, shipped, page, tmp_path, "python scripts/optimum.py")
        text = page.read_text()
        sentences = ("What it means. With inputs of up to 32", "minutes on 2 cores", "`every_m` has every M")
        assert [sentence in text for sentence in sentences] == [concludes] * 3
        assert text.startswith(f"# Page\n\nText.\n\n{OPTIMUM_HEADING}\n\n*How far")
        assert text.endswith("\n\n## Data\n\nEnd.\n")
        assert "](../infermax-optimum.png)" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engines": ["vlm"]}, "no preset named 'vlm'"),
        ({"engines": []}, "engines: give at least one"),
        ({"limits": {}}, r"limits.max_batch_tokens: the engines have \[512, "),
        ({"profile": "none"}, "none"),
        ({"time_limit_s": 0.0}, "time_limit_s=0.0"),
        ({"grids": {}}, "grids: give at least one"),
        ({"grids": {"a": GridConfig([0], [4], [4])}}, r"grids.a.requests=\[0\]"),
        ({"grids": {"a": GridConfig([2], [], [4])}}, "grids.a.input_tokens"),
        ({"grids": {"a": GridConfig([2], [4], [4], 0)}}, "grids.a.crowds=0"),
        ({"grids": {"a": GridConfig([2], [16384], [4])}}, "grids.a: requests of 16,387 tokens"),
    ],
)
def test_wrong_values_are_named_before_anything_runs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(PecGymError, match=message):
        run(config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_the_section_takes_its_place_in_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_optimum(page, "Alone.")
    assert page.read_text() == f"{OPTIMUM_HEADING}\n\nAlone.\n"
    page.write_text(f"# Page\n\n## One\n\nText.\n\n{OPTIMUM_HEADING}\n\nOld.\n\n### Part\n\nOld.\n\n## Data\n\nEnd.\n")
    write_optimum(page, "New.\n\n### Part")
    expected = f"# Page\n\n## One\n\nText.\n\n{OPTIMUM_HEADING}\n\nNew.\n\n### Part\n\n## Data\n\nEnd.\n"
    assert page.read_text() == expected
    assert (optimum_of(page) or "").strip() == "New.\n\n### Part"


def test_the_script_from_end_to_end(tmp_path: Path) -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/optimum.py", *arguments, f"out={tmp_path}"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)

    refused = script("grids.small.input=[1]")
    assert refused.returncode != 0
    assert "input" in refused.stderr
    small = [
        "quick=true",
        "workers=1",
        "~grids.small",
        "~grids.middle",
        "~grids.large",
        "grids.every_m.input_tokens=[8]",
    ]
    done = script(*small)
    assert done.returncode == 0, done.stderr
    assert "page.md" in done.stdout
    assert "what preempting saves" in done.stdout
    rows = json.loads((tmp_path / "optima.json").read_text())
    assert [row["capacity_tokens"] for row in rows if row["rule"] == FREE] == [11, 32, 38, 44]
    text = (tmp_path / "page.md").read_text()
    assert text.startswith(OPTIMUM_HEADING)
    assert "What it means" not in text
    assert "free  best 24.613 ms, bound 24.613 ms, optimal" in text
    assert "in the engine 24.613 ms" in text
    for name in ("infermax-optimum.png", "infermax-optimum-ranks.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).stat().st_size > 5000
