"""Rows, summaries, bars and the file that they are written to."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pecgym.validation.comparison import Bar, Row, summarize, summary_table, write_json

ROWS = [
    Row("a", "ttft_ms", 100.0, 110.0),
    Row("b", "ttft_ms", 100.0, 80.0),
    Row("c", "ttft_ms", 100.0, 101.0),
    Row("a", "tpot_ms", 10.0, 10.2),
    Row("d", "ttft_ms", 10.0, 6.0, "overflow"),
]


def test_a_summary_takes_the_size_of_errors_and_their_sign_apart() -> None:
    first, second, third = summarize(ROWS, {("all", "ttft_ms"): Bar(median=0.1, p90=0.15)})
    assert (first.metric, first.group, first.n) == ("ttft_ms", "all", 3)
    assert first.median_error == pytest.approx(0.10)
    assert first.p90_error == pytest.approx(0.18)
    assert first.worst_error == pytest.approx(0.20)
    assert first.bias == pytest.approx(0.01)
    assert first.factor == pytest.approx(1.25)
    assert first.holds is False
    assert second.holds is None
    assert third.group == "overflow"


@pytest.mark.parametrize(
    ("bar", "holds"),
    [
        (Bar(median=0.11, p90=0.19), True),
        (Bar(median=0.09), False),
        (Bar(p90=0.17), False),
        (Bar(factor=1.26), True),
        (Bar(factor=1.24), False),
    ],
    ids=str,
)
def test_a_bar_holds_where_none_of_its_figures_is_exceeded(bar: Bar, holds: bool) -> None:
    assert summarize(ROWS, {("all", "ttft_ms"): bar})[0].holds is holds


def test_within_a_factor_counts_both_ways() -> None:
    """6 of 10 is 1.67 times too small, although its error is only 40 percent."""
    summary = summarize(ROWS, {("overflow", "ttft_ms"): Bar(factor=1.5)})[2]
    assert summary.factor == pytest.approx(10 / 6)
    assert summary.holds is False


def test_the_file_has_rows_and_summary(tmp_path: Path) -> None:
    summaries = summarize(ROWS, {("all", "ttft_ms"): Bar(median=0.2)})
    write_json(tmp_path / "out.json", ROWS, summaries, source="somewhere")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["source"] == "somewhere"
    assert content["rows"][1] == {
        "case": "b",
        "metric": "ttft_ms",
        "reference": 100.0,
        "simulated": 80.0,
        "group": "all",
        "error": pytest.approx(-0.2),
    }
    first = content["summary"][0]
    assert {"metric", "n", "median_error", "p90_error", "bar", "holds"} <= set(first)
    assert (first["bar"], first["holds"]) == ({"median": 0.2}, True)
    assert content["summary"][1]["bar"] is None


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    rows = [Row("a", "ttft_ms", 1.0, 11.0, "AIConfigurator")]
    summaries = summarize([*ROWS, *rows], {("all", "ttft_ms"): Bar(median=0.2, p90=0.3)})
    page = io.StringIO()
    Console(width=80, file=page).print(summary_table("title", summaries))
    text = page.getvalue()
    assert "20% / 30% holds" in text
    assert "AIConfigurator" in text
    assert "+1000%" in text
    assert "\u2026" not in text
