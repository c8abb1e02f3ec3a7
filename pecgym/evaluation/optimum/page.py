"""The section on the optimum of docs/infermax.md: numbers, and sentences that speak of them, come from the results."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from pecgym.evaluation.infermax.page import write_optimum
from pecgym.evaluation.infermax.page_text import percent, say, say_if, table, words
from pecgym.evaluation.optimum.cells import CHUNKED, FREE, NEVER
from pecgym.evaluation.optimum.config import OptimumConfig
from pecgym.evaluation.optimum.figures import write_heat_maps, write_ranks
from pecgym.evaluation.optimum.gaps import Point, compares_evicting, is_closed
from pecgym.evaluation.optimum.tables import best_engines, families, gains, most_saved, own_savings, reach, slower_from
from pecgym.optimum import solve

PROSE = Path(__file__).with_name("prose.yaml")
_SHORT, _LONG = 32, 128
"""Input tokens up to which the paper finds preempting better, and from which on we call them long."""
_MOST_DRAWN = 8
"""Requests up to which heat maps are drawn: of more, few memories are studied."""


def write_section(
    points: Sequence[Point], config: OptimumConfig, shipped: OptimumConfig, path: Path, pictures: Path, command: str
) -> list[Path]:
    """Writes the section into the page at `path`, and its pictures; returns their paths. shipped: the configuration as
    it comes; what is true of its results alone is left out where the settings are others."""
    is_shipped = config.study() == shipped.study()
    pictures.mkdir(parents=True, exist_ok=True)
    picture, ranks = pictures / "infermax-optimum.png", pictures / "infermax-optimum-ranks.png"
    drawn = [point for point in points if point.requests <= _MOST_DRAWN] or list(points)
    write_heat_maps(picture, drawn)
    write_ranks(ranks, drawn)
    known = [row for point in points if is_closed(row := point.optima[FREE]) and row["by"] == "solve"]
    example = words(PROSE)["example"].strip()
    shown = config.thinned()
    section = say(
        "section",
        PROSE,
        command=command,
        out=config.out,
        chunks="512 tokens" if is_shipped else "their chunks",
        **{key: say_if(is_shipped, key, PROSE) for key in ("lasts", "cores", "every_m", "exact")},
        example=example,
        printed=_run(example),
        reach=table(*reach(points)),
        limit=shown.time_limit_s,
        quirk=_quirk(),
        closed=len(known),
        again=sum(row["evicted_and_computed_in_one_batch"] > 0 for row in known),
        idle=sum(row["idle_residents"] > 0 for row in known),
        example_ms=f"{solve([8] * 4, [4] * 4, kv_capacity_tokens=34).best_s * 1e3:.3f}",
        gains=table(*gains(points)),
        link=_link(picture, path),
        ranks=_link(ranks, path),
        meaning=_meaning(drawn) if is_shipped else "",
        budget=next(iter(shown.settings().values())).max_batch_tokens,
        families=table(*families(points, lambda name: f"`{name}`")),
        cut=sum(CHUNKED in point.optima for point in points),
        best=_best_presets(points),
    )
    write_optimum(path, section)
    return [path, picture, ranks]


def _link(picture: Path, page: Path) -> str:
    return Path(os.path.relpath(picture, page.parent)).as_posix()


def _run(example: str) -> str:
    """What the example prints."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(example, "example", "exec"), {})
    return printed.getvalue().strip()


def _quirk() -> str:
    """The example of an optimum that evicts and computes anew in one batch, with its time."""
    found = solve([3, 5, 5], [1, 4, 2], max_batch_tokens=15, kv_capacity_tokens=12)
    return words(PROSE)["quirk"].strip().format(best=f"{found.best_s * 1e3:.3f}")


def _meaning(points: Sequence[Point]) -> str:
    """What preempting saves, of the optimum and of engines, for short inputs and for long ones."""
    parts = []
    for key, low, high in (("short", 1, _SHORT), ("long", _LONG, 10**9)):
        chosen = [point for point in points if low <= point.input_tokens <= high]
        if not chosen or not compares_evicting(chosen):
            continue
        engines, own = [point.engines_save for point in chosen], own_savings(chosen)
        parts.append(
            say(
                key,
                PROSE,
                short=_SHORT,
                long=_LONG,
                optimum=f"{most_saved(chosen, NEVER).low:.1%}",
                most=percent(max(engines)),
                least=percent(min(engines)),
                loss=f"{max(0.0, -min(engines)):.0%}",
                slower=f"{max(0.0, -min(own, default=0.0)):.0%}",
            ).strip()
        )
    if len(parts) == 2:
        turns = {
            f"N = {n} and O = {o}": "none" if first is None else f"I = {first}" for n, o, first in slower_from(points)
        }
        same = set(turns.values())
        where = f"{same.pop()} for every N and O" if len(same) == 1 else "; ".join(map(": ".join, turns.items()))
        parts.append(say("turns", PROSE, turns=where).strip())
    return "What it means. " + "\n".join(parts) if parts else ""


def _best_presets(points: Sequence[Point]) -> str:
    return "; ".join(
        f"`{grid}`: least median `{middle[0]}`, {middle[1]:.1%}, least maximum `{most[0]}`, {most[1]:.0%}"
        for grid, middle, most in best_engines(points)
    )
