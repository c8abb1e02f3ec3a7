"""Offline workloads: everything at time 0, of lengths that are drawn or listed; keys are strict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pecgym.configs import ScenarioConfig, WorkloadConfig
from pecgym.errors import SpecError, TraceError
from pecgym.workload import draw_offline, offline

DRAWN: dict[str, Any] = {"name": "offline", "requests": 50, "input_range": [3, 9], "output_range": [1, 4]}


def test_lengths_are_drawn_from_the_whole_of_their_ranges() -> None:
    trace = draw_offline(2000, [3, 9], [1, 4], seed=1)
    assert len(trace) == 2000
    assert not trace.arrival_s.any()
    assert set(trace.input_tokens) == set(range(3, 10))
    assert set(trace.output_tokens) == {1, 2, 3, 4}
    counts = np.unique(trace.input_tokens, return_counts=True)[1]
    assert counts.min() > 200  # 286 each are expected, with a deviation of 16
    assert abs(np.corrcoef(trace.input_tokens, trace.output_tokens)[0, 1]) < 0.1


def test_a_seed_is_a_draw_and_fewer_are_a_prefix_of_more() -> None:
    many, few = draw_offline(100, [1, 64], [1, 16], 7), draw_offline(30, [1, 64], [1, 16], 7)
    assert many.slice(0, 30).equals(few)
    assert not draw_offline(100, [1, 64], [1, 16], 8).equals(many)


def test_a_configuration_gives_the_same() -> None:
    assert WorkloadConfig(**DRAWN).load(5).equals(draw_offline(50, [3, 9], [1, 4], 5))
    listed = WorkloadConfig("offline", input_tokens=[8, 1], output_tokens=[4, 2]).load(0)
    assert listed.equals(offline([8, 1], [4, 2]))
    assert listed.input_tokens.tolist() == [8, 1]
    assert listed.output_tokens.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "offline"}, "give requests, input_range, output_range, or in their place .*not nothing"),
        ({**DRAWN, "requests": None}, "not input_range, output_range"),
        ({**DRAWN, "input_tokens": [1], "output_tokens": [1]}, "in their place"),
        (
            {"name": "azure2023_conv", "requests": 5},
            r"workload\.requests: of name=offline or chat alone, not of azure2023_conv",
        ),
        ({**DRAWN, "speedup": 2.0}, "leave speedup"),
        ({**DRAWN, "sort": True}, "are for files"),
        ({**DRAWN, "duration_s": 5.0}, "are for embedded workloads"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        WorkloadConfig(**keys).check()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, [1, 2], [1, 2]), "requests=0"),
        ((5, [2, 1], [1, 2]), r"input_range=\[2, 1\]"),
        ((5, [1, 2], [0, 2]), r"output_range=\[0, 2\]"),
        ((5, [1], [1, 2]), r"input_range=\[1\]"),
    ],
)
def test_ranges_that_cannot_be_are_refused(arguments: Any, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        draw_offline(*arguments)


def test_as_many_outputs_as_inputs() -> None:
    with pytest.raises(TraceError, match="2 input_tokens and 1 output_tokens"):
        offline([1, 2], [3])


def test_another_workload_by_name_has_none_of_its_keys() -> None:
    other = WorkloadConfig.of("azure2023_code", WorkloadConfig(**DRAWN))
    other.check()
    assert other == WorkloadConfig("azure2023_code")
    assert WorkloadConfig.of("offline", WorkloadConfig(**DRAWN, duration_s=None)) == WorkloadConfig(**DRAWN)


def test_a_rate_is_refused() -> None:
    with pytest.raises(SpecError, match="arrival_scale"):
        ScenarioConfig("native", arrival_scale=2.0).applied_to(WorkloadConfig(**DRAWN)).check()
