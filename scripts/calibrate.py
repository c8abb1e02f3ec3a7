"""Make a cost profile: from AIConfigurator, or from iteration times that you measured.

    python scripts/calibrate.py --csv step_times.csv --model llama-3.1-8b --gpu a100-80gb --tp 1 --engine "vllm 0.11.0"
    python scripts/calibrate.py --aic --model llama-3.1-70b --gpu a100-80gb --tp 4
    python scripts/calibrate.py --aic --all      # make every shipped profile again
    python scripts/calibrate.py --table          # the shipped profiles and their errors, as Markdown

Needs `pip install -e ".[calibrate]"`. See docs/calibrate.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pecgym.costs import load_gpu, load_model, load_profile, profile_names
from pecgym.costs.calibration import AIC_PROFILES, aic_profile, calibrated_file, write_profile
from pecgym.costs.fit import fit_samples
from pecgym.costs.fit_plot import draw_fit
from pecgym.costs.power import fit_power
from pecgym.costs.profile_schema import ProfileFile
from pecgym.costs.samples import PHASES, Samples, read_points_csv
from pecgym.errors import PecGymError, ProfileError

SHIPPED = Path(__file__).resolve().parent.parent / "pecgym" / "costs" / "profiles"
console = Console()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 on bad input."""
    options = _parser().parse_args(arguments)
    try:
        _refuse_unused(options)
        if options.table:
            print(profiles_markdown())
        elif options.aic and options.all:
            for model, gpu, tp in AIC_PROFILES:
                file, _ = _from_aic(model, gpu, tp)
                write_profile(file, SHIPPED / f"{file.name}.yaml")
                show(file)
        else:
            needed = ("model", "gpu", "tp", "engine") if options.csv else ("model", "gpu", "tp")
            absent = [f"--{name}" for name in needed if not getattr(options, name)]
            if absent:
                raise ProfileError(f"{', '.join(absent)} missing: a profile belongs to a model, GPUs and an engine")
            file, samples = _from_aic(options.model, options.gpu, options.tp) if options.aic else _from_csv(options)
            if options.out is not None:
                file = replace(file, name=options.out.stem)
            path = options.out or Path(f"{file.name}.yaml")
            write_profile(file, path)
            show(file)
            console.print(f"wrote [bold]{path}[/]: use it as profile={path}", soft_wrap=True)
            if options.plot:
                draw_fit(file, samples, options.plot)
                console.print(f"wrote [bold]{options.plot}[/]", soft_wrap=True)
    except PecGymError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, metavar="FILE", help="your measured iterations, one per row")
    source.add_argument("--aic", action="store_true", help="predictions of AIConfigurator")
    source.add_argument("--table", action="store_true", help="print the shipped profiles as a Markdown table")
    parser.add_argument("--all", action="store_true", help="with --aic: make every shipped profile again")
    parser.add_argument("--model", help="name of a shipped model, or your own .yaml")
    parser.add_argument("--gpu", help="name of a shipped GPU, or your own .yaml")
    parser.add_argument("--tp", type=int, help="GPUs per replica (tensor parallelism)")
    parser.add_argument("--engine", help='with --csv: the engine and its version, as "vllm 0.11.0"')
    parser.add_argument("--columns", metavar="NAME=COLUMN,...", help="with --csv: the file's own names of the columns")
    parser.add_argument(
        "--kv-capacity-tokens", type=int, help="with --csv: what the engine reported (default: computed)"
    )
    parser.add_argument("--licence", help="with --csv: that of the measurements, written to the profile")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the profile to write (default: NAME.yaml)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw how well the profile fits (.png, .svg, .pdf)")
    return parser


def _refuse_unused(options: argparse.Namespace) -> None:
    """Refuse options that the chosen source would not use, rather than ignore them."""
    used: tuple[str, ...]
    replicas = ("model", "gpu", "tp", "out", "plot")
    if options.csv:
        source, used = "--csv", (*replicas, "engine", "columns", "kv_capacity_tokens", "licence")
    elif options.aic:
        source, used = "--aic --all" if options.all else "--aic", ("all",) if options.all else replicas
    else:
        source, used = "--table", ()
    unused = [name for name, value in vars(options).items() if value and name not in (*used, "csv", "aic", "table")]
    if unused:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        raise ProfileError(f"{names}: not used with {source}; leave out")


