"""INFERMAX's study: its cells, that what is done is kept, its arithmetic, and its page."""

from __future__ import annotations

import importlib
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pecgym
from pecgym.configs import WorkloadConfig
from pecgym.costs import load_gpu, load_profile
from pecgym.engine import load_engine
from pecgym.errors import PecGymError, SpecError
from pecgym.evaluation import keys
from pecgym.evaluation.infermax import InfermaxConfig, five_minutes, offline, online, run, swap
from pecgym.evaluation.infermax.cells import METRICS, Burst, Cell, Engine, Windows, capacities
from pecgym.evaluation.infermax.config import FiveMinutesConfig, OfflineConfig, OnlineConfig, SwapConfig
from pecgym.evaluation.infermax.page import OPTIMUM_HEADING, shipped_of, write_page
from pecgym.evaluation.infermax.page_text import places
from pecgym.evaluation.infermax.runs import KEPT, run_cells
from pecgym.evaluation.infermax.study import SETTINGS
from pecgym.workload import Trace
from tests.conftest import REPOSITORY

PROFILE = "infermax-llama-2-7b-a100"
LIMITS = {"max_batch_tokens": 16384, "max_batch_requests": 64, "watermark": 0.0}


def config(folder: Path) -> InfermaxConfig:
    return InfermaxConfig(
        experiments=["offline", "online", "five_minutes", "swap"],
        limits=LIMITS,
        offline=OfflineConfig([PROFILE], ["vllm", "sarathi"], 32, [1, 8, 64], [100, 1000]),
        online=OnlineConfig([PROFILE], ["vllm"], ["_srf", "_hist_srf"], [20000], [], [0.5, 1.2], [0, 1], 2, 60),
        five_minutes=FiveMinutesConfig([PROFILE], [16, 1024], [512, None]),
        swap=SwapConfig([PROFILE], "vllm", [[8, 32]], 32, [4], [1.0, math.inf], 20000, 1.2),
        workload=WorkloadConfig(duration_s=120.0),
        out=str(folder),
        workers=1,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[InfermaxConfig, dict[str, Any]]:
    settings = config(tmp_path_factory.mktemp("infermax"))
    return settings, run(settings)


def test_a_cell_gives_what_a_cluster_gives() -> None:
    cell = Cell(PROFILE, 100, Burst(20, 4, 16), (Engine("a", "vllm", LIMITS), Engine("b", "vllm_no_evict", LIMITS)))
    found = cell.run()
    trace = Trace(np.zeros(20), np.full(20, 4), np.full(20, 16))
    for label, name in (("a", "vllm"), ("b", "vllm_no_evict")):
        engine = load_engine(name, kv_capacity_tokens=100, **LIMITS)
        log = pecgym.make_cluster("llama-2-7b", "a100_x1", "fifo", trace, engine, profile=PROFILE).run()
        assert found[label] == [{name: log.metrics()[name] for name in METRICS}]
    assert found["a"][0]["evictions"] > 0 == found["b"][0]["evictions"]
    assert found["b"][0]["mean_batch_size"] == pytest.approx(20 * 16 / (16 * math.ceil(20 / (100 // 19))))


def test_windows_come_at_the_load_of_the_first_engine_and_are_the_same_for_all() -> None:
    work = Windows(WorkloadConfig(duration_s=120.0), 0.5, 3, 2, 50)
    profile, settings = load_profile(PROFILE), load_engine("vllm")
    slow, fast = (replace(work, load=load).traces(profile, settings) for load in (0.5, 1.0))
    assert [len(trace) for trace in slow] == [50, 50]
    np.testing.assert_allclose(slow[1].arrival_s, 2 * fast[1].arrival_s)
    np.testing.assert_array_equal(slow[1].input_tokens, fast[1].input_tokens)


def test_a_key_tells_everything_apart_that_may_change_a_result(tmp_path: Path) -> None:
    cell = Cell(PROFILE, 100, Burst(20, 4, 16), (Engine("a", "vllm"),))
    others = [
        replace(cell, capacity_tokens=101),
        replace(cell, profile="infermax-llama-3-70b-a100-tp4"),
        replace(cell, work=Burst(20, 4, 17)),
        replace(cell, engines=(Engine("a", "vllm", {"watermark": 0.5}),)),
        replace(cell, engines=(Engine("b", "vllm"),)),
    ]
    file = tmp_path / "trace.csv"
    for content in ("arrival_s,input_tokens,output_tokens\n0,4,4\n", "arrival_s,input_tokens,output_tokens\n0,4,44\n"):
        file.write_text(content)
        others.append(replace(cell, work=Windows(WorkloadConfig(path=str(file)), 1.0, 0, 1, 1)))
        others[-1].key()
        assert len({each.key() for each in (cell, *others)}) == len(others) + 1 - (content.endswith(",44\n"))
    assert cell.key() == replace(cell).key()


def test_what_is_done_is_kept_and_a_torn_line_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell(PROFILE, 100, Burst(8, 4, n), (Engine("a", "vllm"),)) for n in (2, 4, 8)]
    first = run_cells(cells, tmp_path, workers=1, show=False)
    lines = (tmp_path / KEPT).read_text().splitlines(keepends=True)
    assert len(lines) == 3
    (tmp_path / KEPT).write_text("".join(lines[:2]) + lines[2][:30])
    asked: list[Cell] = []
    simulate = Cell.run
    monkeypatch.setattr(Cell, "run", lambda cell: asked.append(cell) or simulate(cell))
    assert run_cells(cells, tmp_path, workers=1, show=False) == first
    assert asked == cells[2:]
    assert (tmp_path / KEPT).read_text().splitlines(keepends=True) == lines
    assert run_cells(cells, tmp_path, workers=1, fresh=True, show=False) == first
    assert asked == cells[2:] + cells


def test_an_interrupted_run_keeps_the_cells_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell(PROFILE, 100, Burst(8, 4, n), (Engine("a", "vllm"),)) for n in (2, 4)]
    simulate = Cell.run

    def interrupt(cell: Cell) -> Any:
        if cell == cells[1]:
            raise KeyboardInterrupt
        return simulate(cell)

    monkeypatch.setattr(Cell, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, tmp_path, workers=1, show=False)
    assert [json.loads(line)["key"] for line in (tmp_path / KEPT).read_text().splitlines()] == [cells[0].key()]


def test_the_grid_leaves_out_what_cannot_be_and_pairs_the_rest(done: tuple[InfermaxConfig, dict[str, Any]]) -> None:
    settings, rows = done
    pairs = offline.pairs(rows["offline"])
    lengths = [(i, o, m) for i in (1, 8, 64) for o in (1, 8, 64) for m in (100, 1000) if i + o - 1 <= m]
    assert len(pairs) == 2 * len(lengths)
    assert {(p.input_tokens, p.output_tokens, p.capacity_tokens) for p in pairs} == set(lengths)
    (pair,) = [
        p for p in pairs if (p.preset, p.input_tokens, p.output_tokens, p.capacity_tokens) == ("vllm", 1, 64, 100)
    ]
    assert pair.speedup == pair.never["makespan_s"] / pair.preempting["makespan_s"] > 1
    assert pair.crowding == pytest.approx(32 * 64 / 100)
    one_at_a_time_s = Cell(PROFILE, 100, Burst(1, 1, 64), (Engine("a", "vllm"),)).run()["a"][0]["makespan_s"]
    assert pair.never["makespan_s"] == pytest.approx(32 * one_at_a_time_s)
    assert json.loads((Path(settings.out) / "offline.json").read_text()) == rows["offline"]


def test_changes_are_relative_on_the_same_windows(done: tuple[InfermaxConfig, dict[str, Any]]) -> None:
    points = online.points(done[1]["online"])
    assert [(p.preset, p.capacity_tokens, p.load) for p in points] == [("vllm", 20000, 0.5), ("vllm", 20000, 1.2)]
    assert all(len(rows) == 4 for point in points for rows in point.engines.values())
    assert list(points[0].engines) == ["vllm", "vllm_srf", "vllm_hist_srf"]
    base = [{"seed": 0, "x": value} for value in (1.0, 2.0, 4.0, 4.0)]
    change = online.Change.of("x", [row | {"x": row["x"] * 0.9} for row in base], base)
    assert change.mean == pytest.approx(-0.1)
    assert change.interval == pytest.approx((-0.1, -0.1))
    assert change.resolved
    assert online.Change.of("x", base[:1], base[:1]).interval is None
    assert points[1].change("vllm", "jct_mean_s").mean == 0


def test_the_five_minute_rule_by_hand() -> None:
    profile = load_profile(PROFILE)
    ms = 32 * (0.00191 * 1024 + 0.06486 + 1.6773e-7 * 1024**2 + 0.0926 + 0.001534)
    assert five_minutes.alone_s(profile, 1024) == pytest.approx(ms / 1000, rel=1e-6)
    added_ms = 32 * (0.00191 * 1024 + 1.6773e-7 * 1024**2 + 0.001534)
    assert five_minutes.added_s(profile, 1024) == pytest.approx(added_ms / 1000, rel=1e-6)
    rows = five_minutes.rows(FiveMinutesConfig([PROFILE], [16, 1024], [512, None, 100000]))
    assert [(row["capacity_tokens"], row["context_tokens"]) for row in rows] == [
        (512, 16),
        (100000, 16),
        (100000, 1024),
    ]
    assert rows[2]["alone_of_kv_s"] == pytest.approx(ms / 1000 * 100000 / 1024, rel=1e-6)
    memory = load_gpu("a100-80gb").memory_bytes
    assert rows[2]["added_of_memory_s"] == pytest.approx(added_ms / 1000 * memory / (1024 * 524288), rel=1e-6)
    assert capacities(PROFILE, [None, 512, 100000]) == [512, 100000]


@pytest.mark.parametrize(
    ("ratios", "gb_per_s"),
    [
        ({1.0: 1.5, 4.0: 0.5, math.inf: 0.4}, 2.0),
        ({1.0: 1.2, 4.0: 1.1, math.inf: 1.05}, math.inf),
        ({1.0: 0.9, 4.0: 0.8}, 0.0),
        ({1.0: 1.2, 4.0: 1.1, math.inf: 0.9}, 4.0),
        ({1.0: 1.2, 2.0: 0.9, 4.0: 1.1}, None),
        ({1.0: 0.9, 2.0: 1.1}, None),
    ],
)
def test_where_swapping_breaks_even(ratios: dict[float, float], gb_per_s: float | None) -> None:
    found = swap.break_even_gb_per_s(ratios)
    assert found == (gb_per_s if gb_per_s is None else pytest.approx(gb_per_s))


def test_swapping_is_compared_with_recomputing(done: tuple[InfermaxConfig, dict[str, Any]]) -> None:
    ratios = swap.ratios(done[1]["swap"])
    (burst,) = [each for (_, what, _), each in ratios.items() if what == "8 + 32"]
    assert list(burst) == [1.0, math.inf]
    assert burst[1.0] > 1 > burst[math.inf]
    assert {what for _, what, _ in ratios} == {"8 + 32", "azure2023_conv, load 1.2"}


def test_the_page_has_every_section_and_keeps_that_of_the_optimum(
    done: tuple[InfermaxConfig, dict[str, Any]], tmp_path: Path
) -> None:
    settings, rows = done
    page = tmp_path / "docs" / "page.md"
    assets = page.parent / "assets"
    files = write_page(rows, settings, settings, page, assets, "python scripts/infermax.py")
    names = ("offline", "online", "five-minutes", "swap")
    assert files == [page, *(page.parent / "assets" / f"infermax-{name}.png" for name in names)]
    assert all(path.stat().st_size > 5000 for path in files[1:])
    text = page.read_text()
    assert all(f"](assets/infermax-{name}.png)" in text for name in names)
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings.index(OPTIMUM_HEADING) == len(headings) - 2
    speedup = max(pair.speedup for pair in offline.pairs(rows["offline"]) if pair.capacity_tokens == 100)
    assert f"**{speedup:.2f}x** (I = 1, O = 64)" in text
    page.write_text(text.replace(OPTIMUM_HEADING, OPTIMUM_HEADING + "\n\nGaps of all presets.\n\n### At I = 8\n\n", 1))
    write_page(rows, settings, settings, page, assets, "python scripts/infermax.py")
    assert "Gaps of all presets.\n\n### At I = 8" in page.read_text()
    assert page.read_text().count("\n## ") == len(headings)


CONCLUSIONS = {
    "offline": ("Preempting pays where", "A GPU is rented by time"),
    "online": ("SRF is resolved as better", "vanishes without contention"),
    "five_minutes": ("cases lie inside the paper's range",),
    "swap": ("The estimate by hand predicts the runs",),
}


@pytest.mark.parametrize(
    ("changed", "change"),
    [
        ({"offline"}, lambda c: replace(c, offline=replace(c.offline, requests=64))),
        ({"online"}, lambda c: replace(c, online=replace(c.online, loads=[0.5, 1.1]))),
        ({"online", "swap"}, lambda c: replace(c, online=replace(c.online, seeds=[0]))),
        ({"online", "swap"}, lambda c: replace(c, workload=WorkloadConfig(duration_s=60.0))),
        ({"five_minutes"}, lambda c: replace(c, five_minutes=FiveMinutesConfig([PROFILE], [16], [512]))),
        ({"swap"}, lambda c: replace(c, swap=replace(c.swap, gb_per_s=[1.0, 2.0]))),
        ({"offline", "online", "swap"}, lambda c: replace(c, limits=LIMITS | {"watermark": 0.01})),
        (set(), lambda c: replace(c, online=replace(c.online, workloads=["azure2023_conv", "azure2023_conv_trace"]))),
        (set(), lambda c: replace(c, workers=2, fresh=True)),
    ],
)
def test_conclusions_are_left_out_where_the_shipped_settings_are_others(
    changed: set[str], change: Any, done: tuple[InfermaxConfig, dict[str, Any]], tmp_path: Path
) -> None:
    settings, rows = done
    page = tmp_path / "page.md"
    write_page(rows, settings, change(settings), page, tmp_path, "python scripts/infermax.py")
    text = page.read_text()
    for name, sentences in CONCLUSIONS.items():
        assert [sentence in text for sentence in sentences] == [name not in changed] * len(sentences)
    assert ("the paper's budget of C" in text) == (not changed)
    assert "\n\n\n" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_rows_of_earlier_calls_keep_their_settings(tmp_path: Path) -> None:
    first = replace(config(tmp_path), experiments=["five_minutes"])
    rows = run(replace(first, five_minutes=FiveMinutesConfig([PROFILE], [16], [512])))
    write_page(rows, first, first, tmp_path / "page.md", tmp_path, "")
    assert "cases lie inside" not in (tmp_path / "page.md").read_text()
    rows = run(replace(first, experiments=["offline"], offline=OfflineConfig([PROFILE], ["vllm"], 8, [4], [100])))
    write_page(rows, first, first, tmp_path / "page.md", tmp_path, "")
    assert "cases lie inside" not in (tmp_path / "page.md").read_text()
    write_page(run(first), first, first, tmp_path / "page.md", tmp_path, "")
    text = (tmp_path / "page.md").read_text()
    assert "cases lie inside" in text
    assert "Preempting pays where" not in text


def documented(script: str) -> list[list[str]]:
    """The arguments of each command of the page that starts a script."""
    text = (REPOSITORY / "docs" / "infermax.md").read_text().replace("\\\n", " ")
    return [shlex.split(rest) for rest in re.findall(rf"^python scripts/{script}\.py\b(.*)$", text, re.MULTILINE)]


def composed(script: str, *overrides: str) -> Any:
    importlib.import_module(f"scripts.{script}")
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return OmegaConf.to_object(compose(script, list(overrides)))


@pytest.mark.parametrize(("script", "commands"), [("infermax", 2), ("optimum", 1)])
def test_the_commands_of_the_page_are_right(script: str, commands: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = documented(script)
    assert len(found) == commands
    for arguments in found:
        composed(script, *arguments).check()
    of_page = composed(script, *found[0])
    assert places(of_page.out, of_page.page, of_page.figures) == (Path("docs/infermax.md"), Path("docs/assets"))


def test_without_a_page_nothing_is_written_outside_the_folder_of_the_results() -> None:
    for script in ("infermax", "optimum"):
        settings = composed(script, "out=results/mine")
        found = places(settings.out, settings.page, settings.figures)
        assert found == (Path("results/mine/page.md"), Path("results/mine"))


def test_the_command_of_the_page_gives_the_page_its_conclusions(tmp_path: Path) -> None:
    shipped, of_page = composed("infermax"), composed("infermax", *documented("infermax")[0], f"out={tmp_path}")
    for settings, expected in ((of_page, set(CONCLUSIONS)), (replace(of_page, quick=True), set())):
        kept = {name: settings.settings_of(name) for name in CONCLUSIONS}
        (tmp_path / SETTINGS).write_text(json.dumps(kept))
        assert shipped_of(settings, shipped) == expected


def test_the_small_command_of_the_page_runs(tmp_path: Path) -> None:
    arguments = [each for each in documented("infermax")[1] if not each.startswith("out=")]
    small = ["offline.tokens=[16,1024]", "offline.requests=32", "workers=1", f"out={tmp_path}"]
    command = [sys.executable, "scripts/infermax.py", *arguments, *small]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {"page.md", "infermax-offline.png", "offline.json", SETTINGS} <= {path.name for path in tmp_path.iterdir()}
    assert "Preempting pays where" not in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.experiments.append("onlin"), "experiments: onlin does not exist; choose of offline"),
        (lambda c: c.offline.presets.append("vlm"), "no preset named 'vlm'"),
        (
            lambda c: c.offline.presets.append("orca_hist"),
            "offline.presets: 'orca_hist' has no never-preempting partner 'orca_hist_no_evict': choose of vllm, ",
        ),
        (lambda c: c.offline.presets.append("vllm_srf"), "offline.presets: 'vllm_srf' has no never-preempting partner"),
        (lambda c: c.online.rules.append("_fast"), "no preset named 'vllm_fast'"),
        (lambda c: c.offline.tokens.clear(), "offline.tokens: give at least one"),
        (lambda c: c.offline.tokens.append(0), "offline.tokens: 0 must be above 0"),
        (lambda c: c.online.loads.append(-1.0), "online.loads: -1.0 must be above 0"),
        (lambda c: c.swap.shapes.append([1, 2, 3]), "swap.shapes=.*pairs"),
        (lambda c: c.swap.profiles.append("none"), "none"),
        (lambda c: c.online.workloads.append("no/such.csv"), "no such file"),
        (lambda c: c.limits.update(max_batch_token=1), "unknown key max_batch_token"),
    ],
)
def test_wrong_values_are_named_before_anything_runs(change: Any, message: str, tmp_path: Path) -> None:
    settings = config(tmp_path / "out")
    change(settings)
    with pytest.raises(PecGymError, match=message):
        run(settings)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SpecError, match="workers=0"):
        run_cells([], tmp_path / "out", workers=0)


