"""Writes down every iteration of vLLM for scripts/calibrate.py: a scheduler that also keeps a log.

    PYTHONPATH=examples STEP_LOG=step_times.csv STEP_LOG_GPUS=0,1,2,3 \
        vllm serve meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size 4 \
        --scheduler-cls vllm_step_log.LoggingScheduler --no-async-scheduling --no-enable-prefix-caching

STEP_LOG: the CSV, written anew. STEP_LOG_GPUS: indices of the replica's GPUs, for the column power_w; leave it out to
do without. An iteration's time is from the beginning of its scheduling until its tokens are handed out; with
asynchronous scheduling iterations overlap and have no times of their own. See docs/calibrate.md.

Written for vLLM 0.24.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

COLUMNS = (
    "prefill_tokens",
    "prefill_past_tokens",
    "prefill_pairs",
    "n_prefills",
    "n_decodes",
    "kv_tokens_read",
    "time_ms",
)


def counts_of(requests: dict[str, Any], scheduled_tokens: dict[str, int]) -> dict[str, int]:
    """What an iteration computes. The scheduler has counted the scheduled tokens as computed already."""
    row = dict.fromkeys(COLUMNS[:-1], 0)
    for name, new in scheduled_tokens.items():
        request = requests[name]
        past = request.num_computed_tokens - new
        if request.num_output_tokens > 0 and past == request.num_tokens - 1:
            row["n_decodes"] += 1
            row["kv_tokens_read"] += past
        else:
            row["n_prefills"] += 1
            row["prefill_tokens"] += new
            row["prefill_past_tokens"] += past
            row["prefill_pairs"] += new * new + 2 * new * past
    return row


def joules_meter(gpus: list[int]) -> Callable[[], float]:
    """Reads the joules that the GPUs have drawn since their driver was loaded, together."""
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in gpus]
    return lambda: sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3


class LoggingScheduler(Scheduler):
    """vLLM's scheduler, with a row in a CSV for every iteration."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gpus = [int(gpu) for gpu in os.environ.get("STEP_LOG_GPUS", "").split(",") if gpu]
        self._n_gpus, self._joules = len(gpus), joules_meter(gpus) if gpus else None
        self._file = Path(os.environ["STEP_LOG"]).open("w", newline="", encoding="utf-8")  # noqa: SIM115
        self._log = csv.DictWriter(self._file, COLUMNS + (("power_w",) if gpus else ()))
        self._log.writeheader()

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._began_s, self._began_j = time.perf_counter(), self._joules() if self._joules else 0.0
        output = super().schedule(*args, **kwargs)
        self._row: dict[str, Any] = counts_of(self.requests, output.num_scheduled_tokens)
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        result = super().update_from_output(scheduler_output, model_runner_output)
        if scheduler_output.total_num_scheduled_tokens > 0:
            took_s = time.perf_counter() - self._began_s
            self._row["time_ms"] = f"{took_s * 1e3:.3f}"
            if self._joules:
                self._row["power_w"] = f"{(self._joules() - self._began_j) / took_s / self._n_gpus:.1f}"
            self._log.writerow(self._row)
            self._file.flush()
        return result
