"""The reproduction of PecSched's tables: targets, verdicts, the fit, and the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pecgym.cluster import make_cluster
from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig
from pecgym.evaluation.paper import PaperConfig, reproduce, write_page
from pecgym.evaluation.paper.fit import P99, THROUGHPUT, Point, fit
from pecgym.evaluation.paper.page import _reasons
from pecgym.evaluation.paper.statements import STATEMENTS, Growth
from pecgym.evaluation.paper.targets import WITHOUT_LONGS, Measured, Target, models, notes, plain, targets
from pecgym.policies import policy_names

MAIN = tuple(sorted({name for t in targets() for name in (t.policy, t.against) if name and name != WITHOUT_LONGS}))


def at(value: float) -> Measured:
    return Measured(value, value, value)


def test_every_target_names_a_metric_and_policies_that_exist() -> None:
    row = make_cluster(workload=WorkloadConfig(duration_s=5.0).load(0)).run().metrics()
    for target in targets():
        assert target.metric in row
        assert {target.policy, target.against} <= {*policy_names(), WITHOUT_LONGS, None}
        if isinstance(target.paper, list):
            assert len(target.paper) == len(models()) == 4
    assert len({target.key for target in targets()}) == len(targets())
    assert {key for note in notes() for key in note.targets} <= {target.key for target in targets()}
    assert {v for note in notes() for v in note.verdicts} <= {"above", "below", "sign", "stronger", "weaker"}


@pytest.mark.parametrize(
    ("paper", "change", "measured", "verdict"),
    [
        ([0.4], False, 0.5, ""),
        ([0.4], False, 0.9, "above"),
        ([0.4], False, 0.19, "below"),
        ([0.4], False, math.inf, "above"),
        ({"from": -0.58, "to": -0.87}, True, 1.1, "sign"),
        ({"from": -0.58, "to": -0.87}, True, 0.3, ""),
        ({"from": -0.58, "to": -0.87}, True, 0.001, "stronger"),
        ({"from": -0.58, "to": -0.87}, True, 0.9, "weaker"),
        ({"from": 0.39, "to": 0.55}, True, 1.1, "weaker"),
        ({"from": 0.39, "to": 0.55}, True, 1.3, ""),
        ({"from": 0.39, "to": 0.55}, True, 2.5, "stronger"),
        ({"from": 0.39, "to": 0.55}, True, 0.9, "sign"),
        ("similar", True, 0.6, ""),
        ("similar", True, 2.5, "above"),
        (None, True, 2.5, ""),
    ],
)
def test_a_verdict_is_a_wrong_sign_or_a_factor_of_two(paper, change: bool, measured: float, verdict: str) -> None:
    target = Target("key", "what", "metric", "fifo", "pecsched", paper=paper, change=change)
    assert target.verdict(at(measured), 0) == verdict
    assert target.verdict(None, 0) == ""


def test_a_ratio_is_paired_by_seed_and_zero_over_zero_is_left_out() -> None:
    target = Target("key", "what", "m", "a", "b")
    rows = {"a": [{"m": 2.0}, {"m": 9.0}, {"m": 0.0}], "b": [{"m": 1.0}, {"m": 3.0}, {"m": 0.0}]}
    assert target.measured(rows) == Measured(2.5, 2.0, 3.0)
    assert target.measured({"a": rows["a"]}) is None
    assert plain(math.inf) == "∞"


def test_a_reason_is_given_only_where_a_number_differs_as_it_says() -> None:
    by_key = {target.key: target for target in targets()}
    said = _reasons("fitted", [(by_key["jct_fifo"], {"Mistral": "sign"}), (by_key["fifo_idle"], {})])
    (note,) = [note for note in notes() if note.targets == ("jct_fifo",) and "sign" in note.verdicts]
    assert note.why in said
    assert "Mistral" in said
    assert said.count("- **") == 1
    unknown = _reasons("fitted", [(by_key["jct_fifo"], {"Yi": "weaker"})])
    assert "Not explained yet" in unknown
    assert _reasons("fitted", [(by_key["jct_fifo"], {})]) == "nowhere."


def measure_with(p99, throughput):
    """FIFO as functions of the scale."""
    return lambda scales: {
        model: Point(scale, 1.0, 1.0, p99(scale), throughput(scale)) for model, scale in scales.items()
    }


SCALES = [2.0**k for k in range(-4, 5)]


def test_the_fit_takes_the_ratio_of_delays_where_it_is_reached_at_the_lightest_load() -> None:
    twice = measure_with(lambda x: 1 + 3 * math.exp(-(math.log(x) ** 2)), lambda x: 1 / (1 + x))
    found = fit({"m": (2.5, 0.5)}, SCALES, 12, twice)["m"]
    assert found.anchor == P99
    assert found.p99_roots == ((0.25, 0.5), (2.0, 4.0))
    assert found.point.scale == pytest.approx(math.exp(-math.sqrt(math.log(2))), rel=1e-3)


def test_the_fit_falls_back_on_throughput_where_the_ratio_of_delays_is_no_number() -> None:
    jump = measure_with(lambda x: math.inf if x > 1 else math.nan, lambda x: 1 / (1 + x))
    found = fit({"m": (2.5, 0.2)}, SCALES, 12, jump)["m"]
    assert (found.anchor, found.p99_roots) == (THROUGHPUT, ())
    assert found.point.scale == pytest.approx(4.0, rel=1e-3)
    with pytest.raises(SpecError, match="neither"):
        fit({"m": (2.5, 0.01)}, SCALES, 3, jump)


def test_growth_needs_every_step() -> None:
    growth = Growth("text", "m", "a", "b")
    by_model = {str(i): {"a": [{"m": value}], "b": [{"m": 10.0}]} for i, value in enumerate((4.0, 3.0, 1.0))}
    assert growth.holds(by_model)
    by_model["1"]["a"][0]["m"] = 5.0
    assert not growth.holds(by_model)


PLAN = EvaluationPlan(
    MAIN,
    "llama-3.1-70b",
    workload=WorkloadConfig(name="azure2023_conv+azure2023_code", duration_s=240.0),
    scenario=ScenarioConfig("paper"),
    seeds=(0, 1),
)
CONFIG = PaperConfig(loads=[0.5], scales=[0.05, 0.5, 4.0], bisection_steps=3)


def test_a_small_reproduction_writes_page_and_files_and_is_instant_again(tmp_path: Path) -> None:
    found = reproduce(PLAN, CONFIG, tmp_path, workers=1, command="the command")
    write_page(found, tmp_path / "page.md", "the command")
    page = (tmp_path / "page.md").read_text()
    for target in targets():
        assert f"| {target.what} |" in page
    for statement in STATEMENTS:
        assert statement.text in page
    for text in ("the command", f"**{found.fits['llama-3.1-70b'].point.scale:g}**", "8192 GPUs", "steady load of 0.5"):
        assert text in page
    assert "{" not in page
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert {row["policy"] for row in rows} == set(MAIN)
    assert len(rows) == 2 * (3 * len(MAIN) + 2)
    assert "PecSched" in (tmp_path / "llama-3.1-70b/report.html").read_text()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    again = reproduce(PLAN, CONFIG, tmp_path, workers=1, report=False)
    assert again.fits == found.fits
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(PLAN, policies=("fifo", "pecsched")), "need .*reservation"),
        (replace(PLAN, model="llama-2-7b"), "the paper's are"),
        (replace(PLAN, scenario=ScenarioConfig("steady", 0.5)), "leave scenario"),
    ],
)
def test_plans_that_are_not_the_papers_are_refused(plan: EvaluationPlan, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        reproduce(plan, CONFIG, tmp_path)
