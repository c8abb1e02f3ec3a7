"""The bounds of an evaluation: a row for each workload, seed and window, the same for all policies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pecgym.analysis.distance import BOUND
from pecgym.bounds import bound_row
from pecgym.configs import OrderConfig, WorkloadConfig
from pecgym.evaluation.keys import digest_of, workload_identity
from pecgym.evaluation.plan import EvaluationPlan


@dataclass(frozen=True)
class BoundJob:
    """What no policy of a plan can beat on a workload under a seed. window: its number; None: the whole workload."""

    plan: EvaluationPlan
    workload: WorkloadConfig
    seed: int
    window: int | None = None

    def row(self) -> dict[str, Any]:
        """The bounds by the keys of a run's row (pecgym.bounds.bound_row), with the window among the labels."""
        part = self.plan.part(self.workload, self.seed, self.window)
        experiment = replace(part.experiment, order=OrderConfig())
        cluster = experiment.with_trace(None, part.trace, self.seed, part.scale)
        return bound_row(cluster) | {
            "split": self.plan.split,
            "window": self.window,
            "first_request": part.first_request,
        }

    def key(self) -> str:
        """A name for its file that changes with whatever may change the bounds."""
        cut = [self.plan.split, self.window, self.plan.window_requests if self.plan.windows is not None else None]
        identity = [BOUND, workload_identity(self.plan.experiment(self.workload), self.seed), cut]
        window = "" if self.window is None else f"-window{self.window}"
        return f"{BOUND}-seed{self.seed}{window}-{digest_of(identity)[:12]}"


def bound_jobs(plan: EvaluationPlan) -> list[BoundJob]:
    """One for each workload, seed and window of the plan; none where runs are cut short, since bounds are of serving
    everything."""
    if plan.until_s is not None:
        return []
    return [
        BoundJob(plan, workload, seed, window)
        for workload in plan.chosen_workloads()
        for seed in plan.seeds
        for window in plan.cut().numbers()
    ]
