"""The keyword arguments of an environment as the keys of a Hydra configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pecgym.configs import EngineConfig, LongConfig, OrderConfig, ScenarioConfig, WorkloadConfig
from pecgym.envs.config import EpisodeConfig, RewardConfig


@dataclass
class NameConfig:
    """A thing known by its name, or by the path of its .yaml."""

    name: str = "???"


@dataclass
class EnvOptions:
    """The keys of the group `env`: an id, and what is not in a group of its own; None keeps the id's value. What they
    mean: pecgym.envs.config.EnvConfig."""

    id: str = "pecgym/Cluster-v0"
    workload_seed: int | None = None
    policy: str | None = None
    agent_controls: list[str] | None = None
    n_longs: int | None = None
    n_waiting: int | None = None
    n_residents: int | None = None
    role_interval_s: float | None = None
    skip_forced: bool | None = None
    allow_wait: bool | None = None
    retry_s: float | None = None
    strict: bool | None = None
    oracle_lengths: bool | None = None


@dataclass
class EnvironmentConfig:
    """The groups of a configuration that make an environment; a script's own configuration extends it."""

    env: EnvOptions = field(default_factory=EnvOptions)
    model: NameConfig = field(default_factory=NameConfig)
    cluster: NameConfig = field(default_factory=NameConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    long: LongConfig = field(default_factory=LongConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    profile: str | None = None
    tp: int | None = None

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments for `gym.make(env.id, ...)`."""
        groups = ("engine", "workload", "scenario", "long", "order", "episode", "reward")
        chosen: dict[str, Any] = {name: dict(vars(getattr(self, name))) for name in groups}
        chosen |= {"model": self.model.name, "cluster": self.cluster.name, "profile": self.profile, "tp": self.tp}
        options = {f.name: getattr(self.env, f.name) for f in fields(self.env) if f.name != "id"}
        return chosen | {name: value for name, value in options.items() if value is not None}


SCHEMAS = {
    "env": EnvOptions,
    "engine": EngineConfig,
    "workload": WorkloadConfig,
    "scenario": ScenarioConfig,
    "episode": EpisodeConfig,
    "reward": RewardConfig,
}
"""The groups of conf/ that an environment is made of, whose files Hydra holds to these keys."""
