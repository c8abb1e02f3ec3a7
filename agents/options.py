"""The configuration of scripts/train.py, and the environments that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from agents.config import AgentConfig, EvaluationConfig, LoggerConfig
from pecgym.configs import store_variants
from pecgym.envs.options import SCHEMAS, EnvironmentConfig
from pecgym.errors import SpecError


@dataclass
class TrainConfig(EnvironmentConfig):
    """The keys of a training run; any other key is an error.

    Attributes:
        agent: the algorithm and its network.
        evaluation: on windows that it does not train on.
        logger: where the curve goes beside the run's folder.
        recipe: what the default folder is named after.
        seed: of network, actions and training windows.
        hours: the workload seeds that are trained on, in equal parts: copies of different hours of a generated
            workload, so that no single one is learned by heart.
        mix: changes of the environment's settings, such as `{scenario: {load: 0.5}}`, that are trained on in equal
            parts; empty: the settings as they are.
        save_every: decisions of training after which the whole state is saved, to go on from after a kill.
        out: folder of the run; None: results/train/<recipe>-s<seed>.
        fresh: whether to begin anew what `out` already holds.
        device: of torch. The same curve after a resume, bit for bit, is promised for "cpu".
        threads: of torch.
    """

    agent: AgentConfig = field(default_factory=AgentConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    recipe: str = "own"
    seed: int = 0
    hours: list[int] = field(default_factory=lambda: [0, 1, 2, 3])
    mix: list[dict[str, Any]] = field(default_factory=list)
    save_every: int = 250_000
    out: str | None = None
    fresh: bool = False
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        for key in ("save_every", "threads"):
            if getattr(self, key) < 1:
                raise SpecError(f"{key}={getattr(self, key)}: must be 1 or more")
        if self.seed < 0:
            raise SpecError(f"seed={self.seed}: must be 0 or more")
        if not self.hours or min(self.hours) < 0 or len(set(self.hours)) < len(self.hours):
            raise SpecError(f"hours={self.hours}: give one workload seed or more, 0 or above, each once")
        if self.env.workload_seed is not None:
            raise SpecError("env.workload_seed: give hours=[...] in its place, the workload seeds that are trained on")
        if self.episode.split != "train":
            raise SpecError(f"episode.split={self.episode.split!r}: must be train; what follows it is for evaluation")
        parts = len(self.hours) * max(1, len(self.mix))
        if self.agent.n_envs % parts:
            raise SpecError(
                f"agent.n_envs={self.agent.n_envs}: must be a multiple of {parts}, one part for each of "
                f"{len(self.hours)} hours x {max(1, len(self.mix))} entries of mix"
            )

    @property
    def name(self) -> str:
        """Of the run, in folders and loggers."""
        return f"{self.recipe}-s{self.seed}"

    def parts(self) -> dict[str, dict[str, Any]]:
        """By name, the keyword arguments of the environments that are trained on: hours x mix."""
        base = self.keywords()
        mixed = {_label(changes): _changed(base, changes) for changes in self.mix or [{}]}
        if len(mixed) < len(self.mix):
            raise SpecError(f"mix={self.mix}: an entry is there twice")
        return {
            f"hour {hour}{label}": {**settings, "workload_seed": hour}
            for label, settings in mixed.items()
            for hour in self.hours
        }


def register_schemas(whole: type[TrainConfig] = TrainConfig) -> None:
    """Makes conf/train.yaml and the files of its groups strict; whole: all keys, those of a script that extends it."""
    store = ConfigStore.instance()
    store.store(group="schema", name="train", node=whole, package="_global_")
    for name, node in {**SCHEMAS, "agent": AgentConfig, "logger": LoggerConfig}.items():
        store.store(group="schema", name=name, node=node)
    store_variants()


def _changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some changed; of a group, single keys."""
    unknown = sorted({str(key) for key in changes} & {"workload_seed", "episode", "reward"})
    if unknown:
        raise SpecError(
            f"mix: {', '.join(unknown)} cannot differ between parts; parts differ in their settings and load"
        )
    merged = dict(base)
    for key, value in changes.items():
        before = base.get(key)
        merged[key] = {**before, **value} if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _label(changes: Mapping[str, Any], prefix: str = "") -> str:
    """`{scenario: {load: 0.5}}` as ", scenario.load=0.5"."""
    return "".join(
        _label(value, f"{prefix}{key}.") if isinstance(value, Mapping) else f", {prefix}{key}={value}"
        for key, value in changes.items()
    )
