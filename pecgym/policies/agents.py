"""Trained agents by name: they come from the package `agents` of a checkout, which this one only knows by name."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pecgym.errors import SpecError

FAMILY = "ppo"
CLUSTER_LEVEL, REPLICA_LEVEL = "cluster", "replica"
_CHECKOUT = Path(__file__).resolve().parents[2]
"""Where `agents` is beside this package, in a checkout."""


class Agent(Protocol):
    """What decides in an environment, as `agents.checkpoint.load_agent` gives it.

    Attributes:
        name: its full name, such as "ppo/llama-steady-s0".
        path: the file that it was loaded from.
        settings: keyword arguments of the environment (pecgym.envs.config.EnvConfig) that it was trained with and that
            are its own: policy, agent_controls, long, n_longs, allow_wait, retry_s, reward, ...
        level: "cluster": it is in Cluster-v0, "replica": in Replica-v0.
    """

    name: str
    path: Path
    settings: Mapping[str, Any]
    level: str

    def act(self, observations: dict[str, Any], masks: Any) -> Any:
        """int64[N, components]: the actions in N copies, always the same for the same input.

        observations: float32[N, ...] by name, a copy's tables flat, as of the vector environment. masks: bool[N, M].
        """


def is_agent_name(name: str) -> bool:
    """Whether a policy of that name is an agent: "ppo", the shipped one for what is served, or "ppo/<name or path>"."""
    return name == FAMILY or name.startswith(f"{FAMILY}/")


def agent_names(asked_for: str = FAMILY) -> list[str]:
    """The shipped agents, as policies. asked_for: the policy that an error names. Raises SpecError where there is no
    package `agents`."""
    return [f"{FAMILY}/{name.removeprefix(f'{FAMILY}/')}" for name in _checkpoints(asked_for).names()]


def training_seeds(name: str) -> tuple[str, ...]:
    """The agents of all training seeds that a name without one stands for, "ppo/x-s0", "ppo/x-s1", ... for "ppo/x";
    of every other name, itself."""
    if not name.startswith(f"{FAMILY}/") or name in (names := agent_names(name)):
        return (name,)
    found = {each: re.fullmatch(re.escape(name) + r"-s(\d+)", each) for each in names}
    seeds = sorted((int(match[1]), each) for each, match in found.items() if match)
    return tuple(each for _, each in seeds) or (name,)


_loaded: dict[tuple[str | None, ...], tuple[tuple[int, int], Agent]] = {}


def load_agent(name: str, model: str | None = None, scenario: str | None = None) -> Agent:
    """The agent of that name. model, scenario: what it is to serve, by which "ppo" alone is chosen.

    An agent is loaded once per process, and again when its file has changed. Raises SpecError for a name that does not
    exist, and where agents cannot be loaded.
    """
    found = _loaded.get((name, model, scenario))
    if found is not None and found[1].path.exists() and found[0] == _version(found[1].path):
        return found[1]
    checkpoints = _checkpoints(name)
    if (
        name != FAMILY
        and name not in (names := agent_names(name))
        and not Path(name.removeprefix(f"{FAMILY}/")).is_file()
    ):
        raise SpecError(
            f"policy {name!r} does not exist; agents are {', '.join((FAMILY, *names))}, or {FAMILY}/PATH with the path "
            "of a file that was trained"
        )
    agent: Agent = checkpoints.load_agent(name, model=model, scenario=scenario)
    _loaded[name, model, scenario] = (_version(agent.path), agent)
    return agent


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _checkpoints(name: str) -> Any:
    if (_CHECKOUT / "agents" / "checkpoint.py").is_file() and str(_CHECKOUT) not in sys.path:
        sys.path.append(str(_CHECKOUT))  # an editable install may lead to this package alone
    try:
        return importlib.import_module("agents.checkpoint")
    except ImportError as error:
        raise SpecError(
            f"policy {name!r}: agents are part of a checkout of the project and need the extra `train` "
            f"(pip install -e '.[train]'); run from there ({error})"
        ) from error


def agents_folder() -> Path:
    """The folder of the package `agents`."""
    return Path(str(_checkpoints(FAMILY).__file__)).resolve().parent
