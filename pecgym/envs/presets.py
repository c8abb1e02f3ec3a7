"""The ids of environments, and the settings that each of them begins with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pecgym.errors import SpecError

NAMESPACE = "pecgym"
_FILE = Path(__file__).resolve().parent / "presets.yaml"


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Settings by id without namespace, in the form of keyword arguments."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(_FILE.read_text())
    return found


def preset_settings(name: str) -> dict[str, Any]:
    """The settings of an id. Raises SpecError if there is none."""
    if name not in presets():
        raise SpecError(f"preset {name!r} does not exist; choose one of {', '.join(presets())}")
    return presets()[name]
