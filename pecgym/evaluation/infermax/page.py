"""The page of the study, as Markdown: numbers, and sentences that speak of them, come from the results."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pecgym.costs import load_profile
from pecgym.evaluation.infermax import figures, swap
from pecgym.evaluation.infermax.config import InfermaxConfig
from pecgym.evaluation.infermax.figures import count
from pecgym.evaluation.infermax.five_minutes import BUSY_TOKENS
from pecgym.evaluation.infermax.page_offline import offline_section
from pecgym.evaluation.infermax.page_online import online_section
from pecgym.evaluation.infermax.page_text import say, say_if, table, write_text
from pecgym.evaluation.infermax.study import Rows, settings_in
from pecgym.evaluation.paper.targets import plain

OPTIMUM_HEADING = "## The optimum"
PAPER_FIVE_MINUTES_S = (0.33, 130.0)
SHIPPED_WORKLOADS: tuple[list[str], ...] = (["azure2023_conv", "azure2023_conv_trace"], [])
"""Of `online`: those of docs/infermax.md, and the embedded one alone; what that page says holds of both."""


def write_page(
    rows: Rows, config: InfermaxConfig, shipped: InfermaxConfig, path: Path, pictures: Path, command: str
) -> list[Path]:
    """Writes the page and its pictures; returns their paths. What stands under "The optimum" is kept. shipped: the
    configuration as it comes; what is true of its results alone is left out of experiments with other settings."""
    pictures.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[Any, Path, str, bool], str]] = {
        "offline": offline_section,
        "online": online_section,
        "five_minutes": _five_minutes,
        "swap": _swap,
    }
    limits = ", ".join(f"`{key}={value}`" for key, value in config.limits.items())
    as_shipped = shipped_of(config, shipped)
    is_whole = all(name in as_shipped for name in rows)
    lasts, budget = (say_if(is_whole, key) for key in ("lasts", "budget"))
    parts = [say("head", command=command, limits=limits, lasts=lasts, budget=budget)]
    files = [path]
    for name, write in writers.items():
        if rows.get(name):
            picture = pictures / f"infermax-{name.replace('_', '-')}.png"
            link = Path(os.path.relpath(picture, path.parent)).as_posix()
            parts.append(write(rows[name], picture, link, name in as_shipped))
            files.append(picture)
    optimum = say("optimum", page=path) if (kept := optimum_of(path)) is None else kept
    parts += [f"{OPTIMUM_HEADING}\n\n{optimum.strip()}", say("results", out=config.out)]
    write_text(path, "\n\n".join(part.strip() for part in parts) + "\n")
    return files


def shipped_of(config: InfermaxConfig, shipped: InfermaxConfig) -> set[str]:
    """The experiments of which `out` holds results that were made with the shipped settings."""

    def plain_settings(name: str, settings: Any) -> Any:
        if name == "online" and settings["online"]["workloads"] in SHIPPED_WORKLOADS:
            return settings | {"online": settings["online"] | {"workloads": []}}
        return settings

    made = settings_in(Path(config.out))
    return {
        name
        for name, settings in made.items()
        if plain_settings(name, settings) == plain_settings(name, shipped.settings_of(name))
    }


def optimum_of(path: Path) -> str | None:
    """What the page has under "The optimum", which scripts/optimum.py writes; None: the page, or the heading, is not
    there."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if OPTIMUM_HEADING not in text:
        return None
    return text.split(OPTIMUM_HEADING, 1)[1].split("\n## ", 1)[0]


