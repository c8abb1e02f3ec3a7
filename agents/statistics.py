"""What an agent does: how often it chooses what, on windows, beside its reference policy on the same windows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from agents.checkpoint import TrainedAgent
from agents.export import values_of
from agents.validation import first_requests
from pecgym.envs.cluster_env import ClusterEnv
from pecgym.envs.spaces import CLUSTER_ACTION, REPLICA
from pecgym.errors import SpecError
from pecgym.policies.agents import CLUSTER_LEVEL

CLASSES = tuple(feature.name for feature in REPLICA[:8])
"""Of replicas, one of which every replica has."""
_PREFILLING = CLASSES.index("prefilling_long")
_CHOSEN = {"place": ("decode_mode",), "start": ("long_index", "sp_degree", "sp_strategy"), "roles": ("target",)}
"""Components that are counted by value, for each decision, where more than one value was valid."""


class Tally:
    """Counts of what was chosen.

    Attributes:
        counts: by group and value. "decision": place, start, roles; "place", "start": wait, where that could be chosen,
            and the class of the target; "replica": where shorts were placed; "preempt", of shorts placed on a replica
            that prefills a long; "decode_mode", "long_index", "sp_degree", "sp_strategy", "roles": values, where there
            was a choice; "agrees": with the reference policy in everything.
        n_replicas: of the cluster.
    """

    def __init__(self, n_replicas: int, n_longs: int) -> None:
        self.n_replicas = n_replicas
        self.counts: dict[str, Counter[Any]] = {}
        self._values = values_of(n_replicas, n_longs)

    def add(self, decision: str, observation: Mapping[str, Any], mask: Any, action: Any, reference: Any) -> None:
        """Takes an answer. mask: bool arrays by component. action, reference: int64[components]."""
        valid = dict(zip(CLUSTER_ACTION, mask, strict=True))
        chosen = dict(zip(CLUSTER_ACTION, map(int, action), strict=True))
        self._count("decision", decision)
        self._count("agrees", bool(np.array_equal(action, reference)))
        target = chosen["target"]
        if decision != "roles":
            waits = target == self.n_replicas
            row = None if waits else observation["replicas"].reshape(self.n_replicas, -1)[target, : len(CLASSES)]
            self._count(decision, "wait" if row is None else CLASSES[int(row.argmax())])
            if waits:
                return
            if decision == "place":
                self._count("replica", target)
                if row is not None and row[_PREFILLING] and valid["prefill_mode"].all():
                    self._count("preempt", bool(chosen["prefill_mode"]))
        for component in _CHOSEN[decision]:
            if np.count_nonzero(valid[component]) > 1:
                name = "roles" if decision == "roles" else component
                self._count(name, self._values[component][chosen[component]])

    def _count(self, group: str, value: Any) -> None:
        self.counts.setdefault(group, Counter())[value] += 1

    def shares(self, group: str) -> dict[Any, float]:
        """By value; empty if there was nothing to choose."""
        counts = self.counts.get(group, Counter())
        return {value: count / counts.total() for value, count in counts.most_common()}

    def evenness(self) -> float:
        """Entropy of the replicas of shorts / that of equal use: 1: all are used alike, 0: one alone; NaN: none."""
        shares = np.array(list(self.shares("replica").values()))
        if not len(shares) or self.n_replicas < 2:
            return math.nan
        return float(-(shares * np.log(shares)).sum() / math.log(self.n_replicas)) + 0.0


def settings_of(agent: TrainedAgent, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the environment as the agent was trained in, as far as its file says, with changes to what
    is served: model, cluster, scenario, load."""
    of = {**agent.trained, **{key: value for key, value in changes.items() if value is not None}}
    if missing := [key for key in ("model", "cluster", "scenario") if key not in of]:
        raise SpecError(f"agent {agent.name}: its file does not say its {', '.join(missing)}; give them")
    scenario = {"name": of["scenario"]} | ({"load": of["load"]} if of["scenario"] == "steady" and "load" in of else {})
    return {**agent.settings, "model": of["model"], "cluster": of["cluster"], "scenario": scenario}


def watch(
    agent: TrainedAgent,
    settings: Mapping[str, Any],
    split: str,
    windows: int,
    requests: int,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Tally]:
    """Tallies by name of the agent and of its reference policy, each of which plays the same windows to their end.

    settings: of the environment. windows: evenly spread over the split, of so many requests each. tick: called after
    each window, twice `windows` times. Raises PecGymError.
    """
    agent.require(CLUSTER_LEVEL, "this table")
    episode = {"requests": requests, "split": split}
    env = gym.make("pecgym/Cluster-v0", **{**settings, "episode": episode, "strict": True})
    own = env.unwrapped
    assert isinstance(own, ClusterEnv)
    n_replicas = int(own.action_space.nvec[0]) - 1  # type: ignore[attr-defined]

    def act(observation: Mapping[str, Any], mask: Any) -> Any:
        masks = np.concatenate(mask)[None]
        return agent.act({name: array[None] for name, array in observation.items()}, masks)[0]

    def follow(observation: Mapping[str, Any], mask: Any) -> Any:
        return own.reference_action()

    rows = first_requests(own.config, windows)
    tallies = {}
    for name, decide in ((agent.name, act), (own.config.policy, follow)):
        tallies[name] = Tally(n_replicas, own.config.n_longs)
        for row in rows:
            _play(env, row, decide, tallies[name])
            tick()
    return tallies


def _play(env: gym.Env[Any, Any], row: int, decide: Callable[[Any, Any], Any], tally: Tally) -> None:
    """The window that begins at a row."""
    own: Any = env.unwrapped
    observation, info = env.reset(seed=0, options={"first_request": row})
    over = False
    while not over:
        mask = [part.astype(bool) for part in info["action_mask"]]
        action = decide(observation, mask)
        tally.add(info["decision"], observation, mask, action, own.reference_action())
        observation, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
