"""The front door: a cluster made of names, run to a log of requests or driven by hand."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pecgym.analysis import RequestLog, RunFacts
from pecgym.analysis.request_log import COUNT_COLUMNS, TIME_COLUMNS
from pecgym.analysis.timeline import COLUMNS as SLICE_COLUMNS
from pecgym.analysis.timeline import Timeline
from pecgym.costs import (
    ClusterSpec,
    GroupCosts,
    ModelSpec,
    Profile,
    find_profile,
    group_costs,
    load_cluster,
    load_gpu,
    load_model,
    load_profile,
)
from pecgym.engine import Decision, EngineSettings, LongRules, Simulator, Snapshot, Topology, load_engine
from pecgym.engine.orders import OrderRules
from pecgym.engine.state import NONE as NEVER
from pecgym.errors import EngineError, SpecError
from pecgym.policies import Policy, PythonPolicy, load_policy
from pecgym.predictors import Accuracy, accuracy, load_predictor, training_overlap
from pecgym.random import random_stream
from pecgym.units import ps_to_seconds
from pecgym.workload import ClosedLoop, Trace, load_trace
from pecgym.workload.generator import is_generator_name


class Cluster:
    """Equal replicas of one model, a policy in front of them, and a workload. Made by `make_cluster`.

    kernels, profile: the cost profile as given, and with the engine's overhead of iterations: what work takes.
    """

    def __init__(
        self,
        model: ModelSpec,
        spec: ClusterSpec,
        profile: Profile,
        engine: EngineSettings,
        policy: Policy | None,
        workload: Trace | ClosedLoop,
        seed: int,
        scenario: str,
        arrival_scale: float,
        rules: LongRules,
        order: OrderRules,
        record: bool,
    ) -> None:
        self.arrival_scale, self.rules, self.order, self.record = arrival_scale, rules, order, record
        self.model, self.spec, self.engine = model, spec, engine
        self.kernels, self.profile = profile, engine.with_overhead(profile)
        self.policy, self.workload, self.seed, self.scenario = policy, workload, seed, scenario
        self.trace = workload.lengths if isinstance(workload, ClosedLoop) else workload
        self.n_replicas = spec.replica_count(profile.tp)
        self.simulator = self.new_simulator()
        if isinstance(workload, ClosedLoop):
            self.simulator.load_closed_loop(workload)
        else:
            self.simulator.load_trace(workload)
        if policy is not None:
            self.policy = policy.begun(self)
        self._wall_s = 0.0

    def run(self, until_s: float = math.inf) -> RequestLog:
        """Runs the policy until everything is served, or to `until_s`, and returns the log so far.

        Raises EngineError for a cluster without a policy: use next_decision() and apply(). Of an agent, the run also
        ends when it has let everybody wait for an hour in which nothing else happened.
        """
        if self.policy is None:
            raise EngineError("this cluster has no policy: drive it by next_decision() and apply(), then log()")
        started = time.perf_counter()
        if self.policy.agent is not None:
            self._agent_run.run(until_s)
            self.simulator = self._agent_run.simulator
        elif self.policy.actor is None:
            self.simulator.run(until_s)
        else:
            while (decision := self.simulator.next_decision(until_s)) is not None:
                self.simulator.apply(self.policy.answer(decision))
        self._wall_s += time.perf_counter() - started
        return self.log()

    @cached_property
    def _agent_run(self) -> Any:
        """The run of an agent, of pecgym.envs, which builds on this."""
        if isinstance(self.workload, ClosedLoop):
            raise EngineError(f"policy {self.policy_name!r}: an agent serves a trace, not a closed loop")
        return importlib.import_module("pecgym.envs.driver").AgentRun(self)

    @property
    def policy_name(self) -> str:
        """What tables call the policy."""
        return self.policy.name if self.policy else "outside"

    def _refuse_agent(self) -> None:
        if self.policy is not None and self.policy.agent is not None:
            raise EngineError(f"policy {self.policy_name!r} is an agent, which runs by run() alone")

    def run_stream(
        self, chunks: Iterator[Trace], sink: Callable[[Any], None], *, longest_long_tokens: int = 0
    ) -> float:
        """Runs a workload that is too large for memory in place of the cluster's own; returns the engine's seconds.

        chunks: consecutive parts of a trace, such as `pecgym.workload.stream_trace(path)`. sink: gets the rows of
        finished requests in parts, LOG_ROW[n] of pecgym.engine.state (times in picoseconds). Memory stays bounded as
        long as the number of unfinished requests does. longest_long_tokens: of a stream with long requests, how long
        their prompts may be.
        """
        if self.policy is None or self.policy.actor is not None or self.policy.agent is not None:
            raise EngineError("a streamed workload needs a compiled policy")
        waited_s = 0.0

        def timed(source: Iterator[Trace]) -> Iterator[Trace]:
            nonlocal waited_s
            while True:
                started = time.perf_counter()
                chunk = next(source, None)
                waited_s += time.perf_counter() - started
                if chunk is None:
                    return
                yield chunk

        simulator = self.new_simulator(longest_long_tokens)
        started = time.perf_counter()
        simulator.load_stream(timed(chunks), sink)
        simulator.run()
        simulator.drain()
        return time.perf_counter() - started - waited_s

    def next_decision(self, until_s: float = math.inf) -> Decision | None:
        """Runs to the next decision that is left to the caller; None when none is left (or none before `until_s`)."""
        self._refuse_agent()
        return self.simulator.next_decision(until_s)

    def apply(self, action: int) -> None:
        """Answers the decision that is due: a replica's index, or pecgym.WAIT."""
        self._refuse_agent()
        self.simulator.apply(action)

    def snapshot(self) -> Snapshot:
        """A copy of the simulation at this moment."""
        self._refuse_agent()
        return self.simulator.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot; from there everything continues bit for bit."""
        self._refuse_agent()
        self.simulator.restore(snapshot)

    def log(self) -> RequestLog:
        """What has happened so far."""
        return self.log_of(self.simulator)

    def log_of(self, simulator: Simulator, since_ps: int = 0) -> RequestLog:
        """What has happened in a simulator of this cluster (`new_simulator`), in times since `since_ps`."""
        finished, waiting = simulator.finished(), simulator.unfinished()
        pending = np.zeros(len(waiting), finished.dtype).view(np.recarray)
        for name in set(finished.dtype.names) & set(waiting.dtype.names):
            pending[name] = waiting[name]
        pending.finish_ps = NEVER
        rows: Any = np.concatenate([finished, pending]).view(np.recarray)
        rows = rows[np.argsort(rows.row)]
        facts = self.facts(
            int(rows.input_tokens.max(initial=0)), int((rows.input_tokens + rows.output_tokens).max(initial=0))
        )
        work_s = {
            "busy_s": ps_to_seconds(simulator.busy_ps()),
            "prefill_s": ps_to_seconds(simulator.prefill_ps()),
        }
        return RequestLog(
            ps={event: _since(rows[f"{event}_ps"], since_ps) for event in TIME_COLUMNS},
            counts={name: rows[name].copy() for name in COUNT_COLUMNS},
            timeline=self._timeline() if self.record else None,
            is_long=self.trace.is_long[rows.row],
            facts=replace(
                facts,
                end_s=simulator.now_s - float(ps_to_seconds(since_ps)),
                iterations=simulator.iterations(),
                kv_token_s=simulator.kv_token_s(),
                **work_s,
            ),
        )

    def _timeline(self) -> Timeline:
        slices = self.simulator.timeline()
        columns = {name: slices[name].copy() for name in SLICE_COLUMNS}
        per_node = self.spec.gpus_per_node // self.profile.tp
        return Timeline(**columns, n_replicas=self.n_replicas, replicas_per_node=per_node)

    def facts(self, longest_prompt: int, longest_context: int) -> RunFacts:
        """What the run was. longest_prompt, longest_context: in tokens, to say what the profile extrapolates."""
        gpu = load_gpu(self.spec.gpu)
        note = self.profile.range_note(longest_prompt, longest_context, 0)
        return RunFacts(
            labels={
                "policy": self.policy_name,
                "model": self.model.name,
                "cluster": self.spec.name,
                "engine": self.engine.name,
                "profile": self.profile.name,
                "workload": self.trace.name,
                "scenario": self.scenario,
                "predictor": self._predictor_name,
                "arrival_scale": self.arrival_scale,
                "seed": self.seed,
            },
            gpus=self.spec.gpu_count,
            gpus_per_replica=self.profile.tp,
            end_s=self.simulator.now_s,
            busy_s=ps_to_seconds(self.simulator.busy_ps()),
            prefill_s=ps_to_seconds(self.simulator.prefill_ps()),
            idle_w=self.profile.idle_w,
            decode_w=self.profile.decode_w,
            prefill_w=self.profile.prefill_w,
            price_per_gpu_hour_usd=gpu.price_per_hour_usd,
            wall_s=self._wall_s,
            iterations=self.simulator.iterations(),
            kv_token_s=self.simulator.kv_token_s(),
            kv_capacity_tokens=self.simulator.settings.kv_capacity_tokens,
            notes=tuple(each for each in (note, self._agent_note(), self._training_note) if each),
            predictions=self._accuracy,
        )

    @cached_property
    def _accuracy(self) -> Accuracy | None:
        """How good the predictions are that are read; None if nobody reads any."""
        readers = self.simulator.readers
        is_long = self.trace.is_long
        is_read = bool((is_long & readers.of_longs).any() or (~is_long & readers.of_shorts).any())
        if self.order.lengths == "exact" or self.trace.predicted_tokens is None or not is_read:
            return None
        return accuracy(self.trace.predicted_tokens, self.trace.output_tokens)

    @cached_property
    def _training_note(self) -> str | None:
        """Whether the predictor, where it is one by name, has seen these requests before."""
        if self._accuracy is None or self.trace.predictor is None:
            return None
        try:
            return training_overlap(self.trace, load_predictor(self.trace.predictor))
        except SpecError:  # an object of the caller's
            return None

    @property
    def _predictor_name(self) -> str | None:
        """Whose predictions are read."""
        return None if self._accuracy is None else self.trace.predictor or "column predicted_tokens"

    def _agent_note(self) -> str | None:
        """Which agent it is, where the name of the policy leaves it open."""
        agent = self.policy.agent if self.policy is not None else None
        if agent is None or agent.name == self.policy_name:
            return None
        return f"{self.policy_name}: the agent is {agent.name}"

    def new_simulator(self, longest_long_tokens: int = 0, **changes: Any) -> Simulator:
        """Another simulator of this cluster, without a workload.

        longest_long_tokens: the longest long prompt that it must serve, if not of this cluster's workload. changes:
        keyword arguments of Simulator.
        """
        stream = random_stream(self.seed, "policy")
        policy, engine = self.policy, self.engine
        setup: dict[str, Any] = {
            "rules": self.rules,
            "order": self.order,
            "topology": self._topology(),
            "group_costs": self._group_costs(longest_long_tokens) if longest_long_tokens else self.group_costs,
            "policy_stream": stream,
            "record": self.record,
        }
        if policy is None:
            return Simulator(self.n_replicas, self.kernels, engine, **(setup | changes))
        if policy.queue_order is not None:
            engine = engine.with_changes(queue_order=policy.queue_order)
        if policy.preemptive is not None:
            engine = engine.with_changes(preemptive=policy.preemptive)
        setup["reads_lengths"] = policy.reads_lengths
        setup |= {"choose": policy.choose, "start": policy.start_rule, "pool": policy.pool}
        setup |= {"load": policy.load, "global_order": policy.global_order, "tail_s": policy.tail_s}
        return Simulator(self.n_replicas, self.kernels, engine, **(setup | changes))

    def _topology(self) -> Topology:
        gpu, tp = load_gpu(self.spec.gpu), self.profile.tp
        return Topology(
            replicas_per_node=self.spec.gpus_per_node // tp,
            layers=self.model.layers,
            replica_gb_per_s=gpu.nvlink_one_way_gb_per_s * tp,
            node_gb_per_s=self.spec.inter_node_gb_per_s,
        )

    @cached_property
    def group_costs(self) -> GroupCosts | None:
        """What groups of replicas take for the longs of the workload; None without longs."""
        return self._group_costs(0)

    def _group_costs(self, longest_long_tokens: int) -> GroupCosts | None:
        longest = max(longest_long_tokens, int(self.trace.input_tokens[self.trace.is_long].max(initial=0)))
        if longest == 0:
            return None
        return group_costs(self.model, load_gpu(self.spec.gpu), self.spec, self.profile, longest)


def _since(times_ps: Any, since_ps: int) -> Any:
    return np.where(times_ps == NEVER, NEVER, times_ps - since_ps)


def _check_profile(profile: Profile, model: ModelSpec, spec: ClusterSpec) -> None:
    """A profile's times are those of its model on its GPU; "any" stands for all."""
    for kind, theirs, ours in (("model", profile.model, model.name), ("GPU", profile.gpu, spec.gpu)):
        if theirs not in (ours, "any"):
            raise SpecError(
                f"profile {profile.name} is of {kind} {theirs}, not {ours}: choose the profile or the {kind}"
            )
    if profile.model != "any" and profile.kv_bytes_per_token != model.kv_bytes_per_token:
        raise SpecError(
            f"profile {profile.name} has {profile.kv_bytes_per_token:,} KV bytes per token, model {model.name} "
            f"{model.kv_bytes_per_token:,}: a model of your own needs a name and a profile of its own"
        )


