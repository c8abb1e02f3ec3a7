"""N copies of an environment side by side: their simulators, their arrays, and the compiled calls that step them."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from numba import types

from pecgym.analysis import RequestLog
from pecgym.cluster import Cluster
from pecgym.costs import load_gpu
from pecgym.engine import Simulator
from pecgym.engine import state as layout
from pecgym.engine.compiled import compile_cached
from pecgym.engine.entry import POLICY, RUN, ask_outside, compile_policy, compiled_run
from pecgym.engine.reference import address_of, held_address, reference_to, table_of
from pecgym.envs import arrays as a
from pecgym.envs.config import CONTROLS, TERMS, EnvConfig
from pecgym.envs.kernel import advance_clusters, imitate_cluster
from pecgym.envs.spaces import cluster_action_sizes, cluster_observation_space, degree_options
from pecgym.envs.unserved import unserved_replica_s
from pecgym.envs.windows import Window, Windows
from pecgym.errors import EngineError, SpecError
from pecgym.policies import Policy
from pecgym.units import J_PER_KWH, seconds_to_ps

KINDS = {
    layout.NONE: "none",
    layout.PLACE_SHORT: "place",
    layout.START_LONG: "start",
    layout.SET_POOL: "roles",
    layout.JOIN_BATCH: "join",
    layout.EVICT_ONE: "evict",
}
_ASKED = {
    "choose": ("placement", "preemption", "disaggregation"),
    "start": ("start", "order", "sp_degree", "sp_strategy"),
    "pool": ("roles",),
}
"""The functions of a policy, and the controls with any of which the agent is asked in their place."""
_OF_THIS_PROCESS = ("_advance", "_columns", "_holders", "_states", "_table", "_table_address")


def columns_of(copies: Any) -> dict[str, Any]:
    """The columns of a record array, which are slow to look up by their names."""
    plain = copies.view(np.ndarray)
    return {name: plain[name] for name in plain.dtype.names}


def keep_pool(state: Any, slot: int) -> int:
    """The number of decode replicas stays as it is."""
    return layout.WAIT


def whole_numbers(given: Any, shape: tuple[int, ...]) -> Any:
    """An action, or one for each copy, as an array. Raises SpecError for another shape or kind than int[shape]."""
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    if array.shape != shape or array.dtype.kind not in "iu":
        raise SpecError(f"action {given!r}: it must be whole numbers of shape {shape}")
    return array


class Copies(ABC):
    """N copies of one environment. Copy i steps, ends and begins anew on its own.

    Attributes:
        config: the settings.
        cluster: the cluster that the copies simulate.
        simulators: one for each copy.
        arrays: what the compiled step reads and writes (pecgym.envs.arrays).
        observed: names of the arrays that are the observation.
        observation_space, action_space: of one copy.
    """

    observed: ClassVar[tuple[str, ...]]
    arrays: Any
    observation_space: spaces.Dict
    action_space: spaces.MultiDiscrete

    def __init__(self, config: EnvConfig, n: int, record: bool = False, cluster: Cluster | None = None) -> None:
        """record: whether timelines are kept. cluster: what is simulated, with its trace and policy, in place of what
        the settings say. Raises PecGymError."""
        self.config, self.n, self._record = config, n, record
        if cluster is None:
            cluster = config.experiment().make(self._reference_policy(), config.workload_seed)
        assert cluster.policy is not None
        self.cluster, self.policy = cluster, cluster.policy
        self._check_cluster()
        self.windows = Windows(self.cluster.trace, config.episode)
        first = self.cluster.new_simulator(
            record=record, tail_s=config.reward.tail_s, slo_ttft_s=config.reward.slo_ttft_s, **self._asks()
        )
        first.load_trace(self.cluster.trace)
        self.simulators: list[Simulator] = [first, *(first.twin() for _ in range(n - 1))]
        self._make_arrays()
        self._set_shared()
        self._connect()

    # -- what an environment is made of -----------------------------------------------------------------------------

    @abstractmethod
    def _asks(self) -> dict[str, Any]:
        """Keyword arguments of Simulator by which the agent is asked."""

    @abstractmethod
    def _make_arrays(self) -> None:
        """Sets `arrays` and the spaces."""

    @abstractmethod
    def _check_cluster(self) -> None:
        """Raises SpecError for a cluster or a workload that the environment is not for."""

    @abstractmethod
    def _compiled_advance(self) -> Any:
        """The compiled step: `advance(address of the table of arrays)`, how many copies need attention."""

    @abstractmethod
    def _compiled_imitate(self) -> Any:
        """The compiled question: `imitate(address, i)`, whether the reference policy's action could be written."""

    # -- setting up -------------------------------------------------------------------------------------------------

    def _reference_policy(self) -> Policy:
        policy = self.config.reference_policy()
        if policy.actor is not None or policy.agent is not None:
            raise SpecError(f"policy {policy.name!r}: the reference policy of an environment must be a compiled one")
        if "roles" in self.config.agent_controls and policy.pool is None:
            return replace(policy, pool=keep_pool)
        return policy

    def _set_shared(self) -> None:
        config, cluster, shared = self.config, self.cluster, self.arrays.shared[0]
        shared.n_replicas, shared.n_longs = cluster.n_replicas, config.n_longs
        shared.n_waiting, shared.n_residents = config.n_waiting, config.n_residents
        shared.n_degrees = len(degree_options(cluster.n_replicas))
        for name in CONTROLS:
            shared[f"controls_{name}"] = name in config.agent_controls
        for name in ("skip_forced", "allow_wait", "strict", "oracle_lengths"):
            shared[name] = getattr(config, name)
        shared.retry_ps = seconds_to_ps(config.retry_s)
        shared.max_decisions = config.episode.max_decisions or 0
        shared.gpus, shared.gpus_per_replica = cluster.spec.gpu_count, cluster.profile.tp
        for name in ("idle_w", "decode_w", "prefill_w"):
            shared[name] = getattr(cluster.profile, name)
        shared.usd_per_s = load_gpu(cluster.spec.gpu).price_per_hour_usd * cluster.spec.gpu_count / 3600
        self.arrays.weights[:] = config.reward.weights

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        vars(self).update(kept)
        self._connect()

    def _connect(self) -> None:
        """Writes the addresses of this process."""
        self._holders: list[Any] = []
        copies = self.arrays.copies
        functions = {"choose": self.policy.choose, "start": self.policy.start_rule, "pool": self.policy.pool}
        outside = self._hold(address_of(compile_policy(ask_outside), POLICY))
        for name, function in functions.items():
            known = self._hold(address_of(compile_policy(function or ask_outside), POLICY))
            copies[f"reference_{name}"] = known
            copies[f"asked_{name}"] = outside if name in self._asks() else known
        self.arrays.shared.run = self._hold(address_of(compiled_run(), RUN))
        self._table = table_of(self.arrays)
        self._table_address = self._hold(reference_to(self.arrays, self._table))
        self._advance = self._compiled_advance()
        self._columns = columns_of(copies)
        self._states: list[Any] = [None] * self.n
        for i in range(self.n):
            self._connect_state(i)

    def _hold(self, found: Any) -> int:
        address, holder = held_address(found)
        self._holders.append(holder)
        return address

    def _connect_state(self, i: int) -> None:
        self.arrays.copies.state[i], self._states[i] = held_address(self.simulators[i].reference)

    # -- episodes ---------------------------------------------------------------------------------------------------

    def reset(self, i: int, random: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        """Begins a new episode of copy i, in a window drawn by `random`, and runs to its first decision.

        Raises SpecError for options that do not exist.
        """
        window = self.windows.options(options, random)
        self.begin(i, window, int(random.integers(2**48)))

    def begin(self, i: int, window: Window, random_state: int) -> None:
        """The same with a given window. random_state: of the reference policy's own numbers, 0..2**48-1."""
        self.simulators[i].restart(window.first, window.stop, window.start_s, random_state)
        self._connect_state(i)
        self._begin(i, window)
        self._advance_until_fine()

    def extend(self, i: int, limit_s: float) -> None:
        """Moves the limit of copy i; an episode that was truncated at the old one goes on to its next decision."""
        copies = self.arrays.copies
        copies.until_ps[i] = seconds_to_ps(limit_s)
        if copies.ended[i] == a.TRUNCATED:
            copies.ended[i] = a.RUNNING
            copies.todo[:] = a.REST
            copies.todo[i] = a.GO_ON
            self._advance_until_fine()

    def _begin(self, i: int, window: Window) -> None:
        warm_up_s = self.config.episode.warm_up_s
        copy = self.arrays.copies[i]
        copy.ended, copy.kind, copy.answer = a.RUNNING, layout.NONE, layout.WAIT
        copy.n_shown, copy.longs_version = 0, -1
        copy.until_ps = seconds_to_ps(window.limit_s)
        copy.start_ps = copy.last_ps = copy.rated_ps = seconds_to_ps(window.start_s)
        copy.warm_until_ps = seconds_to_ps(window.start_s + warm_up_s) if warm_up_s else layout.NONE
        copy.next_row = copy.invalid = copy.decisions = 0
        copy.waiting_s = copy.long_s = copy.late_s = copy.missed = 0.0
        copy.busy_s = copy.prefill_s = 0.0
        copy.requests_per_s = copy.tokens_per_s = 0.0
        self.arrays.terms[i] = self.arrays.rewards[i] = self.arrays.elapsed_s[i] = 0.0
        self.arrays.copies.todo[:] = a.REST
        self.arrays.copies.todo[i] = a.BEGIN

    def step(self, which: Any = None) -> int:
        """Answers the decisions that are due in copies `which` by `arrays.actions`, and runs these to their next ones.

        which: bool[N], None: all. Returns how many of them have ended. Raises SpecError for an invalid action, if the
        settings say so.
        """
        todo = self._columns["todo"]
        if which is None:
            todo.fill(a.STEP)
        else:
            todo[:] = np.where(which, a.STEP, a.REST)
        return self._advance_until_fine()

    def _advance_until_fine(self) -> int:
        if self._advance(self._table_address) == 0:
            return 0
        copies = self.arrays.copies
        stepped = copies.todo != a.REST
        while (short_of_space := np.flatnonzero(copies.status == a.NEEDS_SPACE)).size:
            was_beginning = copies.todo == a.BEGIN
            copies.todo[:] = a.REST
            for i in short_of_space:
                self.simulators[i].make_space()
                self._connect_state(int(i))
                copies.todo[i] = a.BEGIN if was_beginning[i] else a.GO_ON
            self._advance(self._table_address)
        for i in np.flatnonzero(stepped & (copies.status == a.REFUSED)):
            raise SpecError(self._refusal(int(i)))
        for i in np.flatnonzero(stepped & (copies.status == a.FAILED)):
            raise self._failure(int(i))
        decided = (copies.todo != a.BEGIN) & (copies.warm_until_ps == layout.NONE)
        for i in np.flatnonzero(stepped & (copies.ended == a.TRUNCATED) & decided):
            self._charge_unserved(int(i))
        return int(np.count_nonzero(copies.ended != a.RUNNING))

    def _charge_unserved(self, i: int) -> None:
        """Energy and money of what a truncated episode leaves undone (pecgym.envs.unserved)."""
        arrays, shared = self.arrays, self.arrays.shared[0]
        gpu_s = unserved_replica_s(self.cluster, self.simulators[i]) * shared.gpus_per_replica
        most_w = max(shared.decode_w, shared.prefill_w)
        charges = {"energy": gpu_s * most_w / J_PER_KWH, "money": gpu_s * shared.usd_per_s / shared.gpus}
        for term, charge in charges.items():
            k = TERMS.index(term)
            arrays.terms[i, k] -= charge
            arrays.rewards[i] -= arrays.weights[k] * charge

    def _refusal(self, i: int) -> str:
        kind = KINDS[int(self.arrays.copies.kind[i])]
        return (
            f"action {self.arrays.actions[i].tolist()} is invalid for the decision {kind!r} of copy {i}: choose one "
            "that its mask allows (info['action_mask']), or set strict=False to have it counted as to wait"
        )

    def _failure(self, i: int) -> EngineError:
        return self.simulators[i].failure(int(self.arrays.copies.outcome[i]))

    def reference_action(self, i: int) -> Any:
        """int64[components]: what the reference policy would do now in copy i, which has no consequences.

        Raises EngineError if no action means the same, such as a degree that is no power of two, without the control
        of it.
        """
        if not self._compiled_imitate()(self._table_address, self._copy(i)):
            raise EngineError(
                f"policy {self.policy.name!r}: its answer to the decision that is due is no action of this environment"
            )
        return self.arrays.actions[i].copy()

    def log(self, i: int) -> RequestLog:
        """What has happened in the episode of copy i, in times since its beginning."""
        i = self._copy(i)
        return self.cluster.log_of(self.simulators[i], int(self.arrays.copies.start_ps[i]))

    def _copy(self, i: int) -> int:
        """The number of a copy, checked: compiled code does not."""
        if not 0 <= operator.index(i) < self.n:
            raise EngineError(f"copy {i}: there are 0 to {self.n - 1}")
        return operator.index(i)


class ClusterCopies(Copies):
    """N copies of Cluster-v0."""

    observed = ("replicas", "request", "waiting_longs", "cluster")
    arrays: a.ClusterArrays

    def _check_cluster(self) -> None:
        pass  # it is for all

    def _asks(self) -> dict[str, Any]:
        controls = set(self.config.agent_controls)
        return {name: None for name, of_it in _ASKED.items() if controls & set(of_it)}

    def _make_arrays(self) -> None:
        n_replicas, n_longs = self.cluster.n_replicas, self.config.n_longs
        degrees = degree_options(n_replicas)
        self.arrays = a.cluster_arrays(self.n, n_replicas, n_longs, degrees)
        self.observation_space = cluster_observation_space(n_replicas, n_longs)
        self.action_space = spaces.MultiDiscrete(list(cluster_action_sizes(n_replicas, n_longs, len(degrees))))

    def _compiled_advance(self) -> Any:
        return compiled_cluster_advance()

    def _compiled_imitate(self) -> Any:
        return compiled_cluster_imitate()


@cache
def compiled_cluster_advance() -> Any:
    """The step of Cluster-v0."""
    return compile_cached(advance_clusters, types.int64(types.int64), "the environment", "some ten seconds")


@cache
def compiled_cluster_imitate() -> Any:
    """What the reference policy would do."""
    return compile_cached(imitate_cluster, types.boolean(types.int64, types.int64))
