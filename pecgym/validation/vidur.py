"""Against Vidur (microsoft/vidur, commit 7d47513): its step times fitted, its traces served, its results compared.

The folder of the reference holds what Vidur's predictor says one step takes, three traces, and per request what its
vLLM and Sarathi schedulers made of them. On both sides the first token counts at the end of prefill, and TPOT is the
time from first to last token over output tokens - 1, computed from TTFT and end-to-end time (Vidur's own column divides
by the output tokens).

Vidur has one scheduling rule that the engines it stands for do not have (`as_padded`): it is no setting, and followed
here only, to see what it explains. Needs SciPy for the fit.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from pecgym.costs import Profile, load_gpu, load_model
from pecgym.costs.calibration import calibrated_file
from pecgym.costs.fit import fit_samples
from pecgym.costs.profile import profile_of
from pecgym.costs.profile_schema import FitError
from pecgym.costs.samples import read_points_csv
from pecgym.engine import Decision, EngineSettings, Simulator, load_engine
from pecgym.engine.batch_decisions import asking_replica, own_answer
from pecgym.engine.state import WAIT
from pecgym.errors import TraceError
from pecgym.policies import load_policy
from pecgym.units import ps_to_seconds
from pecgym.validation.comparison import Row, Summary, summarize, write_json
from pecgym.workload import Trace, load_trace

Floats = NDArray[np.float64]
Answer = Callable[[Decision], int]

STEP_TIMES = "step_times.csv"
STEP_COLUMNS = {
    "prefill_tokens": "num_prefill_tokens",
    "prefill_past_tokens": "prefill_kv",
    "n_decodes": "num_decodes",
    "kv_tokens_each": "decode_kv_each",
    "time_ms": "predicted_ms",
}
MODEL, GPU, TP, ENGINE = "llama-2-70b", "a100-80gb", 2, "vidur 7d47513"
BLOCK_TOKENS, BLOCKS = 16, 3328
SHARED = {
    "max_batch_requests": 128,
    "block_tokens": BLOCK_TOKENS,
    "kv_capacity_tokens": BLOCK_TOKENS * BLOCKS,
    "watermark": 0.01,
}
STATISTICS: dict[str, Callable[[Floats], float]] = {
    "mean": lambda values: float(values.mean()),
    "p50": lambda values: float(np.quantile(values, 0.5)),
    "p90": lambda values: float(np.quantile(values, 0.9)),
    "p99": lambda values: float(np.quantile(values, 0.99)),
}
TO_EXPLAIN = 0.05
"""A relative difference above this needs a rule that explains it."""
PADDED = "padded prompts"


@dataclass(frozen=True)
class Configuration:
    """One of Vidur's runs. preset, changes: the same scheduler here, beside what all runs share."""

    name: str
    trace: str
    results: str
    replicas: int
    preset: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> EngineSettings:
        """The engine's settings of this run."""
        return load_engine(self.preset, **SHARED, **self.changes)

    @property
    def counts_padding(self) -> bool:
        """Whether Vidur counts padded prompts in it: its vLLM scheduler does, its Sarathi scheduler does not."""
        return self.preset == "vllm"


_T1 = "T1_convlen_poisson0.8_1000.csv"
_VLLM = {"max_batch_tokens": 4096}
CONFIGURATIONS = (
    Configuration("C0", "T0_isolated.csv", "C0_isolated_R1_vllm.csv", 1, "vllm", _VLLM),
    Configuration("C1", _T1, "C1_T1_R1_vllm.csv", 1, "vllm", _VLLM),
    Configuration("C2", _T1, "C2_T1_R1_sarathi512.csv", 1, "sarathi", {"chunk_tokens": 512, "max_batch_tokens": 512}),
    Configuration("C3", "T2_azureconv_first4000.csv", "C3_T2_R8rr_vllm.csv", 8, "vllm", _VLLM),
)


@dataclass(frozen=True, eq=False)
class Latencies:
    """Of each request of a trace, in its order: ttft_s, e2e_s float64[n] in seconds, output_tokens int64[n]."""

    ttft_s: Floats
    e2e_s: Floats
    output_tokens: NDArray[np.int64]

    def metrics(self) -> dict[str, Floats]:
        """ttft_s and e2e_s of all requests; tpot_s of those with two output tokens or more."""
        more = self.output_tokens > 1
        tpot_s = (self.e2e_s - self.ttft_s)[more] / (self.output_tokens[more] - 1)
        return {"ttft_s": self.ttft_s, "tpot_s": tpot_s, "e2e_s": self.e2e_s}


