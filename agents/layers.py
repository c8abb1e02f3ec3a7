"""Parts of the networks: normalised features, and scores of the members of a set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAST_DEVIATION = 1e-3
"""Below it a feature was constant in the sample, and is left at its scale."""


class FeatureNorm(nn.Module):
    """(x - mean) / deviation of every feature; zero and one until `fit` was called."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("deviation", torch.ones(n))

    def fit(self, rows: Tensor) -> None:
        """Takes mean and deviation of float32[..., n]."""
        flat = rows.reshape(-1, self.mean.numel())
        deviation = flat.std(0)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(torch.where(deviation < _LEAST_DEVIATION, torch.ones_like(deviation), deviation))

    def forward(self, rows: Tensor) -> Tensor:
        return (rows - self.mean) / self.deviation

    def fit_those(self, rows: Tensor, there: int) -> None:
        """The same of the rows whose feature number `there` is above 0, if there are two."""
        flat = rows.reshape(-1, self.mean.numel())
        chosen = flat[flat[:, there] > 0]
        if len(chosen) > 1:
            self.fit(chosen)


class Scores(nn.Module):
    """Some numbers for each member of a set, given what all have in common: [N, S, H] and [N, 2 H] to [N, S, n]."""

    def __init__(self, hidden: int, n: int) -> None:
        super().__init__()
        self.of_member = nn.Linear(hidden, hidden)
        self.of_common = nn.Linear(2 * hidden, hidden, bias=False)
        self.last = nn.Linear(hidden, n)

    def forward(self, members: Tensor, common: Tensor) -> Tensor:
        mixed = torch.relu(self.of_member(members) + self.of_common(common).unsqueeze(1))
        scores: Tensor = self.last(mixed)
        return scores


def layer(n_in: int, n_out: int) -> nn.Sequential:
    """A linear layer with ReLU."""
    return nn.Sequential(nn.Linear(n_in, n_out), nn.ReLU())


def perceptron(n_in: int, hidden: int) -> nn.Sequential:
    """float32[N, n_in] to [N, 1], by two layers of `hidden`."""
    return nn.Sequential(layer(n_in, hidden), layer(hidden, hidden), nn.Linear(hidden, 1))


def table(rows: Tensor, n_features: int) -> Tensor:
    """float32[N, S * n_features] as [N, S, n_features]."""
    return rows.reshape(rows.shape[0], -1, n_features)


def mean_of_those(rows: Tensor, there: Tensor) -> Tensor:
    """float32[N, S, H] and flags [N, S, 1] to [N, H]: the mean of the members that are there, zero without any."""
    return (rows * there).sum(1) / there.sum(1).clamp(min=1.0)


def begin_even(*layers: nn.Linear) -> None:
    """Makes every choice about equally likely at first."""
    for each in layers:
        nn.init.orthogonal_(each.weight, 0.01)
        nn.init.zeros_(each.bias)
