"""Ring prefill of the simulator against the measured table (Tetris, ISCA 2026; docs/sequence-parallelism.md)."""

from __future__ import annotations

import numpy as np
from rich import box
from rich.table import Table

import pecgym
from pecgym.analysis.metrics import ttft_s
from pecgym.costs.ring_measurements import CLUSTER, FITTED_SP, MEASURED_S, MODEL, TOKENS, TP
from pecgym.costs.strategies import STRATEGIES
from pecgym.errors import EngineError
from pecgym.policies.view import group
from pecgym.validation.comparison import Bar, Row, Summary, summarize
from pecgym.workload import Trace

METRIC = "prefill_s"
ALL, ALONE, FITTED, HELD_OUT = "every cell", "SP1, no ring", "rings fitted", "rings held out"
GROUPS = [ALL, ALONE, FITTED, HELD_OUT]
BARS = {(ALL, METRIC): Bar(median=0.10)}


def rows() -> list[Row]:
    """Every cell of the table, then the same by group: SP1, and rings of degrees that were fitted or held out."""
    cells = [
        (sp, Row(_case(sp, tokens), METRIC, seconds, simulated_s(sp, tokens), ALL))
        for sp, measured in MEASURED_S.items()
        for tokens, seconds in zip(TOKENS, measured, strict=True)
        if seconds is not None
    ]
    return [row for _, row in cells] + [
        Row(row.case, METRIC, row.reference, row.simulated, _group(sp)) for sp, row in cells
    ]


def summaries(of: list[Row]) -> list[Summary]:
    """Errors by group, against the bar."""
    return summarize(of, BARS)


def cells_table(of: list[Row]) -> Table:
    """Simulated seconds and error of every cell, for the terminal."""
    table = Table(title="ring prefill: simulated seconds and error", box=box.SIMPLE_HEAD)
    for heading in ("", *(f"{tokens // 1024}K" for tokens in TOKENS)):
        table.add_column(heading, justify="right", no_wrap=True)
    cells = {row.case: f"{row.simulated:.2f}\n{row.error:+.1%}" for row in of}
    for sp in MEASURED_S:
        table.add_row(f"SP{sp}", *(cells.get(_case(sp, tokens), "-") for tokens in TOKENS))
    return table


def simulated_s(sp: int, tokens: int) -> float:
    """Seconds to the first token of one long prompt, served by a ring of `sp` replicas of one GPU, as few nodes as hold
    it, in an empty cluster."""
    prompt = Trace(np.zeros(1), np.array([tokens]), np.array([1]), is_long=np.array([True]), name="one long")
    cluster = pecgym.make_cluster(MODEL, CLUSTER, None, prompt, tp=TP)
    decision = cluster.next_decision()
    if decision is None or decision.kind != "start":
        raise EngineError("the long prompt was not asked about")
    cluster.apply(group(0, sp, STRATEGIES.index("ring")))
    if cluster.next_decision() is not None:
        raise EngineError("an empty cluster asks about nothing else")
    return float(ttft_s(cluster.log())[0])


def _case(sp: int, tokens: int) -> str:
    return f"SP{sp}, {tokens:,} tokens"


def _group(sp: int) -> str:
    if sp == 1:
        return ALONE
    return FITTED if sp in FITTED_SP else HELD_OUT