@dataclass(frozen=True)
class VidurComparison:
    """What `compare` found.

    fit: errors of the fit to the step times, by phase. latencies: (Vidur's, ours) of each configuration. rows: one for
    each configuration (group), statistic (case) and metric; and, in group "C0, each request", each isolated request.
    padded_rows: the same with Vidur's padded prompts, of the configurations in which it counts them.
    """

    fit: Mapping[str, FitError]
    latencies: Mapping[str, tuple[Latencies, Latencies]]
    rows: Sequence[Row]
    padded_rows: Sequence[Row]

    def summaries(self) -> list[Summary]:
        """Of `rows`, by configuration and metric."""
        return summarize(self.rows)

    def points(self, metric: str) -> dict[str, tuple[Floats, Floats]]:
        """(Vidur's, ours) of each request that has the metric, by configuration: for a plot of one over the other."""
        return {
            name: (theirs.metrics()[metric], ours.metrics()[metric]) for name, (theirs, ours) in self.latencies.items()
        }

    def to_explain(self) -> list[tuple[Row, Row | None]]:
        """Rows that differ by more than TO_EXPLAIN, each with its row under padded prompts if these explain it: if with
        them the difference is no longer above TO_EXPLAIN."""
        padded = {(row.group, row.metric, row.case): row for row in self.padded_rows}
        found = []
        for row in self.rows:
            if abs(row.error) > TO_EXPLAIN:
                other = padded.get((row.group, row.metric, row.case))
                found.append((row, other if other and abs(other.error) <= TO_EXPLAIN else None))
        return found

    def write_json(self, path: str | Path) -> None:
        """Rows, summaries, the fit's errors, and what explains differences above TO_EXPLAIN."""
        explained = [
            {**row.named(), "rule": None if other is None else PADDED, "error_with_rule": other and other.error}
            for row, other in self.to_explain()
        ]
        facts = {
            "reference": "Vidur 7d47513, Llama-2-70B, A100, TP 2",
            "fit": {phase: asdict(error) for phase, error in self.fit.items()},
            "above_limit": explained,
            "padded_rows": [row.named() for row in self.padded_rows],
        }
        write_json(path, self.rows, self.summaries(), **facts)

    def tables(self) -> list[Table]:
        """For the terminal: the fit, the statistics, and the differences that need a rule."""
        return [self._fit_table(), self._statistics_table(), self._rules_table()]

    def _fit_table(self) -> Table:
        table = _table("step times: error of the fit, percent", ("phase", "points", "mean", "worst", "held out mean"))
        for phase, e in self.fit.items():
            figures = (e.mean_percent, e.worst_percent, e.held_out_mean_percent)
            table.add_row(phase, str(e.points), *(f"{x:.1f}" for x in figures))
        return table

    def _statistics_table(self) -> Table:
        table = _table("Vidur / PecGym, seconds (difference)", ("run", "metric", *STATISTICS))
        for configuration in CONFIGURATIONS:
            for metric in ("ttft_s", "tpot_s", "e2e_s"):
                chosen = [row for row in self.rows if (row.group, row.metric) == (configuration.name, metric)]
                table.add_row(configuration.name, metric, *map(_cell, chosen))
        return table

    def _rules_table(self) -> Table:
        heads = ("run", "metric", "statistic", "difference", "rule", "with it")
        table = _table(f"differences above {TO_EXPLAIN:.0%}", heads)
        for row, other in self.to_explain():
            rule = (PADDED, f"{other.error:+.1%}") if other else ("not explained", "")
            table.add_row(row.group, row.metric, row.case, f"{row.error:+.1%}", *rule)
        return table


def compare(reference: Path, progress: Callable[[str], None] | None = None) -> VidurComparison:
    """Runs every configuration of the reference. progress: told what is being done. Raises PecGymError."""
    tell = progress or (lambda _: None)
    tell("fitting Vidur's step times")
    profile = fitted_profile(reference)
    latencies: dict[str, tuple[Latencies, Latencies]] = {}
    rows: list[Row] = []
    padded_rows: list[Row] = []
    for configuration in CONFIGURATIONS:
        tell(f"{configuration.name}: {configuration.results}")
        trace = load_trace(reference / configuration.trace)
        theirs = read_results(reference / configuration.results, trace)
        ours = simulate(configuration, profile, trace)
        latencies[configuration.name] = theirs, ours
        rows += statistics_rows(configuration.name, theirs, ours)
        if configuration.counts_padding:
            padded = simulate(configuration, profile, trace, as_padded)
            padded_rows += statistics_rows(configuration.name, theirs, padded)
    rows += request_rows("C0, each request", *latencies["C0"])
    return VidurComparison(profile.fit, latencies, rows, padded_rows)


