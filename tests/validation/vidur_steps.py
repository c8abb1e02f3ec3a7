"""Step times as Vidur's predictor rounds them, to replay its runs without a fitted formula in between.

Vidur adds up: linear layers and all-reduce of the batch's tokens, rounded up to 8; attention of decodes by their number
and mean context, rounded up to 64; attention of chunks by the root of their summed squares and their past, rounded up
to 64; 10 % on attention of more than one chunk (in step_times.csv already for decodes). Between the rows of
step_times.csv lies much that its results tell: a request that was prefilled alone took ttft - scheduling delay.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pecgym.costs import Profile
from pecgym.validation.vidur import CONFIGURATIONS, STEP_TIMES
from pecgym.workload import load_trace

TOKENS, CONTEXT = 8, 64  # that Vidur rounds up to
SEVERAL_CHUNKS = 1.1
SAME_INSTANT_S = 1e-4  # the results have six decimals


class VidurSteps:
    """In place of a profile in the specification: capacity and block size of `profile`, step times of Vidur."""

    def __init__(self, reference: Path, profile: Profile) -> None:
        self.block_tokens, self.kv_capacity_tokens = profile.block_tokens, profile.kv_capacity_tokens
        rows = _table(reference / STEP_TIMES)
        chunks = [row for row in rows if row["num_decodes"] == 0]
        self.whole = _sorted(
            {row["num_prefill_tokens"]: row["attn_prefill_ms"] for row in chunks if not row["prefill_kv"]}
        )
        past = defaultdict(dict)
        for row in chunks:
            if row["prefill_kv"]:
                alone = np.interp(row["num_prefill_tokens"], *self.whole)
                past[row["num_prefill_tokens"]][row["prefill_kv"]] = row["attn_prefill_ms"] - alone
        self.past = {size: _sorted({0: 0.0, **by_past}) for size, by_past in past.items()}
        decodes = {
            (row["num_decodes"], row["decode_kv_each"]): row["attn_decode_ms"]
            for row in rows
            if row["num_decodes"] and not row["num_prefill_tokens"]
        }
        self.batches, self.contexts = (sorted({key[i] for key in decodes}) for i in (0, 1))
        self.decode_ms = np.array([[decodes[n, kv] for kv in self.contexts] for n in self.batches])
        linear = self._linear_ms_of_results(reference)
        for row in rows:
            tokens = _up(row["num_prefill_tokens"] + row["num_decodes"], TOKENS)
            linear[tokens] = row["kv_cache_save_ms"] + row["tp_comm_ms"] + row["other_linear_ms"]
        self.linear = _sorted(linear)

    def with_overhead(self, step_ps: int, request_ps: int, prefill_ps: int) -> VidurSteps:
        """As Profile.with_overhead; these runs have none."""
        assert step_ps == request_ps == prefill_ps == 0
        return self

    def iteration_ps(self, prefills: Iterable[tuple[int, int]], decodes: Iterable[int]) -> int:
        """As Profile.iteration_ps. Vidur counts the token that a decode is about to add to its context."""
        chunks, contexts = list(prefills), list(decodes)
        tokens = sum(c for c, _ in chunks) + len(contexts)
        ms = float(np.interp(_up(tokens, TOKENS), *self.linear))
        if chunks:
            ms += self.chunks_ms(chunks)
        if contexts:
            context = _up(int(np.mean(contexts) + 1), CONTEXT)
            by_batch = [np.interp(context, self.contexts, row) for row in self.decode_ms]
            ms += float(np.interp(len(contexts), self.batches, by_batch))
        return round(ms * 1e9)

    def chunks_ms(self, chunks: list[tuple[int, int]]) -> float:
        """Attention of prefill chunks, (new, past) tokens of each."""
        size = round(sum(c * c for c, _ in chunks) ** 0.5)
        past = sum(_up(m, CONTEXT) for _, m in chunks)
        sizes, ms = self.whole
        total = np.interp(size * size, np.square(sizes), ms)
        if past:
            by_size = [0.0, *(np.interp(past, *points) for points in self.past.values())]
            total += np.interp(size, [0, *self.past], by_size)
        return float(total) * (SEVERAL_CHUNKS if len(chunks) > 1 else 1.0)

    def _linear_ms_of_results(self, reference: Path) -> dict[int, float]:
        """What is not attention in prefills of one prompt, by rounded tokens, from the runs that never mix."""
        found = defaultdict(list)
        for run in CONFIGURATIONS:
            if run.preset != "vllm":
                continue
            trace, results = load_trace(reference / run.trace), _table(reference / run.results)
            together = defaultdict(list)
            for i, row in enumerate(results):
                end = round((trace.arrival_s[i] + row["ttft_s"]) / SAME_INSTANT_S)
                together[i % run.replicas, end].append(row)
            for batch in together.values():
                if len(batch) == 1:
                    tokens = int(batch[0]["input_tokens"])
                    ms = 1e3 * (batch[0]["ttft_s"] - batch[0]["scheduling_delay_s"])
                    found[_up(tokens, TOKENS)].append(ms - self.chunks_ms([(tokens, 0)]))
        return {tokens: float(np.median(ms)) for tokens, ms in found.items()}


def _table(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _sorted(points: dict[Any, float]) -> tuple[list[float], list[float]]:
    return sorted(points), [points[x] for x in sorted(points)]


def _up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)
