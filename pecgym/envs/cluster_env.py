"""`pecgym/Cluster-v0`: a cluster as a Gymnasium environment, alone and as many copies."""

from __future__ import annotations

from pecgym.envs.core import ClusterCopies
from pecgym.envs.single import CopyEnv
from pecgym.envs.vector import CopiesVectorEnv


class ClusterEnv(CopyEnv):
    """A GPU cluster that serves short and long LLM requests; the agent is its scheduler.

    ## Description
    Replicas of one model serve requests of a trace in continuous batches. Whenever a decision is due, the environment
    asks: where the first waiting short goes, or whether and how a waiting long (100K tokens and more) starts on a group
    of replicas. Time passes between decisions, from nothing to hours. What the agent does not control is decided by a
    reference policy, PecSched (arXiv:2409.15104) by default.

    ## Action Space
    `MultiDiscrete([R + 1, 2, 2, K, D, 4])` for R replicas, K shown longs, D options of a degree: docs/environment.md.
    `info["action_mask"]` and `action_masks()` say which values are valid, component by component; every combination of
    them is. An invalid action counts as to wait and is counted in `info["invalid_actions"]`; with `strict=True` it
    raises.

    | component | of a short | of a long |
    |---|---|---|
    | 0 target, 0..R | the replica where it prefills; R: wait | the anchor of its group; R: wait |
    | 1 prefill_mode | 0: with or behind a long that is there, 1: preempt it | |
    | 2 decode_mode | 0: where it prefilled, 1: on the least loaded decode replica | |
    | 3 long_index, 0..K-1 | | which of the waiting longs |
    | 4 sp_degree, 0..D-1 | | 0: as the rule says, j: at least 2^(j-1) replicas |
    | 5 sp_strategy | | 0 ring, 1 ulysses, 2 megatron, 3 fast |

    ## Observation Space
    `Dict(replicas, request, waiting_longs, cluster)`, float32 within 0 and 1; pecgym.envs.spaces lists every feature
    with its unit and scaling. Output lengths are not shown unless `oracle_lengths=True`.

    ## Rewards
    Minus the weighted sum of terms that are integrals over the time since the last decision (pecgym.envs.rewards); in
    the default the seconds that shorts waited, plus a tenth of the seconds that longs were unfinished.
    `info["reward_terms"]` has them unweighted.

    ## Starting State
    An empty cluster at a random request of the trace, drawn at reset; `options={"first_request": row}` chooses one.

    ## Episode End
    Terminated when all requests of the window have been served; truncated at the limit (EpisodeConfig).

    ## Arguments
    Every field of pecgym.envs.config.EnvConfig by its name, and `preset`, an id whose settings are the defaults.

    ## Vectorized environment
    `gym.make_vec(id, num_envs=64, vectorization_mode="vector_entry_point")` steps all copies in one compiled call.

    ## Version History
    * v0: initial version.
    """

    copies_class = ClusterCopies
    default_preset = "Cluster-v0"


class ClusterVectorEnv(CopiesVectorEnv):
    """N copies of ClusterEnv that step in one compiled call; copy i equals a ClusterEnv that is seeded the same."""

    copies_class = ClusterCopies
    default_preset = "Cluster-v0"
