"""`pecgym/Replica-v0`: the batches of one replica as a Gymnasium environment, alone and as many copies."""

from __future__ import annotations

from functools import cache
from typing import Any

from gymnasium import spaces
from numba import types

from pecgym.engine.compiled import compile_cached
from pecgym.envs import arrays as a
from pecgym.envs.core import Copies
from pecgym.envs.kernel import advance_replicas, imitate_replica
from pecgym.envs.single import CopyEnv
from pecgym.envs.spaces import replica_action_sizes, replica_observation_space
from pecgym.envs.vector import CopiesVectorEnv
from pecgym.errors import SpecError


class ReplicaCopies(Copies):
    """N copies of Replica-v0."""

    observed = ("waiting", "residents", "replica")
    arrays: a.ReplicaArrays

    def _asks(self) -> dict[str, Any]:
        return {"ask_batches": True}

    def _check_cluster(self) -> None:
        if self.cluster.n_replicas != 1:
            raise SpecError(
                f"Replica-v0 is about one replica: cluster {self.cluster.spec.name!r} has {self.cluster.n_replicas} of "
                f"{self.cluster.profile.tp} GPUs; choose a cluster with as many GPUs as a replica, or Cluster-v0"
            )
        if self.cluster.trace.is_long.any():
            raise SpecError("Replica-v0 serves no long requests: set workload.long_context=none, or use Cluster-v0")

    def _make_arrays(self) -> None:
        n_waiting, n_residents = self.config.n_waiting, self.config.n_residents
        self.arrays = a.replica_arrays(self.n, n_waiting, n_residents)
        self.observation_space = replica_observation_space(n_waiting, n_residents)
        self.action_space = spaces.MultiDiscrete(list(replica_action_sizes(n_waiting, n_residents)))

    def _compiled_advance(self) -> Any:
        return compiled_replica_advance()

    def _compiled_imitate(self) -> Any:
        return compiled_replica_imitate()


@cache
def compiled_replica_advance() -> Any:
    """The step of Replica-v0."""
    return compile_cached(
        advance_replicas, types.int64(types.int64), "the environment of a replica", "some ten seconds"
    )


@cache
def compiled_replica_imitate() -> Any:
    """What the engine's own rules would do."""
    return compile_cached(imitate_replica, types.boolean(types.int64, types.int64))


class ReplicaEnv(CopyEnv):
    """The engine of one replica; the agent composes its batches.

    ## Description
    Requests of a trace wait at one replica and are served in continuous batches (INFERMAX, arXiv:2411.07447). At the
    boundaries of iterations the environment asks who of those that wait joins the batch next, as long as token budget
    and a batch slot are left, and, when the KV memory overflows, which resident gives it up and is computed anew. The
    engine's settings say the rest: token budget, chunks, mixing, reservation (docs/engine.md).

    ## Action Space
    `MultiDiscrete([K + 1, V])` for K shown waiting requests (`n_waiting`) and V shown residents (`n_residents`).
    `info["action_mask"]` and `action_masks()` say which values are valid. An invalid action counts as "nobody more" or,
    where that cannot be, as the first valid one, and is counted in `info["invalid_actions"]`; with `strict=True` it
    raises.

    | component | decision "join" | decision "evict" |
    |---|---|---|
    | 0 join, 0..K | who joins, in the order of the queue; K: nobody more in this iteration | |
    | 1 evict, 0..V-1 | | who is evicted, the newest admitted first |

    ## Observation Space
    `Dict(waiting, residents, replica)`, float32 within 0 and 1; pecgym.envs.spaces lists every feature with its unit
    and scaling. Output lengths are not shown unless `oracle_lengths=True`.

    ## Rewards
    As of Cluster-v0: minus the weighted sum of integrals over the time since the last decision (pecgym.envs.rewards).

    ## Starting State
    An empty replica at a random request of the trace, drawn at reset; `options={"first_request": row}` chooses one.

    ## Episode End
    Terminated when all requests of the window have been served; truncated at the limit (EpisodeConfig).

    ## Arguments
    Every field of pecgym.envs.config.EnvConfig by its name, and `preset`, an id whose settings are the defaults.
    `agent_controls`, `n_longs` and the rules for longs are of Cluster-v0; longs cannot be in the workload, and of the
    engine's settings batching "static", `preemptive` and eviction "swap" are refused.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=64, vectorization_mode="vector_entry_point")` steps all copies in one compiled call.

    ## Version History
    * v0: initial version.
    """

    copies_class = ReplicaCopies
    default_preset = "Replica-v0"


class ReplicaVectorEnv(CopiesVectorEnv):
    """N copies of ReplicaEnv that step in one compiled call; copy i equals a ReplicaEnv that is seeded the same."""

    copies_class = ReplicaCopies
    default_preset = "Replica-v0"
