"""Trains a length predictor: on prompts and the lengths of their outputs, or on what a workload shows at arrival.

    python scripts/train_predictor.py data=my.jsonl name=mine                    # a file with prompt and output_tokens
    python scripts/train_predictor.py workload=azure2023_conv                    # arrivals and input lengths
    python scripts/train_predictor.py workload.path=my_trace.csv trace.objective=log

It learns from the first 60% of the requests, in order of time, and prints how well it does on the next and the last
20%. Any run then takes it as workload.predictor=results/predictors/NAME. docs/predictors.md lists the keys.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pecgym.configs import WorkloadConfig
from pecgym.errors import PecGymError, SpecError
from pecgym.predictors.models import MODELS, TextModel, TraceModel
from pecgym.predictors.saved import Manifest, check_folder, save_predictor
from pecgym.predictors.training import HELD_OUT, STEPS, Trained, train_predictor
from pecgym.workload import Prompts, Trace, read_prompts

FOLDER = Path("results/predictors")


@dataclass
class TrainPredictorConfig:
    """The keys of scripts/train_predictor.py; any other key is an error.

    Attributes:
        data: a file of prompts (docs/predictors.md), in place of the workload.
        on_empty: of data: rows of zero tokens, "error", "one" or "drop".
        workload: what to learn from where there is no data.
        kind: "text" or "trace", what the predictor reads; None: text of data, trace of a workload.
        trace, text: options of the model of that kind.
        name: of the predictor's folder in results/predictors; None: that of the data or workload.
        out: the folder itself.
        fresh: whether to replace a predictor that is there already.
        seed: of the training, and of a workload that is generated.
        latency_s: to charge for a prediction; None: as long as it takes on this machine.
    """

    data: str | None = None
    on_empty: str = "error"
    workload: WorkloadConfig = field(default_factory=WorkloadConfig)
    kind: str | None = None
    trace: TraceModel = field(default_factory=TraceModel)
    text: TextModel = field(default_factory=TextModel)
    name: str | None = None
    out: str | None = None
    fresh: bool = False
    seed: int = 0
    latency_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in MODELS:
            raise SpecError(f"kind={self.kind!r}: choose one of {', '.join(MODELS)}")
        if self.data is not None and self.kind == "trace":
            raise SpecError(f"data={self.data} is of kind=text; a trace is given as workload.path={self.data}")
        if self.data is not None and self.workload != WorkloadConfig():
            raise SpecError(f"data={self.data} takes the place of a workload; leave workload out, or data")
        if self.data is None and self.on_empty != "error":
            raise SpecError(f"on_empty={self.on_empty}: of data; of a trace file it is workload.on_empty")
        if self.workload.predictor is not None:
            raise SpecError(
                "workload.predictor: what is to be predicted is learned from the true lengths; leave it out"
            )
        if self.seed < 0:
            raise SpecError(f"seed={self.seed}: must be 0 or more")
        if self.latency_s is not None and not self.latency_s >= 0:
            raise SpecError(f"latency_s={self.latency_s}: must be 0 or more")
        unused, default = ("trace", TraceModel()) if self.reads == "text" else ("text", TextModel())
        if getattr(self, unused) != default:
            raise SpecError(f"{unused}.*: options of kind={unused}, and this is kind={self.reads}; leave them out")

    @property
    def reads(self) -> str:
        """The kind."""
        return self.kind or ("trace" if self.data is None else "text")

    @property
    def model(self) -> TraceModel | TextModel:
        """What is trained."""
        return self.text if self.reads == "text" else self.trace

    @property
    def folder(self) -> Path:
        """Where it goes."""
        source = self.workload.label() if self.data is None else Path(self.data).stem
        return Path(self.out) if self.out is not None else FOLDER / (self.name or source)

    def load(self) -> tuple[Trace | Prompts, str, str]:
        """The requests, what they are called, and a sha256: of the file of prompts, or of the workload's columns."""
        if self.data is not None:
            prompts = read_prompts(self.data, on_empty=self.on_empty)  # type: ignore[arg-type]
            return prompts, Path(self.data).name, hashlib.sha256(Path(self.data).read_bytes()).hexdigest()
        trace = self.workload.load(self.seed)
        columns = (trace.arrival_s, trace.input_tokens, trace.output_tokens)
        return trace, self.workload.label(), hashlib.sha256(b"".join(each.tobytes() for each in columns)).hexdigest()


store = ConfigStore.instance()
store.store(group="schema", name="train_predictor", node=TrainPredictorConfig, package="_global_")
store.store(group="schema", name="workload", node=WorkloadConfig)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_predictor")
def main(config: Any) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        values: TrainPredictorConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
        check_folder(values.folder, values.fresh)
        requests, source, digest = values.load()
        console.print(f"learning from {source}: {len(requests):,} requests")
        trained = _trained(values, requests, console)
        manifest = save_predictor(
            values.folder, trained, requests, source, digest, values.seed, values.latency_s, values.fresh
        )
    except (PecGymError, OSError) as error:
        console.print(Text.assemble(("error: ", "red"), str(error)))
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted: nothing was written")
        sys.exit(130)
    _print(values, trained, manifest)


def _trained(values: TrainPredictorConfig, requests: Trace | Prompts, console: Console) -> Trained:
    bar = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), *bar)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=STEPS, completed=-1)
        return train_predictor(
            values.model, requests, values.seed, lambda what: progress.update(task, description=what, advance=1)
        )


def _print(values: TrainPredictorConfig, trained: Trained, manifest: Manifest) -> None:
    console = Console(soft_wrap=True, highlight=False)
    if not console.is_terminal:
        console.width = 140
    table = Table(title=f"{values.folder.name}: accuracy on requests that it was not trained on", title_justify="left")
    for heading in (
        "",
        "split",
        "requests",
        "Kendall tau",
        "MAE tokens",
        "same class",
        "within one class",
        "sum / true",
    ):
        table.add_column(heading, justify="left" if heading in ("", "split") else "right")
    for name, found in {"the predictor": trained.accuracy, **trained.baselines}.items():
        for split in HELD_OUT:
            a = found[split]
            tau = "-" if a.kendall_tau != a.kendall_tau else f"{a.kendall_tau:.3f}"
            shares = (f"{a.same_class:.1%}", f"{a.within_one_class:.1%}", f"{a.calibration:.3f}")
            table.add_row(name, split, f"{a.requests:,}", tau, f"{a.mae_tokens:.1f}", *shares)
    console.print(table)
    table = Table(title="test, by tenths of the prediction: mean lengths in tokens", title_justify="left")
    for heading in ("requests", "predicted", "true", "predicted tail", "true tail"):
        table.add_column(heading, justify="right")
    for row in trained.deciles:
        means = (row.predicted_tokens, row.true_tokens, row.tail_tokens, row.true_tail_tokens)
        table.add_row(f"{row.requests:,}", *(f"{tokens:.0f}" for tokens in means))
    console.print(table)
    size = sum(path.stat().st_size for path in values.folder.iterdir()) / 1024
    console.print(
        f"trained on the first {manifest.trained_on:,} of {manifest.requests:,} requests of {manifest.source}"
    )
    console.print(
        f"a prediction takes {1e3 * trained.measured_s:.2f} ms here; {1e3 * manifest.latency_s:g} ms are charged"
    )
    console.print(f"written: {values.folder} ({size:.0f} KB); use it as workload.predictor={values.folder}")


def _interrupt(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    main()
