"""Fits the iteration time formula to samples: non-negative least squares on the relative error.

Needs SciPy (`pip install -e ".[calibrate]"`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pecgym.costs.profile_schema import Coefficients, FitError, FittedRange
from pecgym.costs.samples import PHASES, Floats, Samples
from pecgym.errors import ProfileError
from pecgym.random import random_stream

MOST_KNOTS = 24
SAMPLES_PER_KNOT = 4
FEWEST_SAMPLES = 30
SIGNIFICANT_DIGITS = 7
# Where the samples leave open whether time belongs to g or to a phase (no mixed iterations among them, say), this
# weight, far below any error of a fit, gives it to g.
TIE_BREAK = 1e-6
HELD_OUT_FRACTION = 1 / 3
TIED_COLUMNS = ("prefill_base", "decode_base", "prefill_seq", "decode_seq")
PHASE_COLUMNS = ("prefill_past", "attention", "decode_kv", *TIED_COLUMNS)


@dataclass(frozen=True)
class Fit:
    """Coefficients, their error by phase, and what the samples covered."""

    coefficients: Coefficients
    errors: dict[str, FitError]
    fitted_range: FittedRange


def fit_samples(samples: Samples) -> Fit:
    """Fit two thirds of the samples, drawn once and for all, and judge on all and on the third that was held out.

    Raises ProfileError when there are too few samples, or none with prefills or none with decodes.
    """
    if len(samples) < FEWEST_SAMPLES:
        raise ProfileError(f"{len(samples)} samples are too few for a fit; measure at least {FEWEST_SAMPLES}")
    for kind, present in (("prefills", samples.n_prefills), ("decodes", samples.n_decodes)):
        if not present.any():
            raise ProfileError(f"no sample has {kind}, so they would cost nothing; measure iterations with {kind} too")
    held_out = np.zeros(len(samples), dtype=bool)
    order = random_stream(0, "calibration held out").permutation(len(samples))
    held_out[order[: int(len(samples) * HELD_OUT_FRACTION)]] = True
    # Without the samples at both ends the fit would not cover the range that it states.
    held_out &= (samples.tokens > samples.tokens.min()) & (samples.tokens < samples.tokens.max())
    fitted = samples[~held_out]
    coefficients = fit_coefficients(fitted, choose_knots(fitted))
    return Fit(coefficients, _errors(coefficients, samples, held_out), _range(samples))


def choose_knots(samples: Samples) -> list[int]:
    """Knots of g, the first at 1 token: some of 2^k, 3 * 2^k and the counts one above them.

    All that have samples between them and the one before are taken first; then, one at a time, the knot goes whose
    absence costs least, down to MOST_KNOTS and SAMPLES_PER_KNOT. Matrix kernels work in tiles: g has steps at one token
    above a multiple of the tile. The knot below the smallest count stays: from there down to 1 token, g is flat. The
    last rise is never one over a single token, because g goes on with it. Knots to spare go to steps that nobody
    sampled right above the tile (`_steps_seen_from_above`).
    """
    tokens = samples.tokens
    most = int(tokens.max())
    tiles = sorted({factor << k for factor in (1, 3) for k in range(most.bit_length())})
    grid = sorted({knot for tile in tiles for knot in (tile, tile + 1) if 1 < knot <= most})
    below = max((knot for knot in grid if knot <= tokens.min()), default=1)
    knots = sorted({1, below})
    for knot in grid:
        if np.any((tokens > knots[-1]) & (tokens <= knot)):
            knots.append(knot)
    if len(knots) == 1:
        knots.append(2)
    affordable = min(MOST_KNOTS, len(samples) // SAMPLES_PER_KNOT)
    if len(knots) < affordable:
        knots = sorted({*knots, *_steps_seen_from_above(tokens, [tile for tile in tiles if tile in knots], tiles)})
    while not _can_go_on(knots):
        knots.pop()
    matrix, target = _system(samples, knots)
    finest = knots
    while len(knots) > affordable:
        without = [[each for each in knots if each != knot] for knot in knots if knot not in (1, below)]
        knots = min(filter(_can_go_on, without), key=lambda fewer: _solve(matrix @ _coarser(finest, fewer), target)[1])
    return knots


def _steps_seen_from_above(tokens: Floats, knots: list[int], tiles: list[int]) -> list[int]:
    """The counts one above those knots that at least two sampled counts follow up to the next tile: one alone could
    not tell a step from a slope. Without them a step that every mixed sample lies above looks like a cost of mixing."""
    next_tile = dict(pairwise(tiles))
    counts = np.unique(tokens)
    return [
        tile + 1
        for tile in knots
        if tile in next_tile and np.count_nonzero((counts > tile) & (counts <= next_tile[tile])) >= 2
    ]


def _can_go_on(knots: list[int]) -> bool:
    """Whether the last rise of g is over more than one token; the two knots that g needs at least are exempt."""
    return len(knots) == 2 or knots[-1] > knots[-2] + 1


def fit_coefficients(samples: Samples, knots: list[int]) -> Coefficients:
    """The formula's coefficients, all >= 0 and g non-decreasing, with the least squared relative error.

    Each phase has the same say, however many samples it has.
    """
    ms, _ = _solve(*_system(samples, knots))
    negligible = (_design(samples, knots) * ms).max(axis=0) < 1e-6 * samples.time_ms.min()
    return _coefficients(np.where(negligible, 0.0, ms), knots)


def _system(samples: Samples, knots: list[int]) -> tuple[Floats, Floats]:
    """The least squares problem: matrix, float64[r, K + 7], times ms = target, float64[r], for relative errors.

    Reduced by a QR decomposition to as few rows as there are columns, which changes neither solution nor residual.
    """
    _, phase, counts = np.unique(samples.phase, return_inverse=True, return_counts=True)
    weight = 1.0 / np.sqrt(counts[phase])
    rows = np.column_stack([_design(samples, knots) * (weight / samples.time_ms)[:, None], weight])
    triangle = np.asarray(np.linalg.qr(rows, mode="r"))
    return triangle[:, :-1], triangle[:, -1]


def _coarser(finest: list[int], fewer: list[int]) -> Floats:
    """The matrix that turns coefficients for `fewer` knots into the same function's for the `finest` ones."""
    at_finest = _g_columns(np.array(finest, dtype=np.float64), fewer)
    rises = np.vstack([at_finest[:1], np.diff(at_finest, axis=0)])
    phases = len(PHASE_COLUMNS)
    return np.block(
        [[rises, np.zeros((len(finest), phases))], [np.zeros((phases, len(fewer))), np.eye(phases)]],
    )


