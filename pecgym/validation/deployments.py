"""What AIConfigurator says of the deployments of measured runs: their profiles, and its own prediction of a run."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

from pecgym.costs import Profile
from pecgym.costs.aic import AicSteps, package_version, sample_steps
from pecgym.costs.fit import fit_samples
from pecgym.costs.memory import DEFAULT_ACTIVATION_RESERVE_BYTES
from pecgym.costs.profile import profile_of
from pecgym.costs.profile_schema import ProfileFile
from pecgym.errors import ProfileError
from pecgym.validation.runs import Deployment, Run

BLOCK_TOKENS = 16
DATA_VERSION = "current"  # of the kernel times, for each GPU and engine
LONGEST_TOKENS = 16_384  # twice the longest request of the sample
KV_TYPES = ("bfloat16", "fp8")
# Share of the memory that engines take: vLLM and SGLang of all of it, TensorRT-LLM of what weights and activations
# leave for the KV cache. Their documented defaults (SGLang's depends on the GPU, 0.88 is that of 80 GB and more).
MEMORY_SHARE = {"vllm": 0.9, "sglang": 0.88, "trtllm": 0.9}


class Aic:
    """AIConfigurator's engines, compiled once for each deployment. Raises ProfileError where it has no data."""

    def __init__(self) -> None:
        self._files: dict[tuple[Deployment, str], ProfileFile | ProfileError] = {}
        self._profiles: dict[tuple[Deployment, str], Profile] = {}
        self._own: dict[tuple[Deployment, str], Any] = {}
        package_version()

    def file(self, deployment: Deployment, kv_type: str) -> ProfileFile:
        """The profile of a deployment as a file's content, its KV capacity as the engine would have computed it."""
        key = (deployment, kv_type)
        if key not in self._files:
            try:
                with _as_profile_error(deployment), _quiet():
                    self._files[key] = _kernel_file(deployment, kv_type)
            except ProfileError as problem:
                self._files[key] = problem
        found = self._files[key]
        if isinstance(found, ProfileError):
            raise found
        return found

    def profile(self, deployment: Deployment, kv_type: str) -> Profile:
        """The same, loaded."""
        key = (deployment, kv_type)
        if key not in self._profiles:
            file = self.file(deployment, kv_type)
            self._profiles[key] = profile_of(file, file.name)
        return self._profiles[key]

    def prediction_ms(self, run: Run, kv_type: str, budget_tokens: int) -> tuple[float, float]:
        """The package's own TTFT and TPOT of a run, milliseconds, at `budget_tokens` prompt tokens per iteration.

        As the sample says, matrix kernels included. It knows no ramp and no spread of lengths: every request has the
        nominal ones. Where a batch of that many tokens holds more prompts than there are users it takes one for each.
        """
        from aiconfigurator_core.sdk.config import RuntimeConfig

        key = (run.deployment, kv_type)
        with _as_profile_error(run.deployment), _quiet():
            if key not in self._own:
                self._own[key] = _own_model(run.deployment, kv_type)
            backend, model, database = self._own[key]
            config = RuntimeConfig(batch_size=run.concurrency, isl=run.input_tokens, osl=run.output_tokens)
            tokens = min(budget_tokens, run.concurrency * run.input_tokens)
            result = backend.run_agg(model, database, config, ctx_tokens=tokens).get_result_dict()
        return float(result["ttft"]), float(result["tpot"])


