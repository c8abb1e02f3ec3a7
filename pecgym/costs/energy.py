"""Joules and money of a run: time that GPUs spent, times what they draw and cost in it."""

from __future__ import annotations


def energy_joules(
    gpu_s: float, busy_gpu_s: float, prefill_gpu_s: float, idle_w: float, decode_w: float, prefill_w: float
) -> float:
    """Joules that GPUs drew in `gpu_s` GPU-seconds in total.

    busy_gpu_s: of these, in iterations. prefill_gpu_s: of these, in iterations with prompt tokens. idle_w, decode_w,
    prefill_w: watts of one GPU without work, in iterations of decodes alone, and in those with prompt tokens (the keys
    of a profile). Plain arithmetic, which the rewards of the environments compile.
    """
    decode_gpu_s = busy_gpu_s - prefill_gpu_s
    return prefill_gpu_s * prefill_w + decode_gpu_s * decode_w + (gpu_s - busy_gpu_s) * idle_w


def cost_usd(gpu_s: float, price_per_hour_usd: float) -> float:
    """Price of `gpu_s` GPU-seconds (busy and idle alike: a rented GPU costs while it waits) at a price per GPU-hour."""
    return gpu_s / 3600.0 * price_per_hour_usd
