"""What the sections of the page share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pecgym.evaluation.infermax import page_text
from pecgym.evaluation.infermax.page_text import table
from pecgym.evaluation.ssjf.cells import Row
from pecgym.evaluation.ssjf.changes import Value

PROSE = Path(__file__).with_name("prose.yaml")
__all__ = ["accuracy_of", "said", "say", "say_if", "share", "table"]


def say(key: str, **values: Any) -> str:
    """A part of the page's words, with values in it."""
    return page_text.say(key, PROSE, **values)


def say_if(holds: bool, key: str, **values: Any) -> str:
    """A part that is true of the shipped settings alone: nothing unless they hold."""
    return page_text.say_if(holds, key, PROSE, **values)


def share(value: float) -> str:
    """A relative change, with its sign."""
    return f"{value:+.1%}"


def said(value: Value, show: Callable[[float], str] = share) -> str:
    """A value with its interval."""
    return f"{show(value.value)} [{show(value.low)}, {show(value.high)}]"


def accuracy_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """How good predictions were, means over runs: tau, MAE, the same class, within one, predicted / true."""
    tau, mae, same, near, calibration = (
        float(np.mean([row[key] for row in rows]))
        for key in ("kendall_tau", "mae_tokens", "same_class", "within_one_class", "calibration")
    )
    return (f"{tau:.2f}", f"{mae:.0f}", f"{same:.0%}", f"{near:.0%}", f"{calibration:.2f}")
