"""Real end-to-end runs: mean TTFT and TPOT of LLM engines at a fixed concurrency.

They come with AIConfigurator (`aiconfigurator-core`, Apache-2.0, systems/silicon_sample.csv): runs of InferenceMAX /
InferenceX (SemiAnalysis, github.com/SemiAnalysisAI/InferenceX) and of NVIDIA.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pecgym.errors import ProfileError

# Measured with nvidia/Llama-3.1-70B-Instruct-FP8 (InferenceMAX's README); the second is such a checkpoint itself.
_STATIC_SCALES = ("meta-llama/Llama-3.1-70B", "nvidia/Llama-3.1-8B-Instruct-FP8")
ENGINES = {"vllm": "vllm_v1_async", "sglang": "sglang", "trtllm": "trtllm"}
"""The engines of the sample and the presets of them."""
NODE_GPUS = 8
AS_PUBLISHED = "as published"  # the precision of rows that state none
FIGURES = ("silicon_ttft_ms", "silicon_tpot_ms", "batch_size", "tp_size", "isl", "osl")
COLUMNS = (
    *FIGURES,
    *("model_path", "system", "backend", "precision", "mode", "pp_size", "attention_dp_size", "moe_tp_size"),
    *("moe_ep_size", "gemm_quant_mode", "moe_quant_mode", "silicon_data_source"),
)
# Names of checkpoints whose architecture the package has under another one.
_SAME_ARCHITECTURE = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Meta-Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Meta-Llama-3.1-8B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1",
}


@dataclass(frozen=True, order=True)
class Family:
    """Runs of one model in one precision on one kind of GPU with one engine: they share the engine's effects."""

    model: str
    gpu: str
    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.model} {self.precision}, {self.gpu}, {self.engine}"


@dataclass(frozen=True, order=True)
class Deployment:
    """How one replica of a family is spread over GPUs, and what the sample says of its matrix kernels ("": nothing)."""

    family: Family
    tp: int
    moe_tp: int
    moe_ep: int
    gemm_mode: str
    moe_mode: str

    @property
    def architecture(self) -> str:
        """The package's name of the model's architecture."""
        return _SAME_ARCHITECTURE.get(self.family.model, self.family.model)

    @property
    def kernel_mode(self) -> str:
        """The mode of its matrix kernels: where FP8 checkpoints have static scales for activations, the kernels do."""
        static = self.gemm_mode == "fp8" and self.family.model in _STATIC_SCALES
        return "fp8_static" if static else self.gemm_mode


@dataclass(frozen=True, order=True)
class Run:
    """One run: `concurrency` users, each with one request at a time, of nominally that many tokens.

    ttft_ms, tpot_ms: means over its requests, as measured. source: where the sample has it from.
    """

    deployment: Deployment
    input_tokens: int
    output_tokens: int
    concurrency: int
    ttft_ms: float
    tpot_ms: float
    source: str

    @property
    def of_inference_max(self) -> bool:
        """Whether InferenceMAX / InferenceX measured it, whose client is known; else NVIDIA, with one that is not."""
        return self.source.startswith(("db-dump/", "source_file=20"))

    @property
    def case(self) -> str:
        """What tables and plots call it."""
        d = self.deployment
        spread = f"TP{d.tp}" + (f" EP{d.moe_ep}" if d.moe_ep > 1 else "")
        spread += f" {d.gemm_mode}" if d.gemm_mode and d.gemm_mode != d.family.precision else ""
        return f"{d.family}, {spread}, {self.input_tokens}/{self.output_tokens}, {self.concurrency} users"


def sample_file() -> Path:
    """The sample that comes with aiconfigurator-core; ProfileError where that is not installed."""
    try:
        return Path(str(files("aiconfigurator_core"))) / "systems" / "silicon_sample.csv"
    except ModuleNotFoundError as problem:
        raise ProfileError(
            'the measured runs come with AIConfigurator, which is not installed: pip install -e ".[calibrate]"'
        ) from problem


