"""What a learned predictor sees: nothing that is not known when the request arrives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pecgym.predictors.features import history_features, input_features
from pecgym.workload import Trace, generate

TRACE = generate("azure2023_conv", 0, 400.0)


@pytest.mark.parametrize("features", [history_features, input_features])
@pytest.mark.parametrize("known", [1, 2, 57, len(TRACE) - 1])
def test_nothing_of_later_rows_or_of_outputs(features: object, known: int) -> None:
    seen = features(TRACE)[:known]  # type: ignore[operator]
    assert np.array_equal(features(TRACE.slice(0, known)), seen)  # type: ignore[operator]
    others = generate("azure2023_code", 1, 400.0)
    later = others.take(others.arrival_s >= TRACE.arrival_s[known - 1])
    mixed = Trace.concatenate([TRACE.slice(0, known), later])
    assert np.array_equal(features(mixed)[:known], seen)  # type: ignore[operator]
    shuffled = replace(TRACE, output_tokens=TRACE.output_tokens[::-1].copy())
    assert np.array_equal(features(shuffled)[:known], seen)  # type: ignore[operator]


def test_by_hand() -> None:
    trace = Trace([5.0, 5.5, 5.5, 30.0], [10, 100, 1000, 10], [1, 1, 1, 1])
    found = history_features(trace)
    logs = np.log([10, 100, 1000, 10])
    assert found[:, 0] == pytest.approx(logs)
    assert found[:, 1] == pytest.approx(np.log1p([0, 500, 0, 24_500]))
    assert np.exp(found[:, 2]) == pytest.approx([1, 2, 3, 1])  # over the last second
    assert np.exp(found[:, 3]) == pytest.approx([1, 2, 3, 1 / 10])  # over the last 10 s
    assert np.exp(found[:, 4]) == pytest.approx([1, 2, 3, 4 / 25])  # 60 s, of which 25 s have passed
    assert found[:, 6] == pytest.approx([logs[0], logs[:2].mean(), logs[:3].mean(), logs[3]])
    assert found[:, 7] == pytest.approx([logs[0], logs[:2].mean(), logs[:3].mean(), logs.mean()])


def test_no_requests() -> None:
    assert history_features(TRACE.slice(0, 0)).shape == (0, 11)
