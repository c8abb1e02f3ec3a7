"""Requests for the tests of predictors."""

from __future__ import annotations

import numpy as np

from pecgym.predictors.ssjf import released
from pecgym.random import random_stream
from pecgym.workload import Prompts, Trace, poisson


def lmsys(n: int, seed: int = 0) -> Trace:
    """Requests with the output lengths of SSJF's released predictions."""
    at = random_stream(seed, "lengths").random(n)
    quantiles = released().quantiles_tokens
    outputs = np.rint(np.interp(at, np.linspace(0, 1, len(quantiles)), quantiles)).astype(int)
    return Trace(np.arange(n) * 0.1, np.full(n, 20), outputs, name="lmsys")


def learnable(n: int, seed: int = 0) -> Trace:
    """Requests whose output is about a tenth of the input, with noise that no feature explains."""
    stream = random_stream(seed, "learnable")
    inputs = stream.integers(100, 4000, n)
    outputs = np.maximum(1, np.rint(inputs / 10 * np.exp(0.3 * stream.standard_normal(n))))
    return Trace(poisson(5.0, stream, n=n), inputs, outputs, name="learnable")


TASKS = {"Write an essay about": 400, "Translate": 8, "Summarise a text on": 120, "Explain step by step": 300}
TOPICS = ("physics", "cats", "France", "music", "Rome", "bridges", "chess", "rain", "maps")


def chat(n: int, seed: int = 0, noise: float = 0.3) -> Prompts:
    """Prompts whose task says how long the answer is."""
    stream = random_stream(seed, "chat")
    tasks = stream.choice(list(TASKS), n)
    prompts = np.asarray([f"{task} {stream.choice(TOPICS)} and {stream.choice(TOPICS)}" for task in tasks], object)
    outputs = [max(1, round(TASKS[task] * float(np.exp(noise * stream.standard_normal())))) for task in tasks]
    return Prompts("chat", prompts, np.asarray(outputs))
