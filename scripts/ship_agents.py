"""Trained agents become shipped ones: agents/checkpoints/NAME.pt, and its model card NAME.md.

    python scripts/ship_agents.py results/train/llama_steady-s0 results/train/llama_steady-s1
    python scripts/ship_agents.py results/train/llama_steady-s* --test "Generator hours=results/test/comparison.json"

The first command makes them known to evaluations as ppo/llama-steady-s0, ...; the second adds what these said.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ is of the checkout, and not installed

from agents.cards import card
from agents.checkpoint import FOLDER, load_agent
from pecgym.errors import PecGymError

LARGEST_BYTES = 2_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Copies the best agent of each run, and writes its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished training runs")
    parser.add_argument("--test", action="append", default=[], metavar="TITLE=FILE", help="a comparison.json")
    args = parser.parse_args(arguments)
    try:
        tests = dict(_comparison(each) for each in args.test)
        for run in args.runs:
            print(f"written: {ship(run, tests)}")
    except (PecGymError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def ship(run: Path, tests: dict[str, dict[str, object]]) -> Path:
    """Ships the best agent of a run; where its file is. Raises OSError or ValueError for a run that cannot be."""
    summary = json.loads((run / "summary.json").read_text())
    name = run.name.replace("_", "-")
    path = FOLDER / f"{name}.pt"
    if (run / "best.pt").stat().st_size > LARGEST_BYTES:
        raise ValueError(f"{run}/best.pt: is larger than {LARGEST_BYTES / 1e6:g} MB; agent.hidden makes it smaller")
    FOLDER.mkdir(exist_ok=True)
    if (run / "best.pt").resolve() != path:
        shutil.copyfile(run / "best.pt", path)
    path.with_suffix(".md").write_text(card(load_agent(name), summary, _commit(), tests))
    return path


def _commit() -> str:
    """The commit of the checkout."""
    command = ["git", "-C", str(FOLDER.parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _comparison(given: str) -> tuple[str, dict[str, object]]:
    title, _, file = given.partition("=")
    if not file:
        raise ValueError(f"--test {given}: give TITLE=FILE")
    return title, json.loads(Path(file).read_text())


if __name__ == "__main__":
    main()
