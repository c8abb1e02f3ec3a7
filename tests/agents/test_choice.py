"""The joint distribution of an action's components equals the one that enumeration gives; masks hold always."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from agents.choice import Choice, Logits
from pecgym.errors import SpecError

SIZES = [4, 2, 2, 2, 3, 4]
SHAPES = ((4,), (4, 2), (2,), (2,), (2, 3), (4,))
GIVEN = {1: 0, 4: 3}
"""Which component each depends on, where it does: prefill_mode on target, sp_degree on long_index."""
ACTIONS = list(product(*map(range, SIZES)))
DRAWS = 200_000


def logits_of(n: int, seed: int = 0, scale: float = 2.0) -> Logits:
    random = np.random.default_rng(seed)
    return Logits(*(torch.tensor(random.normal(0, scale, (n, *shape)), dtype=torch.float32) for shape in SHAPES))


def masks_of(n: int, seed: int = 0) -> Any:
    """bool[n, M]: about half of the values valid, and one at least of each component; the first row has just one."""
    random = np.random.default_rng(seed)
    parts = []
    for size in SIZES:
        part = random.random((n, size)) < 0.5
        part[0] = False
        part[np.arange(n), random.integers(size, size=n)] = True
        parts.append(part)
    return np.concatenate(parts, 1)


def parts_of(mask: Any) -> list[Any]:
    return np.split(mask, np.cumsum(SIZES)[:-1])


def enumerated(logits: Logits, row: int, mask: Any) -> dict[tuple[int, ...], float]:
    """Probability of every valid action of a row, float64."""
    valid = parts_of(mask)
    found = {}
    for action in ACTIONS:
        if not all(part[value] for part, value in zip(valid, action, strict=True)):
            continue
        probability = 1.0
        for component, value in enumerate(action):
            scores = logits[component][row].double().numpy()
            if component in GIVEN:
                scores = scores[action[GIVEN[component]]]
            weights = np.where(valid[component], np.exp(scores), 0.0)
            probability *= weights[value] / weights.sum()
        found[action] = probability
    return found


def choice_of(logits: Logits, masks: Any) -> Choice:
    choice = Choice(SIZES, GIVEN).proba_distribution(logits)
    choice.apply_masking(masks)
    return choice


def one_row(logits: Logits, row: int, n: int) -> Logits:
    """A row, n times."""
    return Logits(*(part[row : row + 1].expand(n, *part.shape[1:]) for part in logits))


def test_probabilities_are_those_of_the_enumeration_and_sum_to_one() -> None:
    logits, masks = logits_of(12), masks_of(12)
    for row, mask in enumerate(masks):
        expected = enumerated(logits, row, mask)
        choice = choice_of(one_row(logits, row, len(ACTIONS)), np.repeat(mask[None], len(ACTIONS), 0))
        found = dict(zip(ACTIONS, choice.log_prob(torch.tensor(ACTIONS)).double().exp().tolist(), strict=True))
        assert {action: found[action] for action in expected} == pytest.approx(expected, rel=1e-4)
        assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)
        assert all(found[action] == 0.0 for action in set(ACTIONS) - set(expected))


def test_without_masks_everything_is_valid() -> None:
    logits = logits_of(1)
    expected = enumerated(logits, 0, np.ones(sum(SIZES), bool))
    choice = Choice(SIZES, GIVEN).proba_distribution(one_row(logits, 0, len(ACTIONS)))
    found = choice.log_prob(torch.tensor(ACTIONS)).double().exp().tolist()
    assert found == pytest.approx(list(expected.values()), rel=1e-4)


def test_entropy_is_that_of_the_enumeration() -> None:
    logits, masks = logits_of(12, seed=1), masks_of(12, seed=1)
    expected = []
    for row, mask in enumerate(masks):
        probabilities = np.array(list(enumerated(logits, row, mask).values()))
        expected.append(-(probabilities * np.log(probabilities)).sum())
    assert choice_of(logits, masks).entropy().tolist() == pytest.approx(expected, abs=1e-5)
    assert expected[0] == 0.0


def test_even_log_prob_averages_over_the_valid_values_of_each_component() -> None:
    logits, masks = logits_of(12, seed=2), masks_of(12, seed=2)
    expected = []
    for row, mask in enumerate(masks):
        joint, valid, total = enumerated(logits, row, mask), parts_of(mask), 0.0
        for component in range(len(SIZES)):
            scores = logits[component][row].double().numpy()
            log_probs = scores - np.log((np.exp(scores) * valid[component]).sum(-1, keepdims=True))
            means = (log_probs * valid[component]).sum(-1) / valid[component].sum()
            if component in GIVEN:
                means = sum(p * means[action[GIVEN[component]]] for action, p in joint.items())
            total += float(means)
        expected.append(total)
    assert choice_of(logits, masks).even_log_prob().tolist() == pytest.approx(expected, rel=1e-4)


def test_draws_are_as_frequent_as_they_are_probable() -> None:
    torch.manual_seed(0)
    logits, mask = logits_of(1, seed=3, scale=1.0), masks_of(2, seed=5)[1]
    expected = enumerated(logits, 0, mask)
    assert len(expected) > 20
    choice = choice_of(one_row(logits, 0, DRAWS), np.repeat(mask[None], DRAWS, 0))
    drawn, counts = np.unique(choice.sample().numpy(), axis=0, return_counts=True)
    found = {tuple(action): count / DRAWS for action, count in zip(drawn.tolist(), counts, strict=True)}
    assert set(found) <= set(expected)
    for action, probability in expected.items():
        deviation = np.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(found.get(action, 0.0) - probability) < 5 * deviation + 1 / DRAWS, action


def test_the_mode_is_the_best_value_of_each_component_given_those_before() -> None:
    logits, masks = logits_of(50, seed=4), masks_of(50, seed=4)
    for row, (mask, action) in enumerate(zip(masks, choice_of(logits, masks).mode().tolist(), strict=True)):
        valid = parts_of(mask)
        for component, value in enumerate(action):
            scores = logits[component][row]
            scores = scores[action[GIVEN[component]]] if component in GIVEN else scores
            assert value == int(np.where(valid[component], scores.numpy(), -np.inf).argmax())


def test_of_equal_values_the_mode_is_the_first_valid() -> None:
    logits = Logits(*(torch.zeros_like(part) for part in logits_of(20)))
    masks = masks_of(20, seed=6)
    firsts = [[int(part.argmax()) for part in parts_of(mask)] for mask in masks]
    assert choice_of(logits, masks).mode().tolist() == firsts


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_what_is_invalid_is_never_chosen_and_no_number_is_lost(scale: float) -> None:
    torch.manual_seed(1)
    logits, masks = logits_of(2000, seed=7, scale=scale), masks_of(2000, seed=7)
    for part in logits:
        part.requires_grad_()
    choice = choice_of(logits, masks)
    starts = np.cumsum([0, *SIZES[:-1]])
    for actions in (choice.sample(), choice.mode()):
        assert np.take_along_axis(masks, actions.numpy() + starts, 1).all()
        assert torch.isfinite(choice.log_prob(actions)).all()
        assert (choice.log_prob(actions) <= 1e-4).all()
    assert choice.sample()[0].tolist() == choice.mode()[0].tolist()  # where one value of each is valid
    assert torch.isfinite(choice.entropy()).all()
    assert (choice.entropy() >= 0).all()
    loss = (choice.log_prob(choice.mode()) + choice.entropy() + choice.even_log_prob()).sum()
    assert torch.isfinite(loss)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(part.grad is not None and torch.isfinite(part.grad).all() for part in logits)


def test_masks_may_be_tensors_and_of_several_dimensions() -> None:
    logits, masks = logits_of(6), masks_of(6)
    expected = choice_of(logits, masks).entropy()
    for given in (torch.tensor(masks), masks.astype(np.float32), masks.reshape(2, 3, -1)):
        assert torch.equal(choice_of(logits, given).entropy(), expected)


def test_masks_go_where_the_logits_are() -> None:
    choice = choice_of(Logits(*(part.to("meta") for part in logits_of(3))), masks_of(3))
    assert choice.entropy().device.type == "meta"


def test_draws_from_logits_have_their_probability() -> None:
    torch.manual_seed(2)
    logits = logits_of(9)
    choice = Choice(SIZES, GIVEN)
    actions, log_probs = choice.log_prob_from_params(logits)
    assert torch.equal(log_probs, Choice(SIZES, GIVEN).proba_distribution(logits).log_prob(actions))
    assert torch.equal(choice.actions_from_params(logits, deterministic=True), choice.mode())


def test_the_network_of_the_logits_is_not_here() -> None:
    with pytest.raises(SpecError, match="SetNetwork"):
        Choice(SIZES, GIVEN).proba_distribution_net(32)
