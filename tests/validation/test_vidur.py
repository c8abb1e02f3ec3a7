"""Against Vidur's own results: how close, and that what is left is explained by the rule that is named for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.costs import Profile
from pecgym.errors import TraceError
from pecgym.validation import vidur
from pecgym.validation.comparison import Row
from pecgym.validation.vidur import CONFIGURATIONS, Configuration, Latencies, VidurComparison
from pecgym.workload import Trace, load_trace
from scripts import validate
from tests.conftest import shared_file
from tests.naive_engine import NaiveCluster
from tests.naive_records import Replica, Request
from tests.validation.vidur_steps import VidurSteps

pytest.importorskip("scipy")

C0, C1, C2, C3 = CONFIGURATIONS
Join = Callable[[Any, Replica, list[Request]], Request | None]


@pytest.fixture(scope="module")
def reference() -> Path:
    return shared_file("reference/vidur/step_times.csv").parent


@pytest.fixture(scope="module")
def comparison(reference: Path) -> VidurComparison:
    return vidur.compare(reference)


@pytest.fixture(scope="module")
def steps(reference: Path) -> VidurSteps:
    return VidurSteps(reference, vidur.fitted_profile(reference))


def error_of(rows: list[Row], group: str, metric: str, case: str) -> float:
    (row,) = [row for row in rows if (row.group, row.metric, row.case) == (group, metric, case)]
    return row.error


def join_padded(cluster: NaiveCluster, replica: Replica, candidates: list[Request]) -> Request | None:
    """Vidur's rule in plain code."""
    head = replica.waiting[0]
    prompts = [*replica.chunks.values(), head.prompt]
    too_many = len(prompts) > 1 and len(prompts) * max(prompts) > cluster.settings.max_batch_tokens
    return None if head not in candidates or too_many else head


def replay(run: Configuration, trace: Trace, times: Profile | VidurSteps, join: Join | None = None) -> Latencies:
    """The run in the specification, one iteration at a time."""
    turn = iter(range(len(trace)))
    cluster = NaiveCluster(run.replicas, times, run.settings(), lambda *_: next(turn) % run.replicas, join=join)  # type: ignore[arg-type]
    cluster.load_trace(trace)
    cluster.run()
    done = sorted(cluster.done, key=lambda q: q.row)
    arrival, first, finish = np.array([(q.arrival, q.first_token, q.finish) for q in done]).T
    return Latencies((first - arrival) / 1e12, (finish - arrival) / 1e12, trace.output_tokens)


# -- with the fitted profile ------------------------------------------------------------------------------------------


def test_percentiles_agree_within_5_percent_but_for_one_that_a_rule_explains(comparison: VidurComparison) -> None:
    assert {row.group for row in comparison.rows} == {"C0", "C1", "C2", "C3", "C0, each request"}
    ((row, other),) = comparison.to_explain()
    assert (row.group, row.metric, row.case) == ("C1", "ttft_s", "p99")
    assert 0.05 < row.error < 0.07
    assert other is not None
    assert abs(other.error) < 0.015
    worst = {"ttft_s": 0.02, "tpot_s": 0.03, "e2e_s": 0.022}
    for row in comparison.rows:
        if row.group in ("C1", "C2", "C3") and (row.metric, row.case) != ("ttft_s", "p99"):
            assert abs(row.error) < worst[row.metric], row


def test_isolated_requests_are_as_close_as_the_fit(comparison: VidurComparison) -> None:
    alone = [row for row in comparison.rows if row.group == "C0, each request"]
    assert len(alone) == 18 + 9 + 18
    assert all(abs(row.error) < 0.025 for row in alone)
    assert all(abs(row.error) < 0.01 for row in alone if row.metric == "tpot_s")


def test_the_reference_is_read_as_its_authors_summarise_it(comparison: VidurComparison) -> None:
    stated = {
        ("C1", "ttft_s"): (0.436, 2.63),
        ("C2", "ttft_s"): (0.528, 3.26),
        ("C3", "ttft_s"): (0.434, 1.56),
        ("C1", "e2e_s"): (17.6, 52.6),
        ("C2", "e2e_s"): (16.1, 46.8),
        ("C3", "e2e_s"): (16.9, 54.6),
    }
    for (group, metric), figures in stated.items():
        values = comparison.latencies[group][0].metrics()[metric]
        assert np.quantile(values, (0.5, 0.99)) == pytest.approx(figures, rel=4e-3)