def read_runs(
    path: Path | None = None, model: str = "", gpu: str = "", engine: str = "", precision: str = ""
) -> tuple[list[Run], dict[str, int]]:
    """The runs whose family has those texts in its names (an empty one: any), in order; and why others were left out.

    Left out, with their number: disaggregated runs, several copies of attention (data parallel), pipelines, cells that
    are no numbers, and measurements that are in the sample more than once. Raises ProfileError for a file that cannot
    be read, or if no family is asked for that it has.
    """
    path = path or sample_file()
    wanted = {"model_path": model, "system": gpu, "backend": engine, "precision": precision}
    rows = [row for row in _rows(path) if _asked_for(row[1], wanted)]
    if not rows:
        asked = ", ".join(f"{key}={value}" for key, value in wanted.items() if value) or "any family"
        raise ProfileError(f"{path}: no run of {asked}; see --list for the families there are")
    runs, left_out = [], dict[str, int]()
    for number, row in rows:
        reason = _why_not(row)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            runs.append(_run(path, number, row))
    kept = _once(runs)
    if len(kept) < len(runs):
        left_out["the same measurement as another row"] = len(runs) - len(kept)
    return sorted(kept), left_out


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a sample with their numbers (the header is row 1); ProfileError names what is wrong."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            absent = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
            if absent:
                raise ProfileError(f"{path}: row 1: missing column {', '.join(absent)}; these are no measured runs")
            rows = list(enumerate(reader, start=2))
    except (OSError, UnicodeError, csv.Error) as problem:
        raise ProfileError(f"{path}: cannot be read: {problem}; give a CSV file in UTF-8") from problem
    for number, row in rows:
        if None in row or None in row.values():
            raise ProfileError(f"{path}: row {number}: it has more or fewer cells than the header; correct it")
    return rows


def _once(runs: list[Run]) -> list[Run]:
    """One run of each measurement: rows with the same figures differ in what they say of the GPUs; the fewest GPUs are
    kept (64 are said of nodes of 8, as the product of 8 and 8)."""
    kept: dict[tuple[object, ...], Run] = {}
    for run in sorted(runs):
        what = (run.deployment.family, run.input_tokens, run.output_tokens, run.concurrency, run.ttft_ms, run.tpot_ms)
        kept.setdefault(what, run)
    return list(kept.values())


def _asked_for(row: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(text.lower() in (row[key] or "").lower() for key, text in wanted.items() if text != AS_PUBLISHED)


def _why_not(row: dict[str, str]) -> str:
    """Why a row is no run that one replica can be compared with; empty if it is one."""
    if row["mode"] != "agg":
        return "prefill and decode on separate workers"
    if _whole(row["attention_dp_size"], 1) > 1:
        return "attention is data parallel: several batches in one engine"
    if _whole(row["pp_size"], 1) > 1:
        return "pipeline parallel"
    if not all(_is_number(row[key]) and float(row[key]) > 0 for key in FIGURES):
        return "no TTFT, TPOT, concurrency, TP or lengths"
    if float(row["osl"]) < 2:
        return "one output token, which has no TPOT"
    if _whole(row["tp_size"], 1) > NODE_GPUS and not row["system"].startswith("gb"):
        return f"more than the {NODE_GPUS} GPUs of a node in one tensor parallel replica"
    return ""


def _run(path: Path, number: int, row: dict[str, str]) -> Run:
    if row["backend"] not in ENGINES:
        raise ProfileError(f"{path}: row {number}: backend is {row['backend']!r}; choose {', '.join(ENGINES)}")
    family = Family(row["model_path"], row["system"], row["backend"], _text(row["precision"]) or AS_PUBLISHED)
    deployment = Deployment(
        family,
        tp=_whole(row["tp_size"], 1),
        moe_tp=max(1, _whole(row["moe_tp_size"], 1)),
        moe_ep=max(1, _whole(row["moe_ep_size"], 1)),
        gemm_mode=_text(row["gemm_quant_mode"]),
        moe_mode=_text(row["moe_quant_mode"]),
    )
    return Run(
        deployment,
        input_tokens=_whole(row["isl"], 0),
        output_tokens=_whole(row["osl"], 0),
        concurrency=_whole(row["batch_size"], 1),
        ttft_ms=float(row["silicon_ttft_ms"]),
        tpot_ms=float(row["silicon_tpot_ms"]),
        source=row["silicon_data_source"],
    )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _whole(text: str, default: int) -> int:
    return int(float(text)) if _is_number(text) else default


def _text(text: str) -> str:
    return "" if text.lower() == "nan" else text
