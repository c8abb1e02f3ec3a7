"""The errors a user can meet. Each message says what was wrong, where, and the remedy."""

from __future__ import annotations


class PecGymError(ValueError):
    """Base of every error that PecGym raises on bad input."""


class TraceError(PecGymError):
    """A trace cannot be read or breaks a rule of its columns."""


class SpecError(PecGymError):
    """A specification of a GPU, model, cluster, engine or policy is missing or malformed."""


class ProfileError(PecGymError):
    """A cost profile is missing, malformed, or asked for outside what it can say."""


class EngineError(PecGymError):
    """The engine was asked for something that it cannot do (a request that no replica can hold, a bad action)."""
