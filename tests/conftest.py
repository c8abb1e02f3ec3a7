"""What every test may use: the shared folder with the real traces, which is never part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PECGYM_SHARED", REPOSITORY.parent / "shared"))


def shared_file(relative: str) -> Path:
    """The path of a file in the shared folder; skips the calling test where the file is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"needs {relative}, which is not in {SHARED} (set PECGYM_SHARED to the folder that has it)")
    return path
