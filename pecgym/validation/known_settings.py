"""What is known of the engines of measured runs beyond their preset, from the scripts that started them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pecgym.engine import EngineSettings
from pecgym.validation.runs import Run


@dataclass(frozen=True)
class KnownSettings:
    """Settings of the runs that `applies` names; source: the script that says so."""

    name: str
    applies: Callable[[Run], bool]
    changes: dict[str, Any]
    source: str


def with_known_settings(engine: EngineSettings, run: Run) -> EngineSettings:
    """The run's engine with all that is known of its settings."""
    for known in KNOWN_SETTINGS:
        if known.applies(run):
            engine = engine.with_changes(**known.changes)
    return engine


def _is_llama_70b_of_inferencemax(run: Run) -> bool:
    family = run.deployment.family
    return family.engine == "trtllm" and "Llama-3.1-70B" in family.model and run.of_inference_max


def _waits_for_batches(run: Run) -> bool:
    lengths = (run.input_tokens, run.output_tokens)
    return _is_llama_70b_of_inferencemax(run) and lengths == (1024, 1024) and run.deployment.tp < 8


_SCRIPT = "github.com/SemiAnalysisAI/InferenceX, benchmarks/70b_fp8_h200_trt_slurm.sh"

KNOWN_SETTINGS = (
    # The runs are of 2025-10-29; earlier scripts gave max_num_tokens the longest sequence.
    KnownSettings(
        "max_num_tokens",
        _is_llama_70b_of_inferencemax,
        {"max_batch_tokens": 16384},
        f"{_SCRIPT} at a267b4b, the same in 70b_fp8_b200_trt_slurm.sh and 70b_fp4_b200_trt_docker.sh at c2faa3d",
    ),
    KnownSettings(
        "batch waiting",
        _waits_for_batches,
        {"batch_wait_iterations": 20, "batch_wait_ratio": 0.9},
        f"{_SCRIPT} at a267b4b, the same in 70b_fp8_b200_trt_slurm.sh and 70b_fp4_b200_trt_slurm.sh",
    ),
)
