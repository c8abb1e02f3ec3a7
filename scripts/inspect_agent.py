"""Shows what an agent does on windows, beside its reference policy: where shorts go, how longs start, who is preempted.

    python scripts/inspect_agent.py ppo/llama-steady-s0 --windows 10
    python scripts/inspect_agent.py results/train/llama_steady-s0/best.pt --model mistral-7b --load 0.95

Windows are of the generated Azure 2023 workloads with PecSched's long prompts. docs/agents.md says what the rows mean.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ is of the checkout, and not installed

import gymnasium as gym
from rich.console import Console
from rich.table import Table
from rich.text import Text

import pecgym  # noqa: F401 - registers the environments
from pecgym.errors import PecGymError

try:
    from agents.checkpoint import load_agent
    from agents.progress import Shown
    from agents.statistics import Tally, settings_of, watch
except ImportError as error:
    sys.exit(f"error: {error}: agents need pip install -e '.[train]'")

GROUPS = {
    "decision": "decisions",
    "agrees": "as the reference policy, in everything",
    "place": "shorts: put on",
    "preempt": "shorts on a replica that prefills a long: preempt it",
    "decode_mode": "shorts: decode",
    "start": "longs: anchor on",
    "long_index": "longs: which, in the order in which they wait",
    "sp_degree": "longs: replicas",
    "sp_strategy": "longs: sequence parallelism",
    "roles": "roles: set apart",
}
SHOWN = 6
"""Values of a group that are shown, the most frequent first."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agent", help="name of a shipped agent, or the path of a file that was trained")
    parser.add_argument("--windows", type=int, default=10, help="evenly spread over the split (default: 10)")
    parser.add_argument("--requests", type=int, default=1000, help="of a window (default: 1000)")
    parser.add_argument("--split", default="validation", help="train, validation (default), test or all")
    parser.add_argument("--hour", type=int, default=0, help="seed of the generated workload (default: 0)")
    of_agent = "default: as the agent was trained"
    parser.add_argument("--model", help=of_agent)
    parser.add_argument("--cluster", help=of_agent)
    parser.add_argument("--scenario", help=f"steady or paper; {of_agent}")
    parser.add_argument("--load", type=float, help=f"of the scenario steady; {of_agent}")
    args = parser.parse_args(arguments)
    try:
        agent = load_agent(args.agent)
        changes = {key: getattr(args, key) for key in ("model", "cluster", "scenario", "load")}
        settings = settings_of(agent, changes) | {"workload_seed": args.hour}
        with Shown() as shown:
            shown.begin("windows", 2 * args.windows)
            tallies = watch(agent, settings, args.split, args.windows, args.requests, shown.done)
    except (PecGymError, gym.error.Error) as error:
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), str(error)), highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    console = Console()
    if not console.is_terminal:
        console.width = 140
    served = f"{settings['model']}, {' '.join(map(str, settings['scenario'].values()))}"
    console.print(as_table(tallies, f"{args.windows} windows of {args.requests} requests, {args.split}: {served}"))


def as_table(tallies: dict[str, Tally], title: str) -> Table:
    """A row for each value of each group: shares of the group."""
    table = Table(title=Text(title))
    table.add_column("")
    table.add_column("")
    for name in tallies:
        table.add_column(Text(name), justify="right", overflow="fold")
    for group, heading in GROUPS.items():
        shares = [tally.shares(group) for tally in tallies.values()]
        values = sorted(set().union(*shares), key=lambda value: -max(each.get(value, 0.0) for each in shares))
        for value in values[:SHOWN]:
            cells = [f"{each.get(value, 0.0):.1%}" if each else "-" for each in shares]
            table.add_row(Text(heading), _spelled(value), *cells)
            heading = ""
    uses = [tally.evenness() for tally in tallies.values()]
    table.add_row("shorts: evenness of replicas", "", *("-" if math.isnan(use) else f"{use:.2f}" for use in uses))
    return table


def _spelled(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value).replace("_", " ")


if __name__ == "__main__":
    main()
