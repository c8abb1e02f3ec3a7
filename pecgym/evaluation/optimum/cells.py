"""Cells of the study: the optimum of equal requests under each rule of eviction, and what every engine needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pecgym.costs import Profile, load_profile
from pecgym.engine import EngineSettings
from pecgym.errors import EngineError
from pecgym.evaluation.infermax.cells import Burst, Row, serve
from pecgym.evaluation.keys import digest_of, package_hash
from pecgym.optimum import Schedule, solve
from pecgym.optimum.problem import EVICTIONS

FREE, NEVER, PEAK = EVICTIONS
CHUNKED = "chunked"
"""As FREE, with prompts that may be computed in parts."""
_ROUNDING = 1e-12
"""Of times in seconds."""


@dataclass(frozen=True)
class OptimumCell:
    """Equal requests at time 0 on one replica with so much KV memory. engines: by name, settings without memory; all
    have the same token budget."""

    profile: str
    work: Burst
    capacity_tokens: int
    engines: Mapping[str, EngineSettings]
    time_limit_s: float

    def key(self) -> str:
        """A hash of all that may change its result."""
        where = [self.work.identity(), self.capacity_tokens, self.time_limit_s]
        engines = {name: repr(settings) for name, settings in self.engines.items()}
        return digest_of([package_hash(), repr(load_profile(self.profile)), where, engines])[:24]

    def settings(self, name: str) -> EngineSettings:
        """Of an engine with the KV memory of this cell, and slots for all requests."""
        changes = {"kv_capacity_tokens": self.capacity_tokens, "max_batch_requests": self.work.requests}
        return self.engines[name].with_changes(**changes)

    def reference(self, name: str) -> str:
        """The rule of which an engine is no better than the optimum: CHUNKED where it may cut a prompt, else FREE.

        It cuts one that is longer than its chunks, or than what is left of the batch; all that is computed in a batch
        is held.
        """
        settings, peak = self.engines[name], self.work.peak_tokens
        held = min(self.capacity_tokens, self.work.requests * peak)
        cuts = settings.chunk_tokens > 0 and (peak > settings.chunk_tokens or held > settings.max_batch_tokens)
        return CHUNKED if cuts else FREE

    def run(self) -> dict[str, list[Row]]:
        """ "engines": what each needs; "optima": a row for each rule. Raises PecGymError."""
        profile = load_profile(self.profile)
        engines = [self._serve(profile, name) for name in self.engines]
        rules = [
            rule for rule in (CHUNKED, *EVICTIONS) if rule != CHUNKED or CHUNKED in {e["reference"] for e in engines}
        ]
        optima = {rule: self._solve(profile, rule) for rule in rules}
        share_what_is_known(optima, engines)
        return {"engines": engines, "optima": list(optima.values())}

    def _serve(self, profile: Profile, name: str) -> Row:
        settings = self.settings(name)
        (trace,) = self.work.traces(profile, settings)
        found = serve(profile, settings, trace)
        return {
            "engine": name,
            "never_evicts": settings.reservation == "peak",
            "reference": self.reference(name),
            "makespan_s": found["makespan_s"],
            "evictions": found["evictions"],
        }

    def _solve(self, profile: Profile, rule: str) -> Row:
        chunked = rule == CHUNKED
        limits = self.settings(next(iter(self.engines))).resolved(profile)
        assert limits.block_tokens is not None
        found = solve(
            [self.work.input_tokens] * self.work.requests,
            [self.work.output_tokens] * self.work.requests,
            profile,
            max_batch_tokens=limits.max_batch_tokens,
            kv_capacity_tokens=self.capacity_tokens,
            block_tokens=limits.block_tokens,
            chunked=chunked,
            eviction=FREE if chunked else rule,
            time_limit_s=self.time_limit_s,
        )
        return {
            "rule": rule,
            "best_s": found.best_s,
            "bound_s": found.bound_s,
            "status": found.status,
            "by": "solve",
            "wall_s": round(found.wall_s, 3),
            "batches": len(found.schedule),
            "evictions": found.schedule.evictions,
            "evicted_and_computed_in_one_batch": _evicted_and_computed(found.schedule),
            "idle_residents": _idle_residents(found.schedule, [self.work.output_tokens] * self.work.requests, chunked),
            "notes": "; ".join(found.notes),
        }


def share_what_is_known(optima: Mapping[str, Row], engines: list[Row]) -> None:
    """Lowers the best times to those of engines that keep a rule, and passes best times on to wider rules and bounds to
    narrower ones; `by` says who found a best time. Raises EngineError for an engine that is faster than a bound."""
    rules = [rule for rule in (CHUNKED, *EVICTIONS) if rule in optima]
    for row in engines:
        kept = [row["reference"]]
        if row["reference"] == FREE:
            kept += [NEVER] * (row["evictions"] == 0) + [PEAK] * row["never_evicts"]
        for rule in kept:
            _lower(optima[rule], row["makespan_s"], row["engine"])
    for k, rule in enumerate(rules):
        for narrower in rules[k + 1 :]:
            _lower(optima[rule], optima[narrower]["best_s"], f"the optimum under {narrower!r}")
            optima[narrower]["bound_s"] = max(optima[narrower]["bound_s"], optima[rule]["bound_s"])


def _lower(optimum: Row, best_s: float, by: str) -> None:
    if best_s < optimum["bound_s"] - _ROUNDING:
        raise EngineError(
            f"{by} needs {best_s} s, less than the bound under {optimum['rule']!r}, {optimum['bound_s']} s"
        )
    if best_s < optimum["best_s"] - _ROUNDING:
        optimum |= {"best_s": best_s, "by": by}


def _evicted_and_computed(schedule: Schedule) -> int:
    """How often a request is evicted and computed again in one and the same batch."""
    return sum(i in batch.tokens for batch in schedule.batches for i in batch.evicted)


def _idle_residents(schedule: Schedule, output_tokens: list[int], chunked: bool) -> int | None:
    """How often a request that holds memory is not in a batch; None for prompts in parts."""
    if chunked:
        return None
    left, resident, idle = list(output_tokens), set[int](), 0
    for batch in schedule.batches:
        resident -= set(batch.evicted)
        idle += len(resident - batch.tokens.keys())
        for i in batch.tokens:
            left[i] -= 1
        resident = {i for i in resident | batch.tokens.keys() if left[i] > 0}
    return idle
