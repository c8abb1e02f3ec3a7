"""Joules and money of a run, from the time that its GPUs were busy and idle."""

from __future__ import annotations


def energy_joules(busy_gpu_s: float, idle_gpu_s: float, busy_w: float, idle_w: float) -> float:
    """Joules drawn by GPUs that were busy for `busy_gpu_s` and idle for `idle_gpu_s` GPU-seconds in total.

    busy_w, idle_w: watts per GPU (a profile's `busy_w` and `idle_w`).
    """
    return busy_gpu_s * busy_w + idle_gpu_s * idle_w


def cost_usd(gpu_s: float, price_per_hour_usd: float) -> float:
    """Price of `gpu_s` GPU-seconds (busy and idle alike: a rented GPU costs while it waits) at a price per GPU-hour."""
    return gpu_s / 3600.0 * price_per_hour_usd
