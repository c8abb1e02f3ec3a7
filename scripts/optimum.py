"""How far every engine preset is from the optimum: tables, pictures, and a section as that of docs/infermax.md.

    python scripts/optimum.py                                                   # minutes
    python scripts/optimum.py '~grids.large' 'grids.small.input_tokens=[16,512]' out=results/mine
    python scripts/optimum.py quick=true out=results/quick                      # a look
    python scripts/optimum.py page=docs/infermax.md figures=docs/assets         # the shipped section

The section is written into `page.md` in `out` unless `page` names another page, of which all else stays. What it
concludes from the shipped settings it leaves out where they are others. A run that was interrupted continues where it
stopped when it is started again. Needs Matplotlib, and the solvers of the extra `optimum`.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pecgym.errors import PecGymError
from pecgym.evaluation.infermax.page_text import places
from pecgym.evaluation.optimum import OptimumConfig, run
from pecgym.evaluation.optimum.gaps import points
from pecgym.evaluation.optimum.tables import families, gains, reach

ConfigStore.instance().store(group="schema", name="optimum", node=OptimumConfig, package="_global_")


@hydra.main(version_base="1.3", config_path="../conf", config_name="optimum")
def main(config: OptimumConfig) -> None:
    console = Console(stderr=True)
    values: Any = OmegaConf.to_object(config)
    shipped: Any = OmegaConf.to_object(compose("optimum"))
    command = shlex.join(["python", "scripts/optimum.py", *sys.argv[1:]])
    try:
        from pecgym.evaluation.optimum.page import write_section

        rows = run(values)
        found = points(rows["optima"], rows["gaps"])
        page, figures = places(values.out, values.page, values.figures)
        files = write_section(found, values, shipped, page, figures, command)
    except (PecGymError, OSError) as error:
        console.print(Text.assemble(("error: ", "red"), str(error)), highlight=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        console.print(f"error: {error}: pip install matplotlib (part of the extra 'calibrate')", soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted: what was done is kept; the same command continues")
        sys.exit(130)
    _print("what is known of the optimum", *reach(found))
    _print("what preempting saves, at the best M", *gains(found))
    _print("how much slower engines are than the optimum", *families(found))
    Console(soft_wrap=True).print(f"written: {', '.join(map(str, files))}", highlight=False, markup=False)


def _print(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left", box=HEAVY_HEAD, header_style="bold")
    for name in head:
        table.add_column(escape(name), overflow="fold")
    for line in lines:
        table.add_row(*map(escape, line))
    Console().print(table)


def _interrupt(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    main()
