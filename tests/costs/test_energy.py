"""Joules and money."""

from __future__ import annotations

from pecgym.costs import cost_usd, energy_joules


def test_energy_weighs_busy_and_idle_time():
    assert energy_joules(busy_gpu_s=10.0, idle_gpu_s=20.0, busy_w=400.0, idle_w=60.0) == 5200.0


def test_an_hour_of_eight_gpus_costs_eight_prices():
    assert cost_usd(8 * 3600.0, price_per_hour_usd=3.43) == 8 * 3.43
