"""Offline workloads: everything waits at time 0, as where INFERMAX compares schedules (arXiv:2411.07447).

The requests are drawn independently of one another, so that every run of n neighbours is a fresh draw of n requests:
windows (docs/evaluate.md) and episodes of environments cut as many instances out of one such trace as they want.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.columns import IntColumn
from pecgym.workload.trace import Trace

OFFLINE = "offline"
"""The name of these workloads, beside those of the generator."""


def offline(
    input_tokens: Sequence[int] | IntColumn, output_tokens: Sequence[int] | IntColumn, name: str = OFFLINE
) -> Trace:
    """The requests of these lengths, all at time 0. Raises TraceError for lengths that cannot be."""
    inputs, outputs = np.asarray(input_tokens), np.asarray(output_tokens)
    if inputs.shape != outputs.shape or inputs.ndim != 1:
        raise TraceError(
            f"workload {name}: {inputs.size} input_tokens and {outputs.size} output_tokens; give as many of both"
        )
    return Trace(np.zeros(len(inputs)), inputs, outputs, name=name)


def draw_offline(requests: int, input_range: Sequence[int], output_range: Sequence[int], seed: int = 0) -> Trace:
    """So many requests at time 0, with lengths that are uniform in [lowest, highest] tokens, each by itself.

    Fewer requests are a prefix of more. Raises TraceError for a range or a number that cannot be.
    """
    if requests < 1:
        raise TraceError(f"workload {OFFLINE}: requests={requests}; must be 1 or more")
    return offline(
        _draw("input_range", input_range, requests, seed),
        _draw("output_range", output_range, requests, seed),
    )


def _draw(key: str, limits: Sequence[int], n: int, seed: int) -> IntColumn:
    if len(limits) != 2 or not 1 <= limits[0] <= limits[1]:
        raise TraceError(f"workload {OFFLINE}: {key}={list(limits)}; give [lowest, highest], 1 or more")
    return random_stream(seed, f"offline/{key}").integers(limits[0], limits[1] + 1, n)
