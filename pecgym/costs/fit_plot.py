"""A picture of a fit: predicted against sampled times, errors over the size of iterations, and power where known.

Needs matplotlib (`pip install -e ".[calibrate]"`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pecgym.costs.fit import predict_ms
from pecgym.costs.profile_schema import ProfileFile
from pecgym.costs.samples import PHASES, Samples
from pecgym.errors import ProfileError

# Okabe and Ito's colours, which most people can tell apart, and marks for everybody else.
MARKS = dict(zip(PHASES, (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "D")), strict=True))
BAND_PERCENT = 5


def draw_fit(file: ProfileFile, samples: Samples, path: Path) -> None:
    """Draw how well a profile fits the samples behind it, as PNG, SVG or PDF by the suffix of `path`.

    Raises ProfileError where matplotlib is missing.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as problem:
        raise ProfileError('--plot needs matplotlib: pip install -e ".[calibrate]"') from problem
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    powers = not np.isnan(samples.power_w).all()
    predicted_ms = predict_ms(file.coefficients, samples)
    error = 100 * (predicted_ms / samples.time_ms - 1)
    figure, axes = plt.subplots(1, 2 + powers, figsize=(5.2 * (2 + powers), 4.6), layout="constrained")
    times, errors = axes[0], axes[1]
    ends = np.array([samples.time_ms.min(), samples.time_ms.max()])
    times.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
    errors.axhline(0, color="0.6", linewidth=1, zorder=0)
    errors.axhspan(-BAND_PERCENT, BAND_PERCENT, color="0.93", zorder=0)
    for phase in PHASES:
        here = samples.phase == phase
        if here.any():
            colour, marker = MARKS[phase]
            style: dict[str, Any] = {"s": 22, "color": colour, "marker": marker, "alpha": 0.75, "linewidths": 0}
            label = f"{phase}: {np.abs(error[here]).mean():.1f} % on average"
            times.scatter(samples.time_ms[here], predicted_ms[here], label=label, **style)
            errors.scatter(samples.tokens[here], error[here], **style)
            if powers:
                axes[2].scatter(samples.tokens[here], samples.power_w[here], **style)
    times.set(xscale="log", yscale="log", aspect="equal", xlabel="sampled, ms", ylabel="predicted, ms")
    times.set_title("time of an iteration")
    times.legend(fontsize="small", title="error", title_fontsize="small")
    errors.set(xscale="log", xlabel="new tokens in the iteration", ylabel="predicted / sampled - 1, percent")
    errors.set_title(f"error (grey: within {BAND_PERCENT} %)")
    if powers:
        axes[2].axhline(file.prefill_w, color="0.3", linewidth=1, label=f"with prompt tokens: {file.prefill_w:g} W")
        axes[2].axhline(
            file.decode_w, color="0.3", linewidth=1, linestyle="--", label=f"decodes alone: {file.decode_w:g} W"
        )
        axes[2].set(xscale="log", xlabel="new tokens in the iteration", ylabel="watts of one GPU", title="power")
        axes[2].set_ylim(0, 1.15 * float(np.nanmax(samples.power_w)))
        axes[2].legend(fontsize="small", loc="lower right")
    for axis in axes:
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        for scale in (axis.xaxis, axis.yaxis):
            if scale.get_scale() == "log":
                scale.set_major_formatter("{x:,g}")
    figure.suptitle(f"{file.name}: {len(samples)} iterations")
    figure.savefig(path, dpi=120)
    plt.close(figure)
