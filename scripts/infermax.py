"""INFERMAX's experiments, run again: a page as docs/infermax.md, and its pictures.

    python scripts/infermax.py                                                  # all of them, minutes
    python scripts/infermax.py experiments=[online] workload.path=my_trace.csv out=results/mine
    python scripts/infermax.py quick=true out=results/quick                     # seconds
    python scripts/infermax.py 'online.workloads=[azure2023_conv,azure2023_conv_trace]' \\
        page=docs/infermax.md figures=docs/assets                               # the shipped page

The page is `page.md` in `out` unless `page` names another. What it concludes from the shipped settings it leaves out
where an experiment has others. A run that was interrupted continues where it stopped when it is started again. Needs
Matplotlib.
"""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Any, NoReturn

import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from pecgym.configs import WorkloadConfig
from pecgym.errors import PecGymError
from pecgym.evaluation.infermax import InfermaxConfig, run
from pecgym.evaluation.infermax.page_text import places

store = ConfigStore.instance()
store.store(group="schema", name="infermax", node=InfermaxConfig, package="_global_")
store.store(group="schema", name="workload", node=WorkloadConfig)


@hydra.main(version_base="1.3", config_path="../conf", config_name="infermax")
def main(config: InfermaxConfig) -> None:
    console = Console(stderr=True)
    values: Any = OmegaConf.to_object(config)
    shipped: Any = OmegaConf.to_object(compose("infermax"))
    command = shlex.join(["python", "scripts/infermax.py", *sys.argv[1:]])
    try:
        from pecgym.evaluation.infermax.page import write_page

        page, figures = places(values.out, values.page, values.figures)
        files = write_page(run(values), values, shipped, page, figures, command)
    except (PecGymError, OSError) as error:
        console.print(Text.assemble(("error: ", "red"), str(error)), highlight=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        console.print(f"error: {error}: pip install matplotlib (part of the extra 'calibrate')", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted: what was done is kept; the same command continues")
        sys.exit(130)
    Console(soft_wrap=True).print(f"written: {', '.join(map(str, files))}", highlight=False, markup=False)


def _interrupt(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    main()
