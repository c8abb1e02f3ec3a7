"""The keys of a profile's YAML file, and how its decimal coefficients become whole picoseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING

from pecgym.errors import ProfileError

PS_PER_NS = 1_000
PS_PER_US = 1_000_000
MAX_ROUNDING_ERROR = 1e-3


# The three inner dataclasses are not frozen: OmegaConf cannot fill a frozen one inside another from a file.
@dataclass
class Coefficients:
    """The numbers of the iteration time; see `Profile` for the formula. Units are in the names, all are >= 0.

    g_tokens: knots of g in tokens, strictly increasing from 1. g_us: g at the knots, non-decreasing.
    """

    g_tokens: list[int] = MISSING
    g_us: list[float] = MISSING
    prefill_base_us: float = MISSING
    prefill_per_sequence_us: float = MISSING
    prefill_per_past_token_ns: float = MISSING
    attention_per_1024_pairs_ns: float = MISSING
    decode_base_us: float = MISSING
    decode_per_sequence_us: float = MISSING
    decode_per_kv_token_ns: float = MISSING

    def __post_init__(self) -> None:
        if len(self.g_tokens) != len(self.g_us):
            raise ProfileError(f"g_tokens has {len(self.g_tokens)} knots and g_us {len(self.g_us)}; they must match")
        if len(self.g_tokens) < 2 or self.g_tokens[0] != 1:
            raise ProfileError(f"g_tokens is {list(self.g_tokens)}; it needs at least two knots, the first at 1 token")
        for name in ("g_tokens", "g_us"):
            values: Sequence[float] = getattr(self, name)
            for i in range(1, len(values)):
                if values[i] < values[i - 1] or (name == "g_tokens" and values[i] == values[i - 1]):
                    raise ProfileError(
                        f"{name}[{i}] is {values[i]} after {values[i - 1]}; more tokens must never cost less"
                    )
        for name, value in self.times().items():
            if not math.isfinite(value) or value < 0:
                raise ProfileError(f"{name} is {value}; a coefficient must be finite and >= 0, or work would save time")

    def times(self) -> dict[str, float]:
        """Every coefficient that is a time, by its key (knots as g_us[i])."""
        scalars = {name: value for name, value in vars(self).items() if isinstance(value, int | float)}
        return {**{f"g_us[{i}]": value for i, value in enumerate(self.g_us)}, **scalars}


@dataclass
class FitError:
    """How far the formula is from the samples of one phase: |predicted / sampled - 1| in percent.

    points and the figures after it are over all samples; the held_out ones over those kept out of the fit.
    """

    points: int = MISSING
    mean_percent: float = MISSING
    p90_percent: float = MISSING
    worst_percent: float = MISSING
    held_out_points: int = MISSING
    held_out_mean_percent: float = MISSING
    held_out_worst_percent: float = MISSING


@dataclass
class FittedRange:
    """What the samples covered. Outside of it a time is extrapolated.

    prompt_tokens: prompt with its past. context_tokens: context per decode. batch: decodes per iteration.
    """

    prompt_tokens_min: int = MISSING
    prompt_tokens_max: int = MISSING
    context_tokens_min: int = MISSING
    context_tokens_max: int = MISSING
    batch_min: int = MISSING
    batch_max: int = MISSING


@dataclass(frozen=True)
class ProfileFile:
    """A profile as it is written. `fitted_range` is null where the source states none; `fit` is then empty too."""

    name: str = MISSING
    model: str = MISSING
    gpu: str = MISSING
    tp: int = MISSING
    engine: str = MISSING
    precision: str = MISSING
    kv_capacity_tokens: int = MISSING
    kv_bytes_per_token: int = MISSING
    block_tokens: int = MISSING
    idle_w: float = MISSING
    decode_w: float = MISSING
    prefill_w: float = MISSING
    power_source: str = MISSING
    coefficients: Coefficients = MISSING
    fitted_range: FittedRange | None = MISSING
    fit: dict[str, FitError] = MISSING
    source: str = MISSING
    licence: str = MISSING

    def __post_init__(self) -> None:
        for name, least in (("tp", 1), ("kv_capacity_tokens", 1), ("kv_bytes_per_token", 0), ("block_tokens", 1)):
            if getattr(self, name) < least:
                raise ProfileError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("decode_w", "prefill_w"):
            if not 0 <= self.idle_w <= getattr(self, name) < math.inf:
                raise ProfileError(
                    f"idle_w is {self.idle_w} and {name} {getattr(self, name)}; need 0 <= idle_w <= {name}"
                )


def whole_ps(key: str, value: float) -> tuple[int, float]:
    """A coefficient as whole picoseconds, and the relative error of rounding it (0 for 0).

    Raises ProfileError when rounding changes it by more than 0.1 %.
    """
    exact_ps = value * (PS_PER_US if "_us" in key else PS_PER_NS)
    rounded_ps = round(exact_ps)
    if exact_ps == 0:
        return 0, 0.0
    error = abs(rounded_ps / exact_ps - 1)
    if error > MAX_ROUNDING_ERROR:
        raise ProfileError(
            f"{key} is {value}, which rounds to {rounded_ps} ps with an error of {error:.2%}, above "
            f"{MAX_ROUNDING_ERROR:.1%}; write 0 if it does not matter, or check its unit"
        )
    return rounded_ps, error
