"""Trained agents as files: weights, the network's form, and the settings of the environment that are the agent's own.

The file `<name>.pt` is read without running code from it; `<name>.md` beside it is its model card. Those in
`agents/checkpoints/` are shipped, and known by name in every evaluation: `policies=[pecsched,ppo]`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Dict, MultiDiscrete
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy, MaskableMultiInputActorCriticPolicy

from agents.config import NETWORKS
from agents.network import SetPolicy
from agents.sinks import replace_file
from pecgym.envs.driver import NOT_ITS_OWN
from pecgym.envs.spaces import (
    REPLICA,
    RESIDENT,
    WAITING,
    WAITING_LONG,
    cluster_action_sizes,
    cluster_observation_space,
    degree_options,
    replica_action_sizes,
    replica_observation_space,
)
from pecgym.errors import SpecError
from pecgym.policies.agents import CLUSTER_LEVEL, FAMILY, REPLICA_LEVEL

FOLDER = Path(__file__).resolve().parent / "checkpoints"
FORMAT = 1
_KEYS = {"format", "network", "hidden", "level", "weights", "settings", "trained"}
_TABLES = {
    CLUSTER_LEVEL: {"replicas": len(REPLICA), "waiting_longs": len(WAITING_LONG)},
    REPLICA_LEVEL: {"waiting": len(WAITING), "residents": len(RESIDENT)},
}
"""By level, the tables of an observation on whose numbers of rows the shapes depend, and the features of a row."""
_SHOWN = {CLUSTER_LEVEL: "replicas or waiting longs", REPLICA_LEVEL: "waiting requests or residents"}


def level_of(observation_space: Dict) -> str:
    """Of the environment with these observations. Raises SpecError for one that is not of pecgym."""
    for level, tables in _TABLES.items():
        if set(tables) <= set(observation_space.spaces):
            return level
    raise SpecError("agents are of pecgym's own environments: these observations are of another")


def _spaces(level: str, sizes: tuple[int, int]) -> tuple[Dict, MultiDiscrete]:
    """Observations and actions of an environment whose two tables have so many rows."""
    if level == REPLICA_LEVEL:
        return replica_observation_space(*sizes), MultiDiscrete(list(replica_action_sizes(*sizes)))
    actions = cluster_action_sizes(*sizes, len(degree_options(sizes[0])))
    return cluster_observation_space(*sizes), MultiDiscrete(list(actions))


@dataclass(frozen=True)
class Form:
    """A network without weights: "set" or "mlp", the width of its layers, and the level that it decides at."""

    network: str
    hidden: int
    level: str = CLUSTER_LEVEL

    def policy(self, *sizes: int) -> MaskableActorCriticPolicy:
        """The network for so many replicas and waiting longs; of a replica, waiting requests and residents."""
        spaces = _spaces(self.level, sizes)  # type: ignore[arg-type]
        if self.network == "set":
            return SetPolicy(*spaces, _no_learning, hidden=self.hidden)
        return MaskableMultiInputActorCriticPolicy(*spaces, _no_learning, net_arch=[self.hidden] * 2)


class TrainedAgent:
    """An agent that was trained: the protocol pecgym.policies.agents.Agent.

    Attributes:
        name: "ppo/<name>".
        path: its file.
        settings: keyword arguments of the environment that are its own.
        trained: on what: model, scenario, and what else was noted.
        form: its network without weights.
        level: what it decides, "cluster" (Cluster-v0) or "replica" (Replica-v0).
    """

    def __init__(self, name: str, path: Path, form: Form, kept: Mapping[str, Any]) -> None:
        self.name, self.path = name, path
        self.settings: Mapping[str, Any] = kept["settings"]
        self.trained: dict[str, Any] = kept["trained"]
        self.form, self.level, self._weights = form, form.level, kept["weights"]
        self._policies: dict[tuple[int, ...], MaskableActorCriticPolicy] = {}

    def require(self, level: str, what: str) -> None:
        """Raises SpecError if it decides at another level than `what` is for."""
        if self.level != level:
            raise SpecError(f"agent {self.name}: decides in a {self.level}; {what} is for agents that do in a {level}")

    def act(self, observations: dict[str, Any], masks: Any) -> Any:
        """int64[N, components]: the most likely actions. observations: float32[N, ...] by name, masks: bool[N, M].

        Raises SpecError if the network is not for so many rows.
        """
        policy = self.policy(*(observations[name].shape[1] // n for name, n in _TABLES[self.level].items()))
        with torch.no_grad():
            seen = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in observations.items()}
            chosen = policy.get_distribution(seen, np.asarray(masks, bool)).get_actions(deterministic=True)
        return chosen.numpy()

    def policy(self, *sizes: int) -> MaskableActorCriticPolicy:
        """The network with its weights, for so many rows (Form.policy). Raises SpecError."""
        if sizes not in self._policies:
            policy = self.form.policy(*sizes)
            try:
                policy.load_state_dict(self._weights)
            except RuntimeError as error:
                raise SpecError(f"agent {self.name}: {self._mismatch(sizes)}") from error
            policy.set_training_mode(False)
            self._policies[sizes] = policy
        return self._policies[sizes]

    def _mismatch(self, sizes: tuple[int, ...]) -> str:
        """Why weights do not fit into a network."""
        if self.form.network == "set":
            return (
                f"its weights are not those of this version's set network of width {self.form.hidden}; train it again"
            )
        return (
            f"its network (mlp) was trained with other numbers of {_SHOWN[self.level]} than {sizes[0]} and {sizes[1]}; "
            "agents with network=set have no such limit"
        )


def save_agent(
    path: Path, model: MaskablePPO, form: Form, environment: Mapping[str, Any], notes: Mapping[str, Any]
) -> None:
    """Writes an agent, which replaces the file as a whole.

    environment: keyword arguments of the environment that it was trained in; those that are its own are kept.
    notes: what it was trained on.
    """
    kept = {
        "format": FORMAT,
        "network": form.network,
        "hidden": form.hidden,
        "level": form.level,
        "weights": model.policy.state_dict(),
        "settings": {key: _plain(value) for key, value in environment.items() if key not in NOT_ITS_OWN},
        "trained": _plain(notes),
    }
    written = io.BytesIO()
    torch.save(kept, written)
    replace_file(path, written.getbuffer())


def names() -> list[str]:
    """The agents that are shipped, without `ppo/`."""
    return sorted(path.stem for path in FOLDER.glob("*.pt"))


def load_agent(name: str, model: str | None = None, scenario: str | None = None) -> TrainedAgent:
    """The agent of a name, with or without `ppo/`, or of a file's path; "ppo" alone: the one that was best in
    validation of those trained for this model and scenario.

    Raises SpecError for one that does not exist or cannot be read.
    """
    torch.set_num_threads(1)  # the networks are small, and evaluations run in a process for each core
    short = _best_for(model, scenario) if name == FAMILY else name.removeprefix(f"{FAMILY}/")
    path = FOLDER / f"{short}.pt"
    if not path.exists():
        path = Path(short)
    if not path.is_file():
        shipped = ", ".join(names()) or "none"
        raise SpecError(f"agent {name!r} does not exist; shipped are: {shipped}; or give the path of a file")
    return _read(f"{FAMILY}/{short}", path)


def _best_for(model: str | None, scenario: str | None) -> str:
    """The shipped agent for a model and a scenario; of "native", which has paper's rate, that of paper."""
    wanted = (model, "paper" if scenario == "native" else scenario)
    loaded = {name: load_agent(name) for name in names()}
    agents = {name: agent.trained for name, agent in loaded.items() if agent.level == CLUSTER_LEVEL}
    found = {name: notes for name, notes in agents.items() if (notes["model"], notes["scenario"]) == wanted}
    if not found:
        if not agents:
            raise SpecError(f"policy {FAMILY!r}: no agents are shipped; name a file, {FAMILY}/PATH")
        known = sorted({f"{notes['model']} in {notes['scenario']}" for notes in agents.values()})
        raise SpecError(
            f"policy {FAMILY!r}: no agent was trained for {model} in {scenario}, only for {', '.join(known)}; "
            "name one: " + ", ".join(f"{FAMILY}/{name}" for name in agents)
        )
    return min(found, key=lambda name: (found[name]["score"], name))


def _read(name: str, path: Path) -> TrainedAgent:
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that is none may raise
        raise SpecError(f"{path}: is no agent ({type(error).__name__}); scripts/train.py writes best.pt") from error
    if isinstance(kept, dict) and kept.get("format", FORMAT) != FORMAT:
        raise SpecError(f"{path}: is of format {kept['format']}, and this version reads {FORMAT}; train it again")
    if isinstance(kept, dict):
        kept.setdefault("level", CLUSTER_LEVEL)  # what agents decided before there were others
    if not isinstance(kept, dict) or set(kept) != _KEYS:
        raise SpecError(f"{path}: is no agent; scripts/train.py writes best.pt")
    if kept["network"] not in NETWORKS:
        raise SpecError(f"{path}: has the network {kept['network']!r}, and this version knows {', '.join(NETWORKS)}")
    return TrainedAgent(name, path, Form(kept["network"], kept["hidden"], kept["level"]), kept)


def _plain(value: Any) -> Any:
    """Mappings, lists, numbers and texts alone, which can be read without running code; None left out of mappings."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _no_learning(_: float) -> float:
    return 0.0
