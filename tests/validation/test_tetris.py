"""Ring prefill through the engine, against the measured table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pecgym.costs import find_profile
from pecgym.costs.ring_measurements import ring_errors
from pecgym.validation import tetris
from scripts import validate


def test_the_command_compares_every_cell_and_holds_the_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tetris.json"
    assert validate.main(["tetris", "--json", str(path), "--plot", str(tmp_path / "tetris.png")]) == 0
    assert "SP16" in capsys.readouterr().out
    assert (tmp_path / "tetris.png").stat().st_size > 10_000
    content = json.loads(path.read_text())
    cells = [row for row in content["rows"] if row["group"] == tetris.ALL]
    assert len(cells) == 34
    (summary,) = [each for each in content["summary"] if each["group"] == tetris.ALL]
    assert summary["bar"] == {"median": 0.1}
    assert summary["holds"]
    formula = ring_errors(find_profile("llama-3.1-8b", "a100-80gb", 1))
    for row, theirs in zip(cells, formula, strict=True):
        assert row["simulated"] == pytest.approx(theirs.simulated_s, rel=0.02)