def _from_aic(model: str, gpu: str, tp: int) -> tuple[ProfileFile, Samples]:
    logging.disable(logging.WARNING)  # the package names every table that it does not need for a dense model
    try:
        return aic_profile(model, gpu, tp)
    finally:
        logging.disable(logging.NOTSET)


def _from_csv(options: argparse.Namespace) -> tuple[ProfileFile, Samples]:
    samples, ignored = read_points_csv(options.csv, _mapping(options.columns))
    if ignored:
        console.print(f"columns not used: {', '.join(ignored)}")
    fit, power = fit_samples(samples), fit_power(samples)
    if power is None:
        console.print("no column power_w: watts of the GPU's file")
    else:
        console.print(
            f"power of a GPU: {power.prefill_w} W with prompt tokens, {power.decode_w} W in decodes alone; iterations "
            f"differ from that by {power.prefill_error_percent} % and {power.decode_error_percent} % on average"
        )
    file = calibrated_file(
        load_model(options.model),
        load_gpu(options.gpu),
        options.tp,
        options.engine,
        fit,
        source=f"{len(samples)} measured iterations of {options.csv.name}, fitted by scripts/calibrate.py --csv",
        licence=options.licence or "the user's own measurements",
        kv_capacity_tokens=options.kv_capacity_tokens,
        power=power,
    )
    return file, samples


def _mapping(text: str | None) -> dict[str, str]:
    """`name=column,name=column` as a mapping; ProfileError where it is not that."""
    mapping: dict[str, str] = {}
    for pair in text.split(",") if text else []:
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not (name and equals and column) or name in mapping:
            raise ProfileError(
                f"--columns: {pair!r} is not NAME=COLUMN, or repeats a name; write for example time_ms=ms"
            )
        mapping[name] = column
    return mapping


def show(file: ProfileFile) -> None:
    """Print the error of a fit by phase, and its range."""
    table = Table(title=f"{file.name}: relative error of the fit, percent")
    for heading in ("phase", "points", "mean", "p90", "worst", "held out", "mean", "worst"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, e in file.fit.items():
        figures = (e.mean_percent, e.p90_percent, e.worst_percent)
        kept_out = (e.held_out_mean_percent, e.held_out_worst_percent) if e.held_out_points else ()
        cells = [str(e.points), *(f"{x:.2f}" for x in figures), str(e.held_out_points)]
        table.add_row(phase, *cells, *(f"{x:.2f}" for x in kept_out))
    console.print(table)
    if file.fitted_range is not None:
        r = file.fitted_range
        console.print(
            f"range: prompts {r.prompt_tokens_min:,} to {r.prompt_tokens_max:,} tokens, decodes with "
            f"{r.context_tokens_min:,} to {r.context_tokens_max:,} tokens of context, {r.batch_min} to {r.batch_max} "
            f"at once; KV cache {file.kv_capacity_tokens:,} tokens"
        )


def profiles_markdown() -> str:
    """The shipped profiles as a Markdown table: mean / worst error in percent by phase, KV capacity and range."""
    heads = ["profile", "engine", *PHASES, "held out", "KV tokens", "prompts up to", "decodes up to"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in profile_names():
        profile = load_profile(name)
        by_phase = [
            f"{profile.fit[phase].mean_percent:.1f} / {profile.fit[phase].worst_percent:.1f}"
            if phase in profile.fit
            else "-"
            for phase in PHASES
        ]
        count = sum(e.held_out_points for e in profile.fit.values())
        total = sum(e.held_out_points * e.held_out_mean_percent for e in profile.fit.values())
        worst = max((e.held_out_worst_percent for e in profile.fit.values()), default=0.0)
        held_out = f"{total / count:.1f} / {worst:.1f}" if count else "-"
        r = profile.fitted_range
        ends = [f"{r.prompt_tokens_max:,}", f"{r.batch_max} x {r.context_tokens_max:,}"] if r else ["not stated"] * 2
        cells = [f"`{name}`", profile.engine, *by_phase, held_out, f"{profile.kv_capacity_tokens:,}", *ends]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
