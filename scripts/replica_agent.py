"""Agents that compose batches (Replica-v0), beside the engine presets and the optimum, on instances of the test split.

    python scripts/replica_agent.py ppo/infermax
    python scripts/replica_agent.py ppo/infermax --requests 4 --outputs 1 8 --reach --time-limit 10

Every instance is kept as it ends, so a run that was interrupted continues when it is started again.
docs/environment.md shows the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ is of the checkout, and not installed

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pecgym.engine.variants import BASES, variant_of
from pecgym.envs.config import env_config
from pecgym.envs.presets import preset_settings
from pecgym.errors import PecGymError, SpecError
from pecgym.evaluation.keys import digest_of, package_hash, policy_source
from pecgym.policies.agents import training_seeds

try:
    from agents.offline import Instances, measured, summary
    from agents.progress import Shown
except ImportError as error:
    sys.exit(f"error: {error}: agents need pip install -e '.[train]'")

ALWAYS = ("vllm", "sarathi_no_chunk")
"""Presets that the table shows under every rule; of the others, those among the best three."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", help="names of shipped agents, or ppo/PATH")
    parser.add_argument("--env", default="Infermax-Small-v0", help="the environment (default: Infermax-Small-v0)")
    parser.add_argument("--instances", type=int, default=100, help="(default: 100)")
    of_env = "default: as the environment has it"
    parser.add_argument("--requests", type=int, help=f"of an instance; {of_env}")
    parser.add_argument("--inputs", type=int, nargs=2, metavar=("LOW", "HIGH"), help=f"their lengths; {of_env}")
    parser.add_argument("--outputs", type=int, nargs=2, metavar=("LOW", "HIGH"), help=f"likewise; {of_env}")
    parser.add_argument("--memory", type=int, help=f"KV tokens; {of_env}")
    parser.add_argument("--time-limit", type=float, default=30.0, help="of each optimum, s; 0: none (default: 30)")
    parser.add_argument("--reach", action="store_true", help="search for the best in the environment, of few requests")
    parser.add_argument("--out", type=Path, default=Path("results/replica_agent"), help="folder of the results")
    args = parser.parse_args(arguments)
    try:
        rows = _measure(args)
    except PecGymError as error:
        Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), str(error)), highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: what was measured is kept; the same command continues")
        sys.exit(130)
    found = summary(rows, args.agents)
    (args.out / "summary.json").write_text(json.dumps(found, indent=1))
    console = Console()
    if not console.is_terminal:
        console.width = 140
    console.print(_table(found, f"{len(rows)} instances of the test split of {args.env}"))
    console.print(f"written: {args.out}", highlight=False, soft_wrap=True)


def _measure(args: argparse.Namespace) -> list[dict[str, float]]:
    """The makespans of every instance, measured or known from before. Raises PecGymError."""
    if args.instances < 1:
        raise SpecError(f"instances={args.instances}: must be 1 or more")
    if args.time_limit < 0:
        raise SpecError(f"time-limit={args.time_limit}: must be 0 or more")
    changes: dict[str, Any] = {"engine": {}, "workload": {}, "episode": {}}
    for group, key, value in (
        ("episode", "requests", args.requests),
        ("workload", "input_range", args.inputs),
        ("workload", "output_range", args.outputs),
        ("engine", "kv_capacity_tokens", args.memory),
    ):
        changes[group] |= {} if value is None else {key: value}
    config = env_config(preset_settings(args.env), **{name: of for name, of in changes.items() if of})
    instances = Instances.held_out(config, args.instances)
    args.out.mkdir(parents=True, exist_ok=True)
    asked = {key: value for key, value in vars(args).items() if key not in ("out", "instances")}
    seeds = [seed for agent in args.agents for seed in training_seeds(agent)]
    sources = [policy_source(seed, config.model, config.scenario.name) for seed in seeds]
    asked["code"] = digest_of([package_hash(), *sources])
    _check_folder(args.out / "asked.json", asked)
    kept = args.out / "instances.jsonl"
    known: dict[int, dict[str, float]] = {}
    if kept.exists():
        known = {row.pop("instance"): row for row in map(json.loads, kept.read_text().splitlines())}
    with Shown() as shown, kept.open("a") as file:
        shown.begin("instances", args.instances, sum(k < args.instances for k in known))
        for k, row in measured(instances, args.agents, args.time_limit, args.reach, known):
            file.write(json.dumps({"instance": k, **row}) + "\n")
            file.flush()
            known[k] = row
            shown.done()
    return [known[k] for k in range(args.instances)]


def _check_folder(path: Path, asked: dict[str, Any]) -> None:
    """Notes what was asked for, or compares it with what was. Raises SpecError if it differs."""
    if path.exists() and (before := json.loads(path.read_text())) != asked:
        differs = [key for key in asked if before.get(key) != asked[key]]
        raise SpecError(f"{path.parent} holds results of other settings ({', '.join(differs)}): give --out FOLDER")
    path.write_text(json.dumps(asked))


def _table(found: dict[str, dict[str, Any]], title: str) -> Table:
    table = Table(title=Text(title))
    table.add_column("")
    for heading in ("mean makespan, ms", "mean ratio to the best", "95% interval"):
        table.add_column(heading, justify="right")
    preset_of = {name: preset for name in found if (preset := _preset_of(name))}
    best = list(preset_of)[:3]
    for name, entry in found.items():
        if name in preset_of and name not in best and preset_of[name] not in ALWAYS:
            continue
        low_high = "{:.3f} to {:.3f}".format(*entry["interval"]) if "interval" in entry else ""
        ratio = f"{entry['ratio']:.3f}" if "ratio" in entry else ""
        table.add_row(Text(name), f"{entry['mean_ms']:.2f}", ratio, low_high)
    return table


def _preset_of(name: str) -> str | None:
    """The preset that a row is about, under whatever rule; None for a row that is about none."""
    engine = name.split(", ")[0]
    base, _ = variant_of(engine) or (engine, {})
    return base if base in BASES else None


if __name__ == "__main__":
    main()
