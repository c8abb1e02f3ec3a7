"""What GPUs draw while they work: watts of iterations with prompt tokens and of decodes alone, from measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pecgym.costs.samples import Samples
from pecgym.errors import ProfileError


@dataclass(frozen=True)
class PowerFit:
    """Watts of one GPU in iterations with prompt tokens and in those of decodes alone.

    prefill_error_percent, decode_error_percent: how far the watts of an iteration are from them, on average over time.
    """

    prefill_w: float
    decode_w: float
    prefill_error_percent: float
    decode_error_percent: float


def fit_power(samples: Samples) -> PowerFit | None:
    """The power of each kind of iteration: watts averaged over the time of its samples; None where none are known.

    So the energy of all samples together is exact, and no two constants are closer to them in least squares over time.
    Raises ProfileError where one of the two kinds has no samples.
    """
    if np.isnan(samples.power_w).all():
        return None
    with_prompts = samples.n_prefills > 0
    if with_prompts.all() or not with_prompts.any():
        raise ProfileError("power of iterations with prompt tokens and of decodes alone needs samples of both kinds")
    prefill_w, prefill_error = _mean_and_error(samples[with_prompts])
    decode_w, decode_error = _mean_and_error(samples[~with_prompts])
    return PowerFit(prefill_w, decode_w, prefill_error, decode_error)


def _mean_and_error(samples: Samples) -> tuple[float, float]:
    mean_w = float(np.average(samples.power_w, weights=samples.time_ms))
    error = np.average(np.abs(samples.power_w - mean_w), weights=samples.time_ms)
    return round(mean_w, 1), round(100 * float(error) / mean_w, 1) if mean_w > 0 else 0.0
