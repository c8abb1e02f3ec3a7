"""The native kernel as a vector environment of stable-baselines3 (of the extra `train`)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode

from pecgym.envs.presets import NAMESPACE, presets
from pecgym.envs.vector import CopiesVectorEnv
from pecgym.errors import SpecError

try:
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ImportError as error:
    raise ImportError("pecgym.envs.sb3 needs stable-baselines3: pip install 'pecgym[train]'") from error

_BY_COPY = ("reference_action", "log")
"""Methods of the native vector environment that take the number of a copy."""


class SB3VecEnv(VecEnv):
    """N copies for stable-baselines3 and sb3-contrib that step in one compiled call.

    It does what DummyVecEnv does over environments that are made and seeded alike, several times faster. To spare N
    dictionaries in every step, the `infos` that it returns are empty except of copies that ended: those have what the
    info of a single environment has, with `terminal_observation` and `TimeLimit.truncated`. What the step did in all
    copies is in `last_infos`.

    Attributes:
        native: the vector environment of Gymnasium, in the mode SAME_STEP.
        last_infos: its info (arrays over the copies) of the last reset or step; of copies that ended, of the episode
            that began: `last_infos["final_info"]` has the other.
    """

    def __init__(self, env_id: str, n_envs: int, **settings: Any) -> None:
        """env_id: an id, or the name of a preset ("Cluster-v0" is "pecgym/Cluster-v0"). settings: of
        CopiesVectorEnv. Raises PecGymError for what cannot work, SpecError if the id has no native vector."""
        full_id = f"{NAMESPACE}/{env_id}" if env_id in presets() else env_id
        entry = gym.spec(full_id.rpartition(":")[2]).vector_entry_point
        made = load_env_creator(entry) if isinstance(entry, str) else entry
        if not (isinstance(made, type) and issubclass(made, CopiesVectorEnv)):
            raise SpecError(f"{full_id!r} has no native vector environment of pecgym: use DummyVecEnv for it")
        native = gym.make_vec(full_id, n_envs, "vector_entry_point", autoreset_mode=AutoresetMode.SAME_STEP, **settings)
        assert isinstance(native, CopiesVectorEnv)
        self.native: CopiesVectorEnv = native
        self.last_infos: dict[str, Any] = {}
        self._actions: Any = None
        super().__init__(n_envs, native.single_observation_space, native.single_action_space)

    def reset(self) -> Any:
        """Begins an episode in every copy, with the seeds and options that were set, each used once."""
        if any(self._options):
            for i, options in enumerate(self._options):
                this_one = {**options, "reset_mask": np.arange(self.num_envs) == i}
                observations, infos = self.native.reset(seed=self._seeds, options=this_one)
        else:
            observations, infos = self.native.reset(seed=self._seeds)
        self._reset_seeds()
        self._reset_options()
        self.last_infos = infos
        self.reset_infos = [_of_copy(infos, i) for i in range(self.num_envs)]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions, int[N, components], for step_wait."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Observations, float32[N] rewards, bool[N] dones, infos."""
        observations, rewards, terminated, truncated, self.last_infos = self.native.step(self._actions)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(dones).tolist():
            infos[i] = _of_copy(self.last_infos["final_info"], i)
            infos[i]["terminal_observation"] = self.last_infos["final_obs"][i]
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            self.reset_infos[i] = _of_copy(self.last_infos, i)
        return observations, rewards.astype(np.float32), dones, infos

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """What `action_masks` (bool[M]), `reference_action` (int64[components]) or `log` of each copy returns. Raises
        AttributeError for another method."""
        if method_name == "action_masks":
            return list(self.native.action_masks()[self._rows(indices)])
        return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """What the copies have in common (`config`, `spec`, `render_mode`), or a method of env_method for each. Raises
        AttributeError for another."""
        rows = self._rows(indices)
        if attr_name == "action_masks":
            return [partial(self._action_mask, i) for i in rows]
        found = getattr(self.native, attr_name)
        if attr_name in _BY_COPY:
            return [partial(found, i) for i in rows]
        if callable(found):
            raise AttributeError(f"{attr_name} is of all copies: call it on .native")
        return [found] * len(rows)

    def _action_mask(self, i: int) -> Any:
        return self.native.action_masks()[i]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Raises SpecError: settings are fixed when the copies are made."""
        raise SpecError(f"{attr_name}: an environment's settings are fixed; make another SB3VecEnv({attr_name}=...)")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        """No copy is wrapped."""
        return [False] * len(self._rows(indices))

    def get_images(self) -> list[np.ndarray | None]:
        """Copies in a vector are not rendered."""
        return [None] * self.num_envs

    def close(self) -> None:
        """Closes the copies."""
        self.native.close()

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        chosen: Iterable[int] = self._get_indices(indices)
        return [int(i) for i in chosen]


def _of_copy(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """The info of copy i out of arrays over the copies."""
    return {
        name: {term: float(of[i]) for term, of in value.items()} if isinstance(value, dict) else value[i]
        for name, value in infos.items()
        if name not in ("final_obs", "_final_obs", "final_info", "_final_info")
    }
