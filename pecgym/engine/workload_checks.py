"""Whether a cluster can serve a workload at all: what would wait for ever, or overflow, is refused before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pecgym.engine import state as layout
from pecgym.engine.long_rules import LongRules
from pecgym.engine.settings import EngineSettings
from pecgym.errors import EngineError
from pecgym.workload import Trace

if TYPE_CHECKING:
    from pecgym.engine.simulator import Simulator


def check_batches_can_be_asked(settings: EngineSettings, rules: LongRules) -> None:
    """Who joins a batch and who is evicted are asked outside where these are the only choices about a batch."""
    for wrong, remedy in (
        (settings.batching == "static", "engine.batching=continuous (or none)"),
        (settings.preemptive, "engine.preemptive=false"),
        (settings.eviction == "swap", "engine.eviction=recompute"),
        (bool(rules.decode_replicas), "long.decode_replicas=0"),
        (bool(rules.reserved_replicas), "long.reserved_replicas=0"),
    ):
        if wrong:
            raise EngineError(f"ask_batches needs {remedy}")


def check_sizes(simulator: Simulator, trace: Trace) -> None:
    """A request that no replica can hold would wait for ever: it is refused here."""
    record = simulator.state.settings[0]
    peak = trace.input_tokens + trace.output_tokens - 1
    too_large = np.flatnonzero((-(-peak // record.block_tokens) > record.capacity_blocks) & ~trace.is_long)
    if len(too_large):
        i = int(too_large[0])
        row = int(simulator.state.cluster[0].row_offset + simulator.state.cluster[0].n_rows) + i
        raise EngineError(
            f"trace {trace.name!r}: {len(too_large)} of {len(trace)} requests exceed a replica's KV memory; "
            f"the first is request {row} (counted from 0) with {int(peak[i]):,} tokens (input + output - 1) "
            f"against {int(record.capacity_blocks * record.block_tokens):,}; use more GPUs per replica, or "
            "remove or shorten such requests, or mark them as long"
        )
    if trace.is_long.any():
        _check_longs(simulator, trace, int(peak[trace.is_long].max()))
        peak = peak[~trace.is_long]
    largest = int(peak.max(initial=0))
    batch = max(simulator.settings.max_batch_tokens, largest)
    if batch * (batch + 2 * largest) > simulator.profile.max_pairs:
        raise EngineError(
            f"trace {trace.name!r}: prefills of up to {batch:,} tokens per iteration overflow 64-bit time with "
            f"profile {simulator.profile.name}; lower engine.max_batch_tokens or shorten the prompts"
        )


def _check_longs(simulator: Simulator, trace: Trace, largest: int) -> None:
    """Longs that could never start are refused here."""
    record = simulator.state.settings[0]
    if simulator.max_degree == 0:
        raise EngineError(
            f"trace {trace.name!r} has long requests, and there are no costs of groups: of a stream, say how long "
            "its prompts may be (longest_long_tokens)"
        )
    if record.ask_batches:
        raise EngineError(f"trace {trace.name!r} has long requests: with ask_batches there may be none")
    if simulator.settings.batching == "static":
        raise EngineError(f"trace {trace.name!r} has long requests, which static batches cannot serve")
    fewest = -(-largest // int(record.capacity_blocks * record.block_tokens))
    needed = max(fewest, simulator.rules.sp_degree if isinstance(simulator.rules.sp_degree, int) else 1)
    roles = simulator.state.replicas.role
    able = int(np.count_nonzero(roles == layout.LONG_ROLE)) or int(np.count_nonzero(roles == layout.GENERAL))
    if simulator.rules.pool_interval_s:
        able = len(roles) - 1  # all but one may be reserved, or may be given back by the decode pool
    if needed > min(able, simulator.max_degree):
        raise EngineError(
            f"trace {trace.name!r}: its largest long request ({largest:,} tokens) needs {needed} replicas, and "
            f"{able} may serve longs (at most {simulator.max_degree} together); use a larger cluster or more GPUs per "
            "replica, lower long.sp_degree, or change long.decode_replicas or long.reserved_replicas"
        )
    longest = int(trace.input_tokens[trace.is_long].max())
    reach = record.knot_tokens * (simulator.state.prefill_table_ps.shape[2] - 1)
    if longest > reach:
        raise EngineError(
            f"trace {trace.name!r}: its longest prompt has {longest:,} tokens, and the costs of groups reach to "
            f"{reach:,}; of a stream, say how long its prompts may be (longest_long_tokens)"
        )
