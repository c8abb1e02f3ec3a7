"""What each rule is worth: the errors of the runs held out when one is left out or is another.

The effects are fitted anew each time, so a rule counts for what the others cannot make up for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from pecgym.costs import Profile
from pecgym.validation.client import Means
from pecgym.validation.comparison import Summary, summarize
from pecgym.validation.effects import NAMES, OF_THE_ENGINE, Effects, fit_effects
from pecgym.validation.runs import Run
from pecgym.validation.silicon import (
    BARS,
    FITTED,
    OVERFLOW,
    OVERFLOW_FITTED,
    FamilyResult,
    Setup,
    Silicon,
    engine_of,
    rows_of,
)

# Batch sizes for which vLLM captures CUDA graphs (its default); a batch of decodes is padded to the next one.
GRAPH_SIZES = (1, 2, 4, *range(8, 513, 8))


@dataclass(frozen=True)
class Variant:
    """One thing that is different. engine: changed settings; setup: of the client and the KV cache."""

    name: str
    without: tuple[str, ...] = ()
    engine: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    profile: Callable[[Profile], Profile] = lambda profile: profile


@dataclass(frozen=True)
class VariantResult:
    """The errors under a variant: of the runs held out, and of those whose KV memory overflows."""

    variant: Variant
    effects: Effects
    summaries: tuple[Summary, ...]


def padded_to_graphs(profile: Profile) -> Profile:
    """The profile with `g` a staircase over the batch sizes of CUDA graphs."""
    most = GRAPH_SIZES[-1]
    stairs = [(size, profile.g_ps(size)) for size in GRAPH_SIZES]
    knots = [stairs[0]]
    for (below, _), (size, time_ps) in pairwise(stairs):
        knots += [(below + 1, time_ps)] * (size > below + 1) + [(size, time_ps)]
    beyond = profile.g_knots_tokens > most
    return replace(
        profile,
        g_knots_tokens=np.append([tokens for tokens, _ in knots], profile.g_knots_tokens[beyond]),
        g_knots_ps=np.append([time_ps for _, time_ps in knots], profile.g_knots_ps[beyond]),
    )


def variants(result: FamilyResult) -> list[Variant]:
    """As fitted; then without effects, all or some; then the engine's rules, the KV type and the client, one by one.

    Effects can stand in for each other to some degree, so leaving out a single one says little.
    """
    other_type = {"fp8": "bfloat16", "bfloat16": "fp8"}[result.setup.kv_type]
    return [
        Variant("as fitted"),
        Variant("kernels alone, no effects", without=NAMES),
        Variant("no overhead of iterations", without=OF_THE_ENGINE),
        Variant("no frontend", without=("frontend_ms",)),
        Variant("no factors on kernels", without=tuple(name for name in NAMES if name.endswith("_factor"))),
        Variant("batches composed at their start", engine={"async_scheduling": False}),
        Variant("budget of 2,048 tokens", engine={"max_batch_tokens": 2048, "chunk_tokens": 2048}),
        Variant("budget of 16,384 tokens", engine={"max_batch_tokens": 16384, "chunk_tokens": 16384}),
        Variant("KV blocks of 1 token", engine={"block_tokens": 1}),
        Variant("batches padded to CUDA graphs", profile=padded_to_graphs),
        Variant(f"KV cache {other_type}", setup={"kv_type": other_type}),
        Variant("all requests of the nominal length", setup={"range_ratio": 1.0}),
    ]


def ablate(silicon: Silicon, result: FamilyResult) -> Iterator[VariantResult]:
    """Every variant of a family that is possible, one after the other (some 10 s each). Runs whose KV memory overflows
    are one group, whichever half they are in."""
    groups = {each.run: each.group for each in result.runs}
    fitted = [run for run, group in groups.items() if group == FITTED]
    for variant in variants(result):
        if not silicon.possible(list(groups), replace(result.setup, **variant.setup)):
            continue
        simulate = partial(_simulate, silicon, variant, result.setup)
        effects = fit_effects(fitted, simulate, without=variant.without)
        asked = {
            run: OVERFLOW if group == OVERFLOW_FITTED else group for run, group in groups.items() if group != FITTED
        }
        rows = rows_of((run, group, simulate(run, effects)) for run, group in asked.items())
        yield VariantResult(variant, effects, tuple(summarize(rows, BARS)))


def _simulate(silicon: Silicon, variant: Variant, setup: Setup, run: Run, effects: Effects) -> Means:
    setup = replace(setup, **variant.setup)
    engine = engine_of(run).with_changes(**variant.engine)
    return silicon.simulate(run, setup, effects, engine, profile=variant.profile)
