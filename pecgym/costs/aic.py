"""Iteration times predicted by AIConfigurator from kernel and collective times that NVIDIA measured.

Needs `aiconfigurator-core` (`pip install -e ".[calibrate]"`, Apache-2.0), only to make profiles.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

from pecgym.costs.samples import Point, Samples, iteration_point
from pecgym.costs.specs import ModelSpec
from pecgym.errors import ProfileError

BACKEND = "vllm"
SYSTEMS = {"a100-80gb": "a100_sxm", "h100-80gb": "h100_sxm", "h200-141gb": "h200_sxm"}
# Bytes per element -> AIConfigurator's names. FP8 checkpoints carry static scales for their activations.
GEMM_MODES = {2.0: "bfloat16", 1.0: "fp8_static"}
KV_MODES = {2.0: "bfloat16", 1.0: "fp8"}

MEASURED_KV_HEADS = (1, 2, 4, 8)
QKV = ("context_qkv_gemm", "generation_qkv_gemm")

LONGEST_TOKENS = 2**17
# Kernels work in tiles: a power of two, the count one above it and counts in between are all different cases.
_BETWEEN = [n for k in range(2, 17) for n in (2**k, 2**k + 1, 5 << k - 2, 6 << k - 2, 7 << k - 2)]
PROMPTS = sorted({1, 2, 3, *_BETWEEN, LONGEST_TOKENS})
PROMPT_BATCHES = (1, 2, 4, 8, 16, 32)
LARGEST_PROMPT_BATCH_TOKENS = 32_768
CHUNKS = (16, 64, 256, 512, 1024, 2048, 4096, 8192)
PASTS = (512, 2048, 8192, 16_384, 32_768, 65_536, 120_000)
DECODE_BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
CONTEXTS = tuple(2**k for k in range(6, 18))
MIXED_CHUNKS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
MIXED_PASTS = (0, 2048, 8192, 32_768)
MIXED_BATCHES = (1, 4, 16, 64, 256)
MIXED_CONTEXTS = (128, 1024, 8192)


def aic_samples(model: ModelSpec, gpu: str, tp: int, kv_capacity_tokens: int) -> tuple[Samples, str]:
    """Samples of every phase that fit the replica's KV cache, and the engine with its version ("vllm 0.14.0").

    Raises ProfileError when the package is absent or does not know the GPU or the precision.
    """
    steps = steps_of_model(model, gpu, tp)
    return sample_steps(steps, kv_capacity_tokens), steps.engine


def sample_steps(steps: AicSteps, kv_capacity_tokens: int, longest_tokens: int = LONGEST_TOKENS) -> Samples:
    """Samples of every phase that fit the replica's KV cache, prompts and contexts of at most `longest_tokens`."""
    grids = (_prefills, _decodes, _mixed)
    points = (point for grid in grids for point in grid(steps, kv_capacity_tokens, longest_tokens))
    return Samples.of(points)


def package_version() -> str:
    """Version of the installed aiconfigurator-core; ProfileError when there is none."""
    try:
        return version("aiconfigurator-core")
    except PackageNotFoundError as problem:
        raise ProfileError('AIConfigurator is not installed: pip install -e ".[calibrate]"') from problem


