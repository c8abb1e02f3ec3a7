"""How many tokens of KV cache a replica holds."""

from __future__ import annotations

from pecgym.costs.specs import GpuSpec, ModelSpec
from pecgym.errors import SpecError

# What vLLM keeps per GPU beside weights and KV cache, for activations at 8,192 tokens per iteration, the CUDA context
# and graphs. From its own figure for Llama-3-8B on a 48 GB A6000 (49,140 MiB), 13,248 blocks of 16 tokens:
# 49,140 MiB x 0.9 - 16.06 GB of weights - 13,248 x 16 x 131,072 bytes = 2.53 GB (vllm-project/vllm pull request 4454).
DEFAULT_ACTIVATION_RESERVE_BYTES = 2_500_000_000


def kv_capacity_tokens(
    model: ModelSpec,
    gpu: GpuSpec,
    tp: int,
    utilisation: float = 0.9,
    activation_reserve_bytes: int = DEFAULT_ACTIVATION_RESERVE_BYTES,
) -> int:
    """Tokens of KV cache that one replica of `tp` GPUs holds.

    (memory x utilisation - weights / tp - reserve) / KV bytes per token and GPU. Heads are split over the GPUs; where
    there are more GPUs than KV heads each GPU holds a copy of one head, as in vLLM. Raises SpecError when the heads do
    not divide or nothing is left for the cache.
    """
    if not 0 < utilisation <= 1:
        raise SpecError(f"utilisation is {utilisation}; it must be above 0 and at most 1")
    if activation_reserve_bytes < 0:
        raise SpecError(f"activation_reserve_bytes is {activation_reserve_bytes}; it must be >= 0")
    kv_heads_per_gpu = _kv_heads_per_gpu(model, tp)
    free_bytes = gpu.memory_bytes * utilisation - model.weight_bytes / tp - activation_reserve_bytes
    token_bytes_per_gpu = model.kv_bytes_per_token * kv_heads_per_gpu / model.kv_heads
    capacity = int(free_bytes // token_bytes_per_gpu)
    if capacity < 1:
        raise SpecError(
            f"{model.name} with TP{tp} leaves no KV memory on {gpu.name}: {model.weight_bytes / tp / 1e9:.1f} GB "
            f"of weights and {activation_reserve_bytes / 1e9:.1f} GB of activations per GPU against "
            f"{gpu.memory_bytes * utilisation / 1e9:.1f} GB usable; raise tp or take a larger GPU"
        )
    return capacity


def replicas_for_tokens(tokens: int, capacity_tokens: int) -> int:
    """Replicas whose KV caches together hold `tokens`: the least number by memory alone."""
    return -(-tokens // capacity_tokens)


def _kv_heads_per_gpu(model: ModelSpec, tp: int) -> int:
    """KV heads that one of `tp` GPUs holds; SpecError where the heads cannot be split or copied evenly."""
    divides = model.kv_heads % tp == 0 or tp % model.kv_heads == 0 if tp >= 1 else False
    if not divides or model.query_heads % tp:
        raise SpecError(
            f"{model.name} cannot be split over tp={tp} GPUs: {model.query_heads} query heads and {model.kv_heads} KV "
            f"heads; choose a tp that divides both (or a multiple of the KV heads that divides the query heads)"
        )
    return max(1, model.kv_heads // tp)
