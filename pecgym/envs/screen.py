"""How an environment shows itself, in each render mode."""

from __future__ import annotations

from typing import Any

from pecgym.engine import Simulator
from pecgym.envs.render import Gantt, Window, live_table

MODES = ("human", "rgb_array", "ansi")
FRAMES_PER_S = 10


class Screen:
    """A Gantt chart as an array ("rgb_array") or in a window ("human"), or a table of the replicas ("ansi")."""

    def __init__(self, mode: str, window_s: float, size: tuple[int, int]) -> None:
        """window_s: time across, seconds. size: pixels."""
        self._mode, self._size = mode, size
        self._gantt = Gantt(window_s, size)
        self._window: Window | None = None

    def begin(self, simulator: Simulator) -> None:
        """A new episode."""
        self._gantt.reset(simulator.now_s)
        self.update(simulator)

    def update(self, simulator: Simulator) -> None:
        """A step was done."""
        self._gantt.update(simulator)
        if self._mode == "human":
            self._show()

    def _show(self) -> None:
        if self._window is None:
            self._window = Window(self._size, frames_per_s=FRAMES_PER_S)
        self._window.show(self._gantt.frame())

    def render(self, simulator: Simulator, caption: str) -> Any:
        """uint8[height, width, 3], text, or None: the window shows it already."""
        if self._mode == "human":
            return None
        return live_table(simulator, caption) if self._mode == "ansi" else self._gantt.frame(caption)

    def close(self) -> None:
        """Closes the window."""
        if self._window is not None:
            self._window.close()
