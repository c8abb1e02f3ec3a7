"""The examples of docs/predictors.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pecgym.predictors import predictor_names
from pecgym.workload import load_trace, read_prompts
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "predictors.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) == 2
    for example in EXAMPLES:
        exec(compile(example, "docs/predictors.md", "exec"), {})
    assert len(read_prompts("my_prompts.jsonl")) == len(load_trace("my_prompts.jsonl")) == 2000


def test_the_page_has_every_name_and_the_example_rows_can_be_read(tmp_path: Path) -> None:
    assert all(f"| `{name}` |" in TEXT for name in predictor_names())
    rows = re.findall(r"^```json\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "rows.jsonl").write_text(rows[0])
    assert load_trace(tmp_path / "rows.jsonl").output_tokens.tolist() == [9, 612]
