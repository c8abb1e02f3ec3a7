"""The study of SSJF: its cells against clusters and plain sums, that what is done is kept, its arithmetic, its page."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from pecgym.cluster import make_cluster
from pecgym.engine import load_engine
from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig, keys
from pecgym.evaluation.infermax.runs import KEPT
from pecgym.evaluation.ssjf import SsjfConfig, Study, study
from pecgym.evaluation.ssjf.cases import NONE, SLOTS, STATIC, capacity_rps, cases
from pecgym.evaluation.ssjf.cells import ACCURACY, Cell, service_s
from pecgym.evaluation.ssjf.changes import mean_value, relative_change
from pecgym.evaluation.ssjf.closed_forms import jobs_of
from pecgym.evaluation.ssjf.config import PARTS
from pecgym.evaluation.ssjf.page import write_page
from pecgym.evaluation.ssjf.targets import MEASURES, claims, target
from pecgym.predictors import load_predictor, with_predictions
from pecgym.workload import draw_chat
from tests.conftest import REPOSITORY

PLAN = EvaluationPlan(("fifo", "sjf", "spjf"), seeds=(100, 101), workload=WorkloadConfig(duration_s=120.0))


def config() -> SsjfConfig:
    """Two short runs of everything, with predictors that need no file."""
    quick = SsjfConfig(quick=True)
    quick.conversation.predictors = ["ssjf_proxy{cuts:own}"]
    return quick


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    out = tmp_path_factory.mktemp("ssjf")
    return out, study(PLAN, config(), out, workers=1)


def case(key: str) -> Any:
    return next(each for each in cases(config(), PLAN) if each.key == key)


def test_a_cell_gives_what_clusters_give() -> None:
    found = case("slots-2").cells[1].run()
    trace = with_predictions(draw_chat(50, "poisson", 5.0, seed=1), load_predictor("ssjf_proxy"), 1)
    engine = load_engine("slots", max_batch_requests=2)
    for policy in ("fifo", "sjf", "spjf", "ssjf"):
        log = make_cluster("llama-3.1-8b", "a100_x1", policy, trace, engine, profile="ssjf-slots").run()
        (row,) = found[policy]
        expected = log.metrics()
        assert {name: row[name] for name in row if name in expected} == {n: expected[n] for n in row if n in expected}
        times_s = log.seconds("finish") - log.seconds("arrival")
        assert row["steady_jct_mean_s"] == pytest.approx(times_s[5:].mean())
        slowdowns = times_s / (0.1 + 0.02 * trace.output_tokens)
        assert slowdowns.min() >= 1
        assert row["slowdown_mean"] == pytest.approx(slowdowns.mean())
    assert found[ACCURACY][0]["requests"] == 50


def test_a_drain_without_batching_is_served_as_a_plain_loop_says() -> None:
    """One server: the job with the smallest prediction among those that are there, equal ones in order of arrival."""
    cell = case("none").cells[0]
    found = cell.run()
    trace = cell.plan.part(cell.plan.workload, cell.seed, None).trace
    assert trace.predicted_tokens is not None
    assert trace.prediction_s is not None
    for policy, order, ready_s in (
        ("sjf", trace.output_tokens, trace.arrival_s),
        ("spjf", trace.predicted_tokens, trace.arrival_s + trace.prediction_s),
    ):
        left, free_s, finish_s = set(range(len(trace))), 0.0, np.zeros(len(trace))
        while left:
            free_s = max(free_s, min(ready_s[i] for i in left))
            chosen = min((i for i in left if ready_s[i] <= free_s), key=lambda i: (order[i], i))
            left.remove(chosen)
            free_s = finish_s[chosen] = free_s + service_s(trace.output_tokens[chosen])
        assert found[policy][0]["jct_mean_s"] == pytest.approx((finish_s - trace.arrival_s).mean(), abs=1e-9)
        quarter = 12.5 / (np.sort(finish_s)[12] - trace.arrival_s[0])
        assert found[policy][0]["quarter_throughput_rps"] == pytest.approx(quarter)


def test_loads_are_shares_of_what_a_server_completes() -> None:
    tokens = draw_chat(200_000, "burst", seed=3).output_tokens
    mean_s = service_s(tokens).mean()
    assert capacity_rps(NONE, 1) == pytest.approx(1 / mean_s, rel=0.01)
    assert capacity_rps(SLOTS, 8) == pytest.approx(8 / mean_s, rel=0.01)
    longest_s = service_s(tokens.reshape(-1, 8).max(axis=1)).mean()
    assert capacity_rps(STATIC, 8) == pytest.approx(8 / longest_s, rel=0.01)


def test_all_policies_meet_the_same_jobs_and_the_rates_the_same_lengths() -> None:
    slow, fast = (case(key).cells[0].plan for key in ("steady-0.73", "steady-0.95"))
    lengths = [plan.workload.load(0).output_tokens for plan in (slow, fast)]
    np.testing.assert_array_equal(*lengths)
    assert fast.workload.rate_rps == pytest.approx(0.95 / 0.73 * slow.workload.rate_rps)
    assert fast.workload.rate_rps == pytest.approx(0.95 / 3.64, rel=0.01)


def test_every_part_gives_a_row_for_each_policy_and_seed(done: tuple[Path, Study]) -> None:
    out, found = done
    assert set(found.parts) == set(PARTS)
    for part, of_part in found.parts.items():
        rows = json.loads((out / f"{part}.json").read_text())
        assert len(rows) == sum(len(each.case.cells) * len(each.rows) for each in of_part)
        assert all(row["jct_mean_s"] > 0 for row in rows)
        predicted = [row for row in rows if row["predictor"] is not None]
        assert all(-1 <= row["prediction_kendall_tau"] <= 1 for row in predicted)
    exact = next(f for f in found.parts["conversation"] if f.case.predictor == "lognormal{sigma:0,latency_s:0.0078}")
    assert [row["kendall_tau"] for row in exact.accuracy] == pytest.approx([1.0, 1.0])


def test_what_is_done_is_kept(done: tuple[Path, Study], monkeypatch: pytest.MonkeyPatch) -> None:
    out, found = done
    kept = (out / KEPT).read_bytes()
    monkeypatch.setattr(Cell, "run", lambda self: pytest.fail("a cell was run again"))
    again = study(PLAN, config(), out, workers=1)
    assert (out / KEPT).read_bytes() == kept
    assert [each.rows for each in again.parts["targets"]] == [each.rows for each in found.parts["targets"]]


def test_the_page_has_every_part_and_concludes_from_shipped_settings_alone(done: tuple[Path, Study]) -> None:
    out, found = done
    page, folder = config().places(out)
    assert (page, folder) == (out / "page.md", out)
    files = write_page(found, page, folder, "the command", False)
    assert all(path.stat().st_size > 1000 for path in files)
    text = page.read_text()
    for heading in ("The paper's setting", "The starvation guard", "Every policy", "conversation hour", "Closed forms"):
        assert f"# {heading}" in text or f"{heading}\n" in text
    assert "-43.7%" in text  # what the re-implementation gave
    assert "Kendall's tau" in text
    assert "{" not in text.replace("{cuts:own}", "").replace("{sigma:", "").replace("{latency_s:", "")
    assert "What it means" not in text
    shipped = (Path(__file__).parents[2] / "docs" / "ssjf.md").read_text()
    assert shipped.count("What it means") == 6


def test_changes_are_means_of_the_runs_own_changes() -> None:
    base = [{"x": 10.0, "y": None}, {"x": 20.0, "y": 1.0}, {"x": 40.0, "y": 1.0}]
    rows = [{"x": 5.0, "y": 1.0}, {"x": 20.0, "y": 1.0}, {"x": 30.0, "y": 1.0}]
    change = relative_change(rows, base, "x")
    assert change.value == pytest.approx((-0.5 + 0 - 0.25) / 3)
    assert -0.5 <= change.low < change.value < change.high <= 0
    assert relative_change(rows, rows, "x").value == relative_change(rows, rows, "x").low == 0
    assert mean_value(rows, "x").value == pytest.approx(55 / 3)
    with pytest.raises(SpecError, match="y: a run has none"):
        relative_change(rows, base, "y")


def test_closed_forms_are_of_the_jobs_that_are_drawn() -> None:
    exact, noisy = jobs_of(None), jobs_of("ssjf_proxy")
    drawn = service_s(draw_chat(200_000, "burst", seed=5).output_tokens)
    for jobs in (exact, noisy):
        assert jobs.mean_s == pytest.approx(drawn.mean(), rel=0.01)
        assert jobs.share @ jobs.service_s**2 == pytest.approx((drawn**2).mean(), rel=0.01)
    assert len(np.unique(noisy.predicted_s)) == 5


def test_the_targets_are_of_cases_that_exist() -> None:
    shipped = {each.key for each in cases(SsjfConfig(parts=["targets"]), PLAN)}
    known = {key: [target(key, measure.key) for measure in MEASURES] for key in shipped if not key.startswith("burst")}
    assert len(known) == 9
    assert all(value is not None for values in known.values() for value in values)
    assert [m.show(v) for m, v in zip(MEASURES, known["none"], strict=True) if v is not None] == [
        *("-43.7%", "-31.5%", "3.00x", "1.00x", "1.01x")
    ]
    assert target("steady-0.5", "p99") is None
    assert claims() == {"jct": (-0.396, -0.305), "throughput": (2.2, 3.6)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.parts.append("theorie"), "theorie does not exist; choose of targets"),
        (lambda c: c.targets.policies.remove("spjf"), r"ssjf\.targets\.policies: the page compares spjf too"),
        (lambda c: c.of_policies.static_policies.remove("fifo"), "compares with fifo"),
        (lambda c: setattr(c.theory, "runs", 1), r"ssjf\.theory\.runs=1: an interval needs 2"),
        (lambda c: c.targets.loads.append(1.0), r"a load of 1\.0 is not steady"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: Callable[[SsjfConfig], None], said: str, tmp_path: Path) -> None:
    settings = config()
    change(settings)
    with pytest.raises(SpecError, match=said):
        study(PLAN, settings, tmp_path)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (replace(PLAN, scenario=ScenarioConfig("steady", 0.5)), "leave scenario"),
        (replace(PLAN, windows=3), "leave scenario, workloads and windows out"),
        (replace(PLAN, policies=("sjf",)), "compares with fifo"),
    ],
)
def test_plans_that_the_study_sets_itself_are_refused(plan: EvaluationPlan, said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=said):
        study(plan, config(), tmp_path)


def test_the_shipped_configuration_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    importlib.import_module("scripts.evaluate")
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        values: Any = OmegaConf.to_object(compose("ssjf"))
        with pytest.raises(ConfigCompositionException, match="rums"):
            compose("ssjf", ["ssjf.rums=3"])
    assert values.ssjf == SsjfConfig()
    assert values.ssjf.places(Path("x")) == (Path("docs/ssjf.md"), Path("docs/assets"))
    plan = EvaluationPlan(tuple(values.policies), seeds=tuple(values.seeds), workload=values.workload)
    values.ssjf.check()
    values.ssjf.parts = ["policies"]
    for each in cases(values.ssjf, plan):
        each.cells[0].plan.check()


def test_words_and_pictures_of_the_page_change_no_key() -> None:
    read = [
        path for path in sorted((REPOSITORY / "pecgym/evaluation/ssjf").iterdir()) if path.suffix in (".py", ".yaml")
    ]
    of_page = {path.name for path in read if f"evaluation/ssjf/{path.name}".startswith(keys._READS_RESULTS)}
    runs = {"__init__.py", "cases.py", "cells.py", "config.py", "study.py"}
    assert of_page == {path.name for path in read} - runs


def test_the_script_writes_a_quick_page(tmp_path: Path) -> None:
    settings = ["ssjf.quick=true", "ssjf.parts=[theory]", "ssjf.theory.jobs=50", "workers=1", f"out={tmp_path}"]
    command = [sys.executable, "scripts/evaluate.py", "--config-name", "ssjf", *settings]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "page.md" in done.stdout
    text = (tmp_path / "page.md").read_text()
    assert "## Closed forms" in text
    assert "## The paper's setting" not in text
    assert "What it means" not in text
