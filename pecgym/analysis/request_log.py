"""What happened to every request of one run, and what the cluster did meanwhile."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pecgym.analysis.metrics import metrics_row
from pecgym.analysis.timeline import Timeline
from pecgym.engine.state import NONE as NEVER
from pecgym.predictors import Accuracy
from pecgym.units import PS_PER_S

TIME_COLUMNS = ("arrival", "placed", "start", "first_token", "pushed", "finish")
COUNT_COLUMNS = (
    "row",
    "input_tokens",
    "output_tokens",
    "replica",
    "decode_replica",
    "sp_degree",
    "preemptions",
    "evictions",
    "recomputed_tokens",
)


@dataclass(frozen=True)
class RunFacts:
    """What a run was, and what its replicas did; the rest of a result's row comes from the requests.

    Attributes:
        labels: policy, model, cluster, engine, profile, workload, scenario and seed, as in the tables.
        gpus: GPUs in the cluster.
        gpus_per_replica: tensor parallelism.
        end_s: when the run ended, seconds.
        busy_s: float64[R], time that each replica spent in iterations.
        prefill_s: float64[R], of it in iterations with prompt tokens.
        idle_w, decode_w, prefill_w: power of one GPU without work, in iterations of decodes alone, and in those with
            prompt tokens, watts.
        price_per_gpu_hour_usd: of one GPU.
        wall_s: wall-clock time that the engine took.
        iterations: of all replicas; None: not counted.
        kv_token_s: KV tokens held in them, apart from those beside a long, x their seconds; None: not counted.
        kv_capacity_tokens: KV memory of a replica.
        predictions: how good the predicted output lengths were that its orders read; None: they read none.
        notes: what a reader of the result must know, such as times far outside the range of the cost profile.
    """

    labels: dict[str, Any]
    gpus: int
    gpus_per_replica: int
    end_s: float
    busy_s: Any
    prefill_s: Any
    idle_w: float
    decode_w: float
    prefill_w: float
    price_per_gpu_hour_usd: float
    wall_s: float
    iterations: int | None = None
    kv_token_s: float | None = None
    kv_capacity_tokens: int | None = None
    notes: tuple[str, ...] = ()
    predictions: Accuracy | None = None


@dataclass(frozen=True)
class RequestLog:
    """One row per request that arrived, in order of the workload.

    Attributes:
        ps: `arrival`, `placed` (a replica was chosen), `start` (first execution), `first_token` (end of prefill),
            `pushed` (the KV cache of a short had arrived where it decodes) and `finish`, int64[n] picoseconds since the
            workload's time zero, -1 where it has not happened.
        counts: `row` in the workload, `input_tokens`, `output_tokens`, `replica` where it prefilled (of a long: the
            lead of its group; -1: none yet), `decode_replica` (-1: the same), `sp_degree` (replicas that serve it),
            `preemptions`, `evictions`, `recomputed_tokens`, int64[n].
        is_long: bool[n], the request's class.
        facts: the run.
        timeline: what each replica did when; None unless it was recorded.
    """

    ps: dict[str, Any] = field(repr=False)
    counts: dict[str, Any] = field(repr=False)
    is_long: Any = field(repr=False)
    facts: RunFacts = field(repr=False)
    timeline: Timeline | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.is_long)

    def __repr__(self) -> str:
        return f"RequestLog({len(self)} requests, {dict(self.facts.labels)})"

    def seconds(self, event: str) -> Any:
        """float64[n]: when `event` (a key of `ps`) happened, NaN where it has not."""
        ps = self.ps[event]
        return np.where(ps == NEVER, np.nan, ps / PS_PER_S)

    def metrics(self) -> dict[str, Any]:
        """The row of the result tables; see pecgym.analysis.metrics for what each value means."""
        return metrics_row(self)

    def digest(self) -> str:
        """A hash of every event of every request: equal runs have equal digests, on every machine."""
        digest = hashlib.sha256()
        for column in (*self.ps.values(), *self.counts.values()):
            digest.update(np.ascontiguousarray(column, "<i8").tobytes())
        return digest.hexdigest()

    def to_table(self, **labels: Any) -> pa.Table:
        """The requests as an Arrow table; `labels` become constant columns in front."""
        columns: dict[str, Any] = {
            name: pa.DictionaryArray.from_arrays(np.zeros(len(self), np.int32), [str(value)])
            for name, value in labels.items()
        }
        columns["row"] = self.counts["row"]
        columns |= {f"{event}_s": self.seconds(event) for event in TIME_COLUMNS}
        columns |= {name: self.counts[name] for name in COUNT_COLUMNS if name != "row"}
        columns["is_long"] = self.is_long
        return pa.table(columns)

    def write_parquet(self, path: str | Path, **labels: Any) -> None:
        """Writes `to_table(**labels)`."""
        pq.write_table(self.to_table(**labels), path)
