"""Many copies of an environment that step in one compiled call, as Gymnasium wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from pecgym.analysis import RequestLog
from pecgym.envs import arrays as a
from pecgym.envs.config import TERMS, EnvConfig, env_config
from pecgym.envs.core import Copies, whole_numbers
from pecgym.envs.presets import preset_settings
from pecgym.errors import EngineError, SpecError
from pecgym.units import PS_PER_S

Observations = dict[str, Any]


class CopiesVectorEnv(VectorEnv[Observations, Any, Any]):
    """What the vector environments have in common.

    `info` has, as arrays over the copies, what a single environment's has: `action_mask` (int8[N, M], all components
    after one another), `decision` (0 place, 1 start, 2 roles, 3 join, 4 evict, -1 none), `now_s`, `elapsed_s`,
    `discount`, `invalid_actions`, `reward_terms` (a dict of arrays); every copy has all of them, so that there are no
    `_key` masks. In the mode SAME_STEP the last observation and info of a copy that ended are in `final_obs` and
    `final_info`, with `_final_obs` and `_final_info` saying of which copies.
    """

    copies_class: ClassVar[type[Copies]]
    default_preset: ClassVar[str]

    def __init__(
        self,
        *,
        num_envs: int = 1,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        preset: str | None = None,
        **settings: Any,
    ) -> None:
        """autoreset_mode: of Gymnasium: "NextStep", "SameStep" or "Disabled". max_episode_steps: truncated after so
        many decisions; None: by the settings alone. preset, settings: as of a single one. Raises PecGymError."""
        if num_envs < 1:
            raise SpecError(f"num_envs={num_envs}: must be 1 or more")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise SpecError(f"max_episode_steps={max_episode_steps}: must be 1 or more")
        if render_mode is not None:
            raise SpecError("render_mode: copies in a vector are not rendered; make a single environment for pictures")
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.config: EnvConfig = env_config(preset_settings(preset or self.default_preset), **settings)
        self._most_steps = max_episode_steps
        self._copies = self.copies_class(self.config, num_envs)
        self.single_observation_space = self._copies.observation_space
        self.single_action_space = self._copies.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._look_at_arrays()
        drawn = [seeding.np_random(None) for _ in range(num_envs)]
        self._randoms, self._random_seeds = [random for random, _ in drawn], [seed for _, seed in drawn]
        self._over = np.ones(num_envs, bool)  # copies whose episode has ended, or never begun
        self._steps = np.zeros(num_envs, np.int64)

    def _look_at_arrays(self) -> None:
        arrays, n = self._copies.arrays, self.num_envs
        self._observed = [(name, getattr(arrays, name).reshape(n, -1)) for name in self._copies.observed]
        copies = arrays.copies.view(np.ndarray)
        self._columns = {name: copies[name] for name in ("kind", "now_ps", "invalid", "ended")}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_observed", "_columns")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._look_at_arrays()

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begins an episode in every copy, or in those of options["reset_mask"] (bool[N]).

        seed: of copy 0, copy i gets seed + i; or one for each copy. options: also `first_request`, as of a single
        environment. Raises SpecError for another option.
        """
        options = dict(options or {})
        chosen = np.asarray(options.pop("reset_mask", np.ones(self.num_envs, bool)))
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool or not chosen.any():
            raise SpecError(f"reset: reset_mask must be bool[{self.num_envs}] with one True at least")
        for i, copy_seed in enumerate(self._seeds(seed)):
            if chosen[i]:
                if copy_seed is not None:
                    self._randoms[i], self._random_seeds[i] = seeding.np_random(copy_seed)
                self._begin(i, options)
        return self._observations(), self._infos()

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise SpecError(f"reset: {len(seed)} seeds for {self.num_envs} copies")
        return [None if each is None else int(each) for each in seed]

    def _begin(self, i: int, options: dict[str, Any] | None = None) -> None:
        self._copies.reset(i, self._randoms[i], options)
        self._over[i] = False
        self._steps[i] = 0

    def step(self, actions: Any) -> tuple[Observations, Any, Any, Any, dict[str, Any]]:
        """Answers the decisions of all copies. actions: int[N, components]. Copies that ended before begin anew
        (NEXT_STEP), which ignores their actions.

        Raises EngineError for a copy that has no episode, and SpecError for an invalid action with strict=True.
        """
        arrays = self._copies.arrays
        arrays.actions[:] = whole_numbers(actions, arrays.actions.shape)
        over = np.flatnonzero(self._over)
        if over.size:
            rewards, ended = self._step_some(over)
        else:
            attention = self._copies.step()
            rewards = arrays.rewards.copy()
            ended = self._columns["ended"].copy() if attention else np.zeros(self.num_envs, np.int64)
        self._steps += 1
        terminated, truncated = ended == a.TERMINATED, ended == a.TRUNCATED
        if self._most_steps is not None:
            truncated |= self._steps >= self._most_steps
        done = terminated | truncated
        final: dict[str, Any] = {}
        if done.any():
            self._over |= done
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                final = self._end_now(done)
        return self._observations(), rewards, terminated, truncated, self._infos() | final

    def _step_some(self, over: Any) -> tuple[Any, Any]:
        """A step in which the copies `over` begin anew; rewards and how the others ended."""
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP or (self._steps[over] == 0).any():
            raise EngineError(f"copies {over.tolist()} have no episode: reset(options={{'reset_mask': ...}}) first")
        arrays = self._copies.arrays
        others = ~self._over
        if others.any():
            self._copies.step(others)
        rewards = np.where(others, arrays.rewards, 0.0)
        ended = np.where(others, self._columns["ended"], a.RUNNING)
        for i in over:
            self._begin(int(i))
            self._steps[i] = -1
        return rewards, ended

    def _end_now(self, done: Any) -> dict[str, Any]:
        """The last observations and infos of the copies that ended, which begin anew."""
        last = np.full(self.num_envs, None, object)
        for i in np.flatnonzero(done):
            last[i] = {name: array[i].copy() for name, array in self._observed}
        final = {"final_obs": last, "_final_obs": done.copy(), "final_info": self._infos(), "_final_info": done.copy()}
        for i in np.flatnonzero(done):
            self._begin(int(i))
        return final

    def _observations(self) -> Observations:
        return {name: array.copy() for name, array in self._observed}

    def _infos(self) -> dict[str, Any]:
        arrays = self._copies.arrays
        columns = self._columns
        elapsed_s = arrays.elapsed_s.copy()
        infos: dict[str, Any] = {
            "action_mask": arrays.mask.copy(),
            "decision": columns["kind"].copy(),
            "now_s": columns["now_ps"] / PS_PER_S,
            "elapsed_s": elapsed_s,
            "discount": self.config.reward.discount_per_s**elapsed_s,
            "invalid_actions": columns["invalid"].copy(),
            "reward_terms": dict(zip(TERMS, arrays.terms.T.copy(), strict=True)),
        }
        return infos

    @property  # type: ignore[misc]
    def np_random(self) -> Any:
        """The generators of the copies, from which their windows are drawn."""
        return tuple(self._randoms)

    @property
    def np_random_seed(self) -> Any:
        """The seeds of those generators."""
        return tuple(self._random_seeds)

    def action_masks(self) -> Any:
        """bool[N, M]: which values are valid, of all components after one another."""
        return self._copies.arrays.mask.astype(bool)

    def reference_action(self, i: int) -> Any:
        """int64[components]: what the reference policy would do now in copy i. EngineError: no action means it."""
        if 0 <= i < self.num_envs and self._over[i]:
            raise EngineError(f"no decision is due in copy {i}: its episode has ended, or not begun")
        return self._copies.reference_action(i)

    def log(self, i: int) -> RequestLog:
        """What has happened to every request of the episode of copy i so far, in seconds since its beginning."""
        return self._copies.log(i)
