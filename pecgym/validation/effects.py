"""What lies between kernel times and an engine's end-to-end times, and how it is found from runs.

AIConfigurator's times are of kernels, measured alone. Eight numbers per family of runs (model, GPU, engine) are fitted
to end-to-end runs; each stands for something that happens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pecgym.costs import Profile
from pecgym.engine import EngineSettings
from pecgym.validation.client import Means
from pecgym.validation.runs import Run

Floats = NDArray[np.float64]
Simulate = Callable[[Run, "Effects"], Means]

# TTFT of a run varies more than TPOT: it is a mean of fewer and more crowded events.
TTFT_WEIGHT = 0.5
# Errors beyond this count linearly, so that a single odd run does not bend the rest.
SOFT_ERROR = 0.05
# How strongly an effect is held at "kernels as measured, no overhead" where runs leave it open: error per scale.
PRIOR_ERROR = 0.01
DIFFERENCE = 0.1
MOST_STEPS = 8
SETTLED = 1e-3


@dataclass(frozen=True)
class Effects:
    """What a served engine has on top of its kernels.

    step_overhead_us, step_overhead_per_request_us, prefill_overhead_us: rules of the engine (EngineSettings).
    frontend_ms: outside the engine (client.simulate). base_factor: on `g` at one token, the least that an iteration
    takes: reading the weights, small kernels and collectives, which engines fuse and overlap. compute_factor: on the
    part of `g` that grows with the tokens: matrix kernels back to back, communication, clocks under load.
    attention_factor: on the pairs of prefill attention. kv_factor: on reading the KV cache in decodes, whose paged and
    uneven contexts are slower than the equal ones that were measured.
    """

    step_overhead_us: float = 0.0
    step_overhead_per_request_us: float = 0.0
    prefill_overhead_us: float = 0.0
    frontend_ms: float = 0.0
    base_factor: float = 1.0
    compute_factor: float = 1.0
    attention_factor: float = 1.0
    kv_factor: float = 1.0

    def on_profile(self, profile: Profile) -> Profile:
        """The kernels' profile with the four factors."""
        start = int(profile.g_knots_ps[0])
        grown = np.rint((profile.g_knots_ps - start) * self.compute_factor).astype(np.int64)
        return replace(
            profile,
            g_knots_ps=round(start * self.base_factor) + grown,
            attn_ps_per_1024_pairs=round(profile.attn_ps_per_1024_pairs * self.attention_factor),
            decode_kv_ps=round(profile.decode_kv_ps * self.kv_factor),
        )

    def on_engine(self, engine: EngineSettings) -> EngineSettings:
        """The engine's settings with the overhead of iterations."""
        return engine.with_changes(**{name: getattr(self, name) for name in OF_THE_ENGINE})

    def without(self, name: str) -> Effects:
        """These effects but one."""
        return replace(self, **{name: getattr(NONE, name)})


NONE = Effects()
# What is one step of each effect for the fit, where it starts, and the least that it may be. Runs made with known
# effects are found again from here (tests/validation/test_silicon.py).
_SCALES = Effects(500.0, 20.0, 5000.0, 8.0, 0.1, 0.25, 0.5, 0.25)
_FIRST_GUESS = Effects(600.0, 15.0, 2000.0, 8.0, 1.0, 1.0, 1.5, 1.1)
OF_THE_ENGINE = ("step_overhead_us", "step_overhead_per_request_us", "prefill_overhead_us")
NAMES = tuple(field.name for field in fields(Effects))
MOST_EVALUATIONS = 1 + MOST_STEPS * (1 + len(NAMES))


def fit_effects(
    runs: Sequence[Run],
    simulate: Simulate,
    progress: Callable[[], None] = lambda: None,
    without: Collection[str] = (),
) -> Effects:
    """The effects under which the simulator comes closest to the runs' TTFT and TPOT; without: those left out.

    Least squares of the logarithmic errors by Gauss-Newton steps with differences, large errors counted linearly
    (Huber), with a weak prior. progress: called after each evaluation of all runs.
    """
    measured = np.log([[run.ttft_ms, run.tpot_ms] for run in runs])

    def residuals(x: Floats) -> Floats:
        means = [simulate(run, _effects(x)) for run in runs]
        errors = (np.log([[each.ttft_ms, each.tpot_ms] for each in means]) - measured) * [TTFT_WEIGHT, 1.0]
        progress()
        return np.concatenate([errors.ravel(), PRIOR_ERROR * (x - _vector(NONE))])

    free = np.array([name not in without for name in NAMES])
    x = np.where(free, _vector(_FIRST_GUESS), _vector(NONE))
    if not free.any():
        return NONE
    errors = residuals(x)
    damping = 1e-3
    for _ in range(MOST_STEPS):
        columns = [(residuals(x + DIFFERENCE * one) - errors) / DIFFERENCE for one in np.eye(len(x))[free]]
        weight = np.sqrt(np.minimum(1.0, SOFT_ERROR / np.maximum(np.abs(errors), 1e-12)))
        matrix, target = np.column_stack(columns) * weight[:, None], errors * weight
        step = np.zeros(len(x))
        step[free] = np.linalg.solve(matrix.T @ matrix + damping * np.eye(int(free.sum())), -matrix.T @ target)
        tried = np.maximum(x + step, _vector(_LEAST))
        tried_errors = residuals(tried)
        gain = _huber(errors) - _huber(tried_errors)
        if gain > 0:
            x, errors, damping = tried, tried_errors, damping / 10
        else:
            damping *= 100
        if 0 < gain < SETTLED * _huber(errors):
            break
    return _effects(x)


_LEAST = Effects(0.0, 0.0, 0.0, 0.0, 0.2, 0.2, 0.2, 0.2)


def _huber(errors: Floats) -> float:
    size = np.abs(errors)
    return float(np.where(size <= SOFT_ERROR, size**2, SOFT_ERROR * (2 * size - SOFT_ERROR)).sum())


def _vector(effects: Effects) -> Floats:
    return np.array([getattr(effects, name) / getattr(_SCALES, name) for name in NAMES])


def _effects(x: Floats) -> Effects:
    return Effects(
        **{name: max(0.0, float(value)) * getattr(_SCALES, name) for name, value in zip(NAMES, x, strict=True)}
    )
