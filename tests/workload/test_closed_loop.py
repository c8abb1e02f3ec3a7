"""The description of a closed loop."""

from __future__ import annotations

import pytest

from pecgym.errors import TraceError
from pecgym.workload import ClosedLoop, generate


def test_constant() -> None:
    loop = ClosedLoop.constant(1024, 128, n_requests=100, users=16, think_s=0.5, stagger_s=0.01)
    assert len(loop.lengths) == 100
    assert set(loop.lengths.input_tokens.tolist()) == {1024}
    assert set(loop.lengths.output_tokens.tolist()) == {128}
    assert (loop.users, loop.think_s, loop.stagger_s) == (16, 0.5, 0.01)


def test_validation() -> None:
    lengths = generate("azure2023_code", 0, 100)
    assert ClosedLoop(lengths, users=1).think_s == 0
    for call, text in [
        (lambda: ClosedLoop(lengths.slice(0, 0), 1), "no requests"),
        (lambda: ClosedLoop(lengths, 0), "at least 1"),
        (lambda: ClosedLoop(lengths, True), "whole number"),
        (lambda: ClosedLoop(lengths, 2.0), "whole number"),  # type: ignore[arg-type]
        (lambda: ClosedLoop(lengths, len(lengths) + 1), "fewer users"),
        (lambda: ClosedLoop(lengths, 1, think_s=-1), "think_s"),
        (lambda: ClosedLoop(lengths, 1, stagger_s=float("inf")), "stagger_s"),
        (lambda: ClosedLoop.constant(0, 1, 1, 1), "input_tokens"),
        (lambda: ClosedLoop.constant(1, 1, 0, 1), "n_requests"),
    ]:
        with pytest.raises(TraceError, match=text):
            call()
