"""Agents as ONNX graphs, which decide without torch and without this project.

The graph has the shapes of one number of replicas: how many values a component has depends on it. Weights are the same
for all, so an agent can be exported for every cluster that it is to serve.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.checkpoint import TrainedAgent
from agents.choice import Logits
from agents.network import SetPolicy
from agents.sinks import replace_file
from pecgym.costs.strategies import STRATEGIES
from pecgym.envs.driver import agent_config
from pecgym.envs.spaces import (
    CLUSTER,
    CLUSTER_ACTION,
    REPLICA,
    REQUEST,
    WAITING_LONG,
    cluster_action_sizes,
    degree_options,
)
from pecgym.errors import SpecError
from pecgym.policies.agents import CLUSTER_LEVEL

TABLES = {"replicas": REPLICA, "request": REQUEST, "waiting_longs": WAITING_LONG, "cluster": CLUSTER}
"""Inputs of the graph in their order, before `mask`, with the features of a row."""
READ = {
    "place": ("target", "prefill_mode", "decode_mode"),
    "start": ("target", "long_index", "sp_degree", "sp_strategy"),
    "roles": ("target",),
}
"""Components of an action that a decision reads."""
METADATA = "pecgym"
"""Key of the metadata of the graph, JSON as `description` has it."""


class _Greedy(nn.Module):
    """What agents.checkpoint.TrainedAgent.act does, with the logits."""

    def __init__(self, policy: SetPolicy) -> None:
        super().__init__()
        self.network, self._choice = policy.network, policy.action_dist

    def forward(
        self, replicas: Tensor, request: Tensor, waiting_longs: Tensor, cluster: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        tables = (replicas, request, waiting_longs, cluster)
        logits, _ = self.network(dict(zip(TABLES, tables, strict=True)))
        choice = self._choice.proba_distribution(logits)
        choice.apply_masking(mask)
        return choice.mode(), *logits


def export(agent: TrainedAgent, n_replicas: int, path: Path) -> None:
    """Writes the graph of an agent for so many replicas, as a whole.

    Inputs, for any N: float32[N, ...] `replicas`, `request`, `waiting_longs`, `cluster` as the environment has them,
    bool[N, M] `mask`. Outputs: int64[N, 6] `action`, the most likely as TrainedAgent.act, and float32 `logits_NAME` of
    every component (agents.choice.Logits), before masks.

    Raises SpecError for agents of another level or another network than the set network, and where the extra `export`
    is missing.
    """
    if n_replicas < 1:
        raise SpecError(f"replicas={n_replicas}: must be 1 or more")
    agent.require(CLUSTER_LEVEL, "the export")
    n_longs = agent_config(agent).n_longs
    policy = agent.policy(n_replicas, n_longs)
    if not isinstance(policy, SetPolicy):
        raise SpecError(f"agent {agent.name}: only agents with network=set can be exported")
    examples = {name: torch.zeros(2, *space.shape) for name, space in policy.observation_space.spaces.items()}  # type: ignore[attr-defined]
    n_values = sum(cluster_action_sizes(n_replicas, n_longs, len(degree_options(n_replicas))))
    inputs = {**{name: examples[name] for name in TABLES}, "mask": torch.ones(2, n_values, dtype=torch.bool)}
    program = _program(_Greedy(policy).eval(), inputs)
    program.model.metadata_props[METADATA] = json.dumps(description(agent.name, n_replicas, n_longs))
    replace_file(path, program.model_proto.SerializeToString())


def _program(graph: nn.Module, inputs: dict[str, Tensor]) -> Any:
    try:
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise SpecError(f"ONNX needs more packages ({error}): pip install -e '.[export]'") from error
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # torchvision is not used
    rows = torch.export.Dim("rows")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own use of what it will remove
        warnings.filterwarnings("ignore", "# The axis name: rows")  # all inputs share it
        return torch.onnx.export(
            graph,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=["action", *(f"logits_{name}" for name in Logits._fields)],
            dynamic_shapes={name: {0: rows} for name in inputs},
            dynamo=True,
            verbose=False,
        )


def description(name: str, n_replicas: int, n_longs: int) -> dict[str, Any]:
    """What who serves the graph must know.

    agent; rows: of each table; features: their names by table, in order; values: what the values of each component
    mean; read: the components that each decision reads.
    """
    return {
        "agent": name,
        "rows": {"replicas": n_replicas, "request": 1, "waiting_longs": n_longs, "cluster": 1},
        "features": {table: [feature.name for feature in features] for table, features in TABLES.items()},
        "values": values_of(n_replicas, n_longs),
        "read": READ,
    }


def values_of(n_replicas: int, n_longs: int) -> dict[str, list[Any]]:
    """By component of an action, in their order, what its values mean."""
    replicas, longs = list(range(n_replicas)), list(range(n_longs))
    degrees = ["rule", *degree_options(n_replicas)[1:]]
    each = ([*replicas, "wait"], ["behind", "preempt"], ["here", "decode_replica"], longs, degrees, list(STRATEGIES))
    return dict(zip(CLUSTER_ACTION, each, strict=True))


def state_of(observation: dict[str, Any], mask: Any) -> dict[str, Any]:
    """The state as examples/router.py takes it, of a decision in a live environment: rows with the features that are
    not zero, by name, and the valid values of the components.

    observation: float32[...] by name, of one environment. mask: its `info["action_mask"]`.
    """
    state: dict[str, Any] = {}
    for table, features in TABLES.items():
        rows = np.asarray(observation[table]).reshape(-1, len(features))
        named = [{each.name: float(x) for each, x in zip(features, row, strict=True) if x} for row in rows]
        state[table] = named if table in ("replicas", "waiting_longs") else named[0]
    values = values_of(len(state["replicas"]), len(state["waiting_longs"]))
    state["valid"] = {
        name: [value for value, is_valid in zip(values[name], part, strict=True) if is_valid]
        for name, part in zip(CLUSTER_ACTION, mask, strict=True)
    }
    return state