def _kernel_file(deployment: Deployment, kv_type: str) -> ProfileFile:
    from aiconfigurator_core.sdk.engine import EngineHandle

    family = deployment.family
    handle = EngineHandle.compile(
        deployment.architecture,
        family.gpu,
        family.engine,
        **_spread(deployment),
        **_modes(deployment, kv_type, deployment.kernel_mode),
    )
    steps = AicSteps(handle, handle, engine=family.engine)
    capacity, bytes_per_token = _kv_memory(deployment, kv_type)
    fit = fit_samples(sample_steps(steps, capacity, LONGEST_TOKENS))
    return ProfileFile(
        name=f"{family.model} {family.gpu} TP{deployment.tp} {family.engine} {kv_type} cache",
        model=family.model,
        gpu=family.gpu,
        tp=deployment.tp,
        engine=family.engine,
        precision=f"{family.precision}, {kv_type} KV cache",
        kv_capacity_tokens=capacity,
        kv_bytes_per_token=bytes_per_token,
        block_tokens=BLOCK_TOKENS,
        idle_w=0.0,
        decode_w=0.0,
        prefill_w=0.0,
        power_source="not compared",
        coefficients=fit.coefficients,
        fitted_range=fit.fitted_range,
        fit=fit.errors,
        source=f"aiconfigurator-core {package_version()}",
        licence="Apache-2.0 (aiconfigurator-core)",
    )


def _kv_memory(deployment: Deployment, kv_type: str) -> tuple[int, int]:
    """KV capacity of the replica in tokens, whole blocks, and bytes per token over all its GPUs."""
    from aiconfigurator_core.sdk.memory import KVCacheEstimator

    family = deployment.family
    parts = KVCacheEstimator.from_request(
        deployment.architecture,
        family.gpu,
        family.engine,
        DATA_VERSION,
        max_num_tokens=8192,
        max_batch_size=256,
        **_spread(deployment),
        **_modes(deployment, kv_type, deployment.kernel_mode),
    ).breakdown
    memory, share = parts["gpu_memory_capacity_bytes"], MEMORY_SHARE[family.engine]
    taken = parts["weights_bytes"] + DEFAULT_ACTIVATION_RESERVE_BYTES
    free = (memory - taken) * share if family.engine == "trtllm" else memory * share - taken
    # By the model's own curve: layers with a window or a recurrent state do not grow with every token.
    capacity = int(parts["tokens_from_kv_bytes"](max(0.0, free))) // BLOCK_TOKENS * BLOCK_TOKENS
    if capacity < BLOCK_TOKENS:
        raise ProfileError(f"{deployment.family}, TP{deployment.tp}: the weights leave no KV memory")
    return capacity, math.ceil(parts["kv_size_per_token_bytes"] * deployment.tp)


def _own_model(deployment: Deployment, kv_type: str) -> tuple[Any, Any, Any]:
    """The package's backend, model and database for its own prediction."""
    from aiconfigurator_core.sdk.backends.factory import get_backend
    from aiconfigurator_core.sdk.config_builders import build_model_config
    from aiconfigurator_core.sdk.models import get_model
    from aiconfigurator_core.sdk.perf_database import get_database

    family = deployment.family
    config = build_model_config(**_spread(deployment), **_modes(deployment, kv_type, deployment.gemm_mode))
    model = get_model(deployment.architecture, config, family.engine)
    return get_backend(family.engine), model, get_database(family.gpu, family.engine, DATA_VERSION)


def _spread(deployment: Deployment) -> dict[str, int]:
    one = {"pp_size": 1, "attention_dp_size": 1}
    return {"tp_size": deployment.tp, "moe_tp_size": deployment.moe_tp, "moe_ep_size": deployment.moe_ep, **one}


def _modes(deployment: Deployment, kv_type: str, gemm_mode: str) -> dict[str, str]:
    modes = {"gemm_quant_mode": gemm_mode, "moe_quant_mode": deployment.moe_mode}
    return {"kvcache_quant_mode": kv_type, **{key: mode for key, mode in modes.items() if mode}}


@contextlib.contextmanager
def _as_profile_error(deployment: Deployment) -> Iterator[None]:
    """The package raises errors of many types where it lacks data for a deployment."""
    try:
        yield
    except ProfileError:
        raise
    except Exception as problem:
        text = (str(problem).split(" at /")[0].splitlines() or ["no reason given"])[0]
        raise ProfileError(
            f"AIConfigurator has no times for {deployment.family}, TP{deployment.tp}: {type(problem).__name__}: {text}"
        ) from problem


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The package logs every table that it does not need."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
