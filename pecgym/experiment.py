"""From configuration to a cluster that is ready to run: model, hardware, engine, workload, scenario."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pecgym.cluster import Cluster, make_cluster
from pecgym.configs import EngineConfig, LongConfig, OrderConfig, ScenarioConfig, WorkloadConfig
from pecgym.policies import Policy
from pecgym.scenario import scale_to_load
from pecgym.workload import Trace


@dataclass(frozen=True)
class Experiment:
    """What one run needs but for policy and seed. `workload` is as the scenario has it (ScenarioConfig.applied_to);
    `long` and `order` change the rules of the policy."""

    model: str = "llama-3.1-70b"
    cluster: str = "p4de_x4"
    engine: EngineConfig = field(default_factory=EngineConfig)
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    scenario: ScenarioConfig = field(default_factory=ScenarioConfig)
    long: LongConfig = field(default_factory=LongConfig)
    profile: str | None = None
    tp: int | None = None
    order: OrderConfig = field(default_factory=OrderConfig)

    def make(self, policy: str | Policy, seed: int, record: bool = False) -> Cluster:
        """The cluster, with its workload at the scenario's load; record: with a timeline. Raises PecGymError."""
        trace, scale = self.arrivals(seed)
        return self.with_trace(policy, trace, seed, scale, record)

    def arrivals(self, seed: int) -> tuple[Trace, float]:
        """The workload at the scenario's load, the same for every policy, and the factor on its own rate."""
        trace, scale = self.workload.load(seed), self.workload.speedup
        if self.scenario.load is None:
            return trace, scale
        cluster = replace(self, long=LongConfig(), order=OrderConfig()).with_trace(None, trace, seed)
        per_node = cluster.spec.gpus_per_node // cluster.profile.tp
        load, n_replicas = self.scenario.load, cluster.n_replicas
        costs = cluster.group_costs
        trace, factor = scale_to_load(trace, load, n_replicas, cluster.profile, cluster.engine, costs, per_node)
        return trace, scale * factor

    def with_trace(
        self, policy: str | Policy | None, trace: Trace, seed: int, arrival_scale: float = 1.0, record: bool = False
    ) -> Cluster:
        """The cluster with a trace of the caller's. policy, record: as of make_cluster; arrival_scale: the factor on
        the trace's rate, for tables."""
        return make_cluster(
            self.model,
            self.cluster,
            policy,
            trace,
            self.engine.load(),
            seed=seed,
            tp=self.tp,
            profile=self.profile,
            scenario_label=self.scenario.label(),
            arrival_scale=arrival_scale,
            rules=self.long.changes(),
            order=self.order.changes(),
            record=record,
        )
