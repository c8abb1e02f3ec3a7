"""Bounds that hold for every schedule: what each request costs by itself, and how many batches there must be.

A batch costs at least `base_ps + token_ps` for its tokens, a line under the profile's g, and its fixed parts; the rest
is paid by each member by itself. So a schedule costs at least (batches) x (the least fixed part) plus, for every output
token, the cheaper of a decode and of a prefill of all tokens before it. The number of batches is at least the longest
output that is left, at least the KV memory that the steps take over time / M, and at least the new tokens / C. Those
with prompt tokens, which cost more, are at least the memory of all prompts / M.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pecgym.costs.profile import PAIRS_UNIT
from pecgym.optimum.problem import Lengths, Problem, Progress

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Line:
    """A line under g: g(n) >= base_ps + n * token_ps, for 1 <= n <= the largest batch; both at least 0, in whole ps."""

    base_ps: int
    token_ps: int


def line_under(problem: Problem) -> Line:
    """The line from g(1) on that lies under g in every batch: where g is straight, g itself, unless that begins below
    zero, since more batches must not make a bound smaller.

    g is straight between its knots and rounded down, so a line of whole ps that is under it at the knots is under it.
    """
    profile, most = problem.profile, problem.max_batch_tokens
    first = profile.g_ps(1)
    knots = {int(knot) for knot in profile.g_knots_tokens if 1 < knot < most} | {max(most, 2)}
    slope = min(first, *((profile.g_ps(n) - first) // (n - 1) for n in knots))
    return Line(first - slope, slope)


@dataclass(frozen=True)
class Left:
    """What is left to do of a request, at least. All additive over requests but `emissions`.

    Attributes:
        own_ps: its own part in the cost of batches.
        emissions: output tokens.
        block_batches: blocks of KV memory x batches that its steps take.
        tokens: new tokens.
        prompt_blocks: of `block_batches`, those of the prefill without which it emits nothing more.
    """

    own_ps: int
    emissions: int
    block_batches: int
    tokens: int
    prompt_blocks: int


@dataclass(frozen=True)
class OutputTokens:
    """What the output tokens e = 0..O-1 of a request take by themselves, at least; int64[O] each.

    Attributes:
        context: tokens before it.
        prefill_ps: if it comes from a prefill of all of them.
        decode_ps: if it comes from a decode; no meaning for the first.
        blocks: of KV memory in its batch.
    """

    context: Ints
    prefill_ps: Ints
    decode_ps: Ints
    blocks: Ints


class Relaxation:
    """Bounds of a problem; every request by itself, and only the number of batches in common."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.line = line_under(problem)
        p = problem.profile
        self.batch_base_ps = self.line.base_ps + min(p.prefill_base_ps, p.decode_base_ps)
        self.prefill_extra_ps = max(0, p.prefill_base_ps - p.decode_base_ps)
        self._rest: dict[Lengths, tuple[Ints, Ints, Ints]] = {}

    def _tokens_after(self, lengths: Lengths) -> tuple[Ints, Ints, Ints]:
        """int64[O + 1] each: own cost, KV block batches and new tokens of output tokens e..O-1, where token 0 is not
        counted by a decode."""
        if lengths not in self._rest:
            of = self.tokens_of(lengths)
            own = np.minimum(of.prefill_ps, of.decode_ps) if self.problem.eviction == "free" else of.decode_ps.copy()
            own[0] = of.prefill_ps[0]
            new = np.ones_like(own)
            new[0] = lengths.input_tokens
            self._rest[lengths] = _sums_from(own), _sums_from(of.blocks), _sums_from(new)
        return self._rest[lengths]

    def tokens_of(self, lengths: Lengths) -> OutputTokens:
        """What each output token of a request takes."""
        problem, p = self.problem, self.problem.profile
        context = lengths.input_tokens + np.arange(lengths.output_tokens, dtype=np.int64)
        blocks = -(-context // problem.block_tokens)
        if problem.eviction == "peak":
            blocks[:] = problem.blocks(lengths.peak_tokens)
        decode_ps = self.line.token_ps + p.decode_seq_ps + (context - 1) * p.decode_kv_ps
        return OutputTokens(context, self.prefill_ps(context), decode_ps, blocks)

    def prefill_ps(self, context: Ints, held: int = 0) -> Ints:
        """Own cost of computing the tokens from `held` to each of `context`, at least."""
        p = self.problem.profile
        pairs = context * context - held * held
        own: Ints = (
            (context - held) * self.line.token_ps
            + p.prefill_seq_ps
            + held * p.prefill_kv_ps
            # a sum of parts, each rounded down, may be one ps less for every part
            + np.maximum(pairs * p.attn_ps_per_1024_pairs // PAIRS_UNIT - self._parts(context, held), 0)
        )
        return own

    def _parts(self, context: Ints, held: int) -> Ints | int:
        return np.maximum(context - held - 1, 0) if self.problem.chunked else 0

    def left(self, lengths: Lengths, progress: Progress) -> Left:
        """What a request has left to do."""
        if self.problem.is_done(lengths, progress):
            return Left(0, 0, 0, 0, 0)
        e, context = progress.emitted, lengths.input_tokens + progress.emitted
        own, blocks, tokens = self._tokens_after(lengths)
        first_ps = int(own[e] - own[e + 1])
        first_tokens = 1
        if not progress.decoding:  # the next output token needs the rest of the prompt
            first_ps = int(self.prefill_ps(np.array([context]), progress.held)[0])
            first_tokens = context - progress.held
        return Left(
            first_ps + int(own[e + 1]),
            lengths.output_tokens - e,
            int(blocks[e]),
            first_tokens + int(tokens[e + 1]),
            0 if progress.decoding else int(blocks[e] - blocks[e + 1]),
        )

    def batches(self, left: Left) -> int:
        """Batches that there must be; left: sums over requests, and the largest `emissions`."""
        return max(
            left.emissions,
            -(-left.block_batches // self.problem.kv_blocks),
            -(-left.tokens // self.problem.max_batch_tokens),
        )

    @cached_property
    def left_at_start(self) -> Left:
        """What is left at the beginning: sums, and the largest `emissions`."""
        parts = [(self.left(lengths, Progress()), n) for lengths, n in self.problem.kinds.items()]
        return Left(
            sum(n * part.own_ps for part, n in parts),
            max(part.emissions for part, _ in parts),
            sum(n * part.block_batches for part, n in parts),
            sum(n * part.tokens for part, n in parts),
            sum(n * part.prompt_blocks for part, n in parts),
        )

    def bound_ps(self) -> int:
        """No schedule takes less time."""
        left = self.left_at_start
        prefills = -(-left.prompt_blocks // self.problem.kv_blocks)
        return left.own_ps + self.batches(left) * self.batch_base_ps + prefills * self.prefill_extra_ps

    def most_batches(self, below_ps: int) -> int:
        """Batches of a schedule that takes less time than `below_ps`, at most."""
        p = self.problem.profile
        one_ps = p.g_ps(1) + min(p.prefill_base_ps + p.prefill_seq_ps, p.decode_base_ps + p.decode_seq_ps)
        most = below_ps // max(1, one_ps)
        if self.batch_base_ps > 0:
            most = min(most, (below_ps - self.left_at_start.own_ps) // self.batch_base_ps)
        return max(0, most)


def _sums_from(values: Ints) -> Ints:
    """int64[n + 1]: sums of the values from each position on."""
    sums = np.zeros(len(values) + 1, np.int64)
    sums[:-1] = np.cumsum(values[::-1])[::-1]
    return sums
