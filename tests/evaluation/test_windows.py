"""Windows: which requests they are, the same for every policy, and the same as those of the environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pecgym.errors import PecGymError, SpecError
from pecgym.evaluation import EvaluationPlan, ScenarioConfig, WorkloadConfig, evaluate
from pecgym.evaluation.windows import Cut
from pecgym.workload import Trace
from tests.conftest import shared_file
from tests.envs.worlds import as_reference, make_env, play

SMALL = WorkloadConfig(name="azure2023_conv+azure2023_code", duration_s=300.0, long_context="paper")
PLAN = EvaluationPlan(
    ("fifo", "pecsched"),
    workload=SMALL,
    scenario=ScenarioConfig("steady", 0.8),
    seeds=(0, 1),
    split="test",
    windows=3,
    window_requests=60,
)


def trace_of(n: int) -> Trace:
    return Trace(np.arange(n) + 7.0, np.arange(n) + 1, np.ones(n, np.int64), name="counted")


@pytest.mark.parametrize(
    ("split", "low", "high"), [(None, 0, 100), ("train", 0, 60), ("validation", 60, 80), ("test", 80, 100)]
)
def test_windows_are_rows_of_their_split_from_time_zero(split: str | None, low: int, high: int) -> None:
    cut = Cut(split, windows=200, window_requests=15)
    firsts = set()
    for number in range(200):
        part, first = cut.part(trace_of(100), 3, number)
        assert low <= first <= high - 15
        assert part.input_tokens.tolist() == list(range(first + 1, first + 16))
        assert part.arrival_s.tolist() == list(range(15))
        firsts.add(first)
    assert firsts == set(range(low, high - 15 + 1)) or split in (None, "train")


def test_starts_depend_on_seed_and_split_and_not_on_how_many_there_are() -> None:
    few, many = Cut("test", 3, 50), Cut("test", 30, 50)
    starts = [few.part(trace_of(2000), 1, k)[1] for k in range(3)]
    assert starts == [many.part(trace_of(2000), 1, k)[1] for k in range(3)]
    assert starts != [few.part(trace_of(2000), 2, k)[1] for k in range(3)]
    train, other = Cut("train", 3, 50), Cut(None, 3, 50)
    assert [train.part(trace_of(2000), 1, k)[1] for k in range(3)] != [
        other.part(trace_of(2000), 1, k)[1] for k in range(3)
    ]


def test_a_split_without_windows_is_one_window() -> None:
    cut = Cut("validation")
    assert cut.numbers() == [0]
    part, first = cut.part(trace_of(100), 0, 0)
    assert (first, len(part)) == (60, 20)
    assert Cut().numbers() == [None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "tests"}, r"split='tests': choose one of all, train, validation, test"),
        ({"windows": 0}, r"windows=0: must be 1 or more"),
        ({"window_requests": 0}, r"window_requests=0: must be 1 or more"),
        ({"window_requests": 10**6}, r"window_requests=1000000: workload .*, split test has \d+ requests; ask for few"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        evaluate(replace(PLAN, **changes), tmp_path, workers=1)


def test_every_policy_meets_the_same_windows_and_rows_say_which(tmp_path: Path) -> None:
    result = evaluate(PLAN, tmp_path, workers=1)
    assert len(result.rows) == 2 * 2 * 3
    runs = {
        policy: [
            (row["seed"], row["split"], row["window"], row["first_request"], row["n_requests"])
            for row in result.rows
            if row["policy"] == policy
        ]
        for policy in PLAN.policies
    }
    assert runs["fifo"] == runs["pecsched"]
    assert len({(seed, first) for seed, _, _, first, _ in runs["fifo"]}) > 3
    assert {(split, n) for _, split, _, _, n in runs["fifo"]} == {("test", 60)}
    scales = {(row["seed"], row["arrival_scale"]) for row in result.rows}
    whole = evaluate(replace(PLAN, split=None, windows=None), tmp_path / "whole", workers=1).rows
    assert scales == {(row["seed"], row["arrival_scale"]) for row in whole}
    assert {(row["split"], row["window"], row["first_request"]) for row in whole} == {(None, None, None)}
    requests = pq.read_table(tmp_path / "requests.parquet", columns=["policy", "window", "first_request"])
    assert len(set(zip(*(column.to_pylist() for column in requests.columns), strict=True))) == 12
    assert "window" not in pq.read_schema(tmp_path / "whole" / "requests.parquet").names


def test_a_change_of_the_windows_makes_other_runs_and_more_windows_keep_those_done(tmp_path: Path) -> None:
    keys = [job.key() for job in PLAN.jobs()]
    assert len(set(keys)) == len(keys)
    more = [job.key() for job in replace(PLAN, windows=4).jobs()]
    assert set(keys) < set(more)
    for change in ({"split": "train"}, {"window_requests": 61}, {"windows": None}, {"windows": None, "split": None}):
        assert not set(keys) & {job.key() for job in replace(PLAN, **change).jobs()}


def test_a_window_is_the_episode_that_begins_at_its_first_request() -> None:
    """Of a policy, played through the environment in its own window."""
    plan = replace(PLAN, policies=("pecsched",), window_requests=150)
    job, row = next((job, row) for job in plan.jobs() if (row := job.run().metrics())["n_long"] > 0)
    env = make_env(
        workload=vars(SMALL),
        scenario={"name": "steady", "load": 0.8},
        workload_seed=job.seed,
        episode={"requests": 150, "split": "test"},
    )
    play(env, as_reference, options={"first_request": row["first_request"]})
    found = env.log().metrics()
    assert found["n_long"] == row["n_long"]
    for metric in ("short_queueing_delay_p99_s", "short_throughput_rps", "long_jct_mean_s", "cost_usd"):
        assert found[metric] == pytest.approx(row[metric], rel=1e-6), metric


def test_windows_of_a_real_trace(tmp_path: Path) -> None:
    path = shared_file("traces/azure2023/AzureLLMInferenceTrace_conv.csv")
    plan = replace(PLAN, workload=WorkloadConfig(path=str(path), long_context="paper"), windows=2)
    rows = evaluate(plan, tmp_path, workers=1, keep_requests=False).rows
    firsts = [row["first_request"] for row in rows]
    assert all(round(0.8 * 19_366) <= first <= 19_366 - 60 for first in firsts)
    assert len(set(firsts)) == 4
    assert all(row["n_finished"] == 60 for row in rows)


def test_a_policy_with_a_mistake_is_named_with_its_window(tmp_path: Path) -> None:
    plan = replace(PLAN, policies=("tests.scripts.test_evaluate:Failing",))
    with pytest.raises(PecGymError, match=r"Failing on workload .*, seed 0, window 0: RuntimeError: oh"):
        evaluate(plan, tmp_path, workers=1)
