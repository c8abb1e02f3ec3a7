"""Agents of Replica-v0 beside the engines and the optimum, on offline instances that nothing was trained on.

An instance is a window of the test split of the environment's workload: requests that all wait at time 0. Everybody
serves the same ones with the same memory; a result is a makespan.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.reach import best_reachable_s
from pecgym.analysis.comparison import CONFIDENCE, RESAMPLES
from pecgym.analysis.metrics import makespan_s
from pecgym.cluster import Cluster
from pecgym.configs import EngineConfig
from pecgym.engine.variants import BASES, variant_names
from pecgym.envs.config import EnvConfig, EpisodeConfig
from pecgym.envs.driver import agent_policy
from pecgym.envs.spaces import WAITING
from pecgym.envs.windows import Windows
from pecgym.errors import SpecError
from pecgym.policies import Policy, load_policy
from pecgym.policies.agents import REPLICA_LEVEL, load_agent, training_seeds
from pecgym.random import random_stream
from pecgym.workload import Trace

SHORTEST_FIRST = "shortest output first, SRF"
BEST, BOUND, REACH = "optimum: best found", "optimum: bound", "best in the environment"
RANDOM, LONGEST_FIRST = "random valid actions", "longest output first"
_LEFT_TOKENS = [feature.name for feature in WAITING].index("left_tokens")


class RuleAgent(ABC):
    """A rule in the place of an agent of Replica-v0 (pecgym.policies.agents.Agent): it takes the valid values with the
    largest keys."""

    level = REPLICA_LEVEL
    path = Path(__file__)
    name: str

    def __init__(self, config: EnvConfig) -> None:
        shown = {"n_waiting": config.n_waiting, "n_residents": config.n_residents, "oracle_lengths": True}
        self.settings: Mapping[str, Any] = {"policy": config.policy, **shown}
        self._joins = config.n_waiting + 1

    def act(self, observations: dict[str, Any], masks: Any) -> Any:
        """int64[N, components]."""
        keys = np.split(np.where(masks, self.keys(observations, masks), -1.0), [self._joins], axis=1)
        return np.stack([part.argmax(axis=1) for part in keys], axis=1)

    @abstractmethod
    def keys(self, observations: dict[str, Any], masks: Any) -> Any:
        """float64[N, M], 0 or more."""


class RandomAgent(RuleAgent):
    """Any valid action, each as likely as the others."""

    name = RANDOM

    def __init__(self, config: EnvConfig, seed: int) -> None:
        super().__init__(config)
        self._random = random_stream(seed, RANDOM)

    def keys(self, observations: dict[str, Any], masks: Any) -> Any:
        return self._random.random(masks.shape)


class LongestFirst(RuleAgent):
    """Who has most of its output left joins, while anybody may; the newest resident is evicted."""

    name = LONGEST_FIRST

    def keys(self, observations: dict[str, Any], masks: Any) -> Any:
        left = observations["waiting"].reshape(len(masks), -1, len(WAITING))[:, :, _LEFT_TOKENS]
        keys = np.zeros(masks.shape)
        keys[:, : self._joins - 1] = 1.0 + left
        return keys


@dataclass(frozen=True)
class Instances:
    """Offline instances, and what serves them.

    Attributes:
        config: the environment; its engine settings are those of an agent's, and its memory is everybody's.
        traces: the instances.
    """

    config: EnvConfig
    traces: tuple[Trace, ...]

    @classmethod
    def held_out(cls, config: EnvConfig, n: int) -> Instances:
        """n instances of the test split that do not overlap. Raises SpecError where there are fewer."""
        size = config.episode.requests
        if size is None:
            raise SpecError("episode.requests: give the requests of an instance")
        trace, _ = config.experiment().arrivals(config.workload_seed)
        if np.any(trace.arrival_s > 0):
            raise SpecError(f"workload {trace.name!r}: requests arrive later than at time 0; choose an offline one")
        windows = Windows(trace, EpisodeConfig(requests=size, split="test", random_start=False))
        first = windows.draw(np.random.default_rng(0)).first
        if first + n * size > len(trace):
            raise SpecError(f"{n} instances of {size} requests: the test split has {len(trace) - first} requests")
        return cls(config, tuple(trace.slice(first + k * size, first + (k + 1) * size) for k in range(n)))

    @property
    def sizes(self) -> tuple[int, int]:
        """KV memory and most tokens of a batch, of everybody."""
        settings = self.config.engine.load()
        if settings.kv_capacity_tokens is None:
            raise SpecError("engine.kv_capacity_tokens: give the KV memory that is shared out")
        return settings.kv_capacity_tokens, settings.max_batch_tokens

    def served(self, k: int, engine: EngineConfig, policy: str | Policy) -> float:
        """Makespan of instance k, seconds."""
        experiment = replace(self.config.experiment(), engine=engine)
        return makespan_s(experiment.with_trace(policy, self.traces[k], 0).run())

    def players(self, agents: list[str]) -> dict[str, Callable[[int], float]]:
        """By name, what gives the makespan of an instance; every training seed of an agent by itself."""
        longest = agent_policy(LONGEST_FIRST, LongestFirst(self.config))
        found = {RANDOM: self._random, LONGEST_FIRST: self._by_policy(longest)}
        for preset in (*BASES, *variant_names()):
            found[preset] = self._by_engine(preset)
        for preset in BASES:
            found[f"{preset}, {SHORTEST_FIRST}"] = self._by_engine(
                preset, queue_order="shortest", victim="fewest_computed"
            )
        for agent in (seed for name in agents for seed in training_seeds(name)):
            if load_agent(agent).level != REPLICA_LEVEL:
                raise SpecError(f"agent {agent}: decides in a cluster; here are agents of Replica-v0")
            found[agent] = self._by_policy(load_policy(agent))
        return found

    def _random(self, k: int) -> float:
        return self.served(k, self.config.engine, agent_policy(RANDOM, RandomAgent(self.config, k)))

    def _by_policy(self, policy: Policy) -> Callable[[int], float]:
        return lambda k: self.served(k, self.config.engine, policy)

    def _by_engine(self, name: str, **changes: str) -> Callable[[int], float]:
        own = EngineConfig(name=name).load()
        shared = {key: getattr(self.config.engine, key) for key in ("max_batch_tokens", "block_tokens", "watermark")}
        memory = {"kv_capacity_tokens": self.sizes[0]}
        engine = EngineConfig(name=name, **{**shared, **memory, **changes}, chunk_tokens=own.chunk_tokens)
        return lambda k: self.served(k, engine, self.config.policy)

    def reachable(self, k: int) -> float:
        """Makespan of the best decisions in the environment, seconds. Raises SpecError for an instance that is too
        large."""
        trace = self.traces[k]
        return best_reachable_s(trace.input_tokens.tolist(), trace.output_tokens.tolist(), self._profile, *self.sizes)

    def optimum(self, k: int, time_limit_s: float) -> dict[str, float]:
        """Best found and bound of the exact problem, seconds."""
        from pecgym import optimum

        capacity, budget = self.sizes
        trace = self.traces[k]
        found = optimum.solve(
            trace.input_tokens.tolist(),
            trace.output_tokens.tolist(),
            self._profile,
            max_batch_tokens=budget,
            kv_capacity_tokens=capacity,
            time_limit_s=time_limit_s,
        )
        return {BEST: found.best_s, BOUND: found.bound_s}

    @property
    def _profile(self) -> Any:
        cluster: Cluster = self.config.experiment().with_trace(self.config.policy, self.traces[0], 0)
        return cluster.profile


def measured(
    instances: Instances, agents: list[str], time_limit_s: float, reach: bool, known: Mapping[int, dict[str, float]]
) -> Iterator[tuple[int, dict[str, float]]]:
    """Instance after instance, its number and the makespans by name, seconds; those that are known are left out.

    time_limit_s: of the optimum of each instance; 0: without it. reach: whether the best in the environment is
    searched for.
    """
    players = instances.players(agents)
    for k in range(len(instances.traces)):
        if k in known:
            continue
        row = {name: play(k) for name, play in players.items()}
        if reach:
            row[REACH] = instances.reachable(k)
        yield k, row | (instances.optimum(k, time_limit_s) if time_limit_s else {})


def summary(rows: list[dict[str, float]], agents: list[str]) -> dict[str, dict[str, Any]]:
    """By name: mean makespan in ms, and the mean of its ratio to the best found (to the best in the environment where
    there is no optimum), with its 95% interval (percentile bootstrap over instances and training seeds).

    The training seeds of an agent are pooled. The best comes first.
    """
    against = BEST if BEST in rows[0] else REACH if REACH in rows[0] else None
    pooled = {name: training_seeds(name) for name in agents}
    of_agents = {seed for seeds in pooled.values() for seed in seeds}
    entries = {name: (name,) for name in rows[0] if name not in of_agents} | pooled
    found: dict[str, dict[str, Any]] = {}
    for name, columns in entries.items():
        values = np.array([[row[column] for row in rows] for column in columns])
        entry: dict[str, Any] = {"mean_ms": 1e3 * float(values.mean())}
        if against is not None:
            ratios = values / np.array([row[against] for row in rows])
            entry |= {"ratio": float(ratios.mean()), "interval": _interval(ratios)}
        found[name] = entry
    return dict(sorted(found.items(), key=lambda each: each[1]["mean_ms"]))


def _interval(values: Any) -> tuple[float, float]:
    """Of the mean of float64[T, n], of T training seeds on n instances."""
    random = random_stream(0, "bootstrap")
    seeds = random.integers(len(values), size=(RESAMPLES, len(values)))
    instances = random.integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
    means = values[seeds[:, :, None], instances[:, None, :]].mean(axis=(1, 2))
    outside = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [outside, 100 - outside])
    return float(low), float(high)
