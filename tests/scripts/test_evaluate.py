"""The main job, started as a user starts it."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pecgym.errors import EngineError, SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig, evaluate
from tests.conftest import REPOSITORY, shared_file

KEYS = [
    "policy",
    "model",
    "workload",
    "scenario",
    "seed",
    "n_requests",
    "n_finished",
    "makespan_s",
    "short_queueing_delay_p1_s",
    "short_queueing_delay_p25_s",
    "short_queueing_delay_p50_s",
    "short_queueing_delay_p75_s",
    "short_queueing_delay_p99_s",
    "long_queueing_delay_p99_s",
    "all_queueing_delay_p99_s",
    "short_throughput_rps",
    "throughput_tokens_per_s",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "jct_mean_s",
    "long_jct_mean_s",
    "preemptions",
    "evictions",
    "recomputed_tokens",
    "idle_rate",
    "starved_fraction",
    "gpu_hours",
    "energy_kwh",
    "energy_per_request_j",
    "energy_per_output_token_j",
    "engine_wall_s",
]

SMALL = WorkloadConfig(duration_s=60.0)


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/evaluate.py", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )


def test_writes_a_table_a_summary_and_every_request(tmp_path: Path) -> None:
    done = run_script(
        "policies=[fifo,random]", "seeds=[0,1]", "workload.duration_s=60", "model=llama-3.1-8b", f"out={tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    assert "random" in done.stdout
    assert "median of 2 seeds" in done.stdout
    rows = json.loads((tmp_path / "summary.json").read_text())
    assert [(r["policy"], r["seed"]) for r in rows] == [("fifo", 0), ("random", 0), ("fifo", 1), ("random", 1)]
    assert not set(KEYS) - set(rows[0])
    with (tmp_path / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    bounds = json.loads((tmp_path / "bound.json").read_text())
    assert [(r["policy"], r["seed"]) for r in bounds] == [("bound", 0), ("bound", 1)]
    assert [float(r["jct_mean_s"]) for r in table] == [r["jct_mean_s"] for r in [*rows, *bounds]]
    requests = pq.read_table(tmp_path / "requests.parquet")
    assert len(requests) == sum(r["n_requests"] for r in rows)


def test_every_run_has_its_distance_to_the_bound_of_its_window(tmp_path: Path) -> None:
    keys = ("workload.duration_s=120", "split=test", "windows=2", "window_requests=50", "scenario=paper")
    arguments = ("policies=[fifo,pecsched]", *keys, "workers=1", "report=true", f"out={tmp_path}")
    done = run_script(*arguments)
    assert done.returncode == 0, done.stderr
    assert "bound" in done.stdout
    assert "distance to the bound" in done.stdout
    rows, bounds = (json.loads((tmp_path / name).read_text()) for name in ("summary.json", "bound.json"))
    assert [list(row) for row in bounds] == [list(rows[0])] * 2
    with (tmp_path / "distances.csv").open() as file:
        distances = list(csv.DictReader(file))
    for row in rows:
        bound = next(each for each in bounds if each["first_request"] == row["first_request"])
        found = {
            each["metric"]: each
            for each in distances
            if (each["policy"], int(each["window"])) == (row["policy"], row["window"])
        }
        assert {"makespan_s", "ttft_mean_s", "long_jct_p99_s", "throughput_tokens_per_s", "energy_kwh"} <= set(found)
        for metric, each in found.items():
            assert float(each["value"]) == row[metric]
            assert float(each["ratio"]) == row[metric] / bound[metric]
            assert float(each["ratio"]) <= 1 + 1e-9 if "throughput" in metric else float(each["ratio"]) >= 1 - 1e-9
    page = (tmp_path / "report.html").read_text()
    assert "Distance to the bound" in page
    assert "<tfoot>" in page
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("bound-*.json")}
    assert len(kept) == 2
    assert run_script(*arguments).returncode == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("bound-*.json")}
    done = run_script(*arguments, "bound=false")
    assert "bound" not in done.stdout
    assert not (tmp_path / "bound.json").exists()
    assert not (tmp_path / "distances.csv").exists()
    assert "<tfoot>" not in (tmp_path / "report.html").read_text()


def test_a_derived_engine_preset_by_name(tmp_path: Path) -> None:
    keys = ("policies=[fifo]", "workload.duration_s=30", "model=llama-3.1-8b", "cluster=a100_x1", f"out={tmp_path}")
    done = run_script("engine=sarathi_hist_srf", *keys)
    assert done.returncode == 0, done.stderr
    assert "engine sarathi_hist_srf" in " ".join(done.stdout.split())
    (row,) = json.loads((tmp_path / "summary.json").read_text())
    assert row["engine"] == "sarathi_hist_srf"
    assert row["mean_batch_size"] > 1
    assert run_script("engine=vllm_srf_hist", *keys).returncode != 0


def test_windows_are_compared(tmp_path: Path) -> None:
    keys = ("workload.duration_s=300", "split=test", "windows=4", "window_requests=100", "baseline=random")
    done = run_script("policies=[fifo,random]", "seeds=[0,1]", *keys, "report=true", f"out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "interquartile mean of 2 seeds x 4 windows of split test" in " ".join(done.stdout.split())
    assert "against random on the same 8 runs" in done.stdout
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    assert (comparison["baseline"], comparison["pairs"]) == ("random", 8)
    assert [each["policy"] for each in comparison["policies"]] == ["fifo"]
    page = (tmp_path / "report.html").read_text()
    assert "Compared on the same runs" in page
    assert "4 a seed, split test" in page


def test_a_real_file_by_path(tmp_path: Path) -> None:
    path = shared_file("traces/azure2023/AzureLLMInferenceTrace_conv.csv")
    done = run_script("policies=[fifo]", f"workload.path={path}", f"out={tmp_path}", "requests=false")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "summary.json").read_text())
    assert row["n_requests"] == row["n_finished"] == 19_366
    assert row["workload"] == "AzureLLMInferenceTrace_conv"
    assert not (tmp_path / "requests.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policies=[fifi]"], "choose one of fifo"),
        (["workload.path=no/such/file.csv"], "no such file"),
        (["engine.kv_capacity_tokens=500"], "exceed a replica's KV memory"),
        (["enigne=vllm"], "enigne"),
        (["engine.chunks=1"], "engine.chunks"),
        (["scenario.load=0.5"], "native takes no load"),
        (["cluster=a100_x1"], "does not fit a node"),
        (["long.sp_strategie=ring"], "sp_strategie"),
        (["long.sp_strategy=rings"], "choose one of ring"),
        (["long.decode_replicas=1", "policies=[reservation]"], "cannot be combined"),
        (["workload.long_context=papre"], "choose one of none, paper, linear, rank"),
        (["workload.long_percentile=90"], "of long_context=paper or rank"),
        (["scenario=steady", "scenario.arrival_scale=2"], "steady sets the rate"),
        (["model=paper"], "no model named"),
        (["split=tests"], "choose one of all, train"),
        (["window_requests=9000", "windows=2", "workload.duration_s=60", "policies=[fifo]"], "ask for fewer"),
        (["policies=[ppo/none]"], "ppo/none"),
        (["--config-name=paper", "scenario.arrival_scale=2"], "leave scenario"),
        (["--config-name=paper", "split=test"], "leave split"),
        (["--config-name=paper", "model=llama-2-7b"], "the paper's are mistral-7b"),
        (["--config-name=paper", "record=true"], "leave them off"),
        (["--config-name=paper", "paper.scales=[1,0.5]"], "ascending"),
    ],
)
def test_mistakes_are_named_without_a_traceback(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = run_script(*arguments, f"out={tmp_path}", "workers=1", *(["policies=[fifo]"] if len(arguments) == 0 else []))
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_report_timelines_and_traces(tmp_path: Path) -> None:
    done = run_script(
        *("policies=[fifo,pecsched/Dis]", "seeds=[0,1]", "workload.duration_s=120", "scenario=paper", "record=true"),
        *("report=true", f'trace="{tmp_path}/{{policy}}.json.gz"', f"out={tmp_path}/out"),
    )
    assert done.returncode == 0, done.stderr
    assert "longs" in done.stdout
    assert len(list((tmp_path / "out/runs").glob("*.timeline.parquet"))) == 4
    page = (tmp_path / "out/report.html").read_text()
    assert "policies=[fifo,pecsched/Dis]" in page
    for name in ("fifo", "pecsched.Dis"):
        trace = json.loads(gzip.decompress((tmp_path / f"{name}.json.gz").read_bytes()))
        assert trace["traceEvents"]


def test_policies_are_those_for_what_arrives(tmp_path: Path) -> None:
    for arguments, expected in ((["scenario=paper"], "pecsched/FSP"), ([], "power_of_two")):
        done = run_script("workload.duration_s=30", "requests=false", f"out={tmp_path}/{expected[0]}", *arguments)
        assert done.returncode == 0, done.stderr
        policies = {row["policy"] for row in json.loads((tmp_path / expected[0] / "summary.json").read_text())}
        assert expected in policies
        assert ("reservation" in policies) == bool(arguments)


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    first = evaluate(EvaluationPlan(("fifo",), workload=SMALL), tmp_path, workers=1)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    both = evaluate(EvaluationPlan(("fifo", "random"), workload=SMALL), tmp_path, workers=1)
    assert both.rows[0] == first.rows[0]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    again = evaluate(EvaluationPlan(("fifo",), workload=SMALL), tmp_path, workers=1, fresh=True)
    assert again.rows[0]["digest"] == first.rows[0]["digest"]
    assert {path: path.stat().st_mtime_ns for path in kept} != kept


def test_an_interruption_keeps_the_runs_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pecgym.evaluation.run as evaluation

    run_job = evaluation.run_job

    def interrupted(job, *rest):
        if job.policy == "random":
            raise KeyboardInterrupt
        run_job(job, *rest)

    plan = EvaluationPlan(("fifo", "random"), workload=SMALL)
    monkeypatch.setattr(evaluation, "run_job", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(plan, tmp_path, workers=1)
    assert [r["policy"] for r in json.loads((tmp_path / "summary.json").read_text())] == ["fifo"]
    monkeypatch.setattr(evaluation, "run_job", run_job)
    assert [r["policy"] for r in evaluate(plan, tmp_path, workers=1).rows] == ["fifo", "random"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    plan = EvaluationPlan(("fifo", "random"), workload=SMALL, seeds=(0, 1), scenario=ScenarioConfig("steady", 0.7))
    digests = [
        [row["digest"] for row in evaluate(plan, tmp_path / str(n), workers=n, keep_requests=False).rows]
        for n in (1, 2)
    ]
    assert digests[0] == digests[1]


def test_several_workloads_stand_in_one_summary(tmp_path: Path) -> None:
    plan = EvaluationPlan(("fifo",), workload=SMALL, workloads=("azure2023_conv", "azure2023_code"))
    rows = evaluate(plan, tmp_path, workers=1).rows
    assert [row["workload"] for row in rows] == ["azure2023_conv", "azure2023_code"]


class Failing:
    """A policy with a mistake."""

    name = "failing"

    def act(self, decision):
        raise RuntimeError("oh")


class Dying:
    """A policy whose process is killed."""

    name = "dying"

    def act(self, decision):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_mistake_in_a_users_policy_is_named_with_its_place(tmp_path: Path) -> None:
    plan = EvaluationPlan(("fifo", "tests.scripts.test_evaluate:Failing"), workload=SMALL)
    with pytest.raises(
        EngineError, match=r"Failing on workload azure2023_conv, seed 0: RuntimeError: oh .*test_evaluate"
    ):
        evaluate(plan, tmp_path, workers=1)
    assert [r["policy"] for r in json.loads((tmp_path / "summary.json").read_text())] == ["fifo"]


def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    plan = EvaluationPlan(("tests.scripts.test_evaluate:Dying", "fifo"), workload=SMALL)
    with pytest.raises(EngineError, match="a worker process died"):
        evaluate(plan, tmp_path, workers=2)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (EvaluationPlan(()), "nothing to run"),
        (EvaluationPlan(("fifo", "fifo")), "twice"),
        (EvaluationPlan(("fifo",), seeds=(1, 1)), "twice"),
        (EvaluationPlan(("fifo",), scenario=ScenarioConfig("steady")), "scenario.load"),
        (EvaluationPlan(("fifo",), seeds=(-1,)), "0 or more"),
        (EvaluationPlan(("fifo",), until_s=-1.0), "until_s"),
        (EvaluationPlan(("fifo",), workload=WorkloadConfig(duration_s=1e9)), "duration_s"),
        (EvaluationPlan(("fifo",), workload=WorkloadConfig(name="azure2022")), "azure2023_conv"),
        (EvaluationPlan(("fifo",), workload=WorkloadConfig(start_s=1e6)), "no request arrives"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan: EvaluationPlan, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        evaluate(plan, tmp_path, workers=1)


def test_runs_that_are_cut_short_have_no_bound(tmp_path: Path) -> None:
    keys = ("policies=[fifo]", "workload.stop_s=60", "model=llama-3.1-8b", "cluster=a100_x1", f"out={tmp_path}")
    done = run_script("until_s=5", *keys)
    assert done.returncode == 0, done.stderr
    assert "bound" not in done.stdout
    assert (tmp_path / "requests.parquet").exists()
    assert not (tmp_path / "bound.json").exists()
