"""Agents as files: what is read decides as what was written; what is no agent is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents import checkpoint
from agents.checkpoint import FORMAT, Form, TrainedAgent, load_agent, names, save_agent
from agents.config import AgentConfig, ImitationConfig
from agents.ppo import make_model
from pecgym.envs.driver import NOT_ITS_OWN, agent_config
from pecgym.errors import SpecError
from tests.agents.cloned import ALL_CONTROLS, FORM, NOTES, SETTINGS, cloned, cloned_in_all, copies_of, decisions, saved

N_LONGS = 8


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the agents that are shipped."""
    monkeypatch.setattr(checkpoint, "FOLDER", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    return tmp_path / "shipped"


def rewritten(path: Path, **changes: Any) -> Path:
    """An agent's file with other content."""
    kept = torch.load(path, weights_only=True) | changes
    torch.save(kept, path)
    return path


@pytest.mark.parametrize("model", ["llama-3.1-70b", "mistral-7b"])
def test_a_file_decides_as_what_was_saved(model: str, tmp_path: Path) -> None:
    """Also for other numbers of replicas than it was trained with."""
    agent = load_agent(str(saved(tmp_path / "mine.pt")))
    observations, masks, _ = decisions(400, model=model)
    actions = agent.act(observations, masks)
    assert actions.dtype == np.int64
    if model == "llama-3.1-70b":
        expected, _ = cloned().predict(observations, deterministic=True, action_masks=masks)
        assert np.array_equal(actions, expected)
    one_by_one = [
        agent.act({name: array[i : i + 1] for name, array in observations.items()}, masks[i : i + 1])[0]
        for i in range(50)
    ]
    assert np.array_equal(actions[:50], one_by_one)


def test_all_components_come_back(tmp_path: Path) -> None:
    model = cloned_in_all()
    agent = load_agent(str(saved(tmp_path / "all.pt", model)))
    observations, masks, _ = decisions(400, model, agent_controls=ALL_CONTROLS)
    expected, _ = model.predict(observations, deterministic=True, action_masks=masks)
    assert np.array_equal(agent.act(observations, masks), expected)
    assert (expected.max(axis=0)[[0, 2]] > 0).all()


def test_a_file_says_whose_it_is_and_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    settings = {**SETTINGS, "policy": "pecsched", "long": {"sp_degree": "memory", "x": None}, "seed_of": np.int64(3)}
    save_agent(path, cloned(), FORM, settings, NOTES | {"hours": (0, 1), "score": np.float64(0.25)})
    agent = load_agent(f"ppo/{path}")
    assert (agent.name, agent.path) == (f"ppo/{path}", path)
    assert agent.settings == {
        "agent_controls": ["placement"],
        "policy": "pecsched",
        "long": {"sp_degree": "memory"},
        "seed_of": 3,
    }
    assert not set(agent.settings) & set(NOT_ITS_OWN)
    assert agent.trained == NOTES | {"hours": [0, 1], "score": 0.25}


def test_the_settings_of_a_file_make_its_environment(tmp_path: Path) -> None:
    config = agent_config(load_agent(str(saved(tmp_path / "mine.pt"))))
    assert tuple(config.agent_controls) == ("placement",)
    assert config.strict


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "mine.pt")
    before = path.read_bytes()

    def breaks(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", breaks)
    with pytest.raises(OSError, match="disk full"):
        saved(path, score=3.0)
    assert path.read_bytes() == before


def test_shipped_agents_go_by_name(shipped: Path) -> None:
    for name in ("b-s1", "a-s0"):
        saved(shipped / f"{name}.pt")
    (shipped / "a-s0.md").write_text("its card")
    assert names() == ["a-s0", "b-s1"]
    for name in ("ppo/b-s1", "b-s1"):
        agent = load_agent(name)
        assert (agent.name, agent.path) == ("ppo/b-s1", shipped / "b-s1.pt")


def test_without_a_name_it_is_the_best_in_validation_of_what_is_served(shipped: Path) -> None:
    scores = {"steady-s0": 0.1, "steady-s1": -0.2, "steady-s2": 0.3}
    for name, score in scores.items():
        saved(shipped / f"{name}.pt", score=score)
    saved(shipped / "paper-s0.pt", scenario="paper", score=-0.5)
    saved(shipped / "other-s0.pt", model="mistral-7b", score=-0.9)
    assert load_agent("ppo", "llama-3.1-70b", "steady").name == "ppo/steady-s1"
    assert load_agent("ppo", "llama-3.1-70b", "paper").name == "ppo/paper-s0"
    assert load_agent("ppo", "llama-3.1-70b", "native").name == "ppo/paper-s0"
    assert load_agent("ppo", "mistral-7b", "steady").name == "ppo/other-s0"
    message = (
        "policy 'ppo': no agent was trained for yi-34b in steady, only for llama-3.1-70b in paper, llama-3.1-70b in "
        "steady, mistral-7b in steady; name one: ppo/other-s0, ppo/paper-s0, ppo/steady-s0, ppo/steady-s1, "
        "ppo/steady-s2"
    )
    with pytest.raises(SpecError) as raised:
        load_agent("ppo", "yi-34b", "steady")
    assert str(raised.value) == message


@pytest.mark.parametrize("name", ["ppo/nobody", "nobody", "ppo/../shipped"])
def test_a_name_that_does_not_exist(shipped: Path, name: str) -> None:
    saved(shipped / "a-s0.pt")
    with pytest.raises(SpecError, match=r"agent '.*' does not exist; shipped are: a-s0; or give the path"):
        load_agent(name)


def test_there_may_be_no_agents(shipped: Path) -> None:
    with pytest.raises(SpecError, match="policy 'ppo': no agents are shipped; name a file, ppo/PATH"):
        load_agent("ppo", "llama-3.1-70b", "steady")
    with pytest.raises(SpecError, match="shipped are: none; or give the path of a file"):
        load_agent("ppo/a-s0")


def test_a_torn_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "mine.pt")
    content = path.read_bytes()
    for keep in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(SpecError, match=r"mine\.pt: is no agent \(\w+\); scripts/train\.py writes best\.pt"):
            load_agent(str(path))


