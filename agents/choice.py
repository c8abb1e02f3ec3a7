"""What the agent may choose, as probabilities: the components of an action, some of them given another one.

sb3-contrib draws all components independently of one another. But whether to preempt depends on the replica that is
chosen, and how many replicas a long gets on which long it is: drawn independently, every new replica that is tried
comes with a mode that does not suit it. So in Cluster-v0 the mode of prefill is drawn given the target, and the degree
given the long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from torch import Tensor, nn

from pecgym.errors import SpecError

_MASKED = -1e8


class Logits(NamedTuple):
    """float32 logits of Cluster-v0, for R replicas, K waiting longs and D degrees.

    target: [N, R + 1]; prefill_mode: [N, R + 1, 2], given the target; decode_mode: [N, 2]; long_index: [N, K];
    sp_degree: [N, K, D], given the long; sp_strategy: [N, 4].
    """

    target: Tensor
    prefill_mode: Tensor
    decode_mode: Tensor
    long_index: Tensor
    sp_degree: Tensor
    sp_strategy: Tensor


GIVEN: Mapping[int, int] = {1: 0, 4: 3}
"""Components of Cluster-v0 that are drawn after another one, and the number of that one: prefill_mode, sp_degree."""


class Choice(MaskableDistribution):
    """The joint distribution of the components of an action, with masks."""

    def __init__(self, sizes: list[int], given: Mapping[int, int]) -> None:
        """sizes: number of values of each component. given: components that are drawn after another one, and the
        number of that one, which comes before."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes, self.given = sizes, given

    def proba_distribution_net(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Raises SpecError: the network makes the logits."""
        raise SpecError("Choice: SetNetwork or BatchNetwork makes the logits")

    def proba_distribution(self, action_logits: Sequence[Tensor]) -> Choice:  # type: ignore[override]
        """The distribution of these logits, every value being valid: [N, values] of each component; of one that is
        given another [N, values of that, values]."""
        self._logits = action_logits
        self.apply_masking(None)
        return self

    def apply_masking(self, masks: Any) -> None:
        """masks: bool[N, M], all components after one another: which values are valid; None: all are."""
        first = self._logits[0]
        if masks is None:
            masks = torch.ones(first.shape[0], sum(self.sizes), dtype=torch.bool)
        valid_values = torch.as_tensor(masks, device=first.device).bool().reshape(-1, sum(self.sizes))
        parts = torch.split(valid_values, self.sizes, 1)
        self._valid = [mask.unsqueeze(1) if k in self.given else mask for k, mask in enumerate(parts)]
        self.log_probs = [
            torch.log_softmax(logits.masked_fill(~valid, _MASKED), -1)
            for logits, valid in zip(self._logits, self._valid, strict=True)
        ]

    def _given(self, component: int, chosen: list[Tensor]) -> Tensor:
        """float32[N, values]: log-probabilities of a component, given those before it."""
        log_probs = self.log_probs[component]
        if component not in self.given:
            return log_probs
        parent = chosen[self.given[component]].view(-1, 1, 1).expand(-1, 1, log_probs.shape[2])
        return log_probs.gather(1, parent).squeeze(1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """float32[N] of int[N, components]."""
        chosen = list(actions.long().view(-1, len(self.sizes)).unbind(1))
        total = torch.zeros_like(self.log_probs[0][:, 0])
        for component, value in enumerate(chosen):
            given = self._given(component, chosen)
            total = total + given.gather(1, value.unsqueeze(1)).squeeze(1)
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
        for component, (log_probs, valid) in enumerate(zip(self.log_probs, self._valid, strict=True)):
            found = of_part(log_probs, valid)
            if component in self.given:
                found = (found * self.log_probs[self.given[component]].exp()).sum(1)
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
        for component in range(len(self.sizes)):
            chosen.append(pick(self._given(component, chosen)))
        return torch.stack(chosen, 1)

    def actions_from_params(self, action_logits: Sequence[Tensor], deterministic: bool = False) -> Tensor:  # type: ignore[override]
        """A draw, or the mode."""
        return self.proba_distribution(action_logits).get_actions(deterministic)

    def log_prob_from_params(self, action_logits: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """A draw and its log-probability."""
        actions = self.actions_from_params(action_logits)
        return actions, self.log_prob(actions)


def _uniform(like: Tensor) -> Tensor:
    return torch.rand_like(like).clamp(1e-20, 1.0 - 1e-7)