def _solve(matrix: Floats, target: Floats) -> tuple[Floats, float]:
    """The non-negative solution of `_system`, in ms, and its residual."""
    try:
        from scipy.optimize import nnls
    except ModuleNotFoundError as problem:
        raise ProfileError('fitting needs SciPy: pip install -e ".[calibrate]"') from problem

    length = np.linalg.norm(matrix, axis=0)
    unit = matrix / np.where(length > 0, length, 1.0)
    # A column that is a multiple of an earlier one says nothing that the samples could tell apart: it gets nothing.
    repeats = np.triu(unit.T @ unit, k=1).max(axis=0) > 1 - 1e-12
    free = np.flatnonzero((length > 0) & ~repeats)
    tied = matrix.shape[1] - len(TIED_COLUMNS)
    ties = np.diag(np.where(free >= tied, TIE_BREAK, 0.0))
    solution, residual = nnls(np.vstack([unit[:, free], ties]), np.concatenate([target, np.zeros(len(free))]))
    ms = np.zeros(matrix.shape[1])
    ms[free] = solution / length[free]
    return ms, float(residual)


def predict_ms(coefficients: Coefficients, samples: Samples) -> Floats:
    """Times of the samples by the formula, float64[n], milliseconds."""
    knots = [int(knot) for knot in coefficients.g_tokens]
    g_ms = np.array(coefficients.g_us) / 1e3
    phase_ms = np.array(
        [
            coefficients.prefill_per_past_token_ns / 1e6,
            coefficients.attention_per_1024_pairs_ns / 1e6 / 1024,
            coefficients.decode_per_kv_token_ns / 1e6,
            coefficients.prefill_base_us / 1e3,
            coefficients.decode_base_us / 1e3,
            coefficients.prefill_per_sequence_us / 1e3,
            coefficients.decode_per_sequence_us / 1e3,
        ]
    )
    predicted: Floats = _design(samples, knots) @ np.concatenate([g_ms[:1], np.diff(g_ms), phase_ms])
    return predicted


