"""What an environment can be told: the keyword arguments of `gym.make`, with the names of `conf/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pecgym.configs import EngineConfig, LongConfig, OrderConfig, ScenarioConfig, WorkloadConfig
from pecgym.errors import SpecError
from pecgym.experiment import Experiment
from pecgym.policies import Policy, load_policy
from pecgym.strict import from_mapping
from pecgym.units import HORIZON_S
from pecgym.workload.splits import SPLITS

ENDS = ("drain", "cut")
CONTROLS = ("placement", "preemption", "disaggregation", "start", "order", "sp_degree", "sp_strategy", "roles")
"""What an agent can decide; docs/environment.md."""
DEFAULT_CONTROLS = CONTROLS[:-1]
TERMS = ("delay", "long", "tail", "slo", "energy", "money")
"""Terms of the reward, in this order in arrays."""


@dataclass
class EpisodeConfig:
    """A part of the workload, and how an episode ends.

    Attributes:
        requests: requests in an episode; None: all of the split.
        duration_s: or the seconds in which they arrive; then `requests` must be None.
        split: "train" (the first 60% of the requests), "validation" (the next 20%), "test" (the last 20%) or "all".
        random_start: whether the window begins at a random request (time), drawn at each reset; else at the first.
        warm_up_s: the reference policy decides for so long, without rewards, before the first decision of the agent.
        end: "drain": terminated when all requests have been served, "cut": truncated when the window ends, which is
            `duration_s` after its start, or at the last arrival.
        drain_limit_s: of drain: truncated so long after the last arrival.
        max_decisions: truncated after so many decisions of the agent; None: no limit.
    """

    requests: int | None = 1000
    duration_s: float | None = None
    split: str = "all"
    random_start: bool = True
    warm_up_s: float = 0.0
    end: str = "drain"
    drain_limit_s: float = 3600.0
    max_decisions: int | None = None

    def __post_init__(self) -> None:
        for key, holds, remedy in (
            ("requests", self.requests is None or self.requests > 0, "must be above 0, or None"),
            ("duration_s", self.duration_s is None or 0 < self.duration_s <= HORIZON_S, "must be above 0, or None"),
            ("split", self.split in SPLITS, f"choose one of {', '.join(SPLITS)}"),
            ("warm_up_s", 0 <= self.warm_up_s <= HORIZON_S, "must be 0 or more"),
            ("end", self.end in ENDS, f"choose one of {', '.join(ENDS)}"),
            ("drain_limit_s", 0 < self.drain_limit_s <= HORIZON_S, "must be above 0"),
            ("max_decisions", self.max_decisions is None or self.max_decisions > 0, "must be above 0, or None"),
        ):
            if not holds:
                raise SpecError(f"episode.{key}={getattr(self, key)!r}: {remedy}")
        if self.duration_s is not None and self.warm_up_s >= self.duration_s:
            raise SpecError(f"episode.warm_up_s={self.warm_up_s}: must be below duration_s={self.duration_s}")
        if self.requests is not None and self.duration_s is not None:
            raise SpecError("episode: give requests or duration_s, and None for the other")


@dataclass
class RewardConfig:
    """Weights of the terms of the reward, each 0 or more; the reward is minus their weighted sum over the time since
    the last decision (pecgym.envs.rewards).

    Attributes:
        delay: of every second that a short waits for its first execution.
        long: of every second that a long is unfinished.
        tail: of every second that a short waits beyond `tail_s`.
        slo: of every short that has no first token after `slo_ttft_s`.
        energy: of every kWh.
        money: of every USD of GPU time.
        tail_s: target of `tail`, seconds.
        slo_ttft_s: target of `slo`, seconds.
        discount_per_s: info["discount"] is this to the power of the seconds since the last decision.
    """

    delay: float = 1.0
    long: float = 0.1
    tail: float = 0.0
    slo: float = 0.0
    energy: float = 0.0
    money: float = 0.0
    tail_s: float = 1.0
    slo_ttft_s: float = 5.0
    discount_per_s: float = 1.0

    def __post_init__(self) -> None:
        for key in (f.name for f in fields(self)):
            if not 0 <= getattr(self, key) < 1e12:
                raise SpecError(f"reward.{key}={getattr(self, key)!r}: must be 0 or more, and finite")
        if max(self.tail_s, self.slo_ttft_s) > HORIZON_S:
            raise SpecError(f"reward.tail_s and .slo_ttft_s: must be at most {HORIZON_S:.0f} s")
        if not 0 < self.discount_per_s <= 1:
            raise SpecError(f"reward.discount_per_s={self.discount_per_s}: must be above 0, at most 1")

    @property
    def weights(self) -> tuple[float, ...]:
        """In the order of TERMS."""
        return tuple(getattr(self, term) for term in TERMS)


@dataclass(frozen=True)
class EnvConfig:
    """Every setting of an environment. What an id changes in these defaults is in presets.yaml.

    Attributes:
        model: as in evaluations (docs/evaluate.md), like those that follow.
        cluster: the hardware.
        engine: a preset, and changes in it.
        workload: the requests.
        scenario: their rate.
        long: changes in the reference policy's rules for longs.
        order: changes in the parameters of its orders; with lengths="predicted" these read the workload's predictions.
        profile: of costs; None: that of model and GPU.
        tp: GPUs per replica; None: the model's.
        workload_seed: of an embedded workload and of its longs.
        policy: the reference policy: it takes the decisions that the agent does not.
        agent_controls: what the agent decides, names of CONTROLS.
        episode: see EpisodeConfig.
        reward: see RewardConfig.
        n_longs: how many of the waiting longs are shown.
        n_waiting: Replica-v0: how many waiting requests are shown.
        n_residents: Replica-v0: how many residents are shown.
        role_interval_s: how often the control "roles" is asked for the number of decode replicas or, where some are
            reserved for longs, of reserved ones.
        skip_forced: whether decisions with one valid action are taken without asking.
        allow_wait: whether the agent may wait although something else is valid.
        retry_s: when nothing will happen before somebody who waits is served, the agent is asked again after so long.
        strict: whether an invalid action raises; else it counts as to wait, in info["invalid_actions"].
        oracle_lengths: whether output lengths are shown, as orders read them: true ones, or predictions with
            order.lengths="predicted". Orders by length (sjf, queue_order) always read them.
    """

    model: str = "llama-3.1-70b"
    cluster: str = "p4de_x4"
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    long: LongConfig = field(default_factory=LongConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    profile: str | None = None
    tp: int | None = None
    workload_seed: int = 0
    policy: str = "pecsched"
    agent_controls: tuple[str, ...] = DEFAULT_CONTROLS
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    n_longs: int = 8
    n_waiting: int = 16
    n_residents: int = 16
    role_interval_s: float = 10.0
    skip_forced: bool = True
    allow_wait: bool = True
    retry_s: float = 1.0
    strict: bool = False
    oracle_lengths: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "agent_controls", tuple(self.agent_controls))  # configuration files give a list
        unknown = sorted(set(self.agent_controls) - set(CONTROLS))
        if unknown or not self.agent_controls or len(set(self.agent_controls)) < len(self.agent_controls):
            raise SpecError(
                f"agent_controls={list(self.agent_controls)}: give one or more of {', '.join(CONTROLS)}, each once"
            )
        for key in ("n_longs", "n_waiting", "n_residents"):
            if not 1 <= getattr(self, key) <= 1024:
                raise SpecError(f"{key}={getattr(self, key)}: must be 1 to 1024")
        for key in ("role_interval_s", "retry_s"):
            if not 1e-6 <= getattr(self, key) <= HORIZON_S:
                raise SpecError(f"{key}={getattr(self, key)}: must be above 0")
        if self.workload_seed < 0:
            raise SpecError(f"workload_seed={self.workload_seed}: must be 0 or more")

    def experiment(self) -> Experiment:
        """The cluster and its workload. Raises SpecError."""
        self.scenario.check()
        return Experiment(
            self.model,
            self.cluster,
            self.engine,
            self.scenario.applied_to(self.workload),
            self.scenario,
            self.rule_changes(),
            self.profile,
            self.tp,
            self.order,
        )

    def reference_policy(self) -> Policy:
        """The reference policy, and whether lengths are read beside its orders. Raises SpecError."""
        policy = load_policy(self.policy)
        return replace(policy, reads_lengths=policy.reads_lengths or self.oracle_lengths)

    def rule_changes(self) -> LongConfig:
        """Changes in the reference policy's rules for longs, with those that the controls need. Raises SpecError."""
        if "roles" not in self.agent_controls:
            return self.long
        if self.long.pool_interval_s is not None:
            raise SpecError("long.pool_interval_s: the control roles has its own, role_interval_s; leave one out")
        return LongConfig(**{**vars(self.long), "pool_interval_s": self.role_interval_s})


