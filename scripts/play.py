"""Plays episodes of an environment: by its reference policy, at random, by the first valid action, or by waiting.

    python scripts/play.py player=random episodes=5 env.agent_controls=[placement] reward=tail
    python scripts/play.py player=reference gif=episode.gif
    python scripts/play.py --config-name play_replica

Prints a row for every episode: its return, the terms of its reward, and the delays of its requests.
docs/environment.md lists the keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import hydra
import numpy as np
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import pecgym  # noqa: F401 - registers the environments
from pecgym.configs import store_variants
from pecgym.envs.config import TERMS
from pecgym.envs.options import SCHEMAS, EnvironmentConfig
from pecgym.envs.presets import NAMESPACE, presets
from pecgym.errors import PecGymError, SpecError
from pecgym.random import random_stream

MOST_FRAMES = 120


@dataclass
class PlayConfig(EnvironmentConfig):
    """The keys of scripts/play.py; any other key is an error.

    Attributes:
        player: "reference", "random", "first" or "wait".
        episodes: how many.
        seed: of the first episode's reset, the next have the next; and of the random player.
        render: "ansi" prints the table of the replicas after every step, "human" opens a window.
        gif: the file of an animated picture of the first episode.
        seconds_per_frame: simulated seconds between two frames of the picture, at least: frames are taken after steps;
            None: so that there are about 120.
        render_window_s: simulated seconds across a picture.
        render_size: width and height of a picture, pixels.
    """

    player: str = "reference"
    episodes: int = 3
    seed: int = 0
    render: str | None = None
    gif: str | None = None
    seconds_per_frame: float | None = None
    render_window_s: float = 120.0
    render_size: list[int] = field(default_factory=lambda: [960, 540])


store = ConfigStore.instance()
store.store(group="schema", name="play", node=PlayConfig, package="_global_")
for name, node in SCHEMAS.items():
    store.store(group="schema", name=name, node=node)
store_variants()

Player = Callable[[Any, tuple[Any, ...]], Any]


def players(random: np.random.Generator) -> dict[str, Player]:
    """By name, what chooses an action for an environment and the mask of its decision."""
    return {
        "reference": lambda env, mask: env.reference_action(),
        "random": lambda env, mask: [random.choice(np.flatnonzero(part)) for part in mask],
        "first": lambda env, mask: [int(part.argmax()) for part in mask],
        "wait": lambda env, mask: [len(mask[0]) - 1, *[0] * (len(mask) - 1)],
    }


class Film:
    """Frames of an episode, evenly spaced in simulated time."""

    def __init__(self, seconds_per_frame: float | None) -> None:
        self.frames: list[Any] = []
        self._every_s = seconds_per_frame or 0.0
        self._may_thin = seconds_per_frame is None
        self._next_s = -np.inf

    def look(self, env: gym.Env[Any, Any], now_s: float) -> None:
        """Keeps the picture of this moment, if it is time for one. Where no distance was asked for, it doubles whenever
        there are twice as many frames as wanted."""
        if now_s < self._next_s:
            return
        self.frames.append(env.render())
        self._next_s = now_s + self._every_s
        if self._may_thin and len(self.frames) == 2 * MOST_FRAMES:
            self.frames = self.frames[::2]
            self._every_s = 2 * self._every_s or 1.0


def play(env: gym.Env[Any, Any], player: Player, seed: int, film: Film | None) -> dict[str, Any]:
    """One episode; its row."""
    own: Any = env.unwrapped
    _, info = env.reset(seed=seed)
    total, steps, over = 0.0, 0, False
    terms = dict.fromkeys(TERMS, 0.0)
    while not over:
        _, reward, terminated, truncated, info = env.step(player(own, info["action_mask"]))
        over = terminated or truncated
        total, steps = total + float(reward), steps + 1
        terms = {term: terms[term] + info["reward_terms"][term] for term in TERMS}
        if film is not None:
            film.look(env, info["now_s"])
        if env.render_mode == "ansi":
            print(env.render())
    row = own.log().metrics()
    return {
        "seed": str(seed),
        "end": "terminated" if terminated else "truncated",
        "decisions": f"{steps:,}",
        "invalid": f"{info['invalid_actions']:,}",
        "return": f"{total:,.1f}",
        **{f"{term}": f"{value:,.4g}" for term, value in terms.items()},
        "p50 delay s": _number(row["short_queueing_delay_p50_s"]),
        "p99 delay s": _number(row["short_queueing_delay_p99_s"]),
        "long JCT s": _number(row["long_jct_mean_s"]),
    }


def _check_model(values: PlayConfig) -> None:
    """Raises SpecError if the id is of another model than the configuration's, which would be played under its name."""
    own = presets().get(values.env.id.removeprefix(f"{NAMESPACE}/"), {}).get("model")
    if own is not None and own != values.model.name:
        raise SpecError(f"env.id={values.env.id} is of {own}, and model={values.model.name}: give model={own} as well")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3f}"


@hydra.main(version_base="1.3", config_path="../conf", config_name="play")
def main(config: PlayConfig) -> None:
    values: PlayConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    known = players(random_stream(values.seed, "player"))
    if values.player not in known:
        _fail(f"player={values.player!r}: choose one of {', '.join(known)}")
    if values.gif is not None and values.render is not None:
        _fail("gif and render: give one of them")
    mode = "rgb_array" if values.gif is not None else values.render
    rows = []
    try:
        _check_model(values)
        env = gym.make(
            values.env.id,
            render_mode=mode,
            render_window_s=values.render_window_s,
            render_size=tuple(values.render_size),
            **values.keywords(),
        )
        film = Film(values.seconds_per_frame) if values.gif is not None else None
        with Progress(
            *Progress.get_default_columns(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
        ) as progress:
            for i in progress.track(range(values.episodes), description="episodes"):
                rows.append(play(env, known[values.player], values.seed + i, film))
                if film is not None and values.gif is not None:
                    from pecgym.envs.render import save_gif

                    Path(values.gif).parent.mkdir(parents=True, exist_ok=True)
                    save_gif(film.frames, values.gif)
                    film = None
    except (PecGymError, gym.error.Error) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print(f"interrupted after {len(rows)} episodes")
    if rows:
        _print(rows, values)
    if values.gif is not None:
        Console().print(f"written: {values.gif}", highlight=False, soft_wrap=True)


def _print(rows: list[dict[str, Any]], values: PlayConfig) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 180
    table = Table(title=f"{values.env.id}, player {values.player}")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _fail(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), message), highlight=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
