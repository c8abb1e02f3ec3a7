"""One set of weights for any number of replicas, in any order; normalisation is part of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, MultiDiscrete

from agents.checkpoint import Form
from agents.layers import FeatureNorm
from agents.network import SetNetwork, SetPolicy
from pecgym.envs.spaces import REPLICA, WAITING_LONG, cluster_observation_space, degree_options
from pecgym.errors import SpecError

K = 5


def network(hidden: int = 16, seed: int = 0) -> SetNetwork:
    """With scores that differ: as made, the last layers are nearly zero; and with norms of a sample."""
    torch.manual_seed(seed)
    made = SetNetwork(hidden)
    for layer in (made.of_replica.last, made.of_long.last, made.of_all):
        torch.nn.init.normal_(layer.weight)
    made.fit_norms(observations(200, 8, seed=9))
    return made.eval()


def observations(n: int, n_replicas: int, seed: int = 0) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    spaces = cluster_observation_space(n_replicas, K).spaces
    found = {name: random.random((n, *space.shape), np.float32) for name, space in spaces.items()}  # type: ignore[misc]
    longs = found["waiting_longs"].reshape(n, K, -1)
    there = np.arange(K) < random.integers(0, K + 1, (n, 1))
    longs[:, :, 0] = there
    longs *= there[:, :, None]
    return {name: torch.tensor(array) for name, array in found.items()}


@pytest.mark.parametrize("n_replicas", [8, 16, 32])
def test_the_order_of_the_replicas_makes_no_difference(n_replicas: int) -> None:
    net, seen = network(), observations(20, n_replicas)
    order = torch.tensor(np.random.default_rng(1).permutation(n_replicas))
    shuffled = {**seen, "replicas": seen["replicas"].reshape(20, n_replicas, -1)[:, order].reshape(20, -1)}
    with torch.no_grad():
        (logits, value), (permuted, same_value) = net(seen), net(shuffled)
    with_wait = torch.cat([order, torch.tensor([n_replicas])])
    torch.testing.assert_close(permuted.target, logits.target[:, with_wait], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(permuted.prefill_mode, logits.prefill_mode[:, with_wait], atol=1e-4, rtol=1e-4)
    for part in ("decode_mode", "long_index", "sp_degree", "sp_strategy"):
        torch.testing.assert_close(getattr(permuted, part), getattr(logits, part), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same_value, value, atol=1e-4, rtol=1e-4)
    assert logits.target.std(1).min() > 0.01


@pytest.mark.parametrize("copies", [2, 4])
def test_replicas_that_are_there_several_times_change_nothing(copies: int) -> None:
    """Pools are means and maxima: 16 or 32 replicas that are 2 or 4 times the same 8 get the scores of these."""
    net, seen = network(), observations(20, 8)
    more = {**seen, "replicas": seen["replicas"].reshape(20, 8, -1).repeat(1, copies, 1).reshape(20, -1)}
    with torch.no_grad():
        (logits, value), (repeated, same_value) = net(seen), net(more)
    torch.testing.assert_close(repeated.target[:, :8], logits.target[:, :8], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(repeated.target[:, -1], logits.target[:, -1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same_value, value, atol=1e-4, rtol=1e-4)
    n_degrees = logits.sp_degree.shape[2]
    torch.testing.assert_close(repeated.sp_degree[:, :, :n_degrees], logits.sp_degree, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("n_replicas", [2, 8, 16, 32, 64])
def test_shapes_for_any_number_of_replicas(n_replicas: int) -> None:
    n_degrees = len(degree_options(n_replicas))
    logits, value = network()(observations(3, n_replicas))
    shapes = [tuple(part.shape[1:]) for part in logits]
    assert shapes == [(n_replicas + 1,), (n_replicas + 1, 2), (2,), (K,), (K, n_degrees), (4,)]
    assert value.shape == (3, 1)
    assert not logits.prefill_mode[:, -1].any()  # who waits has no mode of prefill


def test_waiting_longs_that_are_not_there_change_no_score_of_others() -> None:
    net, seen = network(), observations(20, 8)
    longs = seen["waiting_longs"].reshape(20, K, -1)
    padded = torch.cat([longs, torch.zeros(20, 3, len(WAITING_LONG))], 1).reshape(20, -1)
    with torch.no_grad():
        (logits, value), (more, same_value) = net(seen), net({**seen, "waiting_longs": padded})
    torch.testing.assert_close(more.target, logits.target, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(more.long_index[:, :K], logits.long_index, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(same_value, value, atol=1e-5, rtol=1e-5)


def test_norms_are_those_of_the_sample_and_leave_what_is_constant_at_its_scale() -> None:
    rows = torch.tensor(np.random.default_rng(0).normal([3.0, -1.0, 0.5], [2.0, 0.1, 0.0], (500, 3)), dtype=torch.float)
    norm = FeatureNorm(3)
    assert torch.equal(norm(rows), rows)
    norm.fit(rows)
    found = norm(rows)
    assert found.mean(0).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert found.std(0).tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    assert norm.deviation[2] == 1.0


def test_norms_of_longs_are_those_of_longs_that_are_there() -> None:
    seen = observations(300, 8, seed=3)
    net = network()
    net.fit_norms(seen)
    longs = seen["waiting_longs"].reshape(-1, len(WAITING_LONG))
    there = longs[longs[:, 0] > 0]
    torch.testing.assert_close(net.long_norm.mean, there.mean(0))
    before = net.long_norm.mean.clone()
    net.fit_norms({**seen, "waiting_longs": torch.zeros_like(seen["waiting_longs"])})
    assert torch.equal(net.long_norm.mean, before)


def test_norms_are_saved_with_the_weights() -> None:
    net, seen = network(), observations(20, 8)
    state = net.state_dict()
    names = {
        f"{table}_norm.{part}" for table in ("replica", "request", "long", "cluster") for part in ("mean", "deviation")
    }
    assert names <= set(state)
    other = SetNetwork(16)
    other.load_state_dict(state)
    with torch.no_grad():
        expected, found = net(seen), other(seen)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[0], expected[0], strict=True))
    assert torch.equal(found[1], expected[1])


def policy_and_input(n: int) -> tuple[SetPolicy, dict[str, torch.Tensor], Any]:
    policy = Form("set", 16).policy(8, K)
    assert isinstance(policy, SetPolicy)
    policy.network.load_state_dict(network().state_dict())
    policy.set_training_mode(False)
    random = np.random.default_rng(4)
    parts = [random.random((n, size)) < 0.5 for size in policy.action_dist.sizes]
    for part in parts:
        part[np.arange(n), random.integers(part.shape[1], size=n)] = True
    return policy, observations(n, 8, seed=5), np.concatenate(parts, 1)


def test_the_policy_is_consistent_with_itself() -> None:
    policy, seen, masks = policy_and_input(50)
    torch.manual_seed(0)
    with torch.no_grad():
        actions, values, log_probs = policy(seen, action_masks=masks)
        same_values, same_log_probs, entropies = policy.evaluate_actions(seen, actions, torch.tensor(masks))
        greedy, _, _ = policy(seen, deterministic=True, action_masks=masks)
        values_alone = policy.predict_values(seen)
        distribution = policy.get_distribution(seen, masks)
    assert torch.equal(values, same_values)
    assert torch.equal(log_probs, same_log_probs)
    assert torch.equal(values_alone, values)
    assert torch.equal(distribution.entropy(), entropies)
    assert torch.equal(distribution.mode(), greedy)
    arrays = {name: each.numpy() for name, each in seen.items()}
    assert np.array_equal(policy.predict(arrays, deterministic=True, action_masks=masks)[0], greedy.numpy())


def test_a_mask_is_of_one_call_only() -> None:
    policy, seen, masks = policy_and_input(50)
    before = policy.get_distribution(seen).entropy()
    policy.get_distribution(seen, masks)
    assert torch.equal(policy.get_distribution(seen).entropy(), before)


def test_a_policy_is_saved_with_its_width(tmp_path: Any) -> None:
    policy, seen, masks = policy_and_input(10)
    policy.save(str(tmp_path / "policy.pt"))
    loaded = SetPolicy.load(str(tmp_path / "policy.pt"))
    assert loaded.hidden == 16
    assert torch.equal(loaded.get_distribution(seen, masks).mode(), policy.get_distribution(seen, masks).mode())


def test_other_environments_are_refused() -> None:
    with pytest.raises(SpecError, match="network=mlp is for others"):
        SetPolicy(Dict({"replica": Box(0, 1, (3,))}), MultiDiscrete([3, 2]), lambda _: 0.0)


def test_every_feature_of_a_replica_is_looked_at() -> None:
    net, seen = network(), observations(1, 8)
    seen["replicas"].requires_grad_()
    net(seen)[0].target[0, 2].backward()
    gradient = seen["replicas"].grad
    assert gradient is not None
    assert (gradient.reshape(8, len(REPLICA))[2] != 0).all()
