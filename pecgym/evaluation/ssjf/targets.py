"""What a separate re-implementation of SSJF's setting gave, and what the paper claims (targets.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_FILE = Path(__file__).with_name("targets.yaml")


@dataclass(frozen=True)
class Measure:
    """A column of the target table: a policy's metric over FIFO's; as a ratio, or as a relative change."""

    key: str
    heading: str
    policy: str
    metric: str
    is_ratio: bool

    def show(self, change: float, digits: int | None = None) -> str:
        """A relative change as the column writes it."""
        if self.is_ratio:
            return f"{1 + change:.{2 if digits is None else digits}f}x"
        return f"{change:+.{1 if digits is None else digits}%}"


MEASURES = (
    Measure("oracle_jct", "oracle SJF, JCT", "sjf", "jct_mean_s", False),
    Measure("ssjf_jct", "SSJF, JCT", "spjf", "jct_mean_s", False),
    Measure("quarter", "throughput at 25% done", "spjf", "quarter_throughput_rps", True),
    Measure("full", "full-run throughput", "spjf", "throughput_rps", True),
    Measure("p99", "p99 JCT", "spjf", "jct_p99_s", True),
)


@cache
def _targets() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return found


def target(case: str, measure: str) -> float | None:
    """The relative change to FIFO in a case, None where nothing is known of it."""
    found: float | None = _targets()["cases"].get(case, {}).get(measure)
    return found


def claims() -> dict[str, tuple[float, float]]:
    """The paper's ranges: of mean completion time as a relative change, of throughput as a ratio."""
    return {key: (float(low), float(high)) for key, (low, high) in _targets()["claims"].items()}
