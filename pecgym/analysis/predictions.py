"""What results that read predicted output lengths say of the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from pecgym.analysis.tables import grouped, typical_of
from pecgym.predictors import Accuracy


def predictor_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each predictor and workload: how good its predictions were, typically over the runs, and which
    policies read them. rows: results of runs (metrics_row); of those without predictions nothing is said."""
    readers: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for (workload, policy), of_policy in grouped(rows).items():
        for row in of_policy:
            if row.get("predictor") is not None:  # older results have no such key
                readers.setdefault((workload, row["predictor"]), {}).setdefault(policy, []).append(row)
    several = len({row["workload"] for row in rows}) > 1
    return [
        f"output lengths predicted by {predictor}{f' on {workload}' if several else ''}: "
        f"{_typical_accuracy(next(iter(policies.values())))}; read by {', '.join(policies)}"
        for (workload, predictor), policies in readers.items()
    ]


def _typical_accuracy(rows: Sequence[dict[str, Any]]) -> Accuracy:
    figures = {f.name: typical_of(rows, f"predictor_{f.name}") for f in fields(Accuracy)}
    known = {key: np.nan if figure is None else figure for key, figure in figures.items()}
    return Accuracy(**known)  # type: ignore[arg-type]
