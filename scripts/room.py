"""The room above a policy, before anything is trained: its rules searched on validation windows.

    python scripts/room.py                                   # PecSched, two models, four scenarios
    python scripts/room.py models=[mistral-7b] scenarios=[steady-0.8] 'levers.sp_degree=[node,8]' out=results/mine

docs/agents.md explains the search and lists the keys. A search that was interrupted continues when it is started again.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from pecgym.configs import store_variants
from pecgym.errors import PecGymError, SpecError
from pecgym.evaluation import EngineConfig, EvaluationPlan, ScenarioConfig, WorkloadConfig
from pecgym.evaluation.room import METRICS, Found, Room, search


@dataclass
class NameConfig:
    """A thing known by its name, or by the path of its .yaml."""

    name: str = "???"


@dataclass
class RoomConfig:
    """The keys of scripts/room.py; any other key is an error.

    Attributes:
        base: the policy whose rules are searched.
        models, scenarios: one search for each pair; scenarios by label: "paper", "steady-0.8".
        levers: the values of each rule for longs.
        crossed: the rules of which all values are combined.
        helps: a value of another rule is combined if it betters one metric alone by this share.
        slack: a combination loses if it is worse than the base by more than this share on one metric.
        shown: how many of the best are in the tables.
    """

    base: str = "pecsched"
    models: list[str] = field(default_factory=list)
    scenarios: list[str] = field(default_factory=list)
    levers: dict[str, list[Any]] = field(default_factory=dict)
    crossed: list[str] = field(default_factory=list)
    helps: float = 0.05
    slack: float = 0.001
    shown: int = 10
    cluster: NameConfig = field(default_factory=NameConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    split: str = "validation"
    windows: int = 5
    window_requests: int = 1000
    seeds: list[int] = field(default_factory=lambda: [0])
    out: str = "results/room"
    workers: int | None = None
    fresh: bool = False


store = ConfigStore.instance()
store.store(group="schema", name="room", node=RoomConfig, package="_global_")
store.store(group="schema", name="engine", node=EngineConfig)
store.store(group="schema", name="workload", node=WorkloadConfig)
store_variants()


@hydra.main(version_base="1.3", config_path="../conf", config_name="room")
def main(config: RoomConfig) -> None:
    values: RoomConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    out, console = Path(values.out), Console(stderr=True)
    parts = [f"`{shlex.join(['python', 'scripts/room.py', *sys.argv[1:]])}`"]
    try:
        for model in values.models:
            for label in values.scenarios:
                console.print(f"{model}, {label}", highlight=False)
                found = search(
                    _plan(values, model, label),
                    values.levers,
                    out,
                    crossed=values.crossed,
                    helps=values.helps,
                    workers=values.workers,
                    fresh=values.fresh,
                )
                _write_json(found, out / f"{Path(model).name.removesuffix('.yaml')}-{label}.json", values)
                parts.append(_page(found, values))
                (out / "room.md").write_text("\n\n".join(parts) + "\n")
    except (PecGymError, OSError) as error:
        console.print(Text.assemble(("error: ", "red"), str(error)), highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted: what was done is kept; the same command continues")
        sys.exit(130)
    Console(soft_wrap=True).print("\n\n".join(parts[1:]), highlight=False, markup=False)
    console.print(f"written: {out / 'room.md'}", highlight=False)


def _plan(values: RoomConfig, model: str, label: str) -> EvaluationPlan:
    return EvaluationPlan(
        policies=(values.base,),
        model=model,
        cluster=values.cluster.name,
        engine=values.engine,
        workload=values.workload,
        scenario=_scenario(label),
        seeds=tuple(values.seeds),
        split=values.split,
        windows=values.windows,
        window_requests=values.window_requests,
    )


def _scenario(label: str) -> ScenarioConfig:
    """The scenario of a label, such as "paper" or "steady-0.8"."""
    name, _, load = label.partition("-")
    try:
        scenario = ScenarioConfig(name=name, load=float(load) if load else None)
        scenario.check()
    except (ValueError, SpecError) as error:
        raise SpecError(f"scenarios: {label!r}: give paper, native or steady-LOAD ({error})") from error
    return scenario


def _write_json(found: Room, path: Path, values: RoomConfig) -> None:
    """Everything that was found, best first."""
    every = sorted([found.base, *found.alone, *found.combined], key=lambda each: each.score)
    page = {
        "metrics": list(METRICS),
        "best": [each.policy for each in found.best(values.shown, values.slack)],
        "found": [asdict(each) | {"score": each.score, "loses": each.loses(values.slack)} for each in every],
        "impossible": found.impossible,
    }
    path.write_text(json.dumps(page, indent=1))


def _page(found: Room, values: RoomConfig) -> str:
    """Tables in Markdown."""
    plan, base = found.plan, found.base
    delay_s, rps, jct_s = base.values
    lines = [
        f"## {plan.model}, {plan.scenario.label()}",
        "",
        f"{values.base}: short queueing delay p99 {delay_s:.3f} s, {rps:.3f} shorts/s, mean long JCT {jct_s:.1f} s",
        "",
        f"Without loss, the best of {1 + len(found.alone) + len(found.combined)}:",
        "",
        *_table(found.best(values.shown, values.slack)),
        "",
        "One lever alone:",
        "",
        *_table(sorted(found.alone, key=lambda each: each.score)),
    ]
    if found.impossible:
        some = ", ".join(f"`{policy}`" for policy in list(found.impossible)[:3])
        lines += ["", f"{len(found.impossible)} cannot be: {some}: {next(iter(found.impossible.values()))}"]
    return "\n".join(lines)


def _table(rows: list[Found]) -> list[str]:
    head = ["policy", "delay p99", "short throughput", "long JCT", "score", "windows not worse"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for each in rows:
        ratios = " | ".join(f"x{ratio:.3f}" for ratio in each.ratios)
        shares = ", ".join(f"{share:.0%}" for share in each.not_worse)
        lines.append(f"| `{each.policy}` | {ratios} | {each.score:.2f} | {shares} |")
    return lines


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    main()
