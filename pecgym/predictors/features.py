"""What a request shows of itself when it arrives, as numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pecgym.workload.trace import Trace

Floats = NDArray[np.float64]

RATE_WINDOWS_S = (1.0, 10.0, 60.0, 300.0)
INPUT_WINDOWS_S = (10.0, 60.0, 300.0)
INPUT_NEIGHBOURS = (8, 64)


def input_features(trace: Trace) -> Floats:
    """float64 [n, 1]: the log of the input length."""
    return np.log(trace.input_tokens)[:, None]


def history_features(trace: Trace) -> Floats:
    """float64 [n, 11]: the log of the input length; of the gap since the last arrival (ms); of the arrivals per second
    over the last 1, 10, 60 and 300 s; means of the log input length over the last 10, 60 and 300 s and over the last 8
    and 64 requests.

    A request's row is made of the arrival times and input lengths of itself and of the rows before it alone: never of
    a later row, never of an output. Where a trace has just begun, a window is as long as it is so far, at least 1 s.
    """
    arrival_s, log_input = trace.arrival_s, np.log(trace.input_tokens)
    index = np.arange(len(trace))
    upto = np.concatenate([[0.0], np.cumsum(log_input)])
    since_s = arrival_s - arrival_s[:1]
    columns = [log_input, np.log1p(1e3 * np.diff(arrival_s, prepend=arrival_s[:1]))]
    first = {window_s: np.searchsorted(arrival_s, arrival_s - window_s, side="left") for window_s in RATE_WINDOWS_S}
    for window_s, start in first.items():
        columns.append(np.log((index - start + 1) / np.clip(since_s, 1.0, window_s)))
    starts = [first[window_s] for window_s in INPUT_WINDOWS_S]
    starts += [np.maximum(index - count, 0) for count in INPUT_NEIGHBOURS]
    columns += [(upto[index + 1] - upto[start]) / (index + 1 - start) for start in starts]
    return np.stack(columns, axis=1)
