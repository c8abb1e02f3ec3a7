"""Imitation learns to decide as the reference policy, values included, and its result depends on the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import obs_as_tensor

from agents.config import ImitationConfig
from agents.imitation import _collect, clone
from tests.agents.cloned import ALL_CONTROLS, N, cloned, decisions, learned


def same_weights(one: Any, other: Any) -> bool:
    ours, theirs = one.policy.state_dict(), other.policy.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_clone_decides_as_the_reference_policy_where_it_acts_itself() -> None:
    observations, masks, expected = decisions(800, cloned())
    found, _ = cloned().predict(observations, deterministic=True, action_masks=masks)
    assert (found == expected).all(axis=1).mean() >= 0.97


def test_it_learns_every_component() -> None:
    model, rounds = learned(1600, agent_controls=ALL_CONTROLS)
    assert [each.steps for each in rounds] == [800, 1600]
    assert rounds[1].policy_loss < rounds[0].policy_loss
    observations, masks, expected = decisions(800, model, agent_controls=ALL_CONTROLS)
    found, _ = model.predict(observations, deterministic=True, action_masks=masks)
    assert (found == expected).mean(axis=0).min() > 0.8


def test_the_seed_alone_decides() -> None:
    (first, rounds), (again, same), (other, _) = learned(800), learned(800), learned(800, seed=1)
    assert same_weights(first, again)
    assert rounds == same
    assert not same_weights(first, other)


def test_observations_are_normalised_by_the_first_rollout() -> None:
    model, _ = learned(800)
    seen = torch.tensor(model.rollout_buffer.observations["replicas"]).reshape(-1, 24)  # type: ignore[union-attr]
    normalised = model.policy.network.replica_norm(seen)  # type: ignore[operator, union-attr]
    assert normalised.mean(0).abs().max() < 1e-3
    varied = seen.std(0) > 1e-3
    assert varied.sum() > 5
    assert normalised.std(0)[varied] == pytest.approx(1.0, abs=1e-3)


def test_the_reference_policy_acts_in_the_copies_that_are_taught_only() -> None:
    model, _ = learned(800)
    labels = _collect(model, model.rollout_buffer, 3)  # type: ignore[arg-type]
    buffer = model.rollout_buffer
    assert np.array_equal(buffer.actions[:, :3], labels[:, :3])
    assert not np.array_equal(buffer.actions[:, 3:], labels[:, 3:])
    starts = buffer.episode_starts
    seconds = buffer.elapsed_s  # type: ignore[attr-defined]
    assert seconds.shape == starts.shape == (100, N)
    assert (seconds >= 0).all()
    assert seconds.max() > 0


def test_values_are_those_of_its_own_behaviour() -> None:
    """After more rounds the values explain the returns of what the network does."""
    model = cloned()
    labels = _collect(model, model.rollout_buffer, 0)  # type: ignore[arg-type]
    assert labels.shape == (100, N, 6)
    buffer = model.rollout_buffer
    with torch.no_grad():
        flat = {name: array.reshape(-1, array.shape[-1]) for name, array in buffer.observations.items()}  # type: ignore[attr-defined]
        values = model.policy.predict_values(obs_as_tensor(flat, model.device)).numpy().ravel()
    assert values == pytest.approx(buffer.values.ravel(), rel=1e-3, abs=1e-3)
    assert np.corrcoef(values, buffer.returns.ravel())[0, 1] > 0.5


def test_no_steps_leave_the_network_as_it_is() -> None:
    model, _ = learned(800)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    clone(model, ImitationConfig(steps=0), lambda _: pytest.fail("there is no rollout"))
    assert all(torch.equal(before[name], value) for name, value in model.policy.state_dict().items())
