"""Agents that learn to schedule: PPO over the environments of pecgym. Part of the checkout, not of the package."""
