"""Which requests of a trace are for training, for validation and for tests."""

from __future__ import annotations

from pecgym.errors import SpecError

SPLITS = {"all": (0.0, 1.0), "train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}
"""Parts of a trace, by its requests in order of arrival."""


def split_rows(n: int, split: str) -> tuple[int, int]:
    """The first row of a split of n requests, and the row after its last. Raises SpecError for an unknown split."""
    if split not in SPLITS:
        raise SpecError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    low, high = SPLITS[split]
    return round(low * n), round(high * n)
