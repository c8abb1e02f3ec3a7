"""Profiles and engine settings that carry the effects of a family of runs, as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import yaml

from pecgym.costs.aic import SYSTEMS
from pecgym.costs.calibration import aic_profile, write_profile
from pecgym.costs.fit import SIGNIFICANT_DIGITS
from pecgym.costs.profile import profile_name, profile_of
from pecgym.costs.profile_schema import Coefficients, ProfileFile
from pecgym.errors import SpecError
from pecgym.validation.effects import OF_THE_ENGINE, Effects
from pecgym.validation.silicon import FITTED, FamilyResult

SERVED = "vllm-served"
# Models of ours that a family's runs are of: (its name, precision, type of KV cache elements) -> name.
MODELS = {
    ("meta-llama/Llama-3.1-70B", "fp8", "fp8"): "llama-3.1-70b-fp8",
    ("meta-llama/Llama-3.1-70B", "fp8", "bfloat16"): "llama-3.1-70b-fp8-kv16",
}


def write_served(result: FamilyResult, folder: Path) -> list[Path]:
    """Writes a profile for each deployment of the family and the engine's settings; returns the paths.

    Profiles have the kernels' times with the family's four factors, the engine its three overheads. The frontend's time
    is outside both: users add it to the TTFT. Raises SpecError where no model or GPU file is of that family.
    """
    family = result.family
    gpus = {system: gpu for gpu, system in SYSTEMS.items()}
    model = MODELS.get((family.model, family.precision, result.setup.kv_type))
    if model is None or family.gpu not in gpus or family.engine != "vllm":
        raise SpecError(
            f"--write: no model or GPU file of ours is of {family} with KV cache {result.setup.kv_type}; there are "
            f"{', '.join(' '.join(key) for key in MODELS)} on {', '.join(gpus)} with vllm"
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for tp in sorted({each.run.deployment.tp for each in result.runs}):
        file = served_profile(model, gpus[family.gpu], tp, result)
        paths.append(folder / f"{file.name}.yaml")
        write_profile(file, paths[-1])
    paths.append(folder / f"vllm_v1_{family.gpu.split('_')[0]}.yaml")
    paths[-1].write_text(_engine_text(result), encoding="utf-8")
    return paths


def served_profile(model: str, gpu: str, tp: int, result: FamilyResult) -> ProfileFile:
    """AIConfigurator's profile of a model of ours with the factors of a family's effects."""
    file, _ = aic_profile(model, gpu, tp)
    effects = result.effects
    factors = ", ".join(f"{name} {getattr(effects, name):.4g}" for name in vars(effects) if name.endswith("factor"))
    served = replace(
        file,
        name=profile_name(model, gpu, tp, SERVED),
        engine=f"{SERVED} {file.engine.split()[-1]}",
        coefficients=_with_factors(file.coefficients, effects),
        source=f"{file.source}; times factors fitted to real runs ({factors}): {_origin(result)}",
    )
    profile_of(served, served.name)  # refuse now what would be refused when it is loaded
    return served


def _with_factors(coefficients: Coefficients, effects: Effects) -> Coefficients:
    """The same as Effects.on_profile, on a file's numbers."""
    start = coefficients.g_us[0]
    grown = [(each - start) * effects.compute_factor + start * effects.base_factor for each in coefficients.g_us]
    return replace(
        coefficients,
        g_us=[_rounded(each) for each in grown],
        attention_per_1024_pairs_ns=_rounded(coefficients.attention_per_1024_pairs_ns * effects.attention_factor),
        decode_per_kv_token_ns=_rounded(coefficients.decode_per_kv_token_ns * effects.kv_factor),
    )


def _engine_text(result: FamilyResult) -> str:
    """A preset: that of the family's engine with its overheads."""
    effects = {name: round(getattr(result.effects, name), 1) for name in OF_THE_ENGINE}
    base = {"group_order": "decode_first", "mixing": True, "chunk_tokens": 8192, "max_batch_tokens": 8192}
    content = {**base, "watermark": 0.0, "async_scheduling": True, **effects}
    gpu = result.family.gpu.split("_")[0].upper()
    heading = (
        f"# vLLM 1.x with --async-scheduling as served on {gpu}: vllm_v1_async and the overhead of iterations,\n"
        f"# {_origin(result)}.\n"
        f"# The frontend takes {result.effects.frontend_ms:.1f} ms more of each TTFT (docs/fidelity.md).\n"
    )
    return heading + yaml.safe_dump(content, sort_keys=False)


def _origin(result: FamilyResult) -> str:
    runs = sum(each.group == FITTED for each in result.runs)
    return f"from {runs} of {len(result.runs)} runs of InferenceMAX (scripts/validate.py silicon --write)"


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
