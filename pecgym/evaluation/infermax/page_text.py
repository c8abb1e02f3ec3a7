"""What the sections of the page share: the words, tables, percentages."""

from __future__ import annotations

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
    """A part of the page's words, with values in it. prose: the file that has them."""
    return words(prose)[key].format(**values)


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
