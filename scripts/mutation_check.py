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
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = tuple(f"tests/engine/test_{name}.py" for name in ("iteration_closed_form", "rules", "differential"))

# Loaded before the tests: the same examples every time, and no search for a smaller one.
HYPOTHESIS_PROFILE = """
from hypothesis import Phase, settings
settings.register_profile("mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile("mutation")
"""


@dataclass(frozen=True)
class Mutation:
    """One change of one line. `before` must occur exactly once in `file`, which is relative to pecgym/engine."""

    name: str
    file: str
    before: str
    after: str


MUTATIONS = (
    Mutation("jump-one-step-too-far", "memory.py", "        if left < 0:\n", "        if left < -1:\n"),
    Mutation(
        "jump-ignores-partial-blocks",
        "memory.py",
        "if replica.n_decodes * ((wanted + block - 1) // block) <= free:",
        "if replica.n_decodes * (wanted // block) <= free:",
    ),
    Mutation(
        "growth-phase-sign",
        "memory.py",
        "        grown += state.phases[r, (-step) % block]\n",
        "        grown += state.phases[r, step % block]\n",
    ),
    Mutation(
        "peak-one-token-more",
        "memory.py",
        "        return request.input_tokens + request.output_tokens - 1\n",
        "        return request.input_tokens + request.output_tokens\n",
    ),
    Mutation(
        "history-forgets-the-prompt",
        "memory.py",
        "            return max(request.prompt_tokens, past[1] // past[0])\n",
        "            return past[1] // past[0]\n",
    ),
    Mutation(
        "swapped-in-without-its-next-token",
        "memory.py",
        "        held = request.computed_tokens + 1\n",
        "        held = request.computed_tokens\n",
    ),
    Mutation(
        "no-watermark",
        "memory.py",
        "    return reserved_now(state, r, steps_ahead) + need + settings.watermark_blocks <= settings.capacity_blocks",
        "    return reserved_now(state, r, steps_ahead) + need <= settings.capacity_blocks",
    ),
    Mutation("cut-run-one-later", "iteration.py", "if done == 0 or run_ps(replica, done) < elapsed:", "if True:"),
    Mutation(
        "cut-run-never",
        "cluster.py",
        "    elif replica.n_waiting == 1 or settings.queue_order != ORDER_FCFS:\n",
        "    elif settings.queue_order != ORDER_FCFS:\n",
    ),
    Mutation(
        "inverse-not-corrected",
        "iteration.py",
        "    while run_ps(replica, k) > elapsed_ps:\n        k -= 1\n",
        "",
    ),
    Mutation("steady-ignored", "iteration.py", "if prefills == 0 and steady:", "if prefills == 0:"),
    Mutation(
        "attention-rounded-up",
        "iteration.py",
        "time += (pairs * costs.attention_ps_per_1024_pairs) >> 10",
        "time += (pairs * costs.attention_ps_per_1024_pairs + 1023) >> 10",
    ),
    Mutation(
        "victim-tie-to-the-oldest",
        "batch.py",
        "(rank == best_rank and request.admission > best_admission)",
        "(rank == best_rank and request.admission < best_admission)",
    ),
    Mutation(
        "displaced-tie-to-the-oldest",
        "batch.py",
        "key == worst_key and request.admission > worst_admission",
        "key == worst_key and request.admission < worst_admission",
    ),
    Mutation(
        "eviction-forgets-the-output",
        "residents.py",
        "            request.prompt_tokens = request.input_tokens + request.emitted_tokens\n",
        "            request.prompt_tokens = request.input_tokens\n",
    ),
    Mutation(
        "evicted-to-the-back-of-the-queue",
        "residents.py",
        "enqueue(state, r, slot, -1, -cluster.eviction_sequence)",
        "enqueue(state, r, slot, 1, cluster.eviction_sequence)",
    ),
    Mutation(
        "load-stale-after-a-prefill",
        "batch.py",
        "            replica.queued_tokens -= chunk\n            note_load(state, r)\n",
        "            replica.queued_tokens -= chunk\n",
    ),
    Mutation(
        "swapped-head-overtaken",
        "batch.py",
        "        if chunk == 0 or head.swapped == 1 or not fits(state, r, replica.queue, decode_steps):\n",
        "        if chunk == 0 or not fits(state, r, replica.queue, decode_steps):\n",
    ),
    Mutation(
        "swap-in-takes-no-time",
        "residents.py",
        "        join_prefills(state, r, slot)\n    replica.swapped_tokens += request.computed_tokens\n",
        "        join_prefills(state, r, slot)\n",
    ),
    Mutation(
        "static-not-padded",
        "batch.py",
        "        member.leave_tokens = longest\n",
        "        member.leave_tokens = member.output_tokens\n",
    ),
    Mutation(
        "users-do-not-think",
        "arrivals.py",
        "        slot = take_row(state, cluster.now_ps + cluster.think_ps)\n",
        "        slot = take_row(state, cluster.now_ps)\n",
    ),
    Mutation(
        "policy-blind-to-prefills",
        "batch.py",
        "            note_load(state, r)\n            cluster.changed = 1\n",
        "            note_load(state, r)\n",
    ),
    Mutation(
        "tournament-tie-to-the-last",
        "tournament.py",
        "        if keys[right] < keys[left]:\n",
        "        if keys[right] <= keys[left]:\n",
    ),
)


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
