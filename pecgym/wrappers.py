"""Other views of the environments, for libraries that want them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pecgym.envs.cluster_env import ClusterEnv
from pecgym.envs.single import Observation
from pecgym.envs.spaces import CLUSTER_ACTION, REPLICA, WAITING_LONG
from pecgym.errors import SpecError

__all__ = ["FlatActions", "MaskInObservation", "Tables"]

_READ = {"place": (0, 1, 2), "start": (0, 3, 4, 5), "roles": (0,)}
"""By decision, the components of an action that it reads."""
_CONTROL_OF = ("", "preemption", "disaggregation", "order", "sp_degree", "sp_strategy")
"""By component, the control that it needs; the target's depends on the decision."""
_TARGET_CONTROL = {"place": "placement", "start": "start", "roles": "roles"}
WAIT = 0
"""The flat action that waits."""


class FlatActions(gym.Wrapper[Observation, Any, Observation, Any], gym.utils.RecordConstructorArgs):
    """Cluster-v0 with a `Discrete` action space: every joint action that means something has a number.

    0 waits; then come, as far as the agent controls them, the placements (replica x prefill mode x decode mode), the
    starts (anchor x long x degree x strategy), and the numbers of decode replicas, in row-major order. A component that
    the agent does not control has one value, 0. With everything but roles controlled these are 1 + 4R + 4RKD actions:
    1313 for R = 8 replicas, K = 8 shown longs and D = 5 degrees; `n_longs=1` and fewer `agent_controls` give less.

    `info["action_mask"]`, int8[n], and `action_masks()`, bool[n], say which of them are valid now: exactly those whose
    components the mask of the environment allows. Any other counts as invalid there, also one of another decision.
    """

    def __init__(self, env: gym.Env[Observation, Any], largest: int = 50_000) -> None:
        """largest: more actions than this are refused. Raises SpecError for those, and for another environment."""
        gym.utils.RecordConstructorArgs.__init__(self, largest=largest)
        gym.Wrapper.__init__(self, env)
        cluster = env.unwrapped
        if not isinstance(cluster, ClusterEnv):
            raise SpecError(f"FlatActions: {env} is not Cluster-v0, whose actions it numbers")
        sizes = [int(n) for n in cluster.action_space.nvec]  # type: ignore[attr-defined]
        self._n_replicas = sizes[0] - 1
        self._ends = np.cumsum(sizes)
        self._shapes = _shapes(sizes, cluster.config.agent_controls)
        self._parts: dict[str, slice] = {}
        n = 1
        for kind, shape in self._shapes.items():
            self._parts[kind] = slice(n, n + int(np.prod(shape)))
            n = self._parts[kind].stop
        if n > largest:
            counts = ", ".join(f"{kind}: {' x '.join(map(str, shape))}" for kind, shape in self._shapes.items())
            raise SpecError(
                f"FlatActions: {n} actions ({counts}) are more than largest={largest}: reduce n_longs, take order, "
                "sp_degree or sp_strategy from agent_controls, use a smaller cluster, or raise largest"
            )
        self.action_space = spaces.Discrete(n)
        self._components = self._list_components(n)
        self._mask = np.zeros(n, np.int8)
        self._mask[WAIT] = 1
        self._decision = "none"

    def _list_components(self, n: int) -> Any:
        """int64[n, 6]: the components of every flat action; of those not read, or not controlled, 0."""
        components = np.zeros((n, len(CLUSTER_ACTION)), np.int64)
        components[WAIT, 0] = self._n_replicas
        for kind, shape in self._shapes.items():
            values = np.indices(shape).reshape(len(shape), -1).T
            components[self._parts[kind], list(_READ[kind])] = values
        if "roles" in self._parts:
            components[self._parts["roles"], 0] += 1  # at least one replica decodes
        return components

    def from_flat(self, flat: int) -> Any:
        """int64[6]: the components that a number stands for. Raises SpecError if there is no such number."""
        if not 0 <= flat < len(self._components):
            raise SpecError(f"flat action {flat}: there are 0 to {len(self._components) - 1}")
        return self._components[flat].copy()

    def to_flat(self, action: Any, decision: str | None = None) -> int:
        """The number of an action, int[6], for a decision ("place", "start" or "roles"; None: the one that is due).

        The target R waits. Raises SpecError if the agent takes no such decision, or a value that is read cannot be.
        """
        kind = self._decision if decision is None else decision
        if kind not in self._parts:
            raise SpecError(f"to_flat: the decision {kind!r} is none of {', '.join(self._parts)}")
        if int(action[0]) == self._n_replicas:
            return WAIT
        read, shape = _READ[kind], self._shapes[kind]
        values = [int(action[component]) if size > 1 else 0 for component, size in zip(read, shape, strict=True)]
        if kind == "roles":
            values = [int(action[0]) - 1]
        for component, value, size in zip(read, values, shape, strict=True):
            if not 0 <= value < size:
                raise SpecError(f"to_flat: {CLUSTER_ACTION[component]}={int(action[component])} cannot be")
        return int(self._parts[kind].start) + int(np.ravel_multi_index(values, shape))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Of the environment, with the flat mask in info."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._flat_info(info)

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Of the environment, by the number of an action, with the flat mask in info."""
        components = self.from_flat(int(action))
        if self._mask[action] == 0:
            components[:] = -1  # to another decision its components could be valid
        observation, reward, terminated, truncated, info = self.env.step(components)
        return observation, reward, terminated, truncated, self._flat_info(info)

    def action_masks(self) -> Any:
        """bool[n]: which numbers are valid now (as sb3-contrib wants them)."""
        return self._mask.astype(bool)

    def reference_action(self) -> int:
        """The number of what the reference policy would do now. Raises EngineError if no action means the same."""
        action = self.env.get_wrapper_attr("reference_action")()
        return self.to_flat(action)

    def _flat_info(self, info: dict[str, Any]) -> dict[str, Any]:
        masks = info["action_mask"]
        self._decision = info["decision"]
        flat = np.zeros(len(self._components), np.int8)
        flat[WAIT] = masks[0][self._n_replicas]
        if self._decision in self._parts:
            shape = self._shapes[self._decision]
            allowed = np.ones((), np.int8)
            for component, size in zip(_READ[self._decision], shape, strict=True):
                allowed = np.multiply.outer(allowed, self._allowed(masks, component, size))
            flat[self._parts[self._decision]] = allowed.reshape(-1)
        self._mask = flat
        return {**info, "action_mask": flat.copy()}

    def _allowed(self, masks: Any, component: int, size: int) -> Any:
        """int8[size]: the allowed values of a component; one that is not controlled is free if anything is."""
        mask = masks[component]
        if component == 0:
            mask = mask[1 : self._n_replicas] if self._decision == "roles" else mask[: self._n_replicas]
        return mask if size == len(mask) else mask.max(keepdims=True)


def _shapes(sizes: list[int], controls: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """By decision that the agent is asked for, the number of values of each component that it reads."""
    shapes: dict[str, tuple[int, ...]] = {}
    for kind, components in _READ.items():
        needed = [_TARGET_CONTROL[kind] if c == 0 else _CONTROL_OF[c] for c in components]
        if any(control in controls for control in needed):
            targets = sizes[0] - 2 if kind == "roles" else sizes[0] - 1
            shapes[kind] = tuple(
                (targets if c == 0 else sizes[c]) if control in controls else 1
                for c, control in zip(components, needed, strict=True)
            )
    return shapes


class Tables(gym.ObservationWrapper[Observation, Any, Observation], gym.utils.RecordConstructorArgs):
    """Observations whose tables have a row for each replica and each waiting long.

    The environment gives `replicas` and `waiting_longs` row after row in one vector, because stable-baselines3 warns of
    two dimensions that are no image. Here they are float32[R, F] and float32[K, F] (pecgym.envs.spaces lists the F).
    """

    def __init__(self, env: gym.Env[Observation, Any]) -> None:
        """Raises SpecError for an environment that has no such tables."""
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        widths = {"replicas": len(REPLICA), "waiting_longs": len(WAITING_LONG)}
        before = env.observation_space
        if not isinstance(before, spaces.Dict) or not set(widths) <= set(before):
            raise SpecError(f"Tables: {env} has no tables {', '.join(widths)} in its observation")
        self._widths = widths
        after = {
            name: spaces.Box(0.0, 1.0, (spaces.flatdim(box) // widths[name], widths[name]), np.float32)
            if name in widths
            else box
            for name, box in before.items()
        }
        self.observation_space = spaces.Dict(after)

    def observation(self, observation: Observation) -> Observation:
        """The same numbers, in rows."""
        widths = self._widths
        return {name: part.reshape(-1, widths[name]) if name in widths else part for name, part in observation.items()}


class MaskInObservation(gym.Wrapper[Observation, Any, Observation, Any], gym.utils.RecordConstructorArgs):
    """Observations that have the mask with them, for libraries that keep no infos (RLlib, TorchRL).

    A `Dict` of `observations`, float32[F], the parts of the observation after one another in the order of its space,
    and `action_mask`, int8[M], that of info: over FlatActions of its numbers, else of all components after one another.
    """

    def __init__(self, env: gym.Env[Observation, Any]) -> None:
        """Raises SpecError for an environment without action_masks()."""
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        if not env.has_wrapper_attr("action_masks"):
            raise SpecError(f"MaskInObservation: {env} has no action_masks()")
        n = len(env.get_wrapper_attr("action_masks")())
        self.observation_space = spaces.Dict(
            {
                "observations": spaces.flatten_space(env.observation_space),
                "action_mask": spaces.Box(0, 1, (n,), np.int8),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Of the environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation), info

    def step(self, action: Any) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Of the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation), reward, terminated, truncated, info

    def _with_mask(self, observation: Observation) -> Observation:
        mask = self.env.get_wrapper_attr("action_masks")().astype(np.int8)
        return {"observations": spaces.flatten(self.env.observation_space, observation), "action_mask": mask}
