"""Searches for an agent's settings with Optuna: short training runs, of which the hopeless are ended early.

    python scripts/tune.py recipe=llama_steady tune.trials=40
    python scripts/train.py --config-dir results/tune/llama_steady agent=best    # trains with the best

docs/train.md lists the keys. The same command continues a search; several may run at the same time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ is of the checkout, and not installed

import gymnasium as gym
import hydra
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

import pecgym  # noqa: F401 - registers the environments
from pecgym.errors import PecGymError

try:
    from agents.options import register_schemas
    from agents.tuning import TuneConfig, tune
except ImportError as error:
    sys.exit(f"error: {error}: tuning needs pip install -e '.[train]'")

FOLDER = Path("results/tune")

register_schemas(TuneConfig)


@hydra.main(version_base="1.3", config_path="../conf", config_name="tune")
def main(config: Any) -> None:
    console = Console(stderr=True, soft_wrap=True)
    try:
        values: TuneConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
        out = Path(values.out) if values.out is not None else FOLDER / values.recipe
        study = tune(values, out)
    except (PecGymError, gym.error.Error) as error:
        console.print(Text.assemble(("error: ", "red"), str(error)), highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted: what was done is kept; the same command continues")
        sys.exit(130)
    table = Table(title=f"the best of {len(study.trials)} trials")
    for heading in ("trial", "score", *values.tune.space):
        table.add_column(heading, justify="right", overflow="fold")
    finished = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    for trial in sorted(finished, key=lambda each: each.values[0])[:5]:
        table.add_row(
            str(trial.number),
            f"{trial.values[0]:+.4f}",
            *(_spelled(trial.params[key]) for key in values.tune.space),
        )
    shown = Console()
    if not shown.is_terminal:
        shown.width = 140
    shown.print(table)
    shown.print(f"written: {out / 'agent' / 'best.yaml'}", highlight=False, soft_wrap=True)


def _spelled(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
