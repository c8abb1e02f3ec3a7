"""Joules and money of GPU-seconds."""

from __future__ import annotations

from pecgym.costs import cost_usd, energy_joules

WATTS = {"idle_w": 60.0, "decode_w": 300.0, "prefill_w": 400.0}


def test_each_gpu_second_counts_with_the_power_of_what_it_was_spent_on():
    assert energy_joules(gpu_s=35.0, busy_gpu_s=15.0, prefill_gpu_s=5.0, **WATTS) == 5 * 400 + 10 * 300 + 20 * 60


def test_gpus_that_only_prefill_only_decode_or_idle():
    assert energy_joules(gpu_s=9.0, busy_gpu_s=9.0, prefill_gpu_s=9.0, **WATTS) == 9 * 400
    assert energy_joules(gpu_s=9.0, busy_gpu_s=9.0, prefill_gpu_s=0.0, **WATTS) == 9 * 300
    assert energy_joules(gpu_s=9.0, busy_gpu_s=0.0, prefill_gpu_s=0.0, **WATTS) == 9 * 60


def test_an_hour_of_eight_gpus_costs_eight_prices():
    assert cost_usd(8 * 3600.0, price_per_hour_usd=3.43) == 8 * 3.43
