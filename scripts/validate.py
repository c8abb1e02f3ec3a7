"""Compare the simulator with measurements and with another simulator (docs/fidelity.md).

    python scripts/validate.py silicon                          # real runs: Llama-3.1-70B, vLLM, H100 and H200
    python scripts/validate.py silicon --model Qwen3-32B --gpu h100 --engine vllm
    python scripts/validate.py silicon --list                   # the families of runs that there are
    python scripts/validate.py tetris                           # ring prefill
    python scripts/validate.py vidur --reference FOLDER         # Vidur's own results

Each takes --json FILE (rows and summary) and --plot FILE (a picture). Returns 1 where a bar does not hold.
Needs `pip install -e ".[calibrate]"`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pecgym.errors import PecGymError, ProfileError, SpecError
from pecgym.validation import tetris, vidur
from pecgym.validation.ablation import ablate, variants
from pecgym.validation.comparison import Row, Summary, summary_table, write_json
from pecgym.validation.runs import Family, Run, read_runs
from pecgym.validation.served import our_names, write_served
from pecgym.validation.silicon import (
    AIC,
    FITTED,
    HELD_OUT,
    OVERFLOW,
    OVERFLOW_FITTED,
    TPOT,
    TTFT,
    FamilyResult,
    Silicon,
    overall,
)

console = Console()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 where all bars hold, 1 where one does not, 2 on bad input."""
    options = _parser().parse_args(arguments)
    try:
        for path in (options.json, options.plot):
            if path is not None and not path.absolute().parent.is_dir():
                raise SpecError(f"{path}: there is no folder {path.absolute().parent}; make it first")
        held: bool = options.command(options)
    except (PecGymError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the families that were done are in the --json file", file=sys.stderr)
        return 130
    return 0 if held else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="silicon | tetris | vidur")
    text = "Real runs of vLLM, SGLang and TensorRT-LLM. Without a choice: Llama-3.1-70B with vLLM on H100 and H200."
    silicon = commands.add_parser("silicon", help="real runs", description=text)
    silicon.set_defaults(command=_silicon)
    silicon.add_argument("--model", default="", help="text in the name of the model, such as Qwen3-32B")
    silicon.add_argument("--gpu", default="", help="text in the name of the GPU, such as b200")
    silicon.add_argument("--engine", default="", help="vllm, sglang or trtllm")
    silicon.add_argument("--precision", default="", help="fp8, fp4, bf16, ...")
    silicon.add_argument("--all", action="store_true", help="every family of the sample (an hour)")
    silicon.add_argument("--list", action="store_true", help="print the families and their numbers of runs")
    silicon.add_argument("--sample", type=Path, metavar="FILE", help="other runs, in the same columns")
    silicon.add_argument("--rows", action="store_true", help="print every run")
    silicon.add_argument("--ablate", action="store_true", help="what each rule is worth (minutes for each family)")
    silicon.add_argument("--write", type=Path, metavar="FOLDER", help="write profiles and an engine with the effects")
    tetris_parser = commands.add_parser("tetris", help="ring prefill on A100s, SP 1 to 16")
    tetris_parser.set_defaults(command=_tetris)
    vidur_parser = commands.add_parser("vidur", help="Vidur's vLLM and Sarathi schedulers")
    vidur_parser.set_defaults(command=_vidur)
    vidur_parser.add_argument("--reference", type=Path, default=Path("../shared/reference/vidur"), help="Vidur's files")
    for command in (silicon, tetris_parser, vidur_parser):
        command.add_argument("--json", type=Path, metavar="FILE", help="write rows and summary there")
        command.add_argument("--plot", type=Path, metavar="FILE", help="draw reference against simulated, log-log")
    return parser


def _silicon(options: argparse.Namespace) -> bool:
    chosen = {key: getattr(options, key) for key in ("model", "gpu", "engine", "precision")}
    asked = any(chosen.values()) or options.all or options.sample
    if not asked and not options.list:
        return _compare_families(options, _named_runs())
    runs, left_out = read_runs(options.sample, **chosen)
    if options.list:
        console.print(_families_table(runs))
        return True
    for reason, n in left_out.items():
        console.print(f"{n} runs left out: {reason}", style="dim")
    return _compare_families(options, runs)


def _named_runs() -> list[Run]:
    """What the page reports: Llama-3.1-70B with vLLM on H100 and H200."""
    return [run for gpu in ("h100", "h200") for run in read_runs(None, "Llama-3.1-70B", gpu, "vllm")[0]]


def _compare_families(options: argparse.Namespace, runs: list[Run]) -> bool:
    silicon = Silicon()
    results: list[FamilyResult] = []
    families = sorted({run.deployment.family for run in runs})
    if options.write:
        for family in families:
            our_names(family)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(families))
        for number, family in enumerate(families):

            def tick(what: str, share: float, number: int = number) -> None:
                progress.update(task, description=what, completed=number + share)

            try:
                result = silicon.compare([run for run in runs if run.deployment.family == family], tick)
            except ProfileError as problem:
                progress.console.print(f"left out: {problem}", style="yellow")
                continue
            results.append(result)
            _show_family(progress.console, result, options.rows)
            if options.json:
                _write_silicon(options.json, results)
            if options.ablate:
                progress.console.print(_ablation_table(silicon, result, tick))
    if not results:
        raise ProfileError("no family of these could be compared; see the reasons above")
    summaries = overall(results) if len(results) > 1 else results[0].summaries()
    if len(results) > 1:
        console.print(summary_table("all families", summaries))
    if options.plot:
        names = [str(result.family) for result in results]
        title = " and ".join(names) if len(names) <= 2 else f"{len(names)} families of runs"
        rows = [row for result in results for row in (*result.rows(), *result.aic_rows())]
        _plot(options.plot, title, rows, [AIC, FITTED, HELD_OUT, OVERFLOW, OVERFLOW_FITTED])
    if options.write:
        for result in results:
            for path in write_served(result, silicon.aic, options.write):
                console.print(f"wrote {path}", highlight=False)
    return all(each.holds is not False for each in summaries)


