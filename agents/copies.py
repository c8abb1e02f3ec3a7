"""The environments that an agent trains on: copies of several settings as one vector environment."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from pecgym.envs.sb3 import SB3VecEnv
from pecgym.errors import SpecError
from pecgym.random import random_stream

REMEMBERED_EPISODES = 100
DEFAULT_SPREAD = 1000
"""Decisions over which episodes begin if their number of requests, about that of their decisions, is not given."""


class MixedVecEnv(VecEnv):
    """Copies of several environments that have the same spaces, one after another: each part steps in one compiled
    call.

    Attributes:
        parts: the native vector environments.
        last_infos: of the last reset or step, as SB3VecEnv's, of all parts.
        discounts: float64[N], what the value after the last step is multiplied with (info["discount"]); of a copy that
            ended, that of its last step.
        episode_returns: sums of rewards of the last 100 episodes that ended.
        seconds: wall-clock time in `step` and `action_masks`.
    """

    def __init__(self, parts: Mapping[str, SB3VecEnv], spread: int = 0) -> None:
        """spread: decisions over which `reset` spreads the beginnings of the copies' episodes. Raises SpecError for
        parts with different spaces."""
        self.parts, self._spread = list(parts.values()), spread
        self._order = random_stream(0, "order in which copies begin")
        first = self.parts[0]
        for name, part in parts.items():
            spaces = (part.observation_space, part.action_space)
            if spaces != (first.observation_space, first.action_space):
                raise SpecError(
                    f"{name}: its actions or observations have other shapes; the parts must have equal ones"
                )
        sizes = [part.num_envs for part in self.parts]
        self._ends = np.cumsum(sizes)
        self.last_infos: dict[str, Any] = {}
        self.discounts = np.ones(sum(sizes))
        self.episode_returns: deque[float] = deque(maxlen=REMEMBERED_EPISODES)
        self.seconds = 0.0
        self._totals = np.zeros(sum(sizes))
        super().__init__(sum(sizes), first.observation_space, first.action_space)

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds of the copies for the next reset, unlike those under any other seed."""
        self._order = random_stream(seed or 0, "order in which copies begin")
        drawn = None if seed is None else random_stream(seed, "training windows").integers(2**31, size=self.num_envs)
        self._seeds = [None] * self.num_envs if drawn is None else drawn.tolist()
        return self._seeds

    def reset(self) -> Any:
        """Begins an episode in every copy; observations.

        The reference policy plays them for `spread` decisions, while one copy after another begins anew: copies that
        began together would be in the same part of their episodes for long, and the agent would forget the others.
        """
        for part, rows in self._rows():
            part._seeds = self._seeds[rows]
        self._reset_seeds()
        observations: list[Any] = [part.reset() for part in self.parts]
        begins = self._spread * self._order.permutation(self.num_envs) // self.num_envs
        for step in range(self._spread):
            for k, (part, rows) in enumerate(self._rows()):
                observations[k], *_ = part.step(np.stack(part.env_method("reference_action")))
                if (anew := begins[rows] == step).any():
                    observations[k], _ = part.native.reset(options={"reset_mask": anew})
        self.last_infos = _joined([part.last_infos for part in self.parts])
        self.discounts, self._totals = np.ones(self.num_envs), np.zeros(self.num_envs)
        return _joined(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions, int[N, components], for step_wait."""
        for part, rows in self._rows():
            part.step_async(actions[rows])

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, float32[N] rewards, bool[N] dones, infos."""
        began_s = time.perf_counter()
        stepped: list[Any] = [part.step_wait() for part in self.parts]
        self.seconds += time.perf_counter() - began_s
        self.last_infos = _joined([part.last_infos for part in self.parts])
        self.discounts = self.last_infos["discount"].copy()
        rewards = np.concatenate([each[1] for each in stepped])
        dones = np.concatenate([each[2] for each in stepped])
        infos = [info for each in stepped for info in each[3]]
        self._totals += rewards
        for i in np.flatnonzero(dones):
            self.discounts[i] = infos[i]["discount"]
            self.episode_returns.append(float(self._totals[i]))
        self._totals[dones] = 0.0
        return _joined([observations for observations, *_ in stepped]), rewards, dones, infos

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What a method returns in each copy; as of SB3VecEnv."""
        began_s = time.perf_counter()
        found = [
            each
            for part, own in self._chosen(indices)
            for each in part.env_method(method_name, *method_args, indices=own, **method_kwargs)
        ]
        self.seconds += time.perf_counter() - began_s
        return found

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each copy; as of SB3VecEnv."""
        return [each for part, own in self._chosen(indices) for each in part.get_attr(attr_name, own)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raises SpecError: settings are fixed."""
        self.parts[0].set_attr(attr_name, value)

    def env_is_wrapped(self, wrapper_class: Any, indices: VecEnvIndices = None) -> list[bool]:
        """No copy is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> list[np.ndarray | None]:
        """Copies in a vector are not rendered."""
        return [None] * self.num_envs

    def close(self) -> None:
        """Closes all."""
        for part in self.parts:
            part.close()

    def _rows(self) -> Iterator[tuple[SB3VecEnv, slice]]:
        for part, end in zip(self.parts, self._ends, strict=True):
            yield part, slice(int(end) - part.num_envs, int(end))

    def _chosen(self, indices: VecEnvIndices) -> Iterator[tuple[SB3VecEnv, list[int]]]:
        """The parts of the chosen copies, in the order of these, with their numbers there."""
        if indices is None:
            for part in self.parts:
                yield part, list(range(part.num_envs))
            return
        for i in self._get_indices(indices):
            k = int(np.searchsorted(self._ends, i, side="right"))
            yield self.parts[k], [int(i - (self._ends[k] - self.parts[k].num_envs))]


class TimeNormalize(VecNormalize):
    """Divides rewards by the standard deviation of returns that are discounted as the agent's are: by decision and by
    second. Observations stay as they are."""

    venv: MixedVecEnv

    def __init__(self, copies: MixedVecEnv, gamma: float) -> None:
        """gamma: discount of a decision."""
        super().__init__(copies, norm_obs=False, gamma=gamma)

    def _update_reward(self, reward: np.ndarray) -> None:
        self.returns = self.returns * self.gamma * self.venv.discounts + reward
        self.ret_rms.update(self.returns)


def training_copies(env_id: str, parts: Mapping[str, Mapping[str, Any]], n_envs: int) -> MixedVecEnv:
    """n_envs copies in equal parts, whose episodes begin spread over about the decisions of one; parts: by name,
    keyword arguments of SB3VecEnv. Raises PecGymError."""
    made = {name: SB3VecEnv(env_id, n_envs // len(parts), **settings) for name, settings in parts.items()}
    requests = [settings["episode"]["requests"] for settings in parts.values()]
    return MixedVecEnv(made, spread=requests[0] or DEFAULT_SPREAD)


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Arrays over the copies of each part, and mappings of such arrays, as arrays over all copies. What only some parts
    have, of copies that ended, is left to `infos`."""
    return {
        name: _joined([part[name] for part in parts])
        if isinstance(value, dict)
        else np.concatenate([p[name] for p in parts])
        for name, value in parts[0].items()
        if all(name in part for part in parts) and not name.startswith(("final", "_final"))
    }
