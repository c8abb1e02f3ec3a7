"""Draws learning curves of trainings: the score on validation windows, and the return of episodes of training.

    python scripts/plot_curves.py results/train/llama_steady-s* curves.png

A thin line for each run, a thick one for the mean of runs that differ in their seed alone (the names of their folders
without -sSEED), at the steps that all of them have. Needs matplotlib: pip install -e '.[train,calibrate]'
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

CURVES = {"evaluations.csv": ("score", "score (below 0: better than the reference)"), "curve.csv": ("return", "return")}
"""By file of a run: the column that is drawn, and its axis."""


class CurveError(Exception):
    """A run whose curve cannot be drawn."""


def read_curve(path: Path, column: str) -> dict[int, float]:
    """By steps, what a column of a run's file says; rows without a number are left out. Raises CurveError."""
    try:
        with path.open(newline="") as file:
            rows = [(row["steps"], row[column]) for row in csv.DictReader(file)]
        found = {int(steps): float(value) for steps, value in rows if value}
    except (OSError, KeyError, ValueError) as error:
        raise CurveError(f"{path}: cannot be read ({error!r}); give folders of scripts/train.py") from error
    if not found:
        raise CurveError(f"{path}: has no rows yet")
    return found


def by_recipe(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Folders that differ in their seed alone, together."""
    groups: dict[str, list[Path]] = {}
    for run in runs:
        groups.setdefault(re.sub(r"-s\d+", "", run.resolve().name), []).append(run)
    return groups


def mean_of(curves: Sequence[dict[int, float]]) -> dict[int, float]:
    """The mean at the steps that all have."""
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    return {steps: math.fsum(curve[steps] for curve in curves) / len(curves) for steps in common}


def draw(runs: Sequence[Path], out: Path) -> None:
    """Writes the picture; its format is that of the file's name. Raises CurveError."""
    try:
        import matplotlib
    except ImportError as error:
        raise CurveError(f"{error}: pip install -e '.[train,calibrate]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(12, 4), layout="constrained")
    for (file, (column, label)), axis in zip(CURVES.items(), axes, strict=True):
        for i, (recipe, folders) in enumerate(by_recipe(runs).items()):
            curves = [read_curve(folder / file, column) for folder in folders]
            for curve in curves:
                axis.plot(curve.keys(), curve.values(), color=f"C{i}", alpha=0.4, linewidth=0.8)
            mean = mean_of(curves)
            axis.plot(
                mean.keys(), mean.values(), color=f"C{i}", linewidth=2.0, label=f"{recipe}, mean of {len(curves)}"
            )
        axis.set_xlabel("steps")
        axis.set_ylabel(label)
    axes[0].axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    axes[0].legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of scripts/train.py")
    parser.add_argument("out", type=Path, help="the picture to write: .png, .svg or .pdf")
    args = parser.parse_args(arguments)
    try:
        draw(args.runs, args.out)
    except (CurveError, OSError, ValueError) as error:  # ValueError: of matplotlib, for a format that it has not
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
