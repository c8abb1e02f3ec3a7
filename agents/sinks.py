"""Where the rows of a training run go: files, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agents.config import LoggerConfig
from pecgym.errors import SpecError

Row = Mapping[str, float]


class Sink(Protocol):
    """Something that takes rows of numbers."""

    def write(self, group: str, row: Row) -> None:
        """Takes a row of `group`, "train" or "evaluation"; `steps` is among its keys."""

    def close(self) -> None:
        """After the last row."""


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Replaces a file by rows with equal keys, at once; empty: not a number."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
    replace_file(path, text.getvalue().encode())


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Writes a file so that a kill leaves the old one or the new one, whole."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


class _TensorBoard:
    """Event files in the folder of the run."""

    def __init__(self, out: Path, steps: int) -> None:
        """steps: of a run that goes on; later rows of its first life are left out."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(f"tensorboard cannot be imported ({error}): pip install -e '.[train]'") from error
        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=steps + 1 if steps else None)  # type: ignore[no-untyped-call]

    def write(self, group: str, row: Row) -> None:
        for key, value in row.items():
            if key != "steps" and value == value:
                self._writer.add_scalar(f"{group}/{key}", value, int(row["steps"]))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run of Weights & Biases; offline into the folder of the run, for `wandb sync`."""

    def __init__(self, out: Path, settings: LoggerConfig, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(f"wandb cannot be imported ({error}): pip install -e '.[train]'") from error
        if settings.mode == "online" and not wandb.login(prompt=False):
            raise SpecError("logger.mode=online: nobody is logged in; run `wandb login` first, or logger=wandb_offline")
        self._run: Any = wandb.init(
            project=settings.project,
            name=out.name,
            id=out.name,
            resume="allow" if settings.mode == "online" else None,
            mode="online" if settings.mode == "online" else "offline",
            dir=str(out),
            config=config,
            settings=wandb.Settings(silent=True),
        )
        self._finish = wandb.finish
        self._run.define_metric("*", step_metric="steps")

    def write(self, group: str, row: Row) -> None:
        named = {f"{group}/{key}": value for key, value in row.items() if key != "steps" and value == value}
        self._run.log({"steps": row["steps"], **named})

    def close(self) -> None:
        self._finish()  # also in a sweep: the next job of this process begins a run of its own


def open_sinks(settings: LoggerConfig, out: Path, config: dict[str, Any], steps: int) -> tuple[list[Sink], str]:
    """What the logger of the configuration stands for, and a line to show if it could not be had.

    steps: where the run goes on. Raises SpecError if it is required and not installed.
    """
    try:
        if settings.kind == "tensorboard":
            return [_TensorBoard(out, steps)], ""
        if settings.kind == "wandb":
            return [_WandB(out, settings, config)], ""
    except ImportError as error:
        if settings.required:
            raise SpecError(f"logger.kind={settings.kind}: {error}, or choose logger=none") from error
        return [], f"{error}; the curve is in {out / 'curve.csv'} alone"
    return [], ""
