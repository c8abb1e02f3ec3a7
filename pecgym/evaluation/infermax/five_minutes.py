"""The five-minute rule for KV caches: how long one may lie unused before computing it again is cheaper.

Gray and Putzolu (SIGMOD'87): a page stays in memory if the rent of the memory until its next use is below the price of
fetching it. Here the page is a KV cache of m tokens, and fetching is computing it again, on the same GPUs, at the same
rent per second. So the rent cancels, and

    break-even = seconds of a replica that the recomputation takes / share of the replica that the cache occupies.

Both have two readings. The recomputation runs alone, or joins an iteration that runs anyway, and then costs what it
adds. The cache occupies m of the M tokens of KV memory, where that is what limits the replica, or only its bytes of all
bytes of the GPUs' memory.
"""

from __future__ import annotations

from typing import Any

from pecgym.costs import Profile, load_gpu, load_profile
from pecgym.evaluation.infermax.cells import Row, capacities
from pecgym.evaluation.infermax.config import FiveMinutesConfig
from pecgym.units import PS_PER_S

BUSY_TOKENS = 4096
"""Prompt tokens of the iteration that a recomputation joins."""


def alone_s(profile: Profile, tokens: int) -> float:
    """Seconds of a replica that computes a context in an iteration of its own."""
    return profile.prefill_ps(tokens) / PS_PER_S


def added_s(profile: Profile, tokens: int) -> float:
    """Seconds that a context adds to an iteration of BUSY_TOKENS prompt tokens."""
    others = [(BUSY_TOKENS, 0)]
    return (profile.iteration_ps([*others, (tokens, 0)], []) - profile.iteration_ps(others, [])) / PS_PER_S


def share_of_kv(tokens: int, capacity_tokens: int) -> float:
    """Share of a replica that a cache occupies where KV memory limits it."""
    return tokens / capacity_tokens


def share_of_memory(profile: Profile, tokens: int) -> float:
    """Share of all memory of a replica's GPUs that a cache occupies."""
    return tokens * profile.kv_bytes_per_token / (profile.tp * load_gpu(profile.gpu).memory_bytes)


def rows(config: FiveMinutesConfig) -> list[Row]:
    """A row for each profile, KV memory and context that it holds, times in seconds."""
    found: list[dict[str, Any]] = []
    for name in config.profiles:
        profile = load_profile(name)
        for capacity_tokens in capacities(name, config.capacity_tokens):
            for tokens in (each for each in config.context_tokens if each <= capacity_tokens):
                of_kv, of_memory = share_of_kv(tokens, capacity_tokens), share_of_memory(profile, tokens)
                recompute = {"alone": alone_s(profile, tokens), "added": added_s(profile, tokens)}
                found.append(
                    {"profile": name, "capacity_tokens": capacity_tokens, "context_tokens": tokens}
                    | {f"recompute_{how}_s": seconds for how, seconds in recompute.items()}
                    | {f"{how}_of_kv_s": seconds / of_kv for how, seconds in recompute.items()}
                    | {f"{how}_of_memory_s": seconds / of_memory for how, seconds in recompute.items()}
                )
    return found
