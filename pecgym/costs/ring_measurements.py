"""Ring attention as it was measured, and how far the model is from it.

Source: Tetris (ISCA 2026), Table I: prefill of LLaMA3-8B on A100-SXM4-80GB, TP1, batch 1, seconds. Their ring spans
`sp` GPUs; here a group of `sp` replicas of one GPU on as few nodes of 8 GPUs as hold it (SP16: two).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pecgym.costs.parallel import prefill_parts, prefill_s
from pecgym.costs.profile import PAIRS_UNIT, Profile, find_profile
from pecgym.costs.specs import ClusterSpec, GpuSpec, ModelSpec, load_cluster, load_gpu, load_model
from pecgym.costs.strategies import DEFAULT_PARALLEL_CONSTANTS, Floats, GroupShape, ParallelConstants
from pecgym.units import PS_PER_S

MODEL, GPU, CLUSTER, TP = "llama-3.1-8b", "a100-80gb", "p4de_x4", 1
TOKENS = (4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144)
MEASURED_S: dict[int, tuple[float | None, ...]] = {
    1: (0.28, 0.57, 1.29, 3.22, 9.05, 29.20, None),  # the last one ran out of memory
    2: (0.16, 0.31, 0.69, 1.67, 4.61, 14.30, 50.07),
    4: (0.13, 0.20, 0.39, 0.92, 2.43, 7.32, 24.77),
    8: (0.21, 0.24, 0.31, 0.58, 1.37, 3.96, 12.81),
    16: (0.39, 0.43, 0.46, 0.53, 0.96, 2.31, 7.02),
}
FITTED_SP = (2, 8)


@dataclass(frozen=True)
class RingError:
    """One cell of the table. error = simulated / measured - 1. held_out: neither SP1 nor used to fit the constants."""

    sp: int
    tokens: int
    measured_s: float
    simulated_s: float
    error: float
    held_out: bool


def ring_errors(
    profile: Profile | None = None, constants: ParallelConstants = DEFAULT_PARALLEL_CONSTANTS
) -> list[RingError]:
    """Every measured cell against the model, with the single-GPU times of `profile`.

    None takes those of the row SP1 itself (`single_gpu_profile`), which judges the parallel model alone.
    """
    profile = profile or single_gpu_profile()
    rows = []
    for sp in MEASURED_S:
        tokens, measured_s = _row(sp)
        simulated_s = prefill_s(tokens, _shape(sp), "ring", *_system(), profile, constants)
        for n, measured, simulated in zip(tokens.tolist(), measured_s.tolist(), simulated_s.tolist(), strict=True):
            held_out = sp not in (1, *FITTED_SP)
            rows.append(RingError(sp, int(n), measured, simulated, simulated / measured - 1, held_out))
    return rows


def median_error(rows: list[RingError], *sp: int) -> float:
    """Median of |error| over the cells of those degrees."""
    return float(np.median([abs(row.error) for row in rows if row.sp in sp]))


def single_gpu_profile() -> Profile:
    """The shipped profile with b L + c L^2 in the place of its prefill times, fitted to the row SP1.

    Least squares of the relative error. There is no constant: what a run costs whatever its length belongs, in the
    other rows, to the ring's steps.
    """
    tokens, measured_s = _row(1)
    per_token_s, per_pair_s = _least_relative_squares(np.column_stack([tokens, tokens * tokens]), measured_s)
    per_token_ps = round(per_token_s * PS_PER_S)
    return replace(
        find_profile(MODEL, GPU, TP),
        name="tetris-sp1",
        g_knots_tokens=np.array([1, 2], np.int64),
        g_knots_ps=np.array([per_token_ps, 2 * per_token_ps], np.int64),
        prefill_base_ps=0,
        prefill_seq_ps=0,
        attn_ps_per_1024_pairs=round(per_pair_s * PAIRS_UNIT * PS_PER_S),
    )


def fit_ring() -> tuple[float, float]:
    """ring_step_s and ring_step_loss by least squares of the relative error over the rows FITTED_SP."""
    bare = replace(DEFAULT_PARALLEL_CONSTANTS, ring_step_s=0.0, ring_step_loss=0.0)
    profile = single_gpu_profile()
    columns, targets, scales = [], [], []
    for sp in FITTED_SP:
        tokens, measured_s = _row(sp)
        without_s = prefill_s(tokens, _shape(sp), "ring", *_system(), profile, bare)
        one_each = [
            prefill_parts(tokens, _shape(sp), "ring", *_system(), profile, replace(bare, **{name: 1.0})).ring_steps_s
            for name in ("ring_step_s", "ring_step_loss")
        ]
        columns.append(np.column_stack(one_each))
        targets.append(measured_s - without_s)
        scales.append(measured_s)
    return _least_relative_squares(np.concatenate(columns), np.concatenate(targets), np.concatenate(scales))


def _least_relative_squares(columns: Floats, target: Floats, scale: Floats | None = None) -> tuple[float, float]:
    """The two factors x with the least sum of ((columns x - target) / scale)^2; scale is the target if not given."""
    scale = target if scale is None else scale
    first, second = np.linalg.lstsq(columns / scale[:, None], target / scale, rcond=None)[0]
    return float(first), float(second)


def _row(sp: int) -> tuple[Floats, Floats]:
    """Tokens and seconds of the measured cells of a row."""
    cells = [(n, s) for n, s in zip(TOKENS, MEASURED_S[sp], strict=True) if s is not None]
    tokens, seconds = np.array(cells, np.float64).T
    return tokens, seconds


def _shape(sp: int) -> GroupShape:
    return GroupShape(sp, -(-sp // 8))


def _system() -> tuple[ModelSpec, GpuSpec, ClusterSpec]:
    return load_model(MODEL), load_gpu(GPU), load_cluster(CLUSTER)
