"""The network of agents that compose the batches of one replica (Replica-v0).

It scores every waiting request and every resident with shared weights, so one set of weights works for any number that
is shown. What a row says of its place in the order, of the queue or of admission, is a feature like the others: the
engine's own rules go by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from agents.layers import FeatureNorm, Scores, begin_even, layer, mean_of_those, perceptron, table
from pecgym.envs.spaces import BATCH, RESIDENT, WAITING

_WAITING_THERE = [feature.name for feature in WAITING].index("there")
_RESIDENT_THERE = [feature.name for feature in RESIDENT].index("there")
_PLACES = 8.0
"""The k-th place of an order is shown as k / (k + this)."""


class BatchLogits(NamedTuple):
    """float32 logits, for K waiting requests and V residents.

    join: [N, K + 1], the last for nobody more; evict: [N, V].
    """

    join: Tensor
    evict: Tensor


class BatchNetwork(nn.Module):
    """Logits of the components of an action of Replica-v0, and the value of the state."""

    parts = frozenset({"waiting", "residents", "replica"})
    given: Mapping[int, int] = {}

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.waiting_norm = FeatureNorm(len(WAITING))
        self.resident_norm = FeatureNorm(len(RESIDENT))
        self.replica_norm = FeatureNorm(len(BATCH))
        self.waiting = nn.Sequential(layer(len(WAITING) + 1, hidden), layer(hidden, hidden))
        self.resident = nn.Sequential(layer(len(RESIDENT) + 1, hidden), layer(hidden, hidden))
        self.query = layer(len(BATCH), 2 * hidden)
        self.common = nn.Sequential(layer(6 * hidden, 2 * hidden), layer(2 * hidden, 2 * hidden))
        self.of_waiting = Scores(hidden, 1)
        self.of_resident = Scores(hidden, 1)
        self.of_nobody = nn.Linear(2 * hidden, 1)
        self.value = perceptron(6 * hidden, 2 * hidden)
        self.value_waiting = layer(len(WAITING) + 1, hidden)
        self.value_resident = layer(len(RESIDENT) + 1, hidden)
        self.value_query = layer(len(BATCH), 2 * hidden)
        begin_even(self.of_waiting.last, self.of_resident.last, self.of_nobody)

    def forward(self, observation: Mapping[str, Tensor]) -> tuple[BatchLogits, Tensor]:
        """observation: of Replica-v0, float32[N, ...]. Returns logits and values, float32[N, 1]."""
        waiting, waits = _rows(observation["waiting"], self.waiting_norm, _WAITING_THERE)
        residents, resides = _rows(observation["residents"], self.resident_norm, _RESIDENT_THERE)
        replica = self.replica_norm(observation["replica"])
        each_waiting, each_resident = self.waiting(waiting), self.resident(residents)
        pools = [*_pooled(each_waiting, waits), *_pooled(each_resident, resides)]
        common = self.common(torch.cat([self.query(replica), *pools], 1))
        join = self.of_waiting(each_waiting, common).squeeze(2)
        logits = BatchLogits(
            join=torch.cat([join, self.of_nobody(common)], 1),
            evict=self.of_resident(each_resident, common).squeeze(2),
        )
        seen = [*_pooled(self.value_waiting(waiting), waits), *_pooled(self.value_resident(residents), resides)]
        return logits, self.value(torch.cat([self.value_query(replica), *seen], 1))

    def fit_norms(self, observation: Mapping[str, Tensor]) -> None:
        """Takes the features' means and deviations from a sample of observations."""
        self.waiting_norm.fit_those(observation["waiting"], _WAITING_THERE)
        self.resident_norm.fit_those(observation["residents"], _RESIDENT_THERE)
        self.replica_norm.fit(observation["replica"])


def _rows(flat: Tensor, norm: FeatureNorm, there: int) -> tuple[Tensor, Tensor]:
    """A table [N, S, F + 1], normalised and with the place of each row, and which rows are there [N, S, 1]."""
    rows = table(flat, norm.mean.numel())
    place = torch.arange(rows.shape[1], dtype=rows.dtype, device=rows.device)
    places = (place / (place + _PLACES)).view(1, -1, 1).expand(rows.shape[0], -1, 1)
    return torch.cat([norm(rows), places], 2), rows[:, :, there : there + 1]


def _pooled(rows: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Of members that are not negative: their mean and their largest values, [N, H] each; zero without any."""
    return mean_of_those(rows, there), (rows * there).amax(1)
