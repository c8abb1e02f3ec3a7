"""From samples to a profile's file."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import yaml

from pecgym.costs.aic import aic_samples, package_version
from pecgym.costs.fit import Fit, fit_samples
from pecgym.costs.memory import kv_capacity_tokens
from pecgym.costs.power import PowerFit
from pecgym.costs.profile import profile_name, profile_of
from pecgym.costs.profile_schema import ProfileFile
from pecgym.costs.samples import Samples
from pecgym.costs.specs import GpuSpec, ModelSpec, load_gpu, load_model

BLOCK_TOKENS = 16  # vLLM's default
PRECISIONS = {2.0: "bf16", 1.0: "fp8"}

# (model, GPU, tensor parallelism) of the shipped profiles from AIConfigurator. bf16 Llama-3.1-70B on two H100s is left
# out: its 23.9 K tokens of KV cache hold no long prompt.
AIC_PROFILES = (
    ("mistral-7b", "a100-80gb", 1),
    ("phi-3-14b", "a100-80gb", 1),
    ("yi-34b", "a100-80gb", 4),
    ("llama-3.1-70b", "a100-80gb", 4),
    ("llama-2-7b", "a100-80gb", 1),
    ("llama-3.1-8b", "a100-80gb", 1),
    ("llama-3.1-70b", "h100-80gb", 4),
    ("llama-3.1-70b", "h100-80gb", 8),
    *(("llama-3.1-70b", "h200-141gb", tp) for tp in (2, 4, 8)),
    *(("llama-3.1-70b-fp8", gpu, tp) for gpu in ("h100-80gb", "h200-141gb") for tp in (2, 4, 8)),
)


def aic_profile(model_name: str, gpu_name: str, tp: int) -> tuple[ProfileFile, Samples]:
    """The profile of a model on `tp` GPUs as AIConfigurator sees it, and the samples behind it. Raises PecGymError."""
    model, gpu = load_model(model_name), load_gpu(gpu_name)
    samples, engine = aic_samples(model, gpu.name, tp, block_capacity_tokens(model, gpu, tp))
    command = f"python scripts/calibrate.py --aic --model {shlex.quote(model_name)} --gpu {gpu_name} --tp {tp}"
    source = (
        f"aiconfigurator-core {package_version()}, kernel and collective times measured by NVIDIA; made by: {command}"
    )
    fit = fit_samples(samples)
    return calibrated_file(model, gpu, tp, engine, fit, source, "Apache-2.0 (aiconfigurator-core)"), samples


def calibrated_file(
    model: ModelSpec,
    gpu: GpuSpec,
    tp: int,
    engine: str,
    fit: Fit,
    source: str,
    licence: str,
    kv_capacity_tokens: int | None = None,
    power: PowerFit | None = None,
) -> ProfileFile:
    """A profile's file, named like the shipped ones.

    engine: its name and, after a blank, its version. kv_capacity_tokens: per replica; computed where it is None.
    power: as measured; that of the GPU's file where it is None.
    Raises PecGymError when the profile could not be loaded again.
    """
    capacity = block_capacity_tokens(model, gpu, tp) if kv_capacity_tokens is None else kv_capacity_tokens
    file = ProfileFile(
        name=profile_name(model.name, gpu.name, tp, engine.split()[0]),
        model=model.name,
        gpu=gpu.name,
        tp=tp,
        engine=engine,
        precision=_precision(model),
        kv_capacity_tokens=capacity,
        kv_bytes_per_token=model.kv_bytes_per_token,
        block_tokens=BLOCK_TOKENS,
        idle_w=gpu.idle_w,
        decode_w=power.decode_w if power else gpu.decode_w,
        prefill_w=power.prefill_w if power else gpu.prefill_w,
        power_source=_power_source(gpu, power),
        coefficients=fit.coefficients,
        fitted_range=fit.fitted_range,
        fit=fit.errors,
        source=source,
        licence=licence,
    )
    profile_of(file, f"profile {file.name}")  # refuse now what would be refused when it is loaded
    return file


def block_capacity_tokens(model: ModelSpec, gpu: GpuSpec, tp: int) -> int:
    """KV capacity of a replica in whole blocks, in tokens."""
    return kv_capacity_tokens(model, gpu, tp) // BLOCK_TOKENS * BLOCK_TOKENS


def write_profile(file: ProfileFile, path: Path) -> None:
    """Write a profile's file as YAML, its keys in the order of the schema."""
    text = yaml.safe_dump(asdict(file), sort_keys=False, width=120, default_flow_style=None, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _power_source(gpu: GpuSpec, power: PowerFit | None) -> str:
    """Where a profile's watts are from."""
    if power is None:
        return gpu.power_source
    return f"prefill_w, decode_w: measured with the iterations, averaged over time. idle_w: GPU file {gpu.name}"


def _precision(model: ModelSpec) -> str:
    """Precision of weights and KV cache, in words."""
    weights = PRECISIONS.get(model.bytes_per_parameter, f"{model.bytes_per_parameter} bytes")
    cache = PRECISIONS.get(model.bytes_per_kv_element, f"{model.bytes_per_kv_element} bytes")
    return f"{weights} weights, {cache} KV cache"
