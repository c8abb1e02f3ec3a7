"""examples/vllm_step_log.py: what it writes is what scripts/calibrate.py reads.

vLLM is not installed here: a scheduler that does with requests what vLLM's does takes its place.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest

from pecgym.costs.samples import read_points_csv

EXAMPLE = Path(__file__).resolve().parent.parent.parent / "examples" / "vllm_step_log.py"


class Scheduler:
    """Schedules what a test says; as in vLLM, tokens count as computed as soon as they are scheduled."""

    def __init__(self, steps):
        self.requests, self.steps = {}, iter(steps)

    def schedule(self, throttle_prefills=False):
        scheduled = next(self.steps)
        for name, tokens in scheduled.items():
            self.requests[name].num_computed_tokens += tokens
        return SimpleNamespace(num_scheduled_tokens=scheduled, total_num_scheduled_tokens=sum(scheduled.values()))

    def update_from_output(self, scheduler_output, model_runner_output):
        for name in model_runner_output:
            self.requests[name].num_output_tokens += 1
            self.requests[name].num_tokens += 1
        return "outputs"


def request(prompt_tokens: int) -> SimpleNamespace:
    return SimpleNamespace(num_tokens=prompt_tokens, num_output_tokens=0, num_computed_tokens=0)


@pytest.fixture
def step_log(monkeypatch):
    """The example as a module."""
    module = types.ModuleType("vllm.v1.core.sched.scheduler")
    module.Scheduler = Scheduler
    for name in ("vllm", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("vllm_step_log", EXAMPLE)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_iteration_becomes_a_row(step_log, tmp_path, monkeypatch):
    """A chunked prompt, a prompt of one token, decodes, an idle turn, and a prompt computed anew when preempted."""
    path = tmp_path / "steps.csv"
    monkeypatch.setenv("STEP_LOG", str(path))
    joules = iter(range(0, 2000, 100))
    monkeypatch.setenv("STEP_LOG_GPUS", "0,1")
    monkeypatch.setattr(step_log, "joules_meter", lambda gpus: lambda: next(joules))
    clock = iter(number / 4 for number in range(100))  # a step takes 0.25 s
    monkeypatch.setattr(step_log.time, "perf_counter", lambda: next(clock))
    steps = [{"a": 100, "b": 1}, {"a": 50, "b": 1}, {}, {"a": 1, "b": 1}, {"a": 152}, {"a": 1}]
    emitting = [["b"], ["a", "b"], [], ["a", "b"], ["a"], ["a"]]
    scheduler = step_log.LoggingScheduler(steps)
    scheduler.requests |= {"a": request(150), "b": request(1)}
    for i, emitted in enumerate(emitting):
        if i == 4:
            scheduler.requests["a"].num_computed_tokens = 0  # preempted
        output = scheduler.schedule()
        assert scheduler.update_from_output(output, emitted) == "outputs"
    samples, ignored = read_points_csv(path)
    assert not ignored
    assert samples.prefill_tokens.tolist() == [101, 50, 0, 152, 0]
    assert samples.prefill_past_tokens.tolist() == [0, 100, 0, 0, 0]
    assert samples.n_prefills.tolist() == [2, 1, 0, 1, 0]
    assert samples.prefill_pairs.tolist() == [100**2 + 1, 50**2 + 2 * 50 * 100, 0, 152**2, 0]
    assert samples.n_decodes.tolist() == [0, 1, 2, 0, 1]
    assert samples.kv_tokens_read.tolist() == [0, 1, 150 + 2, 0, 152]
    assert samples.time_ms.tolist() == [250.0] * 5
    assert samples.power_w.tolist() == [100 / 0.25 / 2] * 5
