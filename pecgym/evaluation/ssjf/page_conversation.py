"""The sections of the page on the conversation hour, and on closed forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pecgym.evaluation.infermax.page_text import percent
from pecgym.evaluation.plan import EvaluationPlan
from pecgym.evaluation.ssjf.changes import Value, mean_value, relative_change
from pecgym.evaluation.ssjf.closed_forms import NAMES, Line
from pecgym.evaluation.ssjf.page_text import accuracy_of, said, say, say_if, table
from pecgym.evaluation.ssjf.study import Found

GAINS = (("JCT mean", "jct_mean_s"), ("JCT p99", "jct_p99_s"), ("TTFT mean", "ttft_mean_s"), ("TTFT p99", "ttft_p99_s"))
NOISE = "lognormal"


def by_title(cases: Sequence[Found]) -> dict[str, list[Found]]:
    """The cases of all predictors in one setting, slots and load, by its title."""
    settings: dict[str, list[Found]] = {}
    for found in cases:
        settings.setdefault(found.case.title, []).append(found)
    return settings


def tau_of(found: Found) -> float:
    """Kendall's tau of the predictions, the mean over runs."""
    return float(np.mean([row["kendall_tau"] for row in found.accuracy]))


def gain(found: Found, policy: str, metric: str) -> Value:
    """A policy's metric against FIFO's."""
    return relative_change(found.rows[policy], found.rows["fifo"], metric)


def conversation_section(cases: Sequence[Found], plan: EvaluationPlan, link: str, is_shipped: bool) -> str:
    """What predictions of a quality buy on the workload of the evaluation; link: to the picture."""
    settings = by_title(cases)
    first = cases[0]
    seeds = [cell.seed for cell in first.case.cells]
    return say(
        "conversation",
        workload=plan.workload.label(),
        model=plan.model,
        cluster=plan.cluster,
        engine=plan.engine.name,
        seeds=f"{len(seeds)} hours (seeds {seeds[0]} to {seeds[-1]})",
        requests=f"{np.mean([row['n_requests'] for row in first.rows['fifo']]):,.0f}",
        link=link,
        waits=table(
            ("setting", "JCT mean, s", "JCT p99, s", "TTFT mean, s", "queueing delay p99, s", "evictions"),
            [(title, *_fifo(each[0])) for title, each in settings.items()],
        ),
        quality=_quality(next(iter(settings.values()))),
        tables="\n\n".join(f"{heading}:\n\n{_gains(settings, key)}" for heading, key in GAINS),
        others=_others(settings),
        meaning=say_if(is_shipped, "conversation_meaning", **_numbers(cases)),
    )


def _numbers(cases: Sequence[Found]) -> dict[str, str]:
    """Changes against FIFO for sentences: of the mean with the last predictor, as slots_64_load_095_spjf, of the truth
    as ..._sjf, with every other predictor as ..._spjf_PREDICTOR by its number; `..._p99` and `..._ttft_p99`."""
    found = {}
    for each in by_title(cases).values():
        case = each[0].case.key.replace("-", "_").replace(".", "")
        for suffix, metric in (("", "jct_mean_s"), ("_p99", "jct_p99_s"), ("_ttft_p99", "ttft_p99_s")):
            for policy in each[-1].rows:
                found[f"{case}_{policy}{suffix}"] = percent(gain(each[-1], policy, metric).value)
            for number, of in enumerate(each):
                found[f"{case}_spjf_{number}{suffix}"] = percent(gain(of, "spjf", metric).value)
    return found


def _fifo(found: Found) -> tuple[str, ...]:
    keys = ("jct_mean_s", "jct_p99_s", "ttft_mean_s", "all_queueing_delay_p99_s", "evictions")
    return tuple(f"{mean_value(found.rows['fifo'], key).value:.3g}" for key in keys)


def _quality(cases: Sequence[Found]) -> str:
    head = ("predictor", "tau", "MAE, tokens", "same class", "within one", "predicted / true")
    return table(head, [(f"`{found.case.predictor}`", *accuracy_of(found.accuracy)) for found in cases])


def _gains(settings: Mapping[str, Sequence[Found]], metric: str) -> str:
    """A metric of shortest first against FIFO's, a column for each setting: of the oracle, then by predictor from the
    best ranking to the worst."""
    columns = [sorted(cases, key=tau_of, reverse=True) for cases in settings.values()]
    lines = [("the truth, `sjf`", "1.00", *(said(gain(cases[0], "sjf", metric)) for cases in columns))]
    for row in zip(*columns, strict=True):
        name, tau = f"`{row[0].case.predictor}`", f"{tau_of(row[0]):.2f}"
        lines.append((name, tau, *(said(gain(found, "spjf", metric)) for found in row)))
    return table(("predictor", "tau", *settings), lines)


def _others(settings: Mapping[str, Sequence[Found]]) -> str:
    """Other policies with the last of the predictors."""
    last = {title: cases[-1] for title, cases in settings.items()}
    first = next(iter(last.values()))
    parts = [f"With `{first.case.predictor}`:"]
    policies = [policy for policy in first.rows if policy not in ("fifo", "sjf")]
    for heading, metric in GAINS[:2]:
        lines = [
            (f"`{policy}`", *(said(gain(found, policy, metric)) for found in last.values())) for policy in policies
        ]
        parts.append(f"{heading}:\n\n{table(('policy', *last), lines)}")
    return "\n\n".join(parts)


def theory_section(lines: Sequence[Line], runs: int, jobs: int, is_shipped: bool) -> str:
    """Closed forms beside the runs."""
    rows = []
    for line in lines:
        away = line.simulated.value / line.theory_s - 1
        measured = said(line.simulated, lambda value: f"{value:.2f}")
        name = NAMES[line.policy] + ("" if line.predictor is None else f", `{line.predictor}`")
        rows.append(
            (
                f"{line.load:g}",
                name,
                f"{line.theory_s:.2f}",
                measured,
                f"{away:+.1%}",
                "yes" if line.is_inside else "no",
            )
        )
    head = ("load", "order", "closed form, s", "simulated, s", "difference", "inside")
    return say(
        "theory",
        runs=runs,
        jobs=f"{jobs:,}",
        table=table(head, rows),
        inside=sum(line.is_inside for line in lines),
        of=len(lines),
        meaning=say_if(is_shipped, "theory_meaning"),
    )
