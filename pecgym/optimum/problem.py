"""The scheduling problem of INFERMAX: which requests are in which batch of one replica, for the least total time.

Kim et al., "The Effect of Scheduling and Preemption on the Efficiency of LLM Inference Serving" (arXiv:2411.07447),
state it as a constraint satisfaction problem; this is the same problem as states of requests and steps between them,
which the search, the flow model and the bounds share.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pecgym.costs import Profile, load_profile
from pecgym.costs.profile import PAIRS_UNIT
from pecgym.errors import SpecError
from pecgym.units import PS_PER_S

EVICTIONS = ("free", "never", "peak")
_MOST_TOKENS = 2**31


@dataclass(frozen=True, order=True)
class Lengths:
    """What one request asks for: prompt tokens and output tokens. Requests of equal lengths are interchangeable."""

    input_tokens: int
    output_tokens: int

    @property
    def peak_tokens(self) -> int:
        """The most KV tokens that it ever holds: the last output token is never written."""
        return self.input_tokens + self.output_tokens - 1


@dataclass(frozen=True, order=True)
class Progress:
    """Where a request stands between two batches.

    Attributes:
        emitted: output tokens so far.
        held: KV tokens that it holds; 0: it waits, or was evicted, or is done.
        decoding: whether its prompt, which after an eviction includes its output, is computed.
    """

    emitted: int = 0
    held: int = 0
    decoding: bool = False

    @property
    def evicted(self) -> Progress:
        """The same request after an eviction: its output joins its prompt."""
        return Progress(self.emitted)


@dataclass(frozen=True)
class Step:
    """One request's part in one batch: `tokens` new ones are computed, beside those that it holds.

    before: where it stands when the batch begins; evicted, if it begins anew in this very batch.
    """

    before: Progress
    tokens: int
    after: Progress


@dataclass(frozen=True)
class Batch:
    """One batch. tokens: new tokens of each request in it, by its index. evicted: who gives up its memory before it."""

    tokens: dict[int, int]
    evicted: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """Batches, one after another."""

    batches: tuple[Batch, ...]

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def evictions(self) -> int:
        """How often a request lost its memory."""
        return sum(len(batch.evicted) for batch in self.batches)


@dataclass(frozen=True)
class Problem:
    """Requests that are all there at time 0, the cost of a batch, and the limits that every batch keeps.

    Attributes:
        requests: lengths of each.
        profile: what a batch costs.
        max_batch_tokens: new tokens in a batch (C).
        kv_blocks: blocks of KV memory (M, with blocks of one token).
        block_tokens: KV tokens in a block.
        chunked: whether a prompt may be computed in parts.
        eviction: "free": anybody at any time; "never"; "peak": never, and the peaks of all residents fit together.
    """

    requests: tuple[Lengths, ...]
    profile: Profile
    max_batch_tokens: int
    kv_blocks: int
    block_tokens: int = 1
    chunked: bool = False
    eviction: str = "free"

    @cached_property
    def kinds(self) -> dict[Lengths, int]:
        """The different lengths, sorted, and how many requests have them."""
        return dict(sorted(Counter(self.requests).items()))

    def blocks(self, tokens: int) -> int:
        """Blocks that hold so many KV tokens."""
        return -(-tokens // self.block_tokens)

    def blocks_during(self, lengths: Lengths, held_tokens: int) -> int:
        """Blocks that a resident with so many tokens, those of this batch included, takes from the limit."""
        if self.eviction == "peak" and held_tokens > 0:
            return self.blocks(lengths.peak_tokens)
        return self.blocks(held_tokens)

    def is_done(self, lengths: Lengths, progress: Progress) -> bool:
        """Whether the request has all its output."""
        return progress.emitted == lengths.output_tokens

    def steps(self, lengths: Lengths, progress: Progress) -> Iterator[Step]:
        """What a request can do in one batch, apart from standing idle.

        It may be evicted and computed anew in the same batch: among prompts that can cost less than a decode.
        """
        if self.is_done(lengths, progress):
            return
        yield from self._steps_from(lengths, progress)
        if progress.held > 0 and self.eviction == "free":
            yield from self._steps_from(lengths, progress.evicted)

    def _steps_from(self, lengths: Lengths, progress: Progress) -> Iterator[Step]:
        for tokens in self._token_counts(lengths, progress):
            yield Step(progress, tokens, self.after(lengths, progress, tokens))

    def _token_counts(self, lengths: Lengths, progress: Progress) -> range:
        """New tokens that a request may get in one batch."""
        wanted = lengths.input_tokens + progress.emitted - progress.held
        least = 1 if self.chunked and not progress.decoding else wanted
        return range(least, min(wanted, self.max_batch_tokens) + 1)

    def after(self, lengths: Lengths, progress: Progress, tokens: int) -> Progress:
        """Where a request stands that has computed `tokens` new ones: with its prompt complete it emits one."""
        held = progress.held + tokens
        if held < lengths.input_tokens + progress.emitted:
            return Progress(progress.emitted, held)
        emitted = progress.emitted + 1
        if emitted == lengths.output_tokens:
            return Progress(emitted)
        return Progress(emitted, held, decoding=True)

    # -- what a batch costs -----------------------------------------------------------------------------------------

    def batch_ps(self, parts: Sequence[tuple[Progress, int]]) -> int:
        """Time of a batch, in ps; parts: where each member stands before it, and its new tokens."""
        prefills = [(tokens, progress.held) for progress, tokens in parts if not progress.decoding]
        decodes = [progress.held for progress, _ in parts if progress.decoding]
        return self.profile.iteration_ps(prefills, decodes)

    def own_ps(self, progress: Progress, tokens: int) -> int:
        """What a member adds to the time of a batch by itself, its tokens' share of g apart; rounded down."""
        p = self.profile
        if progress.decoding:
            return p.decode_seq_ps + progress.held * p.decode_kv_ps
        pairs = tokens * tokens + 2 * tokens * progress.held
        return p.prefill_seq_ps + progress.held * p.prefill_kv_ps + pairs * p.attn_ps_per_1024_pairs // PAIRS_UNIT

    # -- whether a schedule keeps the limits ------------------------------------------------------------------------

    def cost_ps(self, schedule: Schedule) -> int:
        """The time of a schedule, in ps. Raises SpecError, naming batch and request, where it breaks a limit."""
        at = [Progress() for _ in self.requests]
        total_ps = blocks = 0
        for j, batch in enumerate(schedule.batches):
            time_ps, blocks = self._step(f"batch {j}", at, blocks, batch)
            total_ps += time_ps
        for i, (lengths, progress) in enumerate(zip(self.requests, at, strict=True)):
            if not self.is_done(lengths, progress):
                raise SpecError(f"schedule: request {i} ends with {progress.emitted} of {lengths.output_tokens} tokens")
        return total_ps

    def _step(self, where: str, at: list[Progress], blocks: int, batch: Batch) -> tuple[int, int]:
        """Does one batch: changes `at`, and returns its time and the blocks that are held after it; blocks: before."""
        if not batch.tokens:
            raise SpecError(f"schedule: {where} is empty")
        for i in batch.evicted:
            if at[i].held == 0 or self.eviction != "free":
                raise SpecError(f"schedule: {where} evicts request {i}, which holds nothing or may not be evicted")
            blocks -= self.blocks_during(self.requests[i], at[i].held)
            at[i] = at[i].evicted
        parts, freed = [], 0
        for i, tokens in batch.tokens.items():
            lengths, before = self.requests[i], at[i]
            if self.is_done(lengths, before):
                raise SpecError(f"schedule: {where} has request {i}, which is done")
            if tokens not in self._token_counts(lengths, before):
                raise SpecError(f"schedule: {where} gives request {i} {tokens} tokens, which it cannot use")
            parts.append((before, tokens))
            at[i] = self.after(lengths, before, tokens)
            during = self.blocks_during(lengths, before.held + tokens)
            blocks += during - self.blocks_during(lengths, before.held)
            freed += during - self.blocks_during(lengths, at[i].held)
        if blocks > self.kv_blocks:
            raise SpecError(f"schedule: {where} holds {blocks} blocks of KV memory, of {self.kv_blocks}")
        if sum(batch.tokens.values()) > self.max_batch_tokens:
            raise SpecError(f"schedule: {where} has more than {self.max_batch_tokens} new tokens")
        return self.batch_ps(parts), blocks - freed


