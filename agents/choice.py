"""What the agent may choose, as probabilities: the components of an action of Cluster-v0, two of them in order.

sb3-contrib draws all components independently of one another. But whether to preempt depends on the replica that is
chosen, and how many replicas a long gets on which long it is: drawn independently, every new replica that is tried
comes with a mode that does not suit it. So the mode of prefill is drawn given the target, and the degree given the
long.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from torch import Tensor, nn

from pecgym.errors import SpecError

_MASKED = -1e8


class Logits(NamedTuple):
    """float32 logits, for R replicas, K waiting longs and D degrees.

    target: [N, R + 1]; prefill_mode: [N, R + 1, 2], given the target; decode_mode: [N, 2]; long_index: [N, K];
    sp_degree: [N, K, D], given the long; sp_strategy: [N, 4].
    """

    target: Tensor
    prefill_mode: Tensor
    decode_mode: Tensor
    long_index: Tensor
    sp_degree: Tensor
    sp_strategy: Tensor


_GIVEN = {"prefill_mode": 0, "sp_degree": 3}
"""Components that are drawn after another one, and the number of that one."""


class Choice(MaskableDistribution):
    """The joint distribution of the components of an action, with masks."""

    def __init__(self, sizes: list[int]) -> None:
        """sizes: number of values of each component."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = sizes

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Raises SpecError: the network makes the logits."""
        raise SpecError("Choice: SetNetwork makes the logits")

    def proba_distribution(self, action_logits: Logits) -> Choice:  # type: ignore[override]
        """The distribution of these logits, every value being valid."""
        self._logits = action_logits
        self.apply_masking(None)
        return self

    def apply_masking(self, masks: Any) -> None:
        """masks: bool[N, M], all components after one another: which values are valid; None: all are."""
        target = self._logits.target
        if masks is None:
            masks = torch.ones(target.shape[0], sum(self.sizes), dtype=torch.bool)
        valid_values = torch.as_tensor(masks, device=target.device).bool().reshape(-1, sum(self.sizes))
        parts = torch.split(valid_values, self.sizes, 1)
        self._valid = [
            mask.unsqueeze(1) if name in _GIVEN else mask for name, mask in zip(Logits._fields, parts, strict=True)
        ]
        self.log_probs = [
            torch.log_softmax(logits.masked_fill(~valid, _MASKED), -1)
            for logits, valid in zip(self._logits, self._valid, strict=True)
        ]

    def _given(self, name: str, component: int, chosen: list[Tensor]) -> Tensor:
        """float32[N, values]: log-probabilities of a component, given those before it."""
        log_probs = self.log_probs[component]
        if name not in _GIVEN:
            return log_probs
        parent = chosen[_GIVEN[name]].view(-1, 1, 1).expand(-1, 1, log_probs.shape[2])
        return log_probs.gather(1, parent).squeeze(1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """float32[N] of int[N, components]."""
        chosen = list(actions.long().view(-1, len(self.sizes)).unbind(1))
        total = torch.zeros_like(self.log_probs[0][:, 0])
        for component, name in enumerate(Logits._fields):
            given = self._given(name, component, chosen)
            total = total + given.gather(1, chosen[component].unsqueeze(1)).squeeze(1)
        return total

    def entropy(self) -> Tensor:
        """float32[N]: of all components together."""
        return self._expected(lambda log_probs, valid: -(log_probs.exp() * log_probs.masked_fill(~valid, 0.0)).sum(-1))

    def even_log_prob(self) -> Tensor:
        """float32[N]: the mean log-probability of the valid values of a component, summed over the components."""
        return self._expected(lambda log_probs, valid: log_probs.masked_fill(~valid, 0.0).sum(-1) / valid.sum(-1))

    def _expected(self, of_part: Any) -> Tensor:
        """A quantity of every component, in expectation over those before it, summed."""
        total = torch.zeros_like(self.log_probs[0][:, 0])
        for name, log_probs, valid in zip(Logits._fields, self.log_probs, self._valid, strict=True):
            found = of_part(log_probs, valid)
            if name in _GIVEN:
                found = (found * self.log_probs[_GIVEN[name]].exp()).sum(1)
            total = total + found
        return total

    def sample(self) -> Tensor:
        """int64[N, components]."""
        return self._one_by_one(lambda log_probs: (log_probs - torch.log(-torch.log(_uniform(log_probs)))).argmax(1))

    def mode(self) -> Tensor:
        """int64[N, components]: the most likely value of each given those before, of equal ones the first."""
        return self._one_by_one(lambda log_probs: log_probs.argmax(1))

    def _one_by_one(self, pick: Any) -> Tensor:
        chosen: list[Tensor] = []
        for component, name in enumerate(Logits._fields):
            chosen.append(pick(self._given(name, component, chosen)))
        return torch.stack(chosen, 1)

    def actions_from_params(self, action_logits: Logits, deterministic: bool = False) -> Tensor:  # type: ignore[override]
        """A draw, or the mode."""
        return self.proba_distribution(action_logits).get_actions(deterministic)

    def log_prob_from_params(self, action_logits: Logits) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """A draw and its log-probability."""
        actions = self.actions_from_params(action_logits)
        return actions, self.log_prob(actions)


def _uniform(like: Tensor) -> Tensor:
    return torch.rand_like(like).clamp(1e-20, 1.0 - 1e-7)
