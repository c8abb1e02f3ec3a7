"""The embedded generator: Azure-like workloads from summary tables, without any file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pecgym.errors import TraceError
from pecgym.random import random_stream
from pecgym.workload.columns import IntColumn
from pecgym.workload.intensity import Constant, Modulated, Profile
from pecgym.workload.quantiles import QuantileTable
from pecgym.workload.streams import merge_chunks
from pecgym.workload.trace import Trace, empty_trace

ARRIVALS = ("classes", "mmpp", "profile", "poisson")

# A block's arrays fit the cache, and a short trace does not draw much more than it needs. Part of what a seed means.
_BLOCK_REQUESTS = 1 << 17
_BLOCK_MINUTES = 60


@dataclass(frozen=True)
class Lengths:
    """Input lengths by inverse CDF, output lengths given the bin of the input (one bin: independent of it)."""

    inputs: QuantileTable
    edges: IntColumn
    outputs: QuantileTable

    def draw(self, stream: np.random.Generator, count: int) -> tuple[IntColumn, IntColumn]:
        """Input and output tokens, int64 [count] each."""
        inputs = self.inputs.draw(stream, count)
        bins = np.searchsorted(self.edges, inputs, side="right") if self.edges.size else 0
        return inputs, self.outputs.draw(stream, count, bins)


@dataclass(frozen=True)
class Workload:
    """One entry of the tables. `shares` [bins, classes]: cumulative shares of the length classes in a profile bin."""

    name: str
    span_s: float
    rate_rps: float
    default: str
    lengths: Lengths
    arrivals: dict[str, Constant | Modulated | Profile]
    classes: tuple[Lengths, ...]
    shares: NDArray[np.float64]

    def draw_lengths(
        self, stream: np.random.Generator, profile_bin: NDArray[np.int64], by_class: bool
    ) -> tuple[IntColumn, IntColumn]:
        """Lengths of requests in the given profile bins, from the class mix of each bin or of the whole trace."""
        if not by_class:
            return self.lengths.draw(stream, profile_bin.size)
        u = stream.random(profile_bin.size)
        label = (u[:, None] >= self.shares[profile_bin, :-1]).sum(axis=1)
        inputs, outputs = np.empty(label.size, dtype=np.int64), np.empty(label.size, dtype=np.int64)
        for number, lengths in enumerate(self.classes):
            rows = np.flatnonzero(label == number)
            inputs[rows], outputs[rows] = lengths.draw(stream, rows.size)
        return inputs, outputs


@cache
def _tables() -> dict[str, Any]:
    text = (files("pecgym.workload") / "data" / "tables.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def generator_names() -> tuple[str, ...]:
    """The workloads that the embedded generator knows."""
    return tuple(_tables()["workloads"])


def is_generator_name(name: str) -> bool:
    """Whether `name` is a workload of the generator, or several joined by "+"."""
    return all(part in generator_names() for part in name.split("+"))


@cache
def _workload(name: str) -> Workload:
    if name not in generator_names():
        raise TraceError(
            f"no embedded workload {name!r}; there are {', '.join(generator_names())} (join several by '+')"
        )
    entry = _tables()["workloads"][name]
    classes = entry.get("classes", [])
    return Workload(
        name=name,
        span_s=float(entry["span_s"]),
        rate_rps=entry["n"] / entry["span_s"],
        default=entry["arrival"]["default"],
        lengths=_lengths(entry),
        arrivals=_arrivals(entry),
        classes=tuple(_lengths(group) for group in classes),
        shares=_cumulative_shares([group["prof"] for group in classes]),
    )


def _cumulative_shares(profiles: list[list[float]]) -> NDArray[np.float64]:
    """Requests per bin of each class [classes][bins] as cumulative shares [bins, classes]."""
    counts = np.array(profiles, dtype=np.float64).T.reshape(-1, len(profiles) or 1)
    totals = counts.sum(axis=1, keepdims=True)
    # A minute without a request has no mix of its own; it also has no rate, so any shares do.
    shares: NDArray[np.float64] = np.cumsum(
        np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0), axis=1
    )
    return shares


def _lengths(entry: dict[str, Any]) -> Lengths:
    grids = _tables()["grids"]
    given = entry.get("cond", {"edges": [], "q": [entry["q_out"]]})
    return Lengths(
        QuantileTable.build(grids[entry["g_in"]], [entry["q_in"]]),
        np.array(given["edges"], dtype=np.int64),
        QuantileTable.build(grids[entry["g_out"]], given["q"]),
    )


def _arrivals(entry: dict[str, Any]) -> dict[str, Constant | Modulated | Profile]:
    table = entry["arrival"]
    profile = Profile(
        counts=np.array(table["profile"]["prof"], dtype=np.float64),
        step_s=float(table["profile"]["step"]),
        period_s=float(entry["span_s"]),
        minute_sigma=table["profile"].get("minute_sigma", 0.0),
        minute_rho=table["profile"].get("minute_rho", 0.0),
        window_sigma=table["profile"].get("sigma", 0.0),
        window_s=table["profile"].get("w", 0.0),
    )
    known: dict[str, Constant | Modulated | Profile] = {
        "profile": profile,
        "poisson": Constant(entry["n"] / entry["span_s"]),
    }
    if "classes" in entry:
        known["classes"] = profile
    if "mmpp" in table:
        fit = table["mmpp"]
        known["mmpp"] = Modulated(fit["h"], np.array(fit["lam"]), np.array(fit["A"]), np.array(fit["stat"]))
    return known


def generate(
    name: str = "azure2023_conv",
    seed: int = 0,
    duration_s: float | None = None,
    arrivals: str | None = None,
    rate_scale: float = 1.0,
) -> Trace:
    """A synthetic trace like the named one: lengths, burstiness and drift follow its summary tables.

    name        a workload of generator_names(), or several joined by "+" and merged by time
    seed        arrivals and lengths use separate streams of it, and each workload its own
    duration_s  requests arrive before this; default the trace's own span (the shortest of several). A longer one
                repeats the rate profile; a shorter one gives a prefix of the same requests
    arrivals    "classes", "mmpp", "profile" or "poisson" (not Azure-like: for comparison only); default the workload's
    rate_scale  multiplies the rate at every moment

    Raises TraceError for an unknown name, a process that the workload's tables do not hold, or a bad number.
    """
    chunks = list(generate_chunks(name, seed, duration_s, arrivals, rate_scale))
    return Trace.concatenate(chunks) if chunks else empty_trace(name)


def generate_chunks(
    name: str = "azure2023_conv",
    seed: int = 0,
    duration_s: float | None = None,
    arrivals: str | None = None,
    rate_scale: float = 1.0,
) -> Iterator[Trace]:
    """The requests of generate(), same arguments, in chunks and bounded memory; arrival times run on over them."""
    workloads = [_workload(part) for part in name.split("+")]
    if len({workload.name for workload in workloads}) < len(workloads):
        raise TraceError(f"{name!r} names a workload twice; use rate_scale to have more of it")
    if not (np.isfinite(rate_scale) and rate_scale > 0):
        raise TraceError(f"rate_scale must be finite and above 0, got {rate_scale}")
    until_s = min(workload.span_s for workload in workloads) if duration_s is None else float(duration_s)
    if not (np.isfinite(until_s) and until_s > 0):
        raise TraceError(f"duration_s must be finite and above 0, got {duration_s}")
    processes = [_process(workload, arrivals) for workload in workloads]
    chunks = [
        _chunks(workload, process, seed, until_s, rate_scale)
        for workload, process in zip(workloads, processes, strict=True)
    ]
    return chunks[0] if len(chunks) == 1 else merge_chunks(*chunks)


def _process(workload: Workload, arrivals: str | None) -> str:
    process = workload.default if arrivals is None else arrivals
    if process not in workload.arrivals:
        known = ", ".join(name for name in ARRIVALS if name in workload.arrivals)
        raise TraceError(f"workload {workload.name}: no arrivals {process!r}; its tables hold {known}")
    return process


def _chunks(workload: Workload, process: str, seed: int, until_s: float, scale: float) -> Iterator[Trace]:
    arrivals = random_stream(seed, f"arrivals/{workload.name}")
    lengths = random_stream(seed, f"lengths/{workload.name}")
    minutes = min(max(1, int(_BLOCK_REQUESTS / (60 * scale * workload.rate_rps))), _BLOCK_MINUTES)
    for pieces in workload.arrivals[process].blocks(arrivals, 60 * minutes, scale):
        if pieces.edges_s[0] >= until_s:
            return
        times_s, piece = pieces.draw(arrivals)
        inputs, outputs = workload.draw_lengths(lengths, pieces.profile_bin[piece], process == "classes")
        # A block is always drawn whole, so that a shorter duration gives a prefix.
        kept = int(np.searchsorted(times_s, until_s, side="left"))
        if kept:
            columns = (times_s[:kept], inputs[:kept], outputs[:kept])
            for column in columns:
                column.flags.writeable = False
            yield Trace(*columns, name=workload.name)
