"""The network of agents of Replica-v0: the same weights for any number of rows, and what it may learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, MultiDiscrete

from agents.batch_network import BatchNetwork
from agents.checkpoint import Form, level_of, load_agent
from agents.export import export
from agents.network import SetPolicy
from agents.training import train
from pecgym.envs.spaces import BATCH, RESIDENT, WAITING, replica_action_sizes, replica_observation_space
from pecgym.errors import SpecError
from tests.agents.runs import configured

SMALL = [
    "recipe=infermax",
    "agent.hidden=8",
    "agent.imitation.steps=400",
    "agent.total_timesteps=1600",
    "agent.n_envs=8",
    "agent.n_steps=50",
    "agent.batch_size=100",
    "evaluation.every=800",
    "evaluation.windows=4",
    "save_every=400",
    "workload.requests=2000",
    "logger=none",
]
"""Some seconds of training."""


def observed(n: int, n_waiting: int, n_residents: int, there: int | None = None) -> dict[str, torch.Tensor]:
    """Random rows, of which the first `there` of each table are there."""
    random = np.random.default_rng(0)
    waiting, residents = random.random((n, n_waiting, len(WAITING))), random.random((n, n_residents, len(RESIDENT)))
    for rows in (waiting, residents):
        rows[:, :, 0] = 1.0
        if there is not None:
            rows[:, there:] = 0.0
    parts = {"waiting": waiting, "residents": residents, "replica": random.random((n, len(BATCH)))}
    return {name: torch.tensor(part.reshape(n, -1), dtype=torch.float32) for name, part in parts.items()}


def network() -> BatchNetwork:
    torch.manual_seed(0)
    made = BatchNetwork(16)
    for layer in (made.of_waiting.last, made.of_resident.last, made.of_nobody):
        torch.nn.init.normal_(layer.weight)
    return made.eval()


def test_rows_that_are_not_there_make_no_difference() -> None:
    made, few, many = network(), observed(5, 3, 2), observed(5, 8, 6, there=3)
    many["residents"] = torch.cat([few["residents"], torch.zeros(5, 4 * len(RESIDENT))], 1)
    many["waiting"] = torch.cat([few["waiting"], torch.zeros(5, 5 * len(WAITING))], 1)
    many["replica"] = few["replica"]
    (join, evict), value = made(few)
    (join_of_many, evict_of_many), value_of_many = made(many)
    assert torch.allclose(join[:, :3], join_of_many[:, :3], atol=1e-5)
    assert torch.allclose(join[:, 3], join_of_many[:, 8], atol=1e-5)
    assert torch.allclose(evict, evict_of_many[:, :2], atol=1e-5)
    assert torch.allclose(value, value_of_many, atol=1e-5)


def test_apart_from_its_place_who_is_scored_does_not_matter() -> None:
    made, seen = network(), observed(4, 5, 5)
    with torch.no_grad():
        for first in (made.waiting[0][0], made.resident[0][0], made.value_waiting[0], made.value_resident[0]):
            first.weight[:, -1] = 0.0  # the place
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = dict(seen)
    for name, features in (("waiting", WAITING), ("residents", RESIDENT)):
        turned[name] = seen[name].reshape(4, 5, len(features))[:, order].reshape(4, -1)
    (join, evict), value = made(seen)
    (join_turned, evict_turned), value_turned = made(turned)
    assert torch.allclose(join[:, :5][:, order], join_turned[:, :5], atol=1e-5)
    assert torch.allclose(join[:, 5], join_turned[:, 5], atol=1e-5)
    assert torch.allclose(evict[:, order], evict_turned, atol=1e-5)
    assert torch.allclose(value, value_turned, atol=1e-5)


def test_only_valid_values_are_chosen_and_what_is_not_read_adds_nothing() -> None:
    sizes = list(replica_action_sizes(4, 3))
    policy = SetPolicy(replica_observation_space(4, 3), MultiDiscrete(sizes), lambda _: 0.0, hidden=8)
    seen = observed(200, 4, 3)
    masks = np.zeros((200, 8), bool)
    masks[:, [0, 2]] = True  # a join: the first, the third
    masks[:, 5] = True
    actions, _, log_probs = policy(seen, action_masks=masks)
    assert set(actions[:, 0].tolist()) == {0, 2}
    assert set(actions[:, 1].tolist()) == {0}
    assert torch.allclose(log_probs.exp(), torch.full((200,), 0.5), atol=0.05)
    entropies = policy.get_distribution(seen, masks).entropy()
    assert torch.allclose(entropies, torch.full((200,), np.log(2.0)), atol=0.01)


def test_norms_leave_out_rows_that_are_not_there() -> None:
    made, seen = network(), observed(50, 6, 6, there=2)
    made.fit_norms(seen)
    rows = seen["waiting"].reshape(50, 6, -1)[:, :2].reshape(-1, len(WAITING))
    assert torch.allclose(made.waiting_norm.mean, rows.mean(0), atol=1e-6)


def test_the_level_is_that_of_the_observations() -> None:
    assert level_of(replica_observation_space(3, 3)) == "replica"
    with pytest.raises(SpecError, match="of another"):
        level_of(Dict({"x": Box(0, 1, (2,))}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("runs") / "infermax-s0"
    return train(configured(*SMALL), out), out


def test_a_training_ends_with_an_agent_and_its_score(trained: tuple[dict[str, Any], Path]) -> None:
    summary, out = trained
    assert summary["steps"] >= 1600
    assert set(summary["reference"]) == {"policy", "score", "makespan_s", "return", "unfinished"}
    best, reference = summary["best"], summary["reference"]
    assert best["unfinished"] == reference["unfinished"] == 0
    micro_usd_per_s = 3.43 / 3600 * 1e6
    assert reference["return"] == pytest.approx(-micro_usd_per_s * reference["makespan_s"])
    agent = load_agent(str(out / "best.pt"))
    assert (agent.level, agent.form) == ("replica", Form("set", 8, "replica"))
    assert agent.settings["oracle_lengths"] is True


def test_the_same_seed_is_the_same_training(trained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    again = train(configured(*SMALL), tmp_path / "again")
    assert again["best"] == trained[0]["best"]
    assert (tmp_path / "again" / "evaluations.csv").read_text() == (trained[1] / "evaluations.csv").read_text()


def test_an_agent_of_a_replica_is_not_exported_as_one_of_a_cluster(
    trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="decides in a replica; the export is for agents that do in a cluster"):
        export(load_agent(str(trained[1] / "best.pt")), 8, tmp_path / "x.onnx")
