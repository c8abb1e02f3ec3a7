"""The specification of `pecgym.optimum` in code: plain Python, no symmetry, no bounds, no argument about evictions.

All requests are there at time 0, on one replica. `brute_force` is a shortest path over what every single request has
emitted and holds, with every subset of requests, every chunk and every set of evictions as an edge. `check` replays a
schedule by the same rules. Times are integer picoseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

from pecgym.costs import Profile


class BatchLike(Protocol):
    """As `pecgym.optimum.Batch`: request index -> new tokens, and who is evicted before that."""

    @property
    def tokens(self) -> dict[int, int]: ...
    @property
    def evicted(self) -> tuple[int, ...]: ...


class ScheduleLike(Protocol):
    """As `pecgym.optimum.Schedule`."""

    @property
    def batches(self) -> Sequence[BatchLike]: ...


class BrokenRuleError(AssertionError):
    """A schedule that may not be: the message names the batch and the rule."""


@dataclass(frozen=True)
class Instance:
    """What is to be scheduled, and under which limits. eviction: free, never, peak."""

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    profile: Profile
    max_batch_tokens: int = 16384
    kv_capacity_tokens: int = 100_000
    chunked: bool = False
    eviction: str = "free"

    def options(self) -> dict[str, object]:
        """The arguments of `pecgym.optimum.solve` and `replay`, by name."""
        return {
            "input_tokens": list(self.input_tokens),
            "output_tokens": list(self.output_tokens),
            "profile": self.profile,
            "max_batch_tokens": self.max_batch_tokens,
            "kv_capacity_tokens": self.kv_capacity_tokens,
            "chunked": self.chunked,
            "eviction": self.eviction,
        }


class Request(NamedTuple):
    """Between two batches. complete: its prompt has been completed since it was last evicted."""

    emitted: int = 0
    held: int = 0
    complete: bool = False


class Part(NamedTuple):
    """One request's part in one batch; tokens 0: it stands idle. held: in this batch, also if it finishes in it."""

    evicted: bool
    past: int
    tokens: int
    decodes: bool
    held: int
    after: Request


class Batch(NamedTuple):
    tokens: dict[int, int]
    evicted: tuple[int, ...]


class Schedule(NamedTuple):
    batches: tuple[Batch, ...]


def part(instance: Instance, i: int, before: Request, tokens: int, evicted: bool) -> Part:
    """What becomes of request i with `tokens` new tokens in a batch; raises BrokenRuleError."""
    if before.emitted == instance.output_tokens[i] and (tokens or evicted):
        raise BrokenRuleError(f"request {i} is done")
    if evicted and before.held == 0:
        raise BrokenRuleError(f"request {i} is evicted but not resident")
    if evicted and instance.eviction != "free":
        raise BrokenRuleError(f"request {i} is evicted, eviction is {instance.eviction!r}")
    if evicted:
        before = Request(before.emitted)
    if tokens == 0:
        return Part(evicted, before.held, 0, False, before.held, before)
    prompt = instance.input_tokens[i] + before.emitted
    held = before.held + tokens
    if tokens < 0 or held > prompt:
        raise BrokenRuleError(f"request {i} computes {tokens} tokens on {before.held}, its prompt is {prompt}")
    if before.complete and before.held != prompt - 1:
        raise BrokenRuleError(f"request {i} decodes and holds {before.held}, its prompt is {prompt}")
    if not before.complete and not instance.chunked and tokens != prompt:
        raise BrokenRuleError(f"request {i} prefills {tokens} of {prompt} tokens without chunks")
    emits = held == prompt
    after = Request(before.emitted + emits, held, emits)
    if after.emitted == instance.output_tokens[i]:
        after = Request(after.emitted)
    return Part(evicted, before.held, tokens, before.complete, held, after)


def check_batch(instance: Instance, parts: Sequence[Part]) -> None:
    """The limits of one batch; raises BrokenRuleError."""
    if not any(p.tokens for p in parts):
        raise BrokenRuleError("nobody computes anything")
    if (tokens := sum(p.tokens for p in parts)) > instance.max_batch_tokens:
        raise BrokenRuleError(f"{tokens} new tokens, C is {instance.max_batch_tokens}")
    if (held := sum(p.held for p in parts)) > instance.kv_capacity_tokens:
        raise BrokenRuleError(f"{held} KV tokens, M is {instance.kv_capacity_tokens}")
    if instance.eviction == "peak":
        lengths = zip(parts, instance.input_tokens, instance.output_tokens, strict=True)
        if (peaks := sum(i + o - 1 for p, i, o in lengths if p.held)) > instance.kv_capacity_tokens:
            raise BrokenRuleError(f"peaks of {peaks} KV tokens, M is {instance.kv_capacity_tokens}")


