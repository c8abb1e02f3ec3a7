"""Separate random streams from one seed, so that two policies meet the same requests."""

from __future__ import annotations

import zlib

import numpy as np


def random_stream(seed: int, name: str) -> np.random.Generator:
    """The generator of the stream `name` ("arrivals", "lengths", "predictions", "policy", ...) under `seed`.

    Streams with different names are independent; the same pair gives the same numbers on every machine.
    """
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),)))
