"""The best that any agent could do in Replica-v0 on a small offline instance, by a search over its decisions.

The optimum of `pecgym.optimum` may let a resident stand idle and evict whenever it likes. In the environment everybody
resident decodes in every iteration, and somebody is evicted only where memory overflows: so an agent may not be able
to reach it. This is the shortest path over what the environment lets an agent do, under an engine with `group_order:
decode_first`, `mixing`, whole prompts, `reservation: prompt` and pages of one token without a watermark.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pecgym.costs import Profile
from pecgym.errors import SpecError
from pecgym.units import PS_PER_S

Standing = tuple[int, bool]
"""Of one request: tokens emitted so far, and whether it is resident."""
State = tuple[Standing, ...]


@dataclass(frozen=True)
class Reach:
    """An instance. capacity_tokens: KV memory; a resident that has emitted e tokens holds input + e - 1 of it."""

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    profile: Profile
    capacity_tokens: int
    max_batch_tokens: int

    def best_s(self, most_states: int = 1_000_000) -> float:
        """The least makespan over all decisions, seconds. Raises SpecError after `most_states` states."""
        begin: State = tuple((0, False) for _ in self.input_tokens)
        least = {begin: 0}
        heap = [(0, begin)]
        while heap:
            time_ps, state = heapq.heappop(heap)
            if time_ps > least[state]:
                continue
            if all(emitted == output for (emitted, _), output in zip(state, self.output_tokens, strict=True)):
                return time_ps / PS_PER_S
            for cost_ps, after in self._batches(state):
                if time_ps + cost_ps < least.get(after, time_ps + cost_ps + 1):
                    least[after] = time_ps + cost_ps
                    heapq.heappush(heap, (time_ps + cost_ps, after))
            if len(least) > most_states:
                raise SpecError(f"the search has met {most_states:,} states: give fewer or shorter requests")
        raise AssertionError("every request can be served alone")

    def _batches(self, state: State) -> Iterator[tuple[int, State]]:
        """Every batch that decisions can make now: its time in ps, and the state after it."""
        inputs, outputs = self.input_tokens, self.output_tokens
        residents = tuple(i for i, (_, resident) in enumerate(state) if resident)
        for decodes in self._after_evictions(state, residents):
            contexts = [inputs[i] + state[i][0] - 1 for i in decodes]
            used = sum(contexts) + len(contexts)
            waiting = [i for i, (emitted, _) in enumerate(state) if i not in decodes and emitted < outputs[i]]
            for n in range(0 if decodes else 1, len(waiting) + 1):
                for joined in combinations(waiting, n):
                    prompts = [inputs[i] + state[i][0] for i in joined]
                    fits = used + sum(prompts) <= self.capacity_tokens
                    if fits and sum(prompts) + len(decodes) <= self.max_batch_tokens:
                        cost_ps = self.profile.iteration_ps([(tokens, 0) for tokens in prompts], contexts)
                        yield cost_ps, self._advanced(state, {*decodes, *joined})

    def _after_evictions(self, state: State, residents: tuple[int, ...]) -> set[tuple[int, ...]]:
        """Who may be left to decode: somebody goes, one after another, while the others' next tokens do not fit."""
        needed = sum(self.input_tokens[i] + state[i][0] for i in residents)
        if needed <= self.capacity_tokens:
            return {residents}
        left: set[tuple[int, ...]] = set()
        for k in range(len(residents)):
            left |= self._after_evictions(state, residents[:k] + residents[k + 1 :])
        return left

    def _advanced(self, state: State, members: set[int]) -> State:
        """Members of the batch emit a token each; who is not among them is not resident."""
        after = []
        for i, (emitted, _) in enumerate(state):
            done = emitted + (i in members)
            after.append((done, i in members and done < self.output_tokens[i]))
        return tuple(after)


def best_reachable_s(
    input_tokens: Sequence[int],
    output_tokens: Sequence[int],
    profile: Profile,
    capacity_tokens: int,
    max_batch_tokens: int,
) -> float:
    """The least makespan of an instance that decisions in Replica-v0 can reach, seconds. Raises SpecError for one that
    is too large."""
    reach = Reach(tuple(input_tokens), tuple(output_tokens), profile, capacity_tokens, max_batch_tokens)
    return reach.best_s()
