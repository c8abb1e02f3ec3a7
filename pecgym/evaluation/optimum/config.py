"""The keys of scripts/optimum.py: which requests, how much KV memory, which engines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pecgym.costs import load_profile
from pecgym.engine import EngineSettings, load_engine
from pecgym.engine.variants import BASES, variant_names
from pecgym.errors import SpecError
from pecgym.evaluation.infermax.cells import Burst

QUICK_REQUESTS, QUICK_CROWDS, QUICK_LIMIT_S = 16, 2, 1.0
QUICK_ENGINES = ("vllm", "vllm_no_evict", "sarathi", "sarathi_no_evict")


@dataclass
class GridConfig:
    """Equal requests, all there at time 0: each number of them with each pair of lengths and each KV memory.

    Attributes:
        requests: how many (N).
        input_tokens, output_tokens: lengths (I, O).
        crowds: how many numbers k of residents, from 1 to N in equal ratios; for each the KV memories (M) that hold k
            prompts, k requests halfway through their outputs, and k at their ends; null: every M at which one more set
            of residents fits, between which whole prompts and pages of one token leave nothing to change.
    """

    requests: list[int] = field(default_factory=list)
    input_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    crowds: int | None = 4

    def capacities(self, work: Burst) -> list[int]:
        """KV memories for these requests, ascending; one of them alone fits into each."""
        n, most = work.requests, work.output_tokens - 1
        if self.crowds is None:
            sets = [(k, output) for k in range(1, n + 1) for output in range(k * most + 1)]
        else:
            ratios = {round(n ** (k / max(1, self.crowds - 1))) for k in range(self.crowds)}
            sets = [(k, output) for k in ratios for output in (0, k * most // 2, k * most)]
        return sorted({tokens for k, output in sets if (tokens := k * work.input_tokens + output) >= work.peak_tokens})


@dataclass
class OptimumConfig:
    """The keys of scripts/optimum.py; any other key is an error.

    Attributes:
        profile: of costs.
        grids: what is compared, by name; `~grids.NAME` leaves one out.
        limits: settings of every engine beside KV memory and as many slots as requests. `max_batch_tokens` is the C of
            the optimum too, and holds any one prompt, that of an evicted request as well: the engine, which lets the
            first prompt of a batch be larger, then keeps C as the optimum does.
        engines: presets; null: INFERMAX's with every suffix.
        time_limit_s: of each solve, seconds; afterwards the optimum is only known to lie in an interval.
        out: folder of the results.
        page: the Markdown page whose section on the optimum is written; null: page.md in `out`.
        figures: folder of its pictures; null: `out`.
        quick: whether to take a few requests, lengths, memories and engines and a second for each solve, for a look.
        workers: processes; null: one per core.
        fresh: whether to do again what `out` holds.
    """

    profile: str = "infermax-llama-2-7b-a100"
    grids: dict[str, GridConfig] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    engines: list[str] | None = None
    time_limit_s: float = 10.0
    out: str = "results/optimum"
    page: str | None = None
    figures: str | None = None
    quick: bool = False
    workers: int | None = None
    fresh: bool = False

    def engine_names(self) -> list[str]:
        """Presets, each once; the plain ones first."""
        return list(dict.fromkeys(self.engines if self.engines is not None else [*BASES, *variant_names()]))

    def settings(self) -> dict[str, EngineSettings]:
        """Of each engine, by name. Raises SpecError."""
        return {name: load_engine(name, **self.limits) for name in self.engine_names()}

    def thinned(self) -> OptimumConfig:
        """What `quick` runs: of long lists the first, the middle and the last; no grid of many requests unless there is
        no other."""
        if not self.quick:
            return self
        grids = {
            name: replace(
                grid,
                requests=grid.requests[:1],
                input_tokens=_thin(grid.input_tokens),
                output_tokens=grid.output_tokens[:1],
                crowds=min(grid.crowds or QUICK_CROWDS, QUICK_CROWDS),
            )
            for name, grid in self.grids.items()
            if grid.requests[0] <= QUICK_REQUESTS
        }
        engines = self.engines if self.engines is not None else list(QUICK_ENGINES)
        limit_s = min(self.time_limit_s, QUICK_LIMIT_S)
        return replace(self, grids=grids or self.grids, engines=engines, time_limit_s=limit_s)

    def study(self) -> dict[str, Any]:
        """What decides the results."""
        whole = asdict(self.thinned())
        decides = {name: whole[name] for name in ("profile", "grids", "limits", "time_limit_s")}
        return decides | {"engines": self.thinned().engine_names()}

    def check(self) -> None:
        """Raises PecGymError for names that do not exist and values that cannot be."""
        load_profile(self.profile)
        if not self.engine_names():
            raise SpecError("engines: give at least one, or null for all")
        settings = self.settings()
        if not self.time_limit_s > 0:
            raise SpecError(f"time_limit_s={self.time_limit_s}: must be above 0")
        if not self.grids:
            raise SpecError("grids: give at least one")
        if len(budgets := {each.max_batch_tokens for each in settings.values()}) > 1:
            raise SpecError(f"limits.max_batch_tokens: the engines have {sorted(budgets)}: give one for all")
        (most,) = budgets
        for name, grid in self.grids.items():
            if grid.crowds is not None and grid.crowds < 1:
                raise SpecError(f"grids.{name}.crowds={grid.crowds}: must be 1 or more, or null")
            for key in ("requests", "input_tokens", "output_tokens"):
                values = getattr(grid, key)
                if not values or min(values) < 1:
                    raise SpecError(f"grids.{name}.{key}={values}: give at least one, each 1 or more")
            if (peak := max(grid.input_tokens) + max(grid.output_tokens) - 1) > most:
                raise SpecError(
                    f"grids.{name}: requests of {peak:,} tokens, which the prompt of an evicted one may have, are "
                    f"larger than limits.max_batch_tokens={most:,}, so that engines and optimum would have different "
                    f"limits: give a larger budget, or shorter requests"
                )


def _thin(values: list[int]) -> list[int]:
    return values if len(values) < 4 else [values[0], values[len(values) // 2], values[-1]]