def test_files_that_are_no_agents(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    for content in ({"weights": {}}, [1, 2], torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(SpecError, match=r"mine\.pt: is no agent; scripts/train\.py writes best\.pt"):
            load_agent(str(path))
    path.write_text("weights, of a kind")
    with pytest.raises(SpecError, match=r"mine\.pt: is no agent \("):
        load_agent(str(path))


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path / "mine.pt"), format=FORMAT + 1)
    with pytest.raises(SpecError, match=rf"is of format {FORMAT + 1}, and this version reads {FORMAT}; train it again"):
        load_agent(str(path))
    with pytest.raises(SpecError, match="is of format"):  # whose keys may be others
        load_agent(str(rewritten(path, more=1)))


def test_a_file_of_an_unknown_network(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path / "mine.pt"), network="transformer")
    with pytest.raises(SpecError, match=r"mine\.pt: has the network 'transformer', and this version knows set, mlp"):
        load_agent(str(path))


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "mine.pt", tmp_path / "proof"
    torch.save({"format": FORMAT, "weights": Runs(proof)}, path)
    with pytest.raises(SpecError, match=r"is no agent \(UnpicklingError\)"):
        load_agent(str(path))
    assert not proof.exists()
    path.write_bytes(pickle.dumps(Runs(proof), 2))
    with pytest.raises(SpecError, match="is no agent"):
        load_agent(str(path))
    assert not proof.exists()


def mlp(path: Path) -> tuple[Any, TrainedAgent]:
    """An untrained agent whose network sees all replicas at once."""
    config = AgentConfig(network="mlp", hidden=8, n_envs=2, n_steps=8, batch_size=8, imitation=ImitationConfig(steps=0))
    model = make_model(config, copies_of(n=2), 1.0, 0)
    save_agent(path, model, Form("mlp", 8), SETTINGS, NOTES)
    return model, load_agent(str(path))


def test_an_mlp_agent_decides_as_what_was_saved(tmp_path: Path) -> None:
    model, agent = mlp(tmp_path / "mlp.pt")
    observations, masks, _ = decisions(400)
    expected, _ = model.predict(observations, deterministic=True, action_masks=masks)
    assert np.array_equal(agent.act(observations, masks), expected)


def test_an_mlp_agent_is_for_one_number_of_replicas(tmp_path: Path) -> None:
    _, agent = mlp(tmp_path / "mlp.pt")
    with pytest.raises(SpecError, match=r"\(mlp\) was trained with other numbers of replicas .* than 32 and 8; agents"):
        agent.policy(32, N_LONGS)


def test_weights_of_another_width(tmp_path: Path) -> None:
    agent = load_agent(str(rewritten(saved(tmp_path / "mine.pt"), hidden=32)))
    with pytest.raises(
        SpecError, match=r"mine\.pt: its weights are not those of this version's set network of width 32"
    ):
        agent.policy(8, N_LONGS)
