"""What a log of requests says about the terms of the reward."""

from __future__ import annotations

import math

import numpy as np

from pecgym.analysis import RequestLog
from pecgym.engine.state import NONE
from pecgym.envs.config import RewardConfig


def charged(log: RequestLog, reward: RewardConfig) -> dict[str, float]:
    """The amounts of all terms from the beginning of the log to its end, from its definition."""
    end_s, facts = log.facts.end_s, log.facts
    arrival = log.seconds("arrival")
    short, long = ~log.is_long, log.is_long
    start = np.where(log.ps["start"] == NONE, end_s, log.seconds("start"))
    finish = np.where(log.ps["finish"] == NONE, end_s, log.seconds("finish"))
    waits = (start - arrival)[short]
    answered = np.where(log.ps["first_token"] == NONE, math.inf, log.seconds("first_token"))
    missed = (np.minimum(answered, np.nextafter(end_s, math.inf)) - arrival)[short] > reward.slo_ttft_s
    missed &= (end_s - arrival)[short] > reward.slo_ttft_s
    busy_gpu_s = float(np.sum(facts.busy_s)) * facts.gpus_per_replica
    prefill_gpu_s = float(np.sum(facts.prefill_s)) * facts.gpus_per_replica
    idle_gpu_s, decode_gpu_s = end_s * facts.gpus - busy_gpu_s, busy_gpu_s - prefill_gpu_s
    joules = prefill_gpu_s * facts.prefill_w + decode_gpu_s * facts.decode_w + idle_gpu_s * facts.idle_w
    return {
        "delay": float(waits.sum()),
        "long": float((finish - arrival)[long].sum()),
        "tail": float(np.maximum(waits - reward.tail_s, 0).sum()),
        "slo": float(missed.sum()),
        "energy": joules / 3.6e6,
        "money": end_s * facts.gpus * facts.price_per_gpu_hour_usd / 3600,
    }
