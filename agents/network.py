"""The network of the agents: it scores every replica and every waiting long with shared weights.

So one set of weights works for any number of replicas and of longs that are shown, and the order of the replicas makes
no difference. Observations are normalised inside: mean and deviation of every feature are saved with the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor, nn

from agents.batch_network import BatchNetwork
from agents.choice import GIVEN, Choice, Logits
from agents.layers import FeatureNorm, Scores, begin_even, layer, mean_of_those, perceptron, table
from pecgym.envs.spaces import CLUSTER, LARGEST_DEGREE, N_STRATEGIES, REPLICA, REQUEST, WAITING_LONG, degree_options
from pecgym.errors import SpecError

N_DEGREES = len(degree_options(LARGEST_DEGREE))
_THERE = [feature.name for feature in WAITING_LONG].index("there")


class SetNetwork(nn.Module):
    """Logits of the components of an action of Cluster-v0 (agents.choice.Logits), and the value of the state."""

    parts = frozenset({"replicas", "request", "waiting_longs", "cluster"})
    given: Mapping[int, int] = GIVEN

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.replica_norm = FeatureNorm(len(REPLICA))
        self.request_norm = FeatureNorm(len(REQUEST))
        self.long_norm = FeatureNorm(len(WAITING_LONG))
        self.cluster_norm = FeatureNorm(len(CLUSTER))
        self.replica = layer(len(REPLICA), hidden)
        self.long = layer(len(WAITING_LONG), hidden)
        self.query = layer(len(REQUEST) + len(CLUSTER), 2 * hidden)
        self.common = nn.Sequential(layer(5 * hidden, 2 * hidden), layer(2 * hidden, 2 * hidden))
        self.of_replica = Scores(hidden, 1 + 2)
        self.of_long = Scores(hidden, 1 + N_DEGREES)
        self.of_all = nn.Linear(2 * hidden, 1 + 2 + N_STRATEGIES)
        pooled = len(REQUEST) + len(CLUSTER) + 2 * len(REPLICA) + 2 * len(WAITING_LONG)
        self.value = perceptron(pooled, 2 * hidden)
        begin_even(self.of_replica.last, self.of_long.last, self.of_all)

    def forward(self, observation: Mapping[str, Tensor]) -> tuple[Logits, Tensor]:
        """observation: of Cluster-v0, float32[N, ...]. Returns logits and values, float32[N, 1]."""
        replicas, longs, there, query = self._normalised(observation)
        each_replica, each_long = self.replica(replicas), self.long(longs)
        pools = [each_replica.mean(1), each_replica.amax(1), mean_of_those(each_long, there)]
        common = self.common(torch.cat([self.query(query), *pools], 1))
        target, prefill = self.of_replica(each_replica, common).split((1, 2), 2)
        index, degree = self.of_long(each_long, common).split((1, N_DEGREES), 2)
        wait, decode, strategy = self.of_all(common).split((1, 2, N_STRATEGIES), 1)
        logits = Logits(
            target=torch.cat([target.squeeze(2), wait], 1),
            prefill_mode=nn.functional.pad(prefill, (0, 0, 0, 1)),
            decode_mode=decode,
            long_index=index.squeeze(2),
            sp_degree=degree[:, :, : len(degree_options(replicas.shape[1]))],
            sp_strategy=strategy,
        )
        raw = [query, replicas.mean(1), replicas.amax(1), mean_of_those(longs, there), longs[:, 0]]
        return logits, self.value(torch.cat(raw, 1))

    def _normalised(self, observation: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Replicas [N, R, F], longs [N, K, F], which longs there are [N, K, 1], request and cluster [N, F]."""
        replicas = table(observation["replicas"], len(REPLICA))
        longs = table(observation["waiting_longs"], len(WAITING_LONG))
        query = torch.cat([self.request_norm(observation["request"]), self.cluster_norm(observation["cluster"])], 1)
        there = longs[:, :, _THERE : _THERE + 1]
        return self.replica_norm(replicas), self.long_norm(longs), there, query

    def fit_norms(self, observation: Mapping[str, Tensor]) -> None:
        """Takes the features' means and deviations from a sample of observations."""
        self.replica_norm.fit(observation["replicas"])
        self.request_norm.fit(observation["request"])
        self.long_norm.fit_those(observation["waiting_longs"], _THERE)
        self.cluster_norm.fit(observation["cluster"])


Network = SetNetwork | BatchNetwork
NETWORKS: tuple[type[SetNetwork] | type[BatchNetwork], ...] = (SetNetwork, BatchNetwork)


class SetPolicy(MaskableActorCriticPolicy):
    """The network of an environment as a policy of sb3-contrib's MaskablePPO: SetNetwork or BatchNetwork."""

    action_dist: Choice
    network: Network

    def __init__(
        self, observation_space: spaces.Dict, action_space: spaces.MultiDiscrete, lr_schedule: Any, hidden: int = 32
    ) -> None:
        """hidden: width of the layers of each member of a set, half of that of all others.

        Raises SpecError for the spaces of another environment than Cluster-v0, Replica-v0 and their presets.
        """
        made = [network for network in NETWORKS if network.parts == set(observation_space.spaces)]
        if not made:
            raise SpecError("SetPolicy is for the environments of pecgym; agent.network=mlp is for others")
        self.hidden, self._network_class = hidden, made[0]
        super().__init__(observation_space, action_space, lr_schedule)

    def _build(self, lr_schedule: Any) -> None:
        assert isinstance(self.action_space, spaces.MultiDiscrete)
        self.network = self._network_class(self.hidden)
        self.action_dist = Choice([int(n) for n in self.action_space.nvec], self.network.given)
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.network.parameters(), **options)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parts = {"observation_space": self.observation_space, "action_space": self.action_space}
        return parts | {"lr_schedule": self._dummy_schedule, "hidden": self.hidden}

    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Actions int64[N, components], values float32[N, 1], log-probabilities float32[N]."""
        distribution, values = self.judge(obs, action_masks)
        actions = distribution.get_actions(deterministic)
        return actions, values, distribution.log_prob(actions)

    def judge(self, obs: Any, action_masks: Any = None) -> tuple[Choice, Tensor]:
        """The distribution of actions and the values float32[N, 1]."""
        logits, values = self.network(obs)
        distribution = self.action_dist.proba_distribution(logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution, values

    def evaluate_actions(  # type: ignore[override]
        self, obs: Any, actions: Tensor, action_masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-probabilities of the actions, entropies."""
        distribution, values = self.judge(obs, action_masks)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Choice:
        """The distribution of actions."""
        return self.judge(obs, action_masks)[0]

    def predict_values(self, obs: Any) -> Tensor:
        """float32[N, 1]."""
        return self.judge(obs)[1]
