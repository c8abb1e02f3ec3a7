"""The ONNX graph decides as the agent, and so does the router that serves it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import pecgym  # noqa: F401 - registers the environments
from agents.checkpoint import TrainedAgent, load_agent
from agents.choice import Logits
from agents.export import METADATA, TABLES, description, export, state_of
from pecgym.errors import SpecError
from tests.agents.cloned import ALL_CONTROLS, ID, SETTINGS, cloned_in_all, decisions, saved
from tests.agents.test_checkpoint import mlp
from tests.conftest import REPOSITORY
from tests.envs.test_integrations import example

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")
MODELS = {8: "llama-3.1-70b", 32: "mistral-7b"}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> TrainedAgent:
    return load_agent(str(saved(tmp_path_factory.mktemp("agent") / "all.pt", cloned_in_all())))


@pytest.fixture(scope="module")
def graphs(agent: TrainedAgent, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By number of replicas."""
    folder = tmp_path_factory.mktemp("graphs")
    for n in MODELS:
        export(agent, n, folder / f"{n}.onnx")
    return {n: folder / f"{n}.onnx" for n in MODELS}


@pytest.mark.parametrize("n_replicas", MODELS)
@pytest.mark.parametrize("batch", [1, 1000])
def test_the_graph_decides_as_the_agent(
    n_replicas: int, batch: int, agent: TrainedAgent, graphs: dict[int, Path]
) -> None:
    """On 1000 decisions, with random actions in between; logits within 1e-4."""
    session = onnxruntime.InferenceSession(graphs[n_replicas])
    observations, masks, _ = decisions(1000, model=MODELS[n_replicas], agent_controls=ALL_CONTROLS)
    inputs = observations | {"mask": masks}
    outputs = [
        session.run(None, {name: array[i : i + batch] for name, array in inputs.items()}) for i in range(0, 1000, batch)
    ]
    actions, *logits = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    expected = agent.act(observations, masks)
    assert actions.dtype == np.int64
    assert np.array_equal(actions, expected)
    assert (np.ptp(expected, axis=0)[[0, 1, 2]] > 0).all()
    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in observations.items()}
        judged, _ = agent.policy(n_replicas, 8).network(tensors)  # type: ignore[operator]
    for ours, theirs in zip(logits, judged, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_inputs_and_outputs_have_names_and_any_number_of_rows(graphs: dict[int, Path]) -> None:
    session = onnxruntime.InferenceSession(graphs[8])
    shapes = {each.name: (each.type, each.shape) for each in [*session.get_inputs(), *session.get_outputs()]}
    assert [each.name for each in session.get_inputs()] == [*TABLES, "mask"]
    assert [each.name for each in session.get_outputs()] == ["action", *(f"logits_{name}" for name in Logits._fields)]
    assert shapes["replicas"] == ("tensor(float)", ["rows", 8 * 24])
    assert shapes["mask"] == ("tensor(bool)", ["rows", 9 + 2 + 2 + 8 + 5 + 4])
    assert shapes["action"] == ("tensor(int64)", ["rows", 6])
    assert shapes["logits_prefill_mode"] == ("tensor(float)", ["rows", 9, 2])


def test_the_graph_says_what_its_numbers_mean(agent: TrainedAgent, graphs: dict[int, Path]) -> None:
    found = json.loads(onnxruntime.InferenceSession(graphs[32]).get_modelmeta().custom_metadata_map[METADATA])
    assert found == json.loads(json.dumps(description(agent.name, 32, 8)))
    assert found["values"]["sp_degree"] == ["rule", 1, 2, 4, 8, 16, 32]
    assert found["values"]["target"][-2:] == [31, "wait"]
    assert found["features"]["replicas"][:2] == ["open", "gathering_long"]


def test_what_cannot_be_exported(agent: TrainedAgent, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="replicas=0: must be 1 or more"):
        export(agent, 0, tmp_path / "x.onnx")
    with pytest.raises(SpecError, match="only agents with network=set can be exported"):
        export(mlp(tmp_path / "mlp.pt")[1], 8, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_the_script_exports_a_file(agent: TrainedAgent, tmp_path: Path) -> None:
    script = str(REPOSITORY / "scripts" / "export_onnx.py")
    arguments = [sys.executable, script, str(agent.path), "new/router.onnx", "--replicas", "4"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"ppo/{agent.path} for 4 replicas: new/router.onnx" in done.stdout
    assert not done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "new" / "router.onnx")
    assert session.get_inputs()[0].shape == ["rows", 4 * 24]
    arguments[2] = "nobody"
    failed = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "agent 'nobody' does not exist" in failed.stderr


@pytest.fixture(scope="module")
def episode(agent: TrainedAgent) -> list[tuple[dict[str, Any], tuple[str, list[int]]]]:
    """States of an episode, as JSON would bring them, with the decision and the agent's action."""
    settings = SETTINGS | {"agent_controls": ALL_CONTROLS, "episode": {"requests": 200, "split": "validation"}}
    env = gym.make(ID, **settings)
    observation, info = env.reset(seed=3)
    found, over = [], False
    while not over:
        mask = np.concatenate(info["action_mask"])[None].astype(bool)
        action = agent.act({name: array[None] for name, array in observation.items()}, mask)[0]
        state = json.loads(json.dumps(state_of(observation, info["action_mask"])))
        found.append((state, (info["decision"], action.tolist())))
        observation, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    return found


def test_the_router_decides_a_whole_episode_as_the_agent(graphs: dict[int, Path], episode: list[Any]) -> None:
    router = example("router").Router(str(graphs[8]))
    kinds = set()
    for state, (decision, action) in episode:
        target, prefill_mode, decode_mode, long_index, degree, strategy = action
        expected: dict[str, Any] = {"target": target}
        if target == 8:
            expected = {"wait": True}
        elif decision == "place":
            expected["prefill_mode"] = ["behind", "preempt"][prefill_mode]
            expected["decode_mode"] = ["here", "decode_replica"][decode_mode]
        else:
            expected |= {"long_index": long_index, "sp_degree": ["rule", 1, 2, 4, 8][degree]}
            expected["sp_strategy"] = ["ring", "ulysses", "megatron", "fast"][strategy]
        assert router.decide(state) == expected
        kinds.add(tuple(expected))
    assert len(episode) > 150
    assert len(kinds) >= 2


def test_the_router_needs_neither_torch_nor_pecgym(graphs: dict[int, Path], episode: list[Any], tmp_path: Path) -> None:
    """A line in, a line out; a line that cannot be is answered with an error, and the next goes on."""
    router = str(REPOSITORY / "examples" / "router.py")
    code = (
        f"import runpy, sys; sys.modules.update(torch=None, pecgym=None); runpy.run_path({router!r}, None, '__main__')"
    )
    states = [state for state, _ in episode[:20]]
    lines = [*map(json.dumps, states), "{", "{}", json.dumps(states[0])]
    done = subprocess.run(
        [sys.executable, "-c", code, str(graphs[8])],
        cwd=tmp_path,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    expected = [example("router").Router(str(graphs[8])).decide(state) for state in states]
    assert answers[:20] == expected
    assert ["error" in answer for answer in answers[20:]] == [True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replica": []}, "replica: no such table"),
        ({"replicas": [{}] * 7}, "replicas: 7 rows, and the agent was exported for 8"),
        ({"waiting_longs": [{}] * 9}, "waiting_longs: 9 rows"),
        ({"cluster": {"queues": 0.5}}, r"cluster\[0\]\.queues=0\.5: no such feature"),
        ({"cluster": {"queued": 12}}, r"cluster\[0\]\.queued=12: .* not scaled to 0 to 1"),
        ({"request": {"input_tokens": 0.5}}, "request: one of place, start, roles must be 1"),
        ({"valid": {"target": [9]}}, r"valid\.target=\[9\]: give one or more of \[0, 1"),
        ({"valid": {"target": []}}, r"valid\.target=\[\]"),
        ({"valid": {"prefill_mode": ["behind"]}}, "valid: target: target must be there"),
        ({"valid": {"target": [0], "targets": [0]}}, "valid: targets"),
    ],
)
def test_the_router_says_what_is_wrong_with_a_state(
    change: dict[str, Any], message: str, graphs: dict[int, Path], episode: list[Any]
) -> None:
    router = example("router").Router(str(graphs[8]))
    with pytest.raises(ValueError, match=message):
        router.decide(episode[0][0] | change)


def test_what_is_missing_is_zero_and_not_to_be_chosen(graphs: dict[int, Path]) -> None:
    router = example("router").Router(str(graphs[8]))
    state = {"replicas": [{"open": 1}] * 8, "request": {"place": 1}, "valid": {"target": [5]}}
    assert router.decide(state) == {"target": 5, "prefill_mode": "behind", "decode_mode": "here"}
    zeros = dict.fromkeys(("suspended_long", "kv_memory"), 0.0)
    full = state | {"replicas": [{"open": 1, **zeros}] * 8, "cluster": {"late": 0.0}, "waiting_longs": [{}] * 8}
    assert np.array_equal(router.array("replicas", state["replicas"]), router.array("replicas", full["replicas"]))
    assert router.decide(full) == router.decide(state)