_NAMED = ("engine", "workload", "scenario")
_GROUPS = {
    "engine": EngineConfig,
    "workload": WorkloadConfig,
    "scenario": ScenarioConfig,
    "long": LongConfig,
    "order": OrderConfig,
    "episode": EpisodeConfig,
    "reward": RewardConfig,
}


def _check_kind(key: str, value: Any) -> None:
    """Raises SpecError for a group that is no mapping, a name that is one, or controls that are no list."""
    if key in _GROUPS and not isinstance(value, Mapping | _GROUPS[key]):
        keys = ", ".join(f.name for f in fields(_GROUPS[key]))
        raise SpecError(f"{key}={value!r}: give a mapping of some of {keys}")
    if key in ("model", "cluster") and not isinstance(value, str):
        raise SpecError(f"{key}={value!r}: give a name, or the path of a .yaml")
    if key == "agent_controls" and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise SpecError(f"agent_controls={value!r}: give a list of {', '.join(CONTROLS)}")


def env_config(defaults: Mapping[str, Any], **given: Any) -> EnvConfig:
    """The settings that keyword arguments stand for, over `defaults` of the same kind.

    A group (engine, workload, scenario, long, order, episode, reward) is given as a mapping of its keys, an object of
    its dataclass or, where it has a name, that name: `engine="sarathi"` is `engine={"name": "sarathi"}`. A mapping
    without a name (or path) changes the default's keys; one with it takes its place.

    Raises:
        SpecError: an unknown key, or a value that cannot be.
    """
    merged = dict(defaults)
    for key, value in given.items():
        if key == "workload" and isinstance(value, str):
            value = vars(WorkloadConfig.of(value, WorkloadConfig()))
        elif key in _NAMED and isinstance(value, str):
            value = {"name": value}
        if key in ("model", "cluster") and isinstance(value, Mapping) and set(value) == {"name"}:
            value = value["name"]
        _check_kind(key, value)
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and not {"name", "path"} & set(value):
            value = {**before, **value}
        merged[key] = value
    return from_mapping(EnvConfig, merged, "environment", SpecError)