def write_optimum(path: Path, section: str) -> None:
    """Puts the section on the optimum, without its heading, in its place in the page; at its end if it has none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if (before := optimum_of(path)) is None:
        text, before = f"{text.rstrip()}\n\n{OPTIMUM_HEADING}\n".lstrip(), "\n"
    whole = OPTIMUM_HEADING + before
    write_text(path, text.replace(whole, f"{OPTIMUM_HEADING}\n\n{section.strip()}\n", 1))


def _five_minutes(rows: list[Any], picture: Path, link: str, is_shipped: bool) -> str:
    figures.write_five_minutes(picture, rows, PAPER_FIVE_MINUTES_S)
    lines = []
    for profile, capacity in dict.fromkeys((row["profile"], row["capacity_tokens"]) for row in rows):
        found = [row for row in rows if (row["profile"], row["capacity_tokens"]) == (profile, capacity)]
        keys = ("added_of_kv_s", "alone_of_kv_s", "added_of_memory_s", "alone_of_memory_s")
        lines.append((f"`{profile}`", count(capacity), *(_span([row[key] for row in found]) for key in keys)))
    least, most = (pick(row["added_of_kv_s"] for row in rows) for pick in (min, max))
    contexts = [row["context_tokens"] for row in rows]
    head = ("profile", "M", "added, share of KV", "alone, share of KV", "added, share of all memory")
    return say(
        "five_minutes",
        link=link,
        busy=f"{BUSY_TOKENS:,}",
        contexts=f"{min(contexts):,} to {max(contexts):,}",
        table=table((*head, "alone, share of all memory"), lines),
        meaning=say_if(
            is_shipped,
            "five_minutes_meaning",
            least=plain(least),
            most=plain(most),
            inside=sum(PAPER_FIVE_MINUTES_S[0] <= row["added_of_kv_s"] <= PAPER_FIVE_MINUTES_S[1] for row in rows),
            all=len(rows),
        ),
    )


def _span(values: Sequence[float]) -> str:
    return f"{plain(min(values))} to {plain(max(values))} s"


def _swap(rows: list[Any], picture: Path, link: str, is_shipped: bool) -> str:
    ratios = swap.ratios(rows)
    figures.write_swap(picture, ratios)
    evicted = {
        (row["profile"], row["what"], row["capacity_tokens"]): row["evictions"]
        for row in rows
        if row["engine"] == swap.RECOMPUTE
    }
    shown = [gb for gb in next(iter(ratios.values())) if gb in (1, 4, 16, 64) or math.isinf(gb)]
    lines = []
    for (profile, what, capacity), each in ratios.items():
        evictions = evicted[profile, what, capacity]
        even = _bandwidth(swap.break_even_gb_per_s(each)) if evictions else "no evictions"
        cells = (f"{each[gb]:.2f}" for gb in shown)
        lines.append((f"`{profile}`", what, count(capacity), f"{evictions:,.0f}", *cells, even))
    columns = ("free" if math.isinf(gb) else f"{gb:g} GB/s" for gb in shown)
    profiles = dict.fromkeys(row["profile"] for row in rows)
    expected = [(f"`{name}`", *_expected(name)) for name in profiles]
    return say(
        "swap",
        link=link,
        crowds=" and of ".join(map(str, _crowds(rows))),
        table=table(("profile", "requests", "M", "evictions", *columns, "breaks even at"), lines),
        expected=table(("profile", "KV bytes per token", "prefill per token", "breaks even at"), expected),
        meaning=say_if(is_shipped, "swap_meaning"),
    )


def _crowds(rows: list[Any]) -> list[int]:
    """How many peaks of the equal requests KV memory holds."""
    lengths = [(row, *map(int, row["what"].split(" + "))) for row in rows if row["seed"] is None]
    return sorted({row["capacity_tokens"] // (inputs + outputs - 1) for row, inputs, outputs in lengths})


def _expected(profile_name: str) -> tuple[str, str, str]:
    """Both ways of a token through the link against one token of a prefill in an iteration that runs anyway."""
    profile = load_profile(profile_name)
    tokens = 1024
    others = [(BUSY_TOKENS, 0)]
    added_ps = profile.iteration_ps([*others, (tokens, 0)], []) - profile.iteration_ps(others, [])
    gb_per_s = 2 * profile.kv_bytes_per_token * tokens / added_ps * 1000
    return f"{profile.kv_bytes_per_token:,}", f"{added_ps / tokens / 1e6:.0f} us", f"{gb_per_s:.1f} GB/s"


def _bandwidth(value: float | None) -> str:
    if value is None:
        return "more than one point"
    if value == 0:
        return "below all"
    return "never" if math.isinf(value) else f"{value:.1f} GB/s"
