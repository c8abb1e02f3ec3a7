"""What the sections of the page share: the words, tables, percentages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PROSE = Path(__file__).with_name("prose.yaml")


@cache
def words(path: Path = PROSE) -> dict[str, str]:
    """The parts of a page's words, with places for values."""
    found: dict[str, str] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def say(key: str, prose: Path = PROSE, **values: Any) -> str:
    """A part of the page's words, with values in it; a paragraph that is left empty leaves no gap. prose: the file that
    has them."""
    return re.sub(r"\n{3,}", "\n\n", words(prose)[key].format(**values))


def say_if(holds: bool, key: str, prose: Path = PROSE, **values: Any) -> str:
    """A part that is true of the shipped settings alone: nothing unless they hold."""
    return say(key, prose, **values).rstrip("\n") if holds else ""


def places(out: str, page: str | None, figures: str | None) -> tuple[Path, Path]:
    """The page, and the folder of its pictures: in the folder of the results unless they are given."""
    return Path(out, "page.md") if page is None else Path(page), Path(out if figures is None else figures)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_text(path: Path, text: str) -> None:
    """The file as a whole, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def percent(value: float) -> str:
    """A relative change, with its sign."""
    if abs(value) < 0.0005:
        return "0%"
    return f"{value:+.0%}" if abs(value) >= 0.095 else f"{value:+.1%}"
