"""Comparisons of the simulator with measurements and with other simulators (docs/fidelity.md)."""
