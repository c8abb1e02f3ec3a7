"""SSJF's setting (arXiv:2404.08509): chat requests whose output lengths are those of LMSYS-Chat-1M.

Arrivals and lengths come from streams of their own, so that two rates, or two kinds of arrivals, meet the same lengths.
In place of the released lengths a file of prompts may give them, with the texts that a text predictor reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.arrivals import gamma, poisson
from pecgym.workload.columns import FloatColumn, IntColumn
from pecgym.workload.prompts import Prompts
from pecgym.workload.quantiles import QuantileTable
from pecgym.workload.splits import split_rows
from pecgym.workload.trace import Trace

CHAT = "chat"
"""The name of these workloads, beside those of the generator."""
ARRIVALS = ("poisson", "gamma", "burst")
INPUT_TOKENS = 6
"""Of every request unless a range is given: with so many the profile `ssjf-slots` takes the paper's service time."""


def draw_chat(
    requests: int,
    arrivals: str = "poisson",
    rate_rps: float | None = None,
    cv: float | None = None,
    input_range: Sequence[int] | None = None,
    seed: int = 0,
    prompts: Prompts | None = None,
) -> Trace:
    """So many requests with output lengths by inverse CDF from the released quantiles, each by itself.

    Args:
        requests: how many; fewer are a prefix of more.
        arrivals: "poisson" or "gamma" at `rate_rps`, the latter with the coefficient of variation `cv` of its gaps, or
            "burst": all at time 0, without a rate.
        rate_rps: requests per second.
        cv: of gamma arrivals.
        input_range: lowest and highest input length, tokens, uniform; None: what `prompts` says, else INPUT_TOKENS.
        seed: of all of it.
        prompts: in place of drawn lengths: consecutive rows of the last 20% of these prompts, which predictors are not
            trained on, from a random one on and round again.

    Raises TraceError for numbers that cannot be.
    """
    if requests < 1:
        raise TraceError(f"workload {CHAT}: requests={requests}; must be 1 or more")
    arrival_s = arrival_times_s(requests, arrivals, rate_rps, cv, seed)
    inputs = _inputs(requests, input_range, seed)
    if prompts is None:
        outputs = output_table().draw(random_stream(seed, f"{CHAT}/outputs"), requests)
        return Trace(arrival_s, inputs, outputs, name=CHAT)
    rows = _held_out(prompts, requests, seed)
    if input_range is None and prompts.input_tokens is not None:
        inputs = prompts.input_tokens[rows]
    return Trace(
        arrival_s, inputs, prompts.output_tokens[rows], name=f"{CHAT} of {prompts.name}", prompt=prompts.prompt[rows]
    )


def _inputs(requests: int, input_range: Sequence[int] | None, seed: int) -> IntColumn:
    limits = (INPUT_TOKENS, INPUT_TOKENS) if input_range is None else input_range
    if len(limits) != 2 or not 1 <= limits[0] <= limits[1]:
        raise TraceError(f"workload {CHAT}: input_range={list(limits)}; give [lowest, highest], 1 or more")
    return random_stream(seed, f"{CHAT}/inputs").integers(limits[0], limits[1] + 1, requests)


def _held_out(prompts: Prompts, requests: int, seed: int) -> IntColumn:
    """Which rows of the prompts a run gets, int64 [requests]."""
    low, high = split_rows(len(prompts), "test")
    if requests > high - low:
        raise TraceError(
            f"workload {CHAT}: requests={requests}; the held-out 20% of the prompts {prompts.name!r} are {high - low}"
        )
    start = random_stream(seed, f"{CHAT}/rows").integers(high - low)
    return low + (start + np.arange(requests)) % (high - low)


def arrival_times_s(requests: int, arrivals: str, rate_rps: float | None, cv: float | None, seed: int) -> FloatColumn:
    """When they arrive, float64 [requests]; arguments as of `draw_chat`. Raises TraceError."""
    if arrivals not in ARRIVALS:
        raise TraceError(f"workload {CHAT}: arrivals={arrivals!r}; choose one of {', '.join(ARRIVALS)}")
    for key, given, needed in (("rate_rps", rate_rps, arrivals != "burst"), ("cv", cv, arrivals == "gamma")):
        if (given is not None) != needed:
            wanted = f"need {key}, above 0" if needed else f"take no {key}: leave {given} out"
            raise TraceError(f"workload {CHAT}: {arrivals} arrivals {wanted}")
    stream = random_stream(seed, f"{CHAT}/arrivals")
    if rate_rps is None:
        return np.zeros(requests)
    return poisson(rate_rps, stream, n=requests) if cv is None else gamma(rate_rps, cv, stream, n=requests)


@cache
def output_table() -> QuantileTable:
    """The released quantiles of output tokens, in equal steps of probability."""
    text = (files("pecgym.workload") / "data" / "lmsys_outputs.json").read_text(encoding="utf-8")
    tokens = json.loads(text)["output_tokens"]
    return QuantileTable.build(np.linspace(0, 1, len(tokens)).tolist(), [tokens])


def output_distribution() -> tuple[IntColumn, FloatColumn]:
    """What `draw_chat` draws: output tokens, int64 [k] ascending, and the probability of each, float64 [k]."""
    table = output_table()
    quantiles = np.append(table.base + table.slope * table.grid[:-1], table.base[-1] + table.slope[-1])
    tokens = np.arange(round(quantiles[0]), round(quantiles[-1]) + 1)
    edges = np.interp(np.append(tokens - 0.5, tokens[-1] + 0.5), quantiles, table.grid)
    return tokens, np.diff(edges)
