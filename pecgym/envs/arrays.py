"""The arrays of N copies of an environment, which its kernel reads and writes: N copies step in one compiled call."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pecgym.engine.reference import table_reader, table_type
from pecgym.envs import spaces
from pecgym.envs.config import TERMS

# What the kernel is to do with a copy: nothing, run to the first decision, answer the one that is due and run to the
# next, or go on with that. What happened before the first decision is charged to the first step.
REST, BEGIN, STEP, GO_ON = range(4)
# How far a copy is. REFUSED: the action is invalid, and nothing was done.
RUNNING, TERMINATED, TRUNCATED = range(3)
FINE, NEEDS_SPACE, REFUSED, FAILED = range(4)

_SHARED = np.dtype(
    [(name, np.int64) for name in ("run", "n_replicas", "n_longs", "n_degrees", "n_waiting", "n_residents")]
    + [(f"controls_{name}", np.int64) for name in spaces.CONTROLS]
    + [
        (name, np.int64)
        for name in ("skip_forced", "allow_wait", "strict", "oracle_lengths", "retry_ps", "max_decisions")
    ]
    + [(name, np.float64) for name in ("gpus", "gpus_per_replica", "idle_w", "decode_w", "prefill_w", "usd_per_s")],
    align=True,
)
"""What is the same for all copies."""

_COPY = np.dtype(
    [("state", np.int64)]  # addresses: of the state, of who is asked, and of the reference policy
    + [(f"{who}_{name}", np.int64) for who in ("asked", "reference") for name in ("choose", "start", "pool")]
    + [
        (name, np.int64)
        for name in (
            "todo",
            "ended",
            "status",
            "outcome",  # why the engine came back, if it failed
            "kind",  # of the decision that is due, NONE: none is
            "answer",  # of the reference policy to it, where the agent does not decide all
            "n_shown",  # waiting longs in `slots`
            "longs_version",  # of which they are
            "n_rows",  # rows of their features that are not zero
            "n_residents",
            "until_ps",  # truncated then
            "warm_until_ps",
            "start_ps",
            "now_ps",
            "last_ps",  # of the last decision of the agent
            "rated_ps",  # to which the rates are averaged
            "next_row",  # arrivals from here on are new to the rates
            "invalid",  # invalid actions in the episode
            "decisions",  # of the agent in the episode
        )
    ]
    + [(name, np.float64) for name in ("waiting_s", "long_s", "late_s", "missed")]  # sums at `last_ps`
    + [(name, np.float64) for name in ("busy_s", "prefill_s")]  # the same
    + [(name, np.float64) for name in ("requests_per_s", "tokens_per_s")],
    align=True,
)


def _recarray(n: int, dtype: Any) -> Any:
    return np.zeros(n, dtype).view(np.recarray)


class ClusterArrays(NamedTuple):
    """N copies of Cluster-v0: R replicas, K waiting longs, D options of a degree, M values of all components."""

    shared: Any  # SHARED[1]
    copies: Any  # COPY[N]
    weights: Any  # float64[T]
    terms: Any  # float64[N, T]
    rewards: Any  # float64[N]
    elapsed_s: Any  # float64[N]: since the last decision
    actions: Any  # int64[N, 6]
    mask: Any  # int8[N, M]
    degrees: Any  # int64[D]
    slots: Any  # int64[N, K]: of the waiting longs
    replicas: Any  # float32[N, R, F]
    request: Any  # float32[N, F]
    waiting_longs: Any  # float32[N, K, F]
    cluster: Any  # float32[N, F]


def cluster_arrays(n: int, n_replicas: int, n_longs: int, degrees: Any) -> ClusterArrays:
    """For n copies; degrees: int64[D], the options of a degree of sequence parallelism (0: as the rule says)."""
    size = sum(spaces.cluster_action_sizes(n_replicas, n_longs, len(degrees)))
    return ClusterArrays(
        shared=_recarray(1, _SHARED),
        copies=_recarray(n, _COPY),
        weights=np.zeros(len(TERMS)),
        terms=np.zeros((n, len(TERMS))),
        rewards=np.zeros(n),
        elapsed_s=np.zeros(n),
        actions=np.zeros((n, len(spaces.CLUSTER_ACTION)), np.int64),
        mask=np.zeros((n, size), np.int8),
        degrees=np.array(degrees, np.int64),
        slots=np.zeros((n, n_longs), np.int64),
        replicas=np.zeros((n, n_replicas, len(spaces.REPLICA)), np.float32),
        request=np.zeros((n, len(spaces.REQUEST)), np.float32),
        waiting_longs=np.zeros((n, n_longs, len(spaces.WAITING_LONG)), np.float32),
        cluster=np.zeros((n, len(spaces.CLUSTER)), np.float32),
    )


class ReplicaArrays(NamedTuple):
    """N copies of Replica-v0: K waiting requests, V residents, M values of all components."""

    shared: Any  # SHARED[1]
    copies: Any  # COPY[N]
    weights: Any  # float64[T]
    terms: Any  # float64[N, T]
    rewards: Any  # float64[N]
    elapsed_s: Any  # float64[N]: since the last decision
    actions: Any  # int64[N, 2]
    mask: Any  # int8[N, M]
    waiting_slots: Any  # int64[N, K]
    resident_slots: Any  # int64[N, V]
    waiting: Any  # float32[N, K, F]
    residents: Any  # float32[N, V, F]
    replica: Any  # float32[N, F]


def replica_arrays(n: int, n_waiting: int, n_residents: int) -> ReplicaArrays:
    """For n copies."""
    return ReplicaArrays(
        shared=_recarray(1, _SHARED),
        copies=_recarray(n, _COPY),
        weights=np.zeros(len(TERMS)),
        terms=np.zeros((n, len(TERMS))),
        rewards=np.zeros(n),
        elapsed_s=np.zeros(n),
        actions=np.zeros((n, len(spaces.REPLICA_ACTION)), np.int64),
        mask=np.zeros((n, sum(spaces.replica_action_sizes(n_waiting, n_residents))), np.int8),
        waiting_slots=np.zeros((n, n_waiting), np.int64),
        resident_slots=np.zeros((n, n_residents), np.int64),
        waiting=np.zeros((n, n_waiting, len(spaces.WAITING)), np.float32),
        residents=np.zeros((n, n_residents, len(spaces.RESIDENT)), np.float32),
        replica=np.zeros((n, len(spaces.BATCH)), np.float32),
    )


CLUSTER_ARRAYS = table_type("pecgym.ClusterArrays", ClusterArrays, lambda: cluster_arrays(1, 1, 1, [0]))
cluster_arrays_at = table_reader(CLUSTER_ARRAYS)
REPLICA_ARRAYS = table_type("pecgym.ReplicaArrays", ReplicaArrays, lambda: replica_arrays(1, 1, 1))
replica_arrays_at = table_reader(REPLICA_ARRAYS)
