"""Learning curves are those of the files of a training."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agents.progress import Shown
from agents.training import train
from tests.agents.runs import small
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "plot_curves.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("plot_curves", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    folder = tmp_path_factory.mktemp("train")
    found = [folder / f"small-s{seed}" for seed in (0, 1)]
    for seed, out in enumerate(found):
        train(small(f"seed={seed}", "agent.total_timesteps=800"), out, shown=Shown(quiet=True))
    return found


def test_a_picture_of_trainings(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "curves.png"
    done = subprocess.run([sys.executable, SCRIPT, *runs, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"written: {out}\n"
    with Image.open(out) as picture:
        assert picture.size == (1440, 480)
        assert len(picture.convert("RGB").getcolors(2**20)) > 10


def test_curves_are_read_as_they_were_written(runs: list[Path]) -> None:
    curve = module().read_curve(runs[0] / "evaluations.csv", "score")
    assert next(iter(curve)) == 0
    assert len(curve) >= 2
    assert list(module().read_curve(runs[0] / "curve.csv", "return"))[-1] == 800


def test_the_mean_is_of_runs_that_differ_in_their_seed_alone() -> None:
    own = module()
    folders = [Path(name) for name in ("a-s0", "b-s0", "a-s1", "a-s0,agent=mlp")]
    groups = {name: [path.name for path in paths] for name, paths in own.by_recipe(folders).items()}
    assert groups == {"a": ["a-s0", "a-s1"], "b": ["b-s0"], "a,agent=mlp": ["a-s0,agent=mlp"]}
    assert own.mean_of([{0: 1.0, 10: 3.0, 20: 0.0}, {0: 2.0, 10: 5.0}]) == {0: 1.5, 10: 4.0}


@pytest.mark.parametrize("content", [None, "steps,score\n", "steps,loss\n1,2\n", "steps,score\nx,2\n"])
def test_folders_without_a_curve(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "evaluations.csv").write_text(content)
    done = subprocess.run([sys.executable, SCRIPT, tmp_path, tmp_path / "x.png"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'evaluations.csv'}: ")
    assert not (tmp_path / "x.png").exists()