def steps_of_model(model: ModelSpec, gpu: str, tp: int) -> AicSteps:
    """Iteration times of a model of ours on vLLM's kernels; ProfileError where the package was not set up for it.

    Attention with grouped queries was measured for 1, 2, 4 and 8 KV heads per GPU, and decodes without grouping for up
    to 8 heads; the package multiplies the time beyond that. Heads do not know of each other, so here n decodes with h
    KV heads are n h / 8 decodes with 8 (Llama-2-7B: 32 heads; Phi-3-medium: 10). Prefills of Phi-3-medium are taken
    with its 40 query heads on 8 KV heads (their attention is bound by the query heads), the QKV matrix scaled to 10.
    """
    package_version()
    from aiconfigurator_core.sdk.perf_database import resolve_query_version

    if gpu not in SYSTEMS:
        raise ProfileError(f"AIConfigurator is set up for {', '.join(SYSTEMS)} here, not for {gpu!r}; use --csv")
    if model.bytes_per_parameter not in GEMM_MODES or model.bytes_per_kv_element not in KV_MODES:
        raise ProfileError(
            f"AIConfigurator is set up for 2 bytes (bf16) or 1 byte (fp8) per parameter and KV element here, not "
            f"for the {model.bytes_per_parameter} and {model.bytes_per_kv_element} of {model.name!r}; use --csv"
        )
    kv_heads = max(1, model.kv_heads // tp)
    measured = max(heads for heads in MEASURED_KV_HEADS if heads <= kv_heads)
    prefill_model = decode_model = model
    if kv_heads > measured:
        group = model.query_heads // model.kv_heads
        decode_model = replace(model, query_heads=group * measured * tp, kv_heads=measured * tp)
        if group > 1:  # prefills without grouping were measured for all numbers of heads
            prefill_model = replace(model, kv_heads=measured * tp)
    columns = [spec.query_heads + 2 * spec.kv_heads for spec in (model, prefill_model)]
    return AicSteps(
        _compile(prefill_model, gpu, tp),
        _compile(decode_model, gpu, tp),
        engine=f"{BACKEND} {resolve_query_version(SYSTEMS[gpu], BACKEND, 'current')}",
        decodes_per_decode=kv_heads / measured,
        qkv_scale=columns[0] / columns[1],
    )


class AicSteps:
    """Iteration times of one replica in milliseconds, from the package's engines (EngineHandle) of its deployment.

    engine: name and version of the engine whose kernels it has. decodes_per_decode, qkv_scale: how many decodes of
    `decode_handle` have the attention of one of the model's, and how much larger its QKV matrix is (steps_of_model).
    """

    def __init__(
        self, handle: Any, decode_handle: Any, engine: str, decodes_per_decode: float = 1.0, qkv_scale: float = 1.0
    ) -> None:
        self._handle, self._decode_handle, self.engine = handle, decode_handle, engine
        self._decodes_per_decode, self._qkv_scale = decodes_per_decode, qkv_scale
        _, _, decode_attention = handle.mixed_step_breakdown_per_op(64, 1, 64, 2, prefix=0)
        self._decode_attention = {name for name, *_ in decode_attention}

    def prefill_ms(self, n: int, c: int, m: int) -> float:
        """n chunks of c new tokens on m past ones each. The package's isl is the length with the past."""
        context, _ = self._handle.run_static_per_op(batch_size=n, isl=c + m, osl=1, prefix=m, mode="static_ctx")
        return self._sum(context)

    def decode_ms(self, n: int, context: int) -> float:
        """n decodes with that context each; osl = 2 asks for the step at context isl."""
        return self._sum(self._handle.decode_step_per_op(n, context, 2)) + self._decode_attention_ms(n, context)

    def mixed_ms(self, c: int, m: int, n: int, context: int) -> float:
        """A chunk of c new tokens on m past ones together with n decodes of that context.

        The package's mixed step gives chunk and decodes one length and charges the chunk its share of a whole prompt's
        attention, 1 / ceil(isl / chunk). Here the chunk's attention is taken whole, at its own past, and that of the
        decodes at their own context: the same parts that the unmixed steps are made of.
        """
        shared, chunk, _ = self._handle.mixed_step_breakdown_per_op(c, n, c + m, 2, prefix=m)
        chunk_ms = self._sum(chunk) * math.ceil((c + m) / c)
        return self._sum(shared) + chunk_ms + self._decode_attention_ms(n, context)

    def _decode_attention_ms(self, n: int, context: int) -> float:
        """Attention of n decodes, interpolated where they stand for a broken number of decodes with measured heads."""
        equivalent = n * self._decodes_per_decode
        low = max(1, math.floor(equivalent))
        ms = [self._measured_attention_ms(count, context) for count in (low, low + 1)]
        return ms[0] + (ms[1] - ms[0]) * max(0.0, equivalent - low)

    def _measured_attention_ms(self, n: int, context: int) -> float:
        operators = self._decode_handle.decode_step_per_op(n, context, 2)
        return float(sum(ms for name, ms, _, _ in operators if name in self._decode_attention))

    def _sum(self, operators: Iterable[tuple[str, float, float, str]]) -> float:
        """Total milliseconds of (name, milliseconds, energy, source) per operator, without the attention of decodes."""
        total = 0.0
        for name, ms, _, _ in operators:
            if name not in self._decode_attention:
                total += ms * (self._qkv_scale if name in QKV else 1.0)
        return total


def _compile(model: ModelSpec, gpu: str, tp: int) -> Any:
    """AIConfigurator's engine for one replica of the model."""
    from aiconfigurator_core.sdk.engine import EngineHandle

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(_hugging_face_config(model)), encoding="utf-8")
        return EngineHandle.compile(
            folder,
            SYSTEMS[gpu],
            BACKEND,
            tp_size=tp,
            gemm_quant_mode=GEMM_MODES[model.bytes_per_parameter],
            kvcache_quant_mode=KV_MODES[model.bytes_per_kv_element],
        )


def _hugging_face_config(model: ModelSpec) -> dict[str, Any]:
    """The model as a Hugging Face config.json: all of ours have the shape of Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden,
        "num_attention_heads": model.query_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.ffn,
        "vocab_size": model.vocab,
        "max_position_embeddings": LONGEST_TOKENS,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def _prefills(steps: AicSteps, capacity: int, longest: int) -> Iterator[Point]:
    """Whole prompts, one or several alike, and chunks on a past."""
    for n in PROMPT_BATCHES:
        for c in PROMPTS:
            if c <= min(capacity, longest) and (n == 1 or n * c <= min(capacity, LARGEST_PROMPT_BATCH_TOKENS)):
                yield iteration_point([(c, 0)] * n, [], steps.prefill_ms(n, c, 0))
    for c in CHUNKS:
        for m in PASTS:
            if c + m <= min(capacity, longest):
                yield iteration_point([(c, m)], [], steps.prefill_ms(1, c, m))


def _decodes(steps: AicSteps, capacity: int, longest: int) -> Iterator[Point]:
    """Batches of decodes with the same context."""
    for n in DECODE_BATCHES:
        for context in CONTEXTS:
            if context <= longest and n * context <= capacity:
                yield iteration_point([], [context] * n, steps.decode_ms(n, context))


def _mixed(steps: AicSteps, capacity: int, longest: int) -> Iterator[Point]:
    """One chunk together with a batch of decodes of the same context."""
    for c, m, n, context in product(MIXED_CHUNKS, MIXED_PASTS, MIXED_BATCHES, MIXED_CONTEXTS):
        if c + m <= longest and c + m + n * context <= capacity:
            yield iteration_point([(c, m)], [context] * n, steps.mixed_ms(c, m, n, context))