def _rules_of(policy: Policy | None, tp: int, changes: Mapping[str, Any]) -> LongRules:
    if policy is None:
        return LongRules().with_changes(**changes)
    return policy.rules_with(tp, **changes)


def make_cluster(
    model: str = "llama-3.1-70b",
    cluster: str = "p4de_x4",
    policy: str | Policy | PythonPolicy | type | None = "fifo",
    workload: str | Path | Trace | ClosedLoop = "azure2023_conv",
    engine: str | EngineSettings = "vllm",
    *,
    seed: int = 0,
    tp: int | None = None,
    profile: str | Path | Profile | None = None,
    scenario_label: str = "native",
    arrival_scale: float = 1.0,
    rules: Mapping[str, Any] | None = None,
    order: Mapping[str, Any] | None = None,
    record: bool = False,
) -> Cluster:
    """A cluster by names: see docs/index.md.

    Args:
        model: a shipped model or the path of a .yaml (docs/cost-model.md).
        cluster: the same for the hardware.
        policy: a reference policy, an agent ("ppo", "ppo/NAME"), an import path "module:name", a Policy, an object or
            class with `act(decision)`, or None to take every decision yourself.
        workload: an embedded workload ("azure2023_conv", ...), a trace file, a Trace or a ClosedLoop.
        engine: an engine preset (docs/engine.md), the path of a .yaml, or EngineSettings.
        seed: of the embedded workload and of the policy's random numbers, which are separate streams.
        tp: GPUs per replica; None: the model's default.
        profile: cost profile by name or path; None: that of (model, GPU, tp) on vLLM.
        scenario_label: what tables call it; pecgym.scenario.scale_to_load changes the load.
        arrival_scale: what tables say of the factor on the arrival rate that the workload was given.
        rules: what to change in the policy's rules for long requests (LongRules, docs/policies.md).
        order: what to change in the parameters of its orders (OrderRules, docs/policies.md).
        record: whether the log gets a timeline of what each replica did.

    Raises:
        PecGymError: a name does not exist, or a request is larger than a replica's memory.
    """
    model_spec, spec = load_model(model), load_cluster(cluster)
    if profile is None:
        profile = find_profile(model_spec.name, spec.gpu, tp or model_spec.default_tp)
    elif not isinstance(profile, Profile):
        profile = load_profile(profile)
    _check_profile(profile, model_spec, spec)
    if tp is not None and tp != profile.tp:
        raise SpecError(
            f"tp={tp}, but profile {profile.name} is of {profile.tp} GPUs per replica; leave one of them out"
        )
    if not isinstance(workload, Trace | ClosedLoop):
        options = {"seed": seed} if isinstance(workload, str) and is_generator_name(workload) else {}
        workload = load_trace(workload, **options)
    loaded = None if policy is None else load_policy(policy, model_spec.name, scenario_label.partition("-")[0])
    return Cluster(
        model_spec,
        spec,
        profile,
        engine if isinstance(engine, EngineSettings) else load_engine(engine),
        loaded,
        workload,
        seed,
        scenario_label,
        arrival_scale,
        _rules_of(loaded, profile.tp, rules or {}),
        OrderRules().with_changes(**order or {}) if loaded is None else loaded.order_with(**order or {}),
        record,
    )
