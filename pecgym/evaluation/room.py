"""How much better a policy's rules could be chosen: a grid over its levers, on the same windows for all of them.

Two stages: every value of a lever alone; then all combinations of the values of the levers `crossed`, which may help
together only, and of those others that help alone, which is to say that better one of the METRICS by a share of `helps`
at least. The best loses nothing (more than `slack`) on any of them, and has the least sum of log ratios.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pecgym.engine.entry import warm_up
from pecgym.errors import PecGymError
from pecgym.evaluation.plan import EvaluationPlan
from pecgym.evaluation.run import Keep, Runner
from pecgym.policies import load_policy

LESS, MORE = 1.0, -1.0
METRICS = {"short_queueing_delay_p99_s": LESS, "short_throughput_rps": MORE, "long_jct_mean_s": LESS}
"""What is looked at, medians over the windows, and which is better."""
FLOOR_S = 0.01
"""Added to delays before a ratio is taken: below it they are as good as none."""

Rules = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What a combination of rules is worth.

    Attributes:
        policy: its name, with the rules that differ from the base's.
        rules: these.
        values: the medians of METRICS over the windows.
        ratios: of these to the base's.
        not_worse: for each metric, the share of the windows in which it is as good as the base's, or better.
    """

    policy: str
    rules: Rules
    values: tuple[float, ...]
    ratios: tuple[float, ...]
    not_worse: tuple[float, ...]

    @property
    def score(self) -> float:
        """The sum of the log ratios, less is better: 0 is the base's."""
        return sum(sign * math.log(ratio) for sign, ratio in zip(METRICS.values(), self.ratios, strict=True))

    def loses(self, slack: float) -> bool:
        """Whether some metric is worse than the base's by more than a share of `slack`."""
        return any(sign * math.log(ratio) > slack for sign, ratio in zip(METRICS.values(), self.ratios, strict=True))

    def helps(self, share: float) -> bool:
        """Whether some metric is better than the base's by more than that share."""
        return any(sign * math.log(ratio) < -share for sign, ratio in zip(METRICS.values(), self.ratios, strict=True))


@dataclass(frozen=True)
class Room:
    """What a search has found, of one model and scenario.

    Attributes:
        plan: on which windows.
        base: the policy itself.
        alone: one lever changed, for every value.
        combined: combinations of those that help.
        impossible: names of policies that cannot be run, with the reason.
    """

    plan: EvaluationPlan
    base: Found
    alone: list[Found]
    combined: list[Found]
    impossible: dict[str, str]

    def best(self, n: int, slack: float) -> list[Found]:
        """The best that lose nothing, best first."""
        every = [self.base, *self.alone, *self.combined]
        return sorted((found for found in every if not found.loses(slack)), key=lambda found: found.score)[:n]


def named(base: str, rules: Mapping[str, Any]) -> str:
    """The policy with some rules changed, by name (pecgym.policies.load_policy)."""
    if not rules:
        return base
    return base + "{" + ",".join(f"{key}:{str(value).lower()}" for key, value in rules.items()) + "}"


def levers_alone(base: str, levers: Mapping[str, Sequence[Any]]) -> list[Rules]:
    """One rule changed, to every value but that of the base. Raises SpecError for one that does not exist."""
    usual = load_policy(base).rules
    singles = [{key: value} for key, values in levers.items() for value in values]
    return [rules for rules in singles if load_policy(named(base, rules)).rules != usual]


def combinations(helpful: Iterable[Rules]) -> list[Rules]:
    """All combinations of at least two of these single rules, with one value of each."""
    values: dict[str, list[Any]] = {}
    for rules in helpful:
        for key, value in rules.items():
            values.setdefault(key, []).append(value)
    choices = [[{}, *({key: value} for value in of_key)] for key, of_key in values.items()]
    made = ({key: value for rule in chosen for key, value in rule.items()} for chosen in itertools.product(*choices))
    return [rules for rules in made if len(rules) > 1]


def search(
    plan: EvaluationPlan,
    levers: Mapping[str, Sequence[Any]],
    out: Path,
    *,
    crossed: Sequence[str] = (),
    helps: float,
    workers: int | None = None,
    fresh: bool = False,
) -> Room:
    """Searches the rules of the plan's policy, which must be one. Runs are kept in `out/runs` and not done again.

    Raises PecGymError for a plan that cannot work, or a lever that does not exist.
    """
    (base,) = plan.policies
    wanted = levers_alone(base, levers)
    warm_up(plan.check())
    rows = _rows(plan, [{}], out, workers, fresh)
    usual = rows[base]

    def found(rules: Rules, of: dict[str, Any]) -> Found:
        return _compared(named(base, rules), rules, of[named(base, rules)], usual)

    impossible: dict[str, str] = {}
    alone = _possible(plan, wanted, impossible)
    rows = _rows(plan, alone, out, workers, fresh)
    singles = [found(rules, rows) for rules in alone]
    kept = [each.rules for each in singles if each.helps(helps) or set(each.rules) <= set(crossed)]
    several = _possible(plan, combinations(kept), impossible)
    rows = _rows(plan, several, out, workers, fresh)
    return Room(plan, _compared(base, {}, usual, usual), singles, [found(rules, rows) for rules in several], impossible)


def _possible(plan: EvaluationPlan, combined: list[Rules], impossible: dict[str, str]) -> list[Rules]:
    """Those under which the longest request of every seed can be served; notes the reason of the others."""
    (base,) = plan.policies
    (workload,) = plan.chosen_workloads()
    experiment = plan.experiment(workload)
    traces = {seed: workload.load(seed) for seed in plan.seeds} if combined else {}
    longest = {
        seed: trace.take(trace.input_tokens + trace.output_tokens == (trace.input_tokens + trace.output_tokens).max())
        for seed, trace in traces.items()
    }
    possible = []
    for rules in combined:
        try:
            for seed, trace in longest.items():
                experiment.with_trace(named(base, rules), trace, seed)
        except PecGymError as error:
            impossible[named(base, rules)] = str(error)
        else:
            possible.append(rules)
    return possible


def _rows(
    plan: EvaluationPlan, combined: list[Rules], out: Path, workers: int | None, fresh: bool
) -> dict[str, list[dict[str, Any]]]:
    """The runs of each combination on the plan's windows, which are in the same order for all."""
    if not combined:
        return {}
    (base,) = plan.policies
    jobs = replace(plan, policies=tuple(named(base, rules) for rules in combined)).jobs()
    by_policy: dict[str, list[dict[str, Any]]] = {}
    with Runner(out / "runs", Keep(requests=False), workers=workers, total=len(jobs), fresh=fresh) as runner:
        for job, row in zip(jobs, runner.rows(jobs), strict=True):
            by_policy.setdefault(job.policy, []).append(row)
    return by_policy


def _compared(policy: str, rules: Rules, rows: list[dict[str, Any]], usual: list[dict[str, Any]]) -> Found:
    values, ratios, not_worse = [], [], []
    for metric, sign in METRICS.items():
        floor = FLOOR_S if metric.endswith("delay_p99_s") else 0.0
        ours, theirs = (np.array([row[metric] for row in of], float) for of in (rows, usual))
        medians = float(np.nanmedian(ours)), float(np.nanmedian(theirs))
        values.append(medians[0])
        ratios.append((medians[0] + floor) / (medians[1] + floor))
        not_worse.append(float(np.mean(sign * (ours - theirs) <= 0)))
    return Found(policy, rules, tuple(values), tuple(ratios), tuple(not_worse))