def test_quick_keeps_the_ends_and_the_middle() -> None:
    settings = replace(config(Path("out")), quick=True)
    settings.offline.tokens[:] = [1, 2, 4, 8, 16]
    thin = settings.thinned()
    assert thin.offline.tokens == [1, 4, 16]
    assert (thin.offline.presets, thin.online.rules, thin.online.windows) == (["vllm"], ["_srf", "_hist_srf"], 2)
    assert replace(settings, quick=False).thinned().offline.tokens == [1, 2, 4, 8, 16]


def test_the_script_refuses_unknown_keys_and_says_what_it_wrote(tmp_path: Path) -> None:
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/infermax.py", *arguments, f"out={tmp_path}"]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)

    refused = script("offline.tokn=[1]")
    assert refused.returncode != 0
    assert "tokn" in refused.stderr
    done = script("experiments=[five_minutes]", "five_minutes.context_tokens=[16,64]")
    assert done.returncode == 0, done.stderr
    assert "page.md" in done.stdout
    assert "## The five-minute rule" in (tmp_path / "page.md").read_text()
    assert "cases lie inside" not in (tmp_path / "page.md").read_text()
    assert script("experiments=[five_minutes]").returncode == 0
    assert "66 of 80 cases lie inside" in (tmp_path / "page.md").read_text()


def test_words_and_pictures_of_the_page_change_no_key() -> None:
    folder = Path(keys.__file__).parent / "infermax"
    drawn = {
        path.name for path in folder.iterdir() if f"evaluation/infermax/{path.name}".startswith(keys._READS_RESULTS)
    }
    assert drawn == {"figures.py", "page.py", "page_offline.py", "page_online.py", "page_text.py", "prose.yaml"}
