"""What is known of measured runs' engines reaches exactly the runs that it was said of."""

from __future__ import annotations

from typing import Any

import pytest

from pecgym.engine import load_engine
from pecgym.validation.known_settings import KNOWN_SETTINGS, with_known_settings
from pecgym.validation.runs import Deployment, Family, Run

INFERENCEMAX = "source_file=2026-04-06.csv; model=Llama-3.1-70B"


def run_of(
    tp: int = 4,
    lengths: tuple[int, int] = (1024, 1024),
    model: str = "meta-llama/Llama-3.1-70B",
    engine: str = "trtllm",
    source: str = INFERENCEMAX,
) -> Run:
    deployment = Deployment(Family(model, "h200_sxm", engine, "fp8"), tp, moe_tp=1, moe_ep=1, gemm_mode="", moe_mode="")
    return Run(deployment, *lengths, concurrency=8, ttft_ms=1.0, tpot_ms=1.0, source=source)


def changed(run: Run) -> dict[str, Any]:
    """What is changed of the preset."""
    preset = load_engine("trtllm")
    engine = with_known_settings(preset, run)
    return {key: value for key, value in vars(engine).items() if value != getattr(preset, key)}


TOKENS = {"max_batch_tokens": 16384}
WAITING = {"batch_wait_iterations": 20, "batch_wait_ratio": 0.9}


@pytest.mark.parametrize(
    ("run", "changes"),
    [
        (run_of(tp=1), TOKENS | WAITING),
        (run_of(tp=4), TOKENS | WAITING),
        (run_of(tp=8), TOKENS),
        (run_of(lengths=(1024, 8192)), TOKENS),
        (run_of(lengths=(8192, 1024)), TOKENS),
        (run_of(model="openai/gpt-oss-120b"), {}),
        (run_of(source="nvidia"), {}),
        (run_of(engine="vllm"), {}),
    ],
)
def test_settings_apply_to_the_runs_of_their_scripts(run: Run, changes: dict[str, Any]) -> None:
    assert changed(run) == changes


def test_every_entry_says_where_it_is_from() -> None:
    assert all("github.com/" in known.source for known in KNOWN_SETTINGS)
