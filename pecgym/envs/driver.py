"""An agent in the place of a policy: it is asked as in the environment, on a given trace, until all is served."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pecgym.cluster import Cluster
from pecgym.engine import Simulator
from pecgym.envs import arrays as a
from pecgym.envs.config import EnvConfig, EpisodeConfig, env_config
from pecgym.envs.core import ClusterCopies, Copies, compiled_cluster_advance, keep_pool, whole_numbers
from pecgym.envs.replica_env import ReplicaCopies
from pecgym.envs.windows import Window
from pecgym.errors import SpecError
from pecgym.policies import Policy
from pecgym.policies.agents import CLUSTER_LEVEL, REPLICA_LEVEL, Agent
from pecgym.random import random_stream
from pecgym.units import HORIZON_S, seconds_to_ps

STALLED_S = 3600.0
"""An agent that has let requests wait for so long while nothing happened will let them wait for ever."""
_COPIES: dict[str, type[Copies]] = {CLUSTER_LEVEL: ClusterCopies, REPLICA_LEVEL: ReplicaCopies}
NOT_ITS_OWN = ("model", "cluster", "engine", "workload", "scenario", "episode", "profile", "tp", "workload_seed")


def agent_config(agent: Agent) -> EnvConfig:
    """The environment in which an agent decides, with nothing said of what it serves. Raises SpecError."""
    if wrong := sorted(set(agent.settings) & set(NOT_ITS_OWN)):
        raise SpecError(f"agent {agent.name}: settings {', '.join(wrong)} are of what it serves, not its own")
    whole = EpisodeConfig(requests=None, random_start=False)
    return env_config({}, **{**agent.settings, "episode": whole, "strict": True})


def agent_policy(name: str, agent: Agent) -> Policy:
    """An agent as a policy: its reference policy, with the agent's rules for longs, and the agent in front of it."""
    config = agent_config(agent)
    reference, changes = config.reference_policy(), config.rule_changes().changes()
    if reference.actor is not None or reference.agent is not None:
        raise SpecError(f"agent {agent.name}: policy={config.policy}: its reference policy must be a compiled one")
    return replace(
        reference,
        name=name,
        agent=agent,
        pool=reference.pool or (keep_pool if "roles" in config.agent_controls else None),
        rules=reference.rules.with_changes(**changes),
        order=reference.order_with(**config.order.changes()),
        reserves=reference.reserves and "reserved_replicas" not in changes,
        source=f"the agent {agent.name}",
    )


def warm_up_agents() -> None:
    """Compiles what agents need beside the engine, or loads it."""
    compiled_cluster_advance()


class AgentRun:
    """One run of a cluster whose policy is an agent; it may be interrupted at any time and go on."""

    def __init__(self, cluster: Cluster) -> None:
        """Raises SpecError for settings of the agent that cannot be."""
        assert cluster.policy is not None
        assert cluster.policy.agent is not None
        self._agent, self._cluster = cluster.policy.agent, cluster
        self._copies = _COPIES[self._agent.level](agent_config(self._agent), 1, cluster.record, cluster)
        arrays = self._copies.arrays
        self._observed = [(name, getattr(arrays, name).reshape(1, -1)) for name in self._copies.observed]
        copies = arrays.copies.view(np.ndarray)
        self._ended, self._now_ps = copies["ended"], copies["now_ps"]
        self._begun = self._stalled = False
        self._progress, self._since_ps, self._busy_ps = (-1, -1), 0, -1

    @property
    def simulator(self) -> Simulator:
        """The engine of the run."""
        return self._copies.simulators[0]

    def run(self, until_s: float = math.inf) -> None:
        """Goes on to `until_s`, until all is served, or until the agent stalls (STALLED_S).

        Raises SpecError for an action that cannot be done.
        """
        limit_s = HORIZON_S if math.isinf(until_s) else until_s
        if not self._begun:
            self._begun = True
            window = Window(0, len(self._cluster.trace), 0.0, limit_s)
            self._copies.begin(0, window, int(random_stream(self._cluster.seed, "policy").integers(2**48)))
        elif not self._stalled:
            self._copies.extend(0, limit_s)
        while self._ended[0] == a.RUNNING and not self._stalled:
            self._decide()
            self._stalled = self._is_stalled()

    def _decide(self) -> None:
        arrays = self._copies.arrays
        observations = {name: array.copy() for name, array in self._observed}
        try:
            action = self._agent.act(observations, arrays.mask.astype(bool))
            arrays.actions[:] = whole_numbers(action, arrays.actions.shape)
            self._copies.step()
        except SpecError as error:
            raise SpecError(f"agent {self._agent.name}: {error}") from error

    def _is_stalled(self) -> bool:
        """Whether for STALLED_S nobody has come or gone, and no replica has worked."""
        cluster, now_ps = self.simulator.state.cluster.view(np.ndarray), int(self._now_ps[0])
        progress = int(cluster["next_row"][0]), int(cluster["n_logged"][0])
        if progress != self._progress:
            self._progress, self._since_ps, self._busy_ps = progress, now_ps, -1
        if now_ps - self._since_ps <= seconds_to_ps(STALLED_S):
            return False
        busy_ps = int(self.simulator.busy_ps().sum())
        stalled = busy_ps == self._busy_ps
        self._since_ps, self._busy_ps = now_ps, busy_ps
        return stalled
