"""Profiles and engine settings that carry the effects of a family of runs, as files."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import yaml

from pecgym.costs import load_gpu, load_model
from pecgym.costs.aic import SYSTEMS
from pecgym.costs.calibration import block_capacity_tokens, write_profile
from pecgym.costs.fit import SIGNIFICANT_DIGITS
from pecgym.costs.profile import profile_name, profile_of
from pecgym.costs.profile_schema import Coefficients, ProfileFile
from pecgym.engine import EngineSettings, load_engine
from pecgym.errors import SpecError
from pecgym.validation.deployments import Aic
from pecgym.validation.effects import OF_THE_ENGINE, Effects
from pecgym.validation.runs import ENGINES, Deployment, Family
from pecgym.validation.silicon import FITTED, FamilyResult

SERVED = "vllm-served"
# Models of ours that a family's runs are of: (its name, precision, type of KV cache elements) -> name.
MODELS = {
    ("meta-llama/Llama-3.1-70B", "fp8", "fp8"): "llama-3.1-70b-fp8",
    ("meta-llama/Llama-3.1-70B", "fp8", "bfloat16"): "llama-3.1-70b-fp8-kv16",
}


def write_served(result: FamilyResult, aic: Aic, folder: Path) -> list[Path]:
    """Writes a profile for each deployment of the family and the engine's settings; returns the paths.

    Profiles have the kernels' times with the family's four factors, the engine its three overheads. The frontend's time
    is outside both: users add it to the TTFT. Raises SpecError where no model or GPU file is of that family.
    """
    family = result.family
    model, gpu = our_names(family, result.setup.kv_type)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for deployment in sorted({each.run.deployment for each in result.runs}):
        file = served_profile(model, gpu, deployment, result, aic)
        paths.append(folder / f"{file.name}.yaml")
        write_profile(file, paths[-1])
    paths.append(folder / f"vllm_v1_{family.gpu.split('_')[0]}.yaml")
    paths[-1].write_text(_engine_text(result), encoding="utf-8")
    return paths


def our_names(family: Family, kv_type: str = "") -> tuple[str, str]:
    """Our model and GPU files of a family; SpecError where there are none. kv_type: "" for any."""
    gpus = {system: gpu for gpu, system in SYSTEMS.items()}
    models = [
        name for (*what, kv), name in MODELS.items() if what == [family.model, family.precision] and kv_type in ("", kv)
    ]
    if not models or family.gpu not in gpus or family.engine != "vllm":
        raise SpecError(
            f"--write: no model or GPU file of ours is of {family} {kv_type}; there are "
            f"{', '.join(' '.join(key) for key in MODELS)} on {', '.join(gpus)} with vllm"
        )
    return models[0], gpus[family.gpu]


def served_profile(model: str, gpu: str, deployment: Deployment, result: FamilyResult, aic: Aic) -> ProfileFile:
    """The kernels' profile that the family's effects were fitted on, with their factors, as one of our models."""
    kernels, spec, board = aic.file(deployment, result.setup.kv_type), load_model(model), load_gpu(gpu)
    effects = result.effects
    factors = ", ".join(f"{name} {getattr(effects, name):.4g}" for name in vars(effects) if name.endswith("factor"))
    served = replace(
        kernels,
        name=profile_name(model, gpu, deployment.tp, SERVED),
        model=model,
        gpu=gpu,
        engine=SERVED,
        kv_capacity_tokens=block_capacity_tokens(spec, board, deployment.tp),
        kv_bytes_per_token=spec.kv_bytes_per_token,
        idle_w=board.idle_w,
        decode_w=board.decode_w,
        prefill_w=board.prefill_w,
        power_source=board.power_source,
        coefficients=_with_factors(kernels.coefficients, effects),
        fit={},
        source=f"{kernels.source}, times factors ({factors}) {_origin(result)}",
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
    preset, default = asdict(load_engine(ENGINES[result.family.engine])), asdict(EngineSettings())
    changed = {key: value for key, value in preset.items() if key != "name" and value != default[key]}
    content = {**changed, **effects}
    gpu = result.family.gpu.split("_")[0].upper()
    heading = (
        f"# vLLM 1.x with --async-scheduling as served on {gpu}: vllm_v1_async and the overhead of iterations,\n"
        f"# {_origin(result)}.\n"
        f"# The frontend takes {result.effects.frontend_ms:.1f} ms more of each TTFT (docs/fidelity.md).\n"
    )
    return heading + yaml.safe_dump(content, sort_keys=False)


def _origin(result: FamilyResult) -> str:
    runs = sum(each.group == FITTED for each in result.runs)
    whose = "InferenceMAX" if all(each.run.of_inference_max for each in result.runs) else "the sample"
    return f"fitted to {runs} of {len(result.runs)} real runs of {whose} (scripts/validate.py silicon --write)"


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