def fitted_profile(reference: Path) -> Profile:
    """The profile that `scripts/calibrate.py --csv` makes of Vidur's step times."""
    samples, _ = read_points_csv(reference / STEP_TIMES, STEP_COLUMNS)
    file = calibrated_file(
        load_model(MODEL),
        load_gpu(GPU),
        TP,
        ENGINE,
        fit_samples(samples),
        source=f"{len(samples)} step times of Vidur's predictor",
        licence="MIT (Vidur)",
        kv_capacity_tokens=BLOCK_TOKENS * BLOCKS,
    )
    return profile_of(file, f"profile {file.name}")


def read_results(path: Path, trace: Trace) -> Latencies:
    """Vidur's results, one row for each request of the trace, in its order.

    Raises TraceError where the file cannot be read or is of another trace.
    """
    names = ("ttft_s", "e2e_s", "input_tokens", "output_tokens")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            read = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name]) for row in read]) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise TraceError(
            f"{path}: cannot be read as Vidur's results ({problem}); it needs {', '.join(names)}"
        ) from None
    for name, expected in (("input_tokens", trace.input_tokens), ("output_tokens", trace.output_tokens)):
        if not np.array_equal(columns[name], expected):
            raise TraceError(f"{path}: column {name} is not that of trace {trace.name}; take the results of that trace")
    return Latencies(columns["ttft_s"], columns["e2e_s"], trace.output_tokens)


def simulate(configuration: Configuration, profile: Profile, trace: Trace, answer: Answer | None = None) -> Latencies:
    """The same run here, its replicas in turn. answer: who joins a batch; None: the engine's own rule."""
    policy = load_policy("round_robin")
    simulator = Simulator(
        configuration.replicas,
        profile,
        configuration.settings(),
        choose=policy.choose,
        load=policy.load,
        ask_batches=answer is not None,
    )
    simulator.load_trace(trace)
    if answer is None:
        simulator.run()
    else:
        while (decision := simulator.next_decision()) is not None:
            simulator.apply(answer(decision))
    log = simulator.finished()
    log = log[np.argsort(log.row)]
    ttft_s, e2e_s = (ps_to_seconds(end - log.arrival_ps) for end in (log.first_token_ps, log.finish_ps))
    return Latencies(ttft_s, e2e_s, log.output_tokens.copy())


def as_padded(decision: Decision) -> int:
    """Who joins by Vidur's rule: every prompt counts against the limit on tokens as if it were as long as the longest
    of the iteration, while the iteration takes the time of their true lengths.

    vLLM counted padding from October 2023 (pull request 1381) to March 2024 (3236); but it computed the padding too and
    allowed 256 tokens of it. Since then, as before, it adds up the true lengths; so does Sarathi-Serve's own vLLM
    scheduler.
    """
    state = decision.state
    own = int(own_answer(state))
    if decision.kind != "join" or own == WAIT:
        return own
    replica = asking_replica(state)
    members = state.prefills[replica, : state.replicas[replica].n_prefills]
    prompts = [*state.requests[members].chunk_tokens.tolist(), int(state.requests[decision.slot].prompt_tokens)]
    too_many = len(prompts) > 1 and len(prompts) * max(prompts) > state.settings[0].max_batch_tokens
    return WAIT if too_many else own


def statistics_rows(group: str, theirs: Latencies, ours: Latencies) -> list[Row]:
    """A row for each metric and each of STATISTICS."""
    pairs = ((metric, values, ours.metrics()[metric]) for metric, values in theirs.metrics().items())
    return [
        Row(case, metric, statistic(reference), statistic(simulated), group)
        for metric, reference, simulated in pairs
        for case, statistic in STATISTICS.items()
    ]


def request_rows(group: str, theirs: Latencies, ours: Latencies) -> list[Row]:
    """A row for each metric and request that has it, requests numbered from 0."""
    all_requests = np.arange(len(theirs.ttft_s))
    numbers = {"tpot_s": all_requests[theirs.output_tokens > 1]}
    return [
        Row(f"request {number}", metric, float(reference), float(simulated), group)
        for metric, values in theirs.metrics().items()
        for number, reference, simulated in zip(
            numbers.get(metric, all_requests), values, ours.metrics()[metric], strict=True
        )
    ]


def _cell(row: Row) -> str:
    text = f"{row.reference:.4g} / {row.simulated:.4g} ({row.error:+.1%})"
    return f"[bold]{text}[/]" if abs(row.error) > TO_EXPLAIN else text


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading)
    return table
