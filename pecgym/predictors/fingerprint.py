"""Whether requests are among those that a predictor was trained on, known by a few hashes of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pecgym.workload.columns import IntColumn
from pecgym.workload.prompts import Prompts
from pecgym.workload.trace import Trace

_RUN = 8
_KEPT = 256
_BITS = 48


@dataclass  # not frozen: OmegaConf cannot fill a frozen one inside a manifest
class Fingerprint:
    """The least hashes of what was trained on: of prompts where it has some, else of each 8 output lengths in a row,
    which rewrites of inputs and arrivals leave as they are.

    Attributes:
        of: "prompts" or "outputs".
        below: every hash under it was kept.
        hashes: these, rising.
    """

    of: str
    below: int
    hashes: list[int]

    @staticmethod
    def take(requests: Trace | Prompts, of: str) -> Fingerprint:
        """Of requests in their order; of: what is hashed."""
        found = np.unique(_hashes(requests, of))
        below = int(found[_KEPT]) if len(found) > _KEPT else 2**_BITS
        return Fingerprint(of, below, found[:_KEPT].tolist())

    def overlap(self, trace: Trace) -> float:
        """About which share of the trace's requests was trained on, 0 to 1."""
        found = _hashes(trace, self.of)
        sampled = found[found < self.below]
        return float(np.isin(sampled, self.hashes).mean()) if len(sampled) else 0.0


def _hashes(requests: Trace | Prompts, of: str) -> IntColumn:
    if of == "outputs":
        return _of_runs(requests.output_tokens)
    prompts = requests.prompt if requests.prompt is not None else ()
    digests = (hashlib.blake2b(text.encode(), digest_size=_BITS // 8).digest() for text in prompts)
    return np.asarray([int.from_bytes(digest) for digest in digests], np.int64)


def _of_runs(lengths: IntColumn) -> IntColumn:
    """A hash of each run of 8 neighbours, int64 [n - 7]."""
    runs = max(0, len(lengths) - _RUN + 1)
    mixed: NDArray[np.uint64] = np.zeros(runs, np.uint64)
    for offset in range(_RUN):
        mixed = (mixed + lengths[offset : offset + runs].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(64 - _BITS)).astype(np.int64)
