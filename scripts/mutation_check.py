"""Breaks the engine on purpose, one rule at a time, and checks that the tests notice.

    python scripts/mutation_check.py            # all of them
    python scripts/mutation_check.py cut-run    # some, by name

Exit status 1 if a mutation survives, 2 if one cannot be applied or the tests fail without any.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS, Mutation
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = tuple(
    f"tests/engine/test_{name}.py"
    for name in (
        "iteration_closed_form",
        "rules",
        "group_rules",
        "group_wakeups",
        "batch_decisions",
        "orders",
        "differential",
    )
)

# Loaded before the tests: the same examples every time, and no search for a smaller one.
HYPOTHESIS_PROFILE = """
from hypothesis import Phase, settings
settings.register_profile("mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutation")
"""


class CannotApplyError(Exception):
    """A mutation's text is not where it was."""


def mutate(mutation: Mutation, engine: Path) -> None:
    """Applies a mutation to the engine in that folder."""
    path = engine / mutation.file
    source = path.read_text()
    found = source.count(mutation.before)
    if found != 1:
        raise CannotApplyError(
            f"{mutation.name}: its text occurs {found} times in {mutation.file}, not once; update it"
        )
    path.write_text(source.replace(mutation.before, mutation.after))


def outcome(mutation: Mutation | None, limit_s: float) -> tuple[str | None, float]:
    """What noticed the mutation (None: the tests passed), and how long that took, in seconds.

    Raises CannotApplyError, also if no test could be run.
    """
    with tempfile.TemporaryDirectory(prefix="pecgym-mutation-") as name:
        copy = Path(name)
        for folder in ("pecgym", "tests"):
            shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", copy)
        (copy / "mutation_profile.py").write_text(HYPOTHESIS_PROFILE)
        if mutation is not None:
            mutate(mutation, copy / "pecgym" / "engine")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore"]
        environment = os.environ | {
            "NUMBA_DISABLE_JIT": "1",
            "PECGYM_CACHE_DIR": str(copy / "cache"),
            "PYTHONPATH": str(copy),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        started = time.perf_counter()
        try:
            run = subprocess.run(
                [*command, "-p", "mutation_profile", "-m", "not slow", *TESTS],
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "the time limit (the engine hangs)", time.perf_counter() - started
        seconds = time.perf_counter() - started
        if run.returncode == 0:
            return None, seconds
        failed = re.search(r"^FAILED \S*?test_(\S+)", run.stdout, re.MULTILINE)
        if failed is None:
            raise CannotApplyError(
                f"{mutation.name if mutation else 'unchanged'}: no test ran\n{run.stdout}{run.stderr}"
            )
        return failed[1].replace(".py::", ": "), seconds


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Breaks the engine one rule at a time and checks that the quick tests notice.",
        epilog="Works on temporary copies, never on the checkout. The copies run without compilation "
        "(NUMBA_DISABLE_JIT=1), which spares a minute of it for each; what no hand-worked rule notices takes up to "
        "three minutes more of random cases. Run it after a change of the engine or of its tests; about ten minutes.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations to try; all by default")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--jobs", type=int, default=2, help="copies tested at the same time (default: 2)")
    parser.add_argument("--limit-s", type=float, default=600.0, help="seconds after which a test run hangs")
    parser.add_argument("--no-baseline", action="store_true", help="do not first test the unchanged engine")
    given = parser.parse_args()
    if given.list:
        print("\n".join(mutation.name for mutation in MUTATIONS))
        return 0
    unknown = sorted(set(given.names) - {mutation.name for mutation in MUTATIONS})
    if unknown:
        parser.error(f"no mutation {', '.join(unknown)}; see --list")
    chosen = [mutation for mutation in MUTATIONS if not given.names or mutation.name in given.names]
    tried: list[Mutation | None] = [*([] if given.no_baseline else [None]), *chosen]
    console = Console()
    table = Table("mutation", "file", "noticed by", "s")
    survivors = 0
    try:
        with ThreadPoolExecutor(given.jobs) as pool:
            for mutation, (caught, seconds) in zip(
                tried, pool.map(lambda m: outcome(m, given.limit_s), tried), strict=True
            ):
                if mutation is None and caught is not None:
                    raise CannotApplyError(f"the unchanged engine fails {caught}")
                print(
                    f"{mutation.name if mutation else 'unchanged'}: {caught or 'passed'}", file=sys.stderr, flush=True
                )
                if mutation is not None:
                    survivors += caught is None
                    table.add_row(mutation.name, mutation.file, caught or "[bold red]NOBODY[/]", f"{seconds:.0f}")
    except CannotApplyError as problem:
        console.print(f"mutation_check: {problem}", style="red", markup=False)
        return 2
    console.print(table)
    console.print(f"{len(chosen) - survivors} of {len(chosen)} mutations were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
