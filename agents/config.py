"""What an agent and its training can be told: the groups `agent`, `logger` and `evaluation` of conf/train.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pecgym.errors import SpecError

NETWORKS = ("set", "mlp")
LEARNING_RATES = ("constant", "linear")
LOGGERS = ("none", "tensorboard", "wandb")
OF_SHORTS_AND_LONGS = ("short_queueing_delay_p99_s", "short_throughput_rps", "long_jct_mean_s")
MEASURES = (*OF_SHORTS_AND_LONGS, "makespan_s")
"""What a score may be made of: less is better, but of the throughput."""


def _require(prefix: str, settings: Any, *rules: tuple[str, bool, str]) -> None:
    """Raises SpecError for the first key whose rule does not hold."""
    for key, holds, remedy in rules:
        if not holds:
            raise SpecError(f"{prefix}.{key}={getattr(settings, key)!r}: {remedy}")


@dataclass
class ImitationConfig:
    """Behaviour cloning of the reference policy before reinforcement learning (agents.imitation).

    Attributes:
        steps: decisions of all copies together; 0: none, PPO starts from scratch.
        epochs: passes over each rollout.
        learning_rate: of Adam.
        taught_share: the reference policy acts in all copies at first, and in none after this share of the steps.
        smoothing: share of the probability that is spread evenly over all valid actions: a policy that is certain of
            everything explores nothing.
    """

    steps: int = 150_000
    epochs: int = 3
    learning_rate: float = 1e-3
    taught_share: float = 0.5
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        _require(
            "agent.imitation",
            self,
            ("steps", self.steps >= 0, "must be 0 or more"),
            ("epochs", self.epochs >= 1, "must be 1 or more"),
            ("learning_rate", 0 < self.learning_rate < 1, "must be above 0, below 1"),
            *((key, 0 <= getattr(self, key) <= 1, "must be 0 to 1") for key in ("taught_share", "smoothing")),
        )


@dataclass
class AgentConfig:
    """Maskable PPO and its network.

    Attributes:
        network: "set": one encoder for every replica (agents.network), for any number of them; "mlp": all features
            through one perceptron.
        hidden: width of its layers; in the set encoder of those of each replica, the others are twice as wide.
        n_envs: copies of the environment that step together.
        n_steps: decisions of each copy between two updates.
        batch_size: decisions in a gradient step.
        n_epochs: passes over the decisions of an update.
        learning_rate: of Adam, at the beginning.
        learning_rate_decay: "constant", or "linear" to 0 at `total_timesteps`.
        gamma: discount of a decision; that of a second is reward.discount_per_s.
        gae_lambda: of generalised advantage estimation, per decision.
        trace_per_s: the same per second, besides.
        clip_range: of the ratio of probabilities.
        ent_coef: weight of the entropy.
        vf_coef: weight of the value loss.
        max_grad_norm: at which gradients are clipped.
        target_kl: an update stops when the policy has moved 1.5 times as far; None: never.
        total_timesteps: decisions of all copies together.
        imitation: what comes before.
    """

    network: str = "set"
    hidden: int = 32
    n_envs: int = 128
    n_steps: int = 64
    batch_size: int = 2048
    n_epochs: int = 3
    learning_rate: float = 1e-3
    learning_rate_decay: str = "linear"
    gamma: float = 1.0
    gae_lambda: float = 1.0
    trace_per_s: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = 0.02
    total_timesteps: int = 1_000_000
    imitation: ImitationConfig = field(default_factory=ImitationConfig)

    def __post_init__(self) -> None:
        positive = ("hidden", "n_envs", "n_steps", "n_epochs", "total_timesteps")
        per_update = self.n_envs * self.n_steps
        _require(
            "agent",
            self,
            ("network", self.network in NETWORKS, f"choose one of {', '.join(NETWORKS)}"),
            *((key, getattr(self, key) >= 1, "must be 1 or more") for key in positive),
            ("batch_size", 2 <= self.batch_size <= per_update, f"must be 2 to n_envs x n_steps = {per_update}"),
            ("learning_rate", 0 < self.learning_rate < 1, "must be above 0, below 1"),
            (
                "learning_rate_decay",
                self.learning_rate_decay in LEARNING_RATES,
                f"choose one of {', '.join(LEARNING_RATES)}",
            ),
            *(
                (key, 0 < getattr(self, key) <= 1, "must be above 0, at most 1")
                for key in ("gamma", "gae_lambda", "trace_per_s")
            ),
            ("clip_range", 0 < self.clip_range < 1, "must be above 0, below 1"),
            *((key, 0 <= getattr(self, key) < 1e6, "must be 0 or more") for key in ("ent_coef", "vf_coef")),
            ("max_grad_norm", 0 < self.max_grad_norm < 1e6, "must be above 0"),
            (
                "network",
                self.network == "set" or not self.imitation.steps,
                "cannot imitate; give agent.imitation.steps=0 as well, or agent=mlp",
            ),
            ("target_kl", self.target_kl is None or self.target_kl > 0, "must be above 0, or null"),
        )


@dataclass
class EvaluationConfig:
    """Evaluation of an agent in training on windows that it does not train on.

    Attributes:
        every: decisions of training between two evaluations.
        windows: windows of each hour (and of each entry of `mix`), evenly spread over the split.
        split: where they lie, "validation", or "train", which training has too. The agent is chosen by them, for which
            "test" is not there.
        baselines: policies that are shown beside; the score is always relative to env.policy.
        measures: what the score is made of, names of MEASURES.
        delay_floor_s: added to p99 delays before they are compared, seconds: differences far below it do not count.
    """

    every: int = 100_000
    windows: int = 4
    split: str = "validation"
    baselines: list[str] = field(default_factory=lambda: ["pecsched"])
    measures: list[str] = field(default_factory=lambda: list(OF_SHORTS_AND_LONGS))
    delay_floor_s: float = 0.1

    def __post_init__(self) -> None:
        _require(
            "evaluation",
            self,
            ("every", self.every >= 1, "must be 1 or more"),
            ("windows", self.windows >= 1, "must be 1 or more"),
            (
                "split",
                self.split in ("validation", "train"),
                "choose validation, or train: agents are chosen on these windows, and test is for scripts/evaluate.py",
            ),
            (
                "measures",
                bool(self.measures) and set(self.measures) <= set(MEASURES),
                f"give one or more of {', '.join(MEASURES)}",
            ),
            ("delay_floor_s", 0 < self.delay_floor_s < 1e6, "must be above 0"),
        )


@dataclass
class LoggerConfig:
    """Where the curve goes beside curve.csv.

    Attributes:
        kind: "none", "tensorboard" or "wandb".
        mode: of W&B: "offline" (into the run's folder) or "online".
        project: of W&B.
        required: whether it is an error if it is not installed; else one line says so.
    """

    kind: str = "none"
    mode: str = "offline"
    project: str = "pecgym"
    required: bool = True

    def __post_init__(self) -> None:
        _require(
            "logger",
            self,
            ("kind", self.kind in LOGGERS, f"choose one of {', '.join(LOGGERS)}"),
            ("mode", self.mode in ("offline", "online"), "choose offline or online"),
        )


def changed_keys(before: Any, after: Any, prefix: str = "") -> list[str]:
    """Full names of the keys that differ between two mappings of settings, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in names
            for line in changed_keys(before.get(key), after.get(key), f"{prefix}.{key}".strip("."))
        ]
    return [] if before == after else [f"{prefix}: {before!r}, now {after!r}"]
