"""What observations and actions consist of: every feature with its unit and scaling, and the spaces made of them.

All features are within 0 and 1. The scalings: a share; a flag (0 or 1); x/(x+c), which is 0.5 at c; log2 of 1 + x over
20 or 16, which is 1 at about a million or 65 thousand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from pecgym.envs.config import CONTROLS

__all__ = [
    "BATCH",
    "CLUSTER",
    "CLUSTER_ACTION",
    "CONTROLS",
    "REPLICA",
    "REPLICA_ACTION",
    "REQUEST",
    "RESIDENT",
    "WAITING",
    "WAITING_LONG",
    "Feature",
]


class Feature(NamedTuple):
    """One number of an observation."""

    name: str
    meaning: str
    unit: str
    scaling: str


_CLASSES = (
    "open",
    "gathering_long",
    "suspended_long",
    "prefilling_long",
    "decoding_long",
    "pool",
    "reserved",
    "closed",
)
_CLASS_MEANINGS = (
    "takes shorts and serves no long",
    "its group gathers for a long that has not begun",
    "serves a long whose prefill shorts have suspended",
    "computes the prompt of a long",
    "takes part in the decode of a long",
    "decodes shorts that have prefilled elsewhere",
    "set apart for longs, and without one",
    "takes nothing now: it drains for another role, or is reserved and has a long",
)

REPLICA = (
    *(Feature(name, meaning, "", "flag") for name, meaning in zip(_CLASSES, _CLASS_MEANINGS, strict=True)),
    Feature("requests", "placed there and not finished", "requests", "x/(x+16)"),
    Feature("waiting", "of those, in its queue", "requests", "x/(x+16)"),
    Feature("queued_tokens", "prompt tokens placed there and not computed", "tokens", "x/(x+c), c = max_batch_tokens"),
    Feature("decodes", "resident decodes", "requests", "share of the batch slots"),
    Feature("kv_memory", "KV blocks in use now; of a long those of its prompt", "blocks", "share of the capacity"),
    Feature("incoming", "will decode there and are elsewhere yet", "requests", "x/(x+16)"),
    Feature("pushing", "prefilled there, KV cache on its way elsewhere", "requests", "x/(x+16)"),
    Feature("busy", "an iteration runs, or it works for its long", "", "flag"),
    Feature("boundary", "until the running iteration, or a long's running prefill, ends", "s", "x/(x+1)"),
    Feature("long_left", "prefill of its long that is left, undisturbed", "s", "x/(x+10)"),
    Feature("long_done", "part of that prefill that is done", "", "share"),
    Feature("long_degree", "replicas that serve that long", "replicas", "x/32"),
    Feature("long_preemptions", "times that the long was suspended", "times", "x/(x+4)"),
    Feature("long_age", "since that long arrived", "s", "x/(x+60)"),
    Feature("open_on_node", "open replicas on its node", "replicas", "share of the node's"),
    Feature("chosen", "the reference policy's target, where the agent does not choose one", "", "flag"),
)
"""Features of a replica."""

REQUEST = (
    Feature("place", "the decision: where a short goes", "", "flag"),
    Feature("start", "the decision: whether a waiting long starts", "", "flag"),
    Feature("roles", "the decision: how many replicas are set apart for decodes or for longs", "", "flag"),
    Feature("input_tokens_log", "prompt of the short, or of the first waiting long", "tokens", "log2/20"),
    Feature("input_tokens", "the same", "tokens", "x/(x+2048)"),
    Feature("age", "since it arrived", "s", "x/(x+1)"),
    Feature("known", "whether its output length is known", "", "flag"),
    Feature("output_tokens_log", "its output, if known", "tokens", "log2/16"),
)
"""Features of the request that the decision is about; zeros where there is none."""

WAITING_LONG = (
    Feature("there", "whether so many wait; else the row is zero", "", "flag"),
    Feature("input_tokens", "its prompt", "tokens", "log2/20"),
    Feature("age", "since it arrived", "s", "x/(x+60)"),
    Feature("known", "whether its output length is known", "", "flag"),
    Feature("output_tokens", "its output, if known", "tokens", "log2/16"),
    Feature("fewest_replicas", "whose memories hold its prompt, and its output if known", "replicas", "share of all"),
)
"""Features of a waiting long, in their order."""

CLUSTER = (
    *(Feature(name, f"replicas of the class {name}", "replicas", "share of all") for name in _CLASSES),
    Feature("queued", "shorts in the global queue", "requests", "x/(x+16)"),
    Feature("unstarted", "shorts that wait anywhere", "requests", "x/(x+64)"),
    Feature("late", "of those, longer than reward.tail_s", "requests", "x/(x+16)"),
    Feature("oldest", "age of the oldest short without a first token", "s", "x/(x+1)"),
    Feature("waiting_longs", "longs that have no group", "requests", "x/(x+8)"),
    Feature("open_longs", "longs that are not finished", "requests", "x/(x+8)"),
    Feature("elapsed", "since the last decision", "s", "x/(x+1)"),
    Feature("arrival_rate", "requests, averaged over the last 60 s with exponential weights", "1/s", "x/(x+1)"),
    Feature("token_rate", "their prompt tokens, averaged alike", "tokens/s", "x/(x+10000)"),
)
"""Features of the cluster."""

WAITING = (
    Feature("there", "whether so many wait; else the row is zero", "", "flag"),
    Feature("prompt_tokens", "to be computed: input and, after an eviction, output so far", "tokens", "log2/20"),
    Feature("emitted_tokens", "its output so far", "tokens", "log2/16"),
    Feature("age", "since it arrived", "s", "x/(x+1)"),
    Feature("evictions", "times that it was evicted", "times", "x/(x+4)"),
    Feature("known", "whether its output length is known", "", "flag"),
    Feature("left_tokens", "what is left of its output, if known", "tokens", "log2/16"),
)
"""Features of a waiting request of Replica-v0, in the order of the queue."""

RESIDENT = (
    Feature("there", "whether there are so many; else the row is zero", "", "flag"),
    Feature("decoding", "whether its prompt is computed", "", "flag"),
    Feature("computed_tokens", "in KV memory", "tokens", "share of the capacity"),
    Feature("emitted_tokens", "its output so far", "tokens", "log2/16"),
    Feature("age", "since it arrived", "s", "x/(x+1)"),
    Feature("evictions", "times that it was evicted", "times", "x/(x+4)"),
    Feature("known", "whether its output length is known", "", "flag"),
    Feature("left_tokens", "what is left of its output, if known", "tokens", "log2/16"),
)
"""Features of a resident that has no prompt tokens in the batch that is composed; the newest admitted first."""

BATCH = (
    Feature("join", "the decision: who joins the batch next, if anybody", "", "flag"),
    Feature("evict", "the decision: who gives up memory", "", "flag"),
    Feature("waiting", "requests that wait", "requests", "x/(x+16)"),
    Feature("decodes", "residents whose prompt is computed", "requests", "share of the batch slots"),
    Feature("prefills", "residents whose prompt is not", "requests", "share of the batch slots"),
    Feature("kv_memory", "KV blocks in use", "blocks", "share of the capacity"),
    Feature("budget", "prompt tokens that the batch can still take", "tokens", "share of max_batch_tokens"),
    Feature("unstarted", "shorts that have not been executed", "requests", "x/(x+64)"),
    Feature("late", "of those, longer than reward.tail_s", "requests", "x/(x+16)"),
    Feature("oldest", "age of the oldest request without a first token", "s", "x/(x+1)"),
    Feature("elapsed", "since the last decision", "s", "x/(x+1)"),
    Feature("arrival_rate", "requests, averaged over the last 60 s with exponential weights", "1/s", "x/(x+1)"),
    Feature("token_rate", "their prompt tokens, averaged alike", "tokens/s", "x/(x+10000)"),
)
"""Features of the batch that Replica-v0 composes."""

REPLICA_ACTION = ("join", "evict")
"""Components of an action of Replica-v0."""

CLUSTER_ACTION = ("target", "prefill_mode", "decode_mode", "long_index", "sp_degree", "sp_strategy")
"""Components of an action of Cluster-v0."""
N_STRATEGIES = 4
LARGEST_DEGREE = 32


def degree_options(n_replicas: int) -> list[int]:
    """Options of the component sp_degree: 0 (as the rule of the reference policy says), then powers of two."""
    return [0] + [2**k for k in range(LARGEST_DEGREE.bit_length()) if 2**k <= min(n_replicas, LARGEST_DEGREE)]


def cluster_action_sizes(n_replicas: int, n_longs: int, n_degrees: int) -> tuple[int, ...]:
    """Number of values of each component of an action of Cluster-v0."""
    return (n_replicas + 1, 2, 2, n_longs, n_degrees, N_STRATEGIES)


def box(n: int) -> spaces.Box:
    """n features within 0 and 1."""
    return spaces.Box(0.0, 1.0, (n,), np.float32)


def cluster_observation_space(n_replicas: int, n_longs: int) -> spaces.Dict:
    """Of Cluster-v0. A table is a vector, row after row: stable-baselines3 takes two dimensions for a mistake."""
    parts: dict[str, Any] = {
        "replicas": box(n_replicas * len(REPLICA)),
        "request": box(len(REQUEST)),
        "waiting_longs": box(n_longs * len(WAITING_LONG)),
        "cluster": box(len(CLUSTER)),
    }
    return spaces.Dict(parts)


def replica_action_sizes(n_waiting: int, n_residents: int) -> tuple[int, ...]:
    """Number of values of each component of an action of Replica-v0."""
    return (n_waiting + 1, n_residents)


def replica_observation_space(n_waiting: int, n_residents: int) -> spaces.Dict:
    """Of Replica-v0; tables are vectors, row after row."""
    parts: dict[str, Any] = {
        "waiting": box(n_waiting * len(WAITING)),
        "residents": box(n_residents * len(RESIDENT)),
        "replica": box(len(BATCH)),
    }
    return spaces.Dict(parts)