def _design(samples: Samples, knots: list[int]) -> Floats:
    """Columns, float64[n, K + 7]: those of g, then PHASE_COLUMNS; times coefficients in ms they give times."""
    prefills, decodes = samples.n_prefills, samples.n_decodes
    phases = [
        samples.prefill_past_tokens,
        samples.prefill_pairs,
        samples.kv_tokens_read,
        (prefills > 0).astype(np.float64),
        (decodes > 0).astype(np.float64),
        prefills,
        decodes,
    ]
    return np.column_stack([_g_columns(samples.tokens, knots), *phases])


def _g_columns(tokens: Floats, knots: list[int]) -> Floats:
    """Columns of g, float64[n, K]: its value at the first knot, and its rises from knot to knot (the last goes on)."""
    columns = [np.ones(len(tokens))]
    for i in range(1, len(knots)):
        share = (tokens - knots[i - 1]) / (knots[i] - knots[i - 1])
        columns.append(np.clip(share, 0.0, 1.0 if i < len(knots) - 1 else None))
    return np.column_stack(columns)


def _coefficients(ms: Floats, knots: list[int]) -> Coefficients:
    """The solution in the units of a profile's file, to SIGNIFICANT_DIGITS."""
    phase = dict(zip(PHASE_COLUMNS, ms[len(knots) :], strict=True))
    return Coefficients(
        g_tokens=knots,
        g_us=[_rounded(value * 1e3) for value in np.cumsum(ms[: len(knots)])],
        prefill_base_us=_rounded(phase["prefill_base"] * 1e3),
        prefill_per_sequence_us=_rounded(phase["prefill_seq"] * 1e3),
        prefill_per_past_token_ns=_rounded(phase["prefill_past"] * 1e6),
        attention_per_1024_pairs_ns=_rounded(phase["attention"] * 1e6 * 1024),
        decode_base_us=_rounded(phase["decode_base"] * 1e3),
        decode_per_sequence_us=_rounded(phase["decode_seq"] * 1e3),
        decode_per_kv_token_ns=_rounded(phase["decode_kv"] * 1e6),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _errors(coefficients: Coefficients, samples: Samples, held_out: NDArray[np.bool_]) -> dict[str, FitError]:
    """Relative errors in percent by phase, for the phases that have samples."""
    error = 100 * np.abs(predict_ms(coefficients, samples) / samples.time_ms - 1)
    found = {}
    for phase in PHASES:
        here = samples.phase == phase
        if here.any():
            kept_out = error[here & held_out]
            found[phase] = FitError(
                points=int(here.sum()),
                mean_percent=round(float(error[here].mean()), 2),
                p90_percent=round(float(np.percentile(error[here], 90)), 2),
                worst_percent=round(float(error[here].max()), 2),
                held_out_points=len(kept_out),
                held_out_mean_percent=round(float(kept_out.mean()), 2) if len(kept_out) else 0.0,
                held_out_worst_percent=round(float(kept_out.max()), 2) if len(kept_out) else 0.0,
            )
    return found


def _range(samples: Samples) -> FittedRange:
    """What the samples covered; zeros for a phase without samples."""
    decoding = samples.n_decodes > 0
    context = samples.kv_tokens_read[decoding] / samples.n_decodes[decoding]
    prompts = samples.longest_prompt[samples.n_prefills > 0]

    def ends(values: Floats) -> tuple[int, int]:
        return (int(values.min()), int(values.max())) if len(values) else (0, 0)

    return FittedRange(*ends(prompts), *ends(context), *ends(samples.n_decodes[decoding]))