def test_the_compiled_rule_of_padded_prompts_is_the_one_in_plain_code(reference: Path) -> None:
    profile, trace = vidur.fitted_profile(reference), load_trace(reference / C1.trace)
    compiled = vidur.simulate(C1, profile, trace, vidur.as_padded)
    plain = replay(C1, trace, profile, join_padded)
    own = vidur.simulate(C1, profile, trace)
    assert compiled.ttft_s.tolist() == plain.ttft_s.tolist()
    assert compiled.e2e_s.tolist() == plain.e2e_s.tolist()
    assert compiled.ttft_s.tolist() != own.ttft_s.tolist()
    assert own.ttft_s.tolist() == replay(C1, trace, profile).ttft_s.tolist()


# -- with Vidur's step times as they are ------------------------------------------------------------------------------


@pytest.mark.parametrize("run", CONFIGURATIONS, ids=lambda run: run.name)
def test_with_its_step_times_and_its_rule_the_same_schedules_come_out(
    run: Configuration, reference: Path, steps: VidurSteps
) -> None:
    trace = load_trace(reference / run.trace)
    theirs = vidur.read_results(reference / run.results, trace)
    ours = replay(run, trace, steps, join_padded if run.counts_padding else None)
    for row in vidur.statistics_rows(run.name, theirs, ours):
        assert abs(row.error) < (0.012 if run is not C0 else 1e-3), row


def test_without_its_rule_the_longest_waits_differ(reference: Path, steps: VidurSteps) -> None:
    trace = load_trace(reference / C1.trace)
    theirs = vidur.read_results(reference / C1.results, trace)
    rows = vidur.statistics_rows("C1", theirs, replay(C1, trace, steps))
    assert error_of(rows, "C1", "ttft_s", "p99") > 0.05
    assert sum(abs(row.error) > 0.012 for row in rows) == 1


# -- output and bad input ---------------------------------------------------------------------------------------------


def test_json_holds_every_row_and_what_explains_the_differences(comparison: VidurComparison, tmp_path: Path) -> None:
    comparison.write_json(tmp_path / "vidur.json")
    written = json.loads((tmp_path / "vidur.json").read_text())
    assert len(written["rows"]) == len(comparison.rows) == 4 * 3 * 4 + 45
    assert written["rows"][0]["error"] == comparison.rows[0].error
    assert written["fit"]["decode"]["mean_percent"] < 1.5
    (above,) = written["above_limit"]
    assert (above["group"], above["case"], above["rule"]) == ("C1", "p99", "padded prompts")
    assert abs(above["error_with_rule"]) < 0.015
    assert {row["group"] for row in written["padded_rows"]} == {"C0", "C1", "C3"}


def test_points_of_a_plot_are_the_requests(comparison: VidurComparison) -> None:
    points = comparison.points("tpot_s")
    assert {name: len(theirs) for name, (theirs, _) in points.items()} == {"C0": 9, "C1": 1000, "C2": 1000, "C3": 4000}
    assert all(theirs.shape == ours.shape for theirs, ours in points.values())


def test_the_command_prints_tables_and_says_how_it_went(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main(["vidur", "--reference", str(reference), "--json", str(tmp_path / "out.json")]) == 0
    assert "padded prompts" in capsys.readouterr().out
    assert (tmp_path / "out.json").exists()
    assert validate.main(["vidur", "--reference", str(tmp_path)]) == 2
    assert "step_times.csv" in capsys.readouterr().err


def test_tpot_is_over_the_tokens_after_the_first() -> None:
    latencies = Latencies(np.array([1.0, 2.0]), np.array([1.0, 5.0]), np.array([1, 4]))
    assert latencies.metrics()["tpot_s"].tolist() == [1.0]


def test_results_of_another_trace_are_refused(tmp_path: Path) -> None:
    trace = Trace(np.zeros(2), np.array([5, 6]), np.array([1, 2]), name="two")
    path = tmp_path / "results.csv"
    path.write_text("ttft_s,e2e_s,input_tokens,output_tokens\n1,1,5,1\n1,2,7,2\n")
    with pytest.raises(TraceError, match=r"results\.csv: column input_tokens is not that of trace two"):
        vidur.read_results(path, trace)
    path.write_text("ttft_s,input_tokens,output_tokens\n1,5,1\n")
    with pytest.raises(TraceError, match="e2e_s"):
        vidur.read_results(path, trace)
    with pytest.raises(TraceError, match="cannot be read"):
        vidur.read_results(tmp_path / "none.csv", trace)


def test_a_difference_without_a_rule_fails_the_command(
    comparison: VidurComparison, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without = VidurComparison(comparison.fit, comparison.latencies, comparison.rows, [])
    monkeypatch.setattr(vidur, "compare", lambda *_: without)
    assert validate.main(["vidur"]) == 1
    assert "not explained" in capsys.readouterr().out
