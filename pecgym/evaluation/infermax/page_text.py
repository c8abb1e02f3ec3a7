"""What the sections of the page share: the words, tables, percentages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@cache
def _prose() -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load(Path(__file__).with_name("prose.yaml").read_text(encoding="utf-8"))
    return found


def say(key: str, **values: Any) -> str:
    """A part of the page's words, with values in it."""
    return _prose()[key].format(**values)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def percent(value: float) -> str:
    """A relative change, with its sign."""
    if abs(value) < 0.0005:
        return "0%"
    return f"{value:+.0%}" if abs(value) >= 0.095 else f"{value:+.1%}"