def _write_silicon(path: Path, results: list[FamilyResult]) -> None:
    rows = [row for result in results for row in result.rows()]
    own = [row.named() for result in results for row in result.aic_rows()]
    write_json(path, rows, overall(results), families=[result.facts() for result in results], aiconfigurator=own)


def _show_family(to: Console, result: FamilyResult, with_rows: bool) -> None:
    to.print(summary_table(str(result.family), result.summaries()))
    better = {
        metric: "better" if yes else "WORSE" for metric, yes in result.better_than_aic().items() if yes is not None
    }
    if better:
        to.print("than AIConfigurator: " + ", ".join(f"{metric} {word}" for metric, word in better.items()))
    to.print(f"{result.setup}; " + ", ".join(f"{name} {value:.4g}" for name, value in vars(result.effects).items()))
    for reason, n in result.left_out.items():
        to.print(f"{n} runs left out: {reason}", style="dim")
    if with_rows:
        to.print(_rows_table(result))


def _rows_table(result: FamilyResult) -> Table:
    table = Table(title="measured / simulated, ms")
    for heading in ("GPUs", "tokens in/out", "users", "TTFT", "error", "TPOT", "error", "group"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for each in result.runs:
        run, means = each.run, each.simulated
        cells = []
        for measured, simulated in ((run.ttft_ms, means.ttft_ms), (run.tpot_ms, means.tpot_ms)):
            cells += [f"{measured:,.1f} / {simulated:,.1f}", f"{simulated / measured - 1:+.1%}"]
        lengths = f"{run.input_tokens}/{run.output_tokens}"
        table.add_row(f"TP{run.deployment.tp}", lengths, str(run.concurrency), *cells, each.group)
    return table


def _ablation_table(silicon: Silicon, result: FamilyResult, tick: Callable[[str, float], None]) -> Table:
    table = Table(title="runs held out, effects fitted anew: median / p90 error, and the worst TTFT of KV overflow")
    for heading in ("variant", "TTFT", "TPOT", "overflow"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    every = variants(result)
    for number, each in enumerate(ablate(silicon, result)):
        found = {(summary.group, summary.metric): summary for summary in each.summaries}
        cells = [
            f"{100 * s.median_error:.1f}% / {100 * s.p90_error:.1f}%"
            for s in (found[HELD_OUT, TTFT], found[HELD_OUT, TPOT])
        ]
        overflow = found.get((OVERFLOW, TTFT))
        table.add_row(each.variant.name, *cells, "" if overflow is None else f"{overflow.factor:.2f}x")
        tick(f"{result.family}: {each.variant.name}", (number + 1) / len(every))
    return table


def _families_table(runs: list[Run]) -> Table:
    table = Table(title="families of measured runs")
    for heading in ("model", "precision", "GPU", "engine", "runs", "GPUs per replica"):
        table.add_column(heading, justify="right" if heading == "runs" else "left", overflow="fold")
    families: dict[Family, list[Run]] = {}
    for run in runs:
        families.setdefault(run.deployment.family, []).append(run)
    for family, members in families.items():
        sizes = sorted({run.deployment.tp for run in members})
        cells = (family.model, family.precision, family.gpu, family.engine, str(len(members)))
        table.add_row(*cells, ", ".join(map(str, sizes)))
    return table


def _tetris(options: argparse.Namespace) -> bool:
    rows = tetris.rows()
    summaries = tetris.summaries(rows)
    console.print(tetris.cells_table(rows))
    console.print(summary_table("ring prefill against Tetris, Table I", summaries))
    return _finish(options, "Ring prefill, Llama-3.1-8B on A100", rows, summaries, tetris.GROUPS[1:])


def _vidur(options: argparse.Namespace) -> bool:
    comparison = vidur.compare(options.reference, lambda what: console.print(what, style="dim", highlight=False))
    for table in comparison.tables():
        console.print(table)
    if options.json:
        comparison.write_json(options.json)
    if options.plot:
        names = [configuration.name for configuration in vidur.CONFIGURATIONS]
        _plot(options.plot, "Vidur's means and percentiles", comparison.rows, names, reference="Vidur")
    return all(other is not None for _, other in comparison.to_explain())


def _finish(
    options: argparse.Namespace, title: str, rows: list[Row], summaries: list[Summary], groups: list[str]
) -> bool:
    if options.json:
        write_json(options.json, rows, summaries)
    if options.plot:
        _plot(options.plot, title, rows, groups)
    return all(each.holds is not False for each in summaries)


def _plot(path: Path, title: str, rows: Sequence[Row], groups: list[str], reference: str = "measured") -> None:
    try:
        from pecgym.validation.plots import write_scatter
    except ModuleNotFoundError as problem:
        raise ProfileError('--plot needs Matplotlib: pip install -e ".[calibrate]"') from problem
    write_scatter(path, title, rows, groups, reference=reference)
    console.print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