def batch_ps(profile: Profile, parts: Iterable[Part]) -> int:
    works = [p for p in parts if p.tokens]
    prefills = tuple(sorted((p.tokens, p.past) for p in works if not p.decodes))
    return _iteration_ps(profile, prefills, tuple(sorted(p.past for p in works if p.decodes)))


@cache
def _iteration_ps(profile: Profile, prefills: tuple[tuple[int, int], ...], decodes: tuple[int, ...]) -> int:
    return profile.iteration_ps(prefills, decodes)


def check(schedule: ScheduleLike, instance: Instance) -> int:
    """The schedule's time in ps; raises BrokenRuleError at the first broken rule, or if somebody is not done."""
    requests = [Request() for _ in instance.input_tokens]
    total_ps = 0
    for j, batch in enumerate(schedule.batches):
        try:
            for i in {*batch.tokens, *batch.evicted}:
                if not 0 <= i < len(requests):
                    raise BrokenRuleError(f"no request {i}")
            if len(set(batch.evicted)) < len(batch.evicted):
                raise BrokenRuleError(f"evicted twice: {batch.evicted}")
            if any(c < 1 for c in batch.tokens.values()):
                raise BrokenRuleError(f"fewer than one token: {batch.tokens}")
            parts = [part(instance, i, q, batch.tokens.get(i, 0), i in batch.evicted) for i, q in enumerate(requests)]
            check_batch(instance, parts)
        except BrokenRuleError as broken:
            raise BrokenRuleError(f"batch {j}: {broken}") from None
        total_ps += batch_ps(instance.profile, parts)
        requests = [p.after for p in parts]
    for i, (request, output) in enumerate(zip(requests, instance.output_tokens, strict=True)):
        if request.emitted < output:
            raise BrokenRuleError(f"request {i} emits {request.emitted} of {output} tokens")
    return total_ps


def parts_of(instance: Instance, i: int, before: Request) -> list[Part]:
    """Everything that may become of request i in one batch."""
    found = []
    for evicted in (False, True):
        for tokens in range(min(instance.max_batch_tokens, instance.input_tokens[i] + before.emitted) + 1):
            try:
                found.append(part(instance, i, before, tokens, evicted))
            except BrokenRuleError:
                continue
    return found


def batches_of(instance: Instance, choices: Sequence[list[Part]]) -> Iterator[tuple[Part, ...]]:
    """Every batch within the limits: one of each request's parts. What has already broken a limit is not continued."""

    def extend(chosen: tuple[Part, ...], tokens: int, held: int) -> Iterator[tuple[Part, ...]]:
        if tokens > instance.max_batch_tokens or held > instance.kv_capacity_tokens:
            return
        if len(chosen) < len(choices):
            for choice in choices[len(chosen)]:
                yield from extend((*chosen, choice), tokens + choice.tokens, held + choice.held)
            return
        try:
            check_batch(instance, chosen)
        except BrokenRuleError:
            return
        yield chosen

    return extend((), 0, 0)


def brute_force(
    instance: Instance, allowed: Callable[[tuple[Request, ...]], bool] = lambda requests: True
) -> tuple[int, Schedule]:
    """The least time in ps, and a schedule that takes it. allowed: which states a schedule may pass through."""
    parts = cache(lambda i, before: parts_of(instance, i, before))
    start = tuple(Request() for _ in instance.input_tokens)
    goal = tuple(Request(output) for output in instance.output_tokens)
    best: dict[tuple[Request, ...], int] = {start: 0}
    came: dict[tuple[Request, ...], tuple[tuple[Request, ...], tuple[Part, ...]]] = {}
    heap = [(0, start)]
    while heap:
        time_ps, state = heapq.heappop(heap)
        if state == goal:
            return time_ps, _schedule(came, start, goal)
        if time_ps > best[state]:
            continue
        for chosen in batches_of(instance, [parts(i, request) for i, request in enumerate(state)]):
            after = tuple(p.after for p in chosen)
            then_ps = time_ps + batch_ps(instance.profile, chosen)
            if then_ps < best.get(after, then_ps + 1) and allowed(after):
                best[after], came[after] = then_ps, (state, chosen)
                heapq.heappush(heap, (then_ps, after))
    raise ValueError("no schedule: a request's input + output - 1 exceeds M, or its prompt C")


def _schedule(
    came: dict[tuple[Request, ...], tuple[tuple[Request, ...], tuple[Part, ...]]],
    start: tuple[Request, ...],
    state: tuple[Request, ...],
) -> Schedule:
    batches = []
    while state != start:
        state, chosen = came[state]
        tokens = {i: p.tokens for i, p in enumerate(chosen) if p.tokens}
        batches.append(Batch(tokens, tuple(i for i, p in enumerate(chosen) if p.evicted)))
    return Schedule(tuple(reversed(batches)))
