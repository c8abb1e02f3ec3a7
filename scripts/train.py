"""Trains an agent: Maskable PPO over the environments, with a curve, evaluations, and the best agent found.

    python scripts/train.py                            # Llama-3.1-70B at 80% load
    python scripts/train.py agent=quick recipe=mistral_steady seed=1
    python scripts/train.py -m seed=0,1,2 hydra/launcher=joblib

docs/train.md lists the keys. A run that was interrupted or killed goes on when it is started again the same way.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # agents/ is of the checkout, and not installed

import gymnasium as gym
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

import pecgym  # noqa: F401 - registers the environments
from pecgym.errors import PecGymError

try:
    from agents.options import TrainConfig, register_schemas
    from agents.progress import Shown
    from agents.training import train
except ImportError as error:
    sys.exit(f"error: {error}: training needs pip install -e '.[train]'")

FOLDER = Path("results/train")
LONGEST_NAME = 120
HEADINGS = {
    "short_queueing_delay_p99_s": "p99 delay s",
    "short_throughput_rps": "shorts/s",
    "long_jct_mean_s": "long JCT s",
    "makespan_s": "makespan s",
}

register_schemas()


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(config: Any) -> float:
    """The best score, for sweepers."""
    try:
        values: TrainConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
        out = _folder(values)
        summary = train(values, out, shown=Shown(bar=False if _is_sweep() else None))
    except (PecGymError, gym.error.Error) as error:
        if _is_sweep():
            raise  # the launcher tells of it; a process of a cluster that ended would count as a crash
        _fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: what was saved is kept; the same command continues")
        sys.exit(130)
    _print(summary, out)
    return float(summary["best_score"])


def _is_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _folder(values: TrainConfig) -> Path:
    """Where the run goes; in a sweep each has its own, named after what differs."""
    if not _is_sweep():
        return Path(values.out) if values.out is not None else FOLDER / values.name
    differs = re.sub("[^A-Za-z0-9_.,=-]", "_", HydraConfig.get().job.override_dirname)
    if len(differs) > LONGEST_NAME:
        differs = hashlib.sha256(differs.encode()).hexdigest()[:12]  # config.yaml says what it stands for
    return Path(values.out or FOLDER) / ",".join(filter(None, [values.name, differs]))


def _print(summary: dict[str, Any], out: Path) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 140
    table = Table(title=f"{summary['run']}: means over {len(summary['windows'])} windows that were not trained on")
    measures = [name for name in HEADINGS if name in summary["reference"]]
    for heading in ("policy", "score", *(HEADINGS[name] for name in measures), "return", "unfinished"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    reference = summary["reference"]
    rows = {
        f"the agent, at step {summary['best_steps']:,}": summary["best"],
        f"{reference['policy']} (reference)": reference,
        **summary["baselines"],
    }
    for label, row in rows.items():
        numbers = [row["score"], *(row[measure] for measure in measures), row["return"]]
        shown = ["" if number is None else f"{number:,.3f}" for number in numbers]
        table.add_row(label, *shown, f"{row['unfinished']:,.0f}")
    console.print(table)
    console.print(
        f"{summary['steps']:,} steps in {summary['train_s']:,.0f} s: {summary['steps_per_s']:,.0f} a second, the "
        f"environment alone {summary['env_steps_per_s']:,.0f}, which took {summary['env_share']:.0%} of the time",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"written: {out}", highlight=False, soft_wrap=True)


def _fail(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "red"), message), highlight=False)
    sys.exit(2)


if __name__ == "__main__":
    main()
