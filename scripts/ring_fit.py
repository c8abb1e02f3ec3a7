"""Sequence parallelism in numbers: the tables of docs/sequence-parallelism.md.

python scripts/ring_fit.py            # the fitted constants, the errors by cell, the strategies
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from pecgym.costs import (
    DEFAULT_PARALLEL_CONSTANTS,
    STRATEGIES,
    ClusterSpec,
    GpuSpec,
    GroupShape,
    ModelSpec,
    Profile,
    find_profile,
    load_cluster,
    load_gpu,
    load_model,
    prefill_parts,
    prefill_s,
)
from pecgym.costs.ring_measurements import (
    FITTED_SP,
    GPU,
    MEASURED_S,
    MODEL,
    TOKENS,
    TP,
    RingError,
    fit_ring,
    median_error,
    ring_errors,
)

LONG_TOKENS = 300_000
PECSCHED_MODELS = ("mistral-7b", "phi-3-14b", "yi-34b", "llama-3.1-70b")
SHAPES = tuple(GroupShape(*each) for each in ((1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4), (8, 1), (8, 2), (8, 4)))
LARGE_SHAPES = (GroupShape(16, 2), GroupShape(32, 4))


def main() -> int:
    """Print everything."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    step_s, loss = fit_ring()
    ours = DEFAULT_PARALLEL_CONSTANTS
    print(f"fitted: {step_s * 1e3:.4f} ms a step and layer, {loss:.5f} of attention a step", end="; ")
    print(f"shipped: {ours.ring_step_s * 1e3:.4f} ms, {ours.ring_step_loss:.5f}\n")
    print("Single-GPU times from the row SP1:\n")
    print(errors_markdown(ring_errors()))
    print("\nSingle-GPU times from the shipped profile:\n")
    print(errors_markdown(ring_errors(find_profile(MODEL, GPU, TP))))
    print(f"\nSeconds for {LONG_TOKENS:,} tokens:\n")
    print(strategies_markdown())
    print("\nWhere the time goes:\n")
    print(parts_markdown())
    return 0


def errors_markdown(rows: list[RingError]) -> str:
    """Simulated seconds and error of every measured cell, by degree, with the median of |error|."""
    lines = [_line(["", *(f"{n // 1024}K" for n in TOKENS), "median"]), _rule(len(TOKENS) + 2)]
    for sp in MEASURED_S:
        cells = {row.tokens: f"{row.simulated_s:.2f} ({row.error:+.1%})" for row in rows if row.sp == sp}
        role = "fitted" if sp in FITTED_SP else "held out" if sp > 1 else "single GPU"
        cell_texts = (cells.get(n, "-") for n in TOKENS)
        lines.append(_line([f"SP{sp}, {role}", *cell_texts, f"{median_error(rows, sp):.1%}"]))
    held_out = sorted({row.sp for row in rows if row.held_out})
    parallel = [sp for sp in MEASURED_S if sp > 1]
    medians = (median_error(rows, *FITTED_SP), median_error(rows, *held_out), median_error(rows, *parallel))
    lines.append(
        "\nMedians: {:.1%} over the fitted rows, {:.1%} over those held out, {:.1%} over both.".format(*medians)
    )
    return "\n".join(lines)


def strategies_markdown() -> str:
    """Prefill times of the four PecSched models by shape and strategy."""
    lines = [_line(["model", "replicas on nodes", *STRATEGIES, "fast / ring"]), _rule(len(STRATEGIES) + 3)]
    for name, shape in _cases():
        times = [_prefill(name, shape, strategy) for strategy in STRATEGIES]
        saved = f"{times[-1] / times[0] - 1:+.1%}"
        lines.append(_line([name, f"{shape.degree} on {shape.nodes}", *(f"{t:.2f}" for t in times), saved]))
    return "\n".join(lines)


def parts_markdown() -> str:
    """The parts of ring and fast for each model's largest groups."""
    heads = ["compute", "ring steps", "exposed transfers", "exchange in nodes"]
    lines = [_line(["model", "replicas on nodes", "strategy", *heads]), _rule(3 + len(heads))]
    for name, shape in _cases():
        if shape not in (GroupShape(8, 1), GroupShape(8, 4), GroupShape(2, 1), *LARGE_SHAPES):
            continue
        for strategy in ("ring", "fast"):
            parts = prefill_parts(np.array([float(LONG_TOKENS)]), shape, strategy, *_system(name))
            shown = (parts.compute_s, parts.ring_steps_s, parts.transfer_s, parts.exchange_s)
            where = f"{shape.degree} on {shape.nodes}"
            lines.append(_line([name, where, strategy, *(f"{float(part[0]):.2f}" for part in shown)]))
    return "\n".join(lines)


def _cases() -> Iterator[tuple[str, GroupShape]]:
    cluster = load_cluster("p4de_x4")
    for name in PECSCHED_MODELS:
        per_node = cluster.gpus_per_node // load_model(name).default_tp
        for shape in (*SHAPES, *LARGE_SHAPES):
            if shape.replicas_per_node <= per_node:
                yield name, shape


def _prefill(name: str, shape: GroupShape, strategy: str) -> float:
    return float(prefill_s(np.array([float(LONG_TOKENS)]), shape, strategy, *_system(name))[0])


def _system(name: str) -> tuple[ModelSpec, GpuSpec, ClusterSpec, Profile]:
    model = load_model(name)
    return model, load_gpu(GPU), load_cluster("p4de_x4"), find_profile(name, GPU, model.default_tp)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return f"|{'---|' * columns}"


if __name__ == "__main__":
    sys.exit(main())