def make_problem(
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    profile: Profile | str | Path,
    *,
    max_batch_tokens: int = 16384,
    kv_capacity_tokens: int | None = None,
    block_tokens: int = 1,
    chunked: bool = False,
    eviction: str = "free",
) -> Problem:
    """The problem of these requests; see `pecgym.optimum.solve`. Raises SpecError or ProfileError."""
    inputs, outputs = _whole("input_tokens", input_tokens), _whole("output_tokens", output_tokens)
    if len(inputs) != len(outputs) or not inputs:
        raise SpecError(
            f"input_tokens has {len(inputs)} entries and output_tokens {len(outputs)}: give one of each per request"
        )
    for key, values in (("input_tokens", inputs), ("output_tokens", outputs)):
        for i, value in enumerate(values):
            if not 1 <= value < _MOST_TOKENS:
                raise SpecError(f"{key}[{i}]={value}: must be 1 or more, below {_MOST_TOKENS:.0e}")
    if eviction not in EVICTIONS:
        raise SpecError(f"eviction={eviction!r}: choose one of {', '.join(EVICTIONS)}")
    if not isinstance(chunked, bool):
        raise SpecError(f"chunked={chunked!r}: must be True or False")
    costs = profile if isinstance(profile, Profile) else load_profile(profile)
    kv_tokens = costs.kv_capacity_tokens if kv_capacity_tokens is None else kv_capacity_tokens
    for key, value in (
        ("max_batch_tokens", max_batch_tokens),
        ("kv_capacity_tokens", kv_tokens),
        ("block_tokens", block_tokens),
    ):
        if not 1 <= _whole_number(key, value) < 2**40:
            raise SpecError(f"{key}={value}: must be 1 or more, below {2**40:.0e}")
    requests = tuple(Lengths(i, o) for i, o in zip(inputs, outputs, strict=True))
    found = Problem(requests, costs, max_batch_tokens, kv_tokens // block_tokens, block_tokens, chunked, eviction)
    for i, lengths in enumerate(requests):
        if found.blocks(lengths.peak_tokens) > found.kv_blocks:
            raise SpecError(
                f"request {i} holds {lengths.peak_tokens:,} KV tokens at its end, input + output - 1, more than "
                f"kv_capacity_tokens={kv_tokens:,}: give more memory, or leave it out"
            )
        if not chunked and lengths.input_tokens > max_batch_tokens:
            raise SpecError(
                f"request {i} has a prompt of {lengths.input_tokens:,} tokens, more than "
                f"max_batch_tokens={max_batch_tokens:,}: give a larger batch, or chunked=True"
            )
    return found


def _whole(key: str, values: Sequence[int]) -> list[int]:
    """The values as Python's integers. Raises SpecError for one that is none."""
    try:
        listed = list(values)
    except TypeError:
        raise SpecError(f"{key}={values!r}: must be one number of tokens per request") from None
    return [_whole_number(f"{key}[{i}]", value) for i, value in enumerate(listed)]


def _whole_number(key: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise SpecError(f"{key}={value!r}: must be a whole number of tokens") from None


def seconds(time_ps: int) -> float:
    """Picoseconds as seconds."""
    return time_ps / PS_PER_S
