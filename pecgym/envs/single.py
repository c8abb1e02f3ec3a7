"""One copy of an environment, as Gymnasium wants it."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsFloat

import gymnasium as gym
import numpy as np

from pecgym.analysis import RequestLog
from pecgym.engine import Simulator
from pecgym.envs import arrays as a
from pecgym.envs.config import TERMS, EnvConfig, env_config
from pecgym.envs.core import KINDS, Copies, whole_numbers
from pecgym.envs.presets import preset_settings
from pecgym.errors import EngineError, SpecError
from pecgym.units import PS_PER_S

Observation = dict[str, Any]
RENDER_MODES = ("human", "rgb_array", "ansi")


class CopyEnv(gym.Env[Observation, Any]):
    """What the environments have in common."""

    copies_class: ClassVar[type[Copies]]
    default_preset: ClassVar[str]
    metadata: ClassVar[dict[str, Any]] = {"render_modes": list(RENDER_MODES), "render_fps": 10}  # type: ignore[misc]

    def __init__(
        self,
        *,
        render_mode: str | None = None,
        preset: str | None = None,
        render_window_s: float = 120.0,
        render_size: tuple[int, int] = (960, 540),
        **settings: Any,
    ) -> None:
        """preset: the id whose settings are the defaults. render_window_s: time across a picture, seconds. render_size:
        width and height, pixels. settings: fields of EnvConfig. Raises PecGymError for what cannot work."""
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise SpecError(f"render_mode={render_mode!r}: choose one of {', '.join(RENDER_MODES)}")
        self.render_mode = render_mode
        self.config: EnvConfig = env_config(preset_settings(preset or self.default_preset), **settings)
        self._copies = self.copies_class(self.config, 1, record=render_mode is not None)
        self.observation_space = self._copies.observation_space
        self.action_space = self._copies.action_space
        self._begun = False
        self._screen: Any = None
        if render_mode is not None:
            from pecgym.envs.screen import Screen  # loads the drawing library

            self._screen = Screen(render_mode, render_window_s, render_size)
        self._look_at_columns()

    def _look_at_columns(self) -> None:
        """Views that are read in every step."""
        arrays = self._copies.arrays
        copies = arrays.copies.view(np.ndarray)
        self._kind, self._ended, self._invalid = copies["kind"], copies["ended"], copies["invalid"]
        self._action, self._mask, self._rewards = arrays.actions[0], arrays.mask[0], arrays.rewards
        self._terms, self._elapsed_s = arrays.terms[0], arrays.elapsed_s
        self._observed = [(name, getattr(arrays, name)[0].reshape(-1)) for name in self._copies.observed]
        ends = np.cumsum(self._copies.action_space.nvec).tolist()
        self._parts = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        self._now_ps = self.simulator.state.cluster.view(np.ndarray)["now_ps"]

    def __getstate__(self) -> dict[str, Any]:
        if self._screen is not None:
            raise EngineError("an environment that is rendered cannot be copied: make it without render_mode")
        own = ("_kind", "_ended", "_invalid", "_action", "_mask", "_rewards", "_terms", "_elapsed_s", "_observed")
        return {name: value for name, value in vars(self).items() if name not in (*own, "_now_ps")}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._look_at_columns()

    @property
    def simulator(self) -> Simulator:
        """The engine of this environment: to look at."""
        return self._copies.simulators[0]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode. options: `first_request`, the row of the trace at which it begins, in place of a random
        one. Raises SpecError for another option."""
        super().reset(seed=seed)
        self._copies.reset(0, self.np_random, options)
        self._begun = True
        self._now_ps = self.simulator.state.cluster.view(np.ndarray)["now_ps"]
        if self._screen is not None:
            self._screen.begin(self.simulator)
        return self._observation(), self._info()

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Answers the decision that is due and runs to the next one, or to the end of the episode.

        Raises EngineError before a reset, and SpecError for an invalid action with strict=True.
        """
        if not self._begun:
            raise EngineError("the environment has no episode: call reset() first")
        self._action[:] = whole_numbers(action, self._action.shape)
        ended = int(self._ended[0]) if self._copies.step() else a.RUNNING
        self._begun = ended == a.RUNNING
        if self._screen is not None:
            self._screen.update(self.simulator)
        terminated, truncated = ended == a.TERMINATED, ended == a.TRUNCATED
        return self._observation(), float(self._rewards[0]), terminated, truncated, self._info()

    def _observation(self) -> Observation:
        return {name: array.copy() for name, array in self._observed}

    def _info(self) -> dict[str, Any]:
        elapsed_s = float(self._elapsed_s[0])
        mask = self._mask.copy()
        return {
            "action_mask": tuple([mask[part] for part in self._parts]),
            "decision": KINDS[int(self._kind[0])],
            "now_s": float(self._now_ps[0]) / PS_PER_S,
            "elapsed_s": elapsed_s,
            "discount": float((self.config.reward.discount_per_s**self._elapsed_s)[0]),  # by NumPy, as in a vector
            "invalid_actions": int(self._invalid[0]),
            "reward_terms": dict(zip(TERMS, self._terms.tolist(), strict=True)),
        }

    def action_masks(self) -> Any:
        """bool[M]: which values are valid, of all components after one another (as sb3-contrib wants them)."""
        return self._mask.astype(bool)

    def reference_action(self) -> Any:
        """int64[components]: what the reference policy would do now; to ask has no consequences.

        Raises EngineError if no action means the same.
        """
        if not self._begun:
            raise EngineError("no decision is due: call reset() first")
        return self._copies.reference_action(0)

    def log(self) -> RequestLog:
        """What has happened to every request of the episode so far, in seconds since its beginning."""
        return self._copies.log(0)

    def render(self) -> Any:
        """By render mode: uint8[height, width, 3], text, or None (the window shows it)."""
        if self._screen is None:
            gym.logger.warn("render() without a render_mode does nothing: give gym.make(..., render_mode=...)")
            return None
        return self._screen.render(self.simulator, f"reward {float(self._rewards[0]):,.2f}")

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._screen is not None:
            self._screen.close()
