"""Every order, in every kind of batch, gives the times of an independent simulation of SSJF's setting, bit for bit.

tests/ssjf_oracle.py was written from the papers; here the compiled engine serves the same random jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from pecgym import make_cluster
from pecgym.engine import EngineSettings, load_engine
from pecgym.engine.orders import OrderRules
from pecgym.policies import load_policy
from pecgym.units import ps_to_seconds, seconds_to_ps
from pecgym.workload import Trace
from tests import ssjf_oracle as oracle
from tests.engine.cases import make_profile
from tests.ssjf_oracle import Job, Rules, S, State

ITERATION_PS = S // 50
EVEN = make_profile(g_tokens=(1, 2), g_ps=(ITERATION_PS, ITERATION_PS), kv_capacity_tokens=10**9)
"""20 ms per iteration whatever is in it, prompts in one of them: so a job that is displaced loses nothing."""
NAMES = {"remaining": "shortest_remaining"}
ORDERS = ("fcfs", "shortest", "remaining", "ssjf", "ltr", "tie", "one_bit", "skip_predict")
PREEMPTIVE = ("shortest", "remaining", "ltr", "one_bit", "skip_predict")


def random_jobs(random: np.random.Generator) -> list[Job]:
    """Up to 25 jobs, of which many meet in the queue, some at the same time and with equal lengths."""
    n = int(random.integers(1, 26))
    spread = int(random.choice([1, 5, 20, 100]))
    # A lattice, so that arrivals, ends of iterations and ends of predictions meet.
    step_ps = int(random.choice([S // 100, S // 50, S // 7]))
    arrivals_ps = np.sort(random.integers(0, n * spread, n)) * step_ps
    outputs = random.integers(1, int(random.choice([3, 30, 200])) + 1, n)
    predicted = np.maximum(1, np.rint(outputs * np.exp(0.8 * random.normal(size=n)))).astype(np.int64)
    tails = predicted + random.integers(0, 50, n)
    delays_ps = random.choice([0, S // 100, S // 8], n) if random.random() < 0.5 else np.zeros(n, np.int64)
    columns = (seconds_to_ps(ps_to_seconds(arrivals_ps)), outputs, predicted, tails, delays_ps)
    return [Job(*(int(value) for value in row)) for row in zip(*columns, strict=True)]


def random_rules(random: np.random.Generator, order: str, **fixed: Any) -> Rules:
    """Parameters so tight that they matter."""
    edges = tuple(np.unique(random.integers(1, 150, int(random.integers(0, 4)))).tolist())
    return Rules(
        order=order,
        predicted=bool(random.random() < 0.7),
        guard_wait_ps=int(random.choice([0, S // 2, 3 * S, 100 * S])),
        guard_services=float(random.choice([0.0, 0.5, 3.0, 10.0])),
        threshold=int(random.choice([0, 2, 20, 60, 500])),
        edges=edges,
        starve_steps=int(random.choice([1, 3, 40])) if random.random() < 0.7 else None,
        period_steps=int(random.choice([1, 4, 30])),
        **fixed,
    )


def without_steps(rules: Rules) -> Rules:
    """LTR counts steps; they are of one length in continuous batches of one replica only."""
    return replace(rules, starve_steps=None)


def order_rules(rules: Rules) -> OrderRules:
    """The same for the engine."""
    return OrderRules(
        lengths="predicted" if rules.predicted else "exact",
        guard_wait_s=rules.guard_wait_ps / S,
        guard_services=rules.guard_services,
        threshold_tokens=rules.threshold,
        displace_share=rules.preempt_share,
        starving_steps=rules.starve_steps or 2**39,
        promoted_steps=rules.period_steps,
        bin_edges_tokens=rules.edges,
    )


@dataclass(frozen=True)
class Setting:
    """An engine and a profile in which a job takes 0.1 s + 0.02 s per token, or 0.02 s per token."""

    engine: EngineSettings
    profile: Any
    prompt_tokens: int


NONE = Setting(load_engine("one_at_a_time"), "ssjf-linear", 1)


def slots(count: int) -> Setting:
    return Setting(load_engine("slots", max_batch_requests=count), "ssjf-slots", 6)


def even(count: int) -> Setting:
    settings = EngineSettings(max_batch_requests=count, mixing=True, group_order="decode_first", watermark=0.0)
    return Setting(settings, EVEN, 1)


def static(size: int, timeout_s: float) -> Setting:
    return Setting(load_engine("static", static_batch_size=size, static_timeout_s=timeout_s), "ssjf-linear", 1)


def served(
    jobs: list[Job], rules: Rules, setting: Setting, everywhere: bool, cluster: str = "a100_x1"
) -> list[tuple[int, int]]:
    """(start, finish) of every job, ps, on one replica, whose queue has the order, or, everywhere, the global one."""
    name = NAMES.get(rules.order, rules.order)
    if everywhere:
        policy = replace(load_policy("fifo"), global_order=name, order=order_rules(rules))
    else:
        policy = replace(
            load_policy("round_robin"), queue_order=name, preemptive=rules.preemptive, order=order_rules(rules)
        )
    columns = np.array([(job.arrival_ps, job.output, job.predicted, job.tail, job.prediction_ps) for job in jobs]).T
    trace = Trace(
        ps_to_seconds(columns[0]),
        np.full(len(jobs), setting.prompt_tokens),
        columns[1],
        predicted_tokens=columns[2],
        predicted_tail_tokens=columns[3],
        prediction_s=ps_to_seconds(columns[4]),
    )
    log = make_cluster("llama-3.1-8b", cluster, policy, trace, setting.engine, profile=setting.profile).run()
    return list(zip(log.ps["start"].tolist(), log.ps["finish"].tolist(), strict=True))


def times(states: list[State]) -> list[tuple[int, int]]:
    return [(state.start_ps, state.finish_ps) for state in states]


def one_token_each(tokens: int) -> int:
    return tokens * ITERATION_PS


def compare(kind: str, order: str, seed: int) -> None:
    """One random case of a kind: raises AssertionError where the engine differs."""
    random = np.random.default_rng([seed, *map(ord, kind + order)])
    jobs, count = random_jobs(random), int(random.integers(1, 5))
    if kind == "none":
        rules = without_steps(random_rules(random, order))
        assert served(jobs, rules, NONE, everywhere=False) == times(oracle.continuous(jobs, rules, 1))
    elif kind == "none, global queue":
        rules = without_steps(random_rules(random, order))
        assert served(jobs, rules, NONE, everywhere=True) == times(oracle.pool(jobs, rules, 1))
    elif kind == "eight replicas, global queue":
        jobs = [job for _ in range(4) for job in random_jobs(random)]
        jobs = sorted(jobs, key=lambda job: job.arrival_ps)
        rules = without_steps(random_rules(random, order))
        assert served(jobs, rules, NONE, True, "p4de_x1") == times(oracle.pool(jobs, rules, 8))
    elif kind == "slots":
        rules = random_rules(random, order)
        assert served(jobs, rules, slots(count), everywhere=False) == times(oracle.continuous(jobs, rules, count))
    elif kind == "slots, global queue":
        rules = without_steps(random_rules(random, order))
        expected = oracle.continuous(jobs, rules, count, committed=True)
        assert served(jobs, rules, slots(count), everywhere=True) == times(expected)
    elif kind == "preemptive":
        share = float(random.choice([0.0, 0.3, 0.8, np.inf]))
        rules = random_rules(random, order, preemptive=True, preempt_share=share, services_ps=one_token_each)
        expected = oracle.continuous(jobs, rules, count, prompt_iterations=1, head_displaces=True)
        assert served(jobs, rules, even(count), everywhere=False) == times(expected)
    else:
        timeout_s = float(random.choice([0.0, 0.05, 0.5, 3.0]))
        rules = without_steps(random_rules(random, order))
        if order == "bins":  # with equal delays bins fill up in the order of arrival
            jobs = [replace(job, prediction_ps=jobs[0].prediction_ps) for job in jobs]
        expected = oracle.static(jobs, rules, count, seconds_to_ps(timeout_s))
        assert served(jobs, rules, static(count, timeout_s), everywhere=False) == times(expected)


GLOBAL = ("none, global queue", "eight replicas, global queue", "slots, global queue")
CASES = [
    *((kind, order) for kind in ("none", "slots") for order in ORDERS),
    *((kind, order) for kind in GLOBAL for order in ORDERS if order != "remaining"),
    *(("preemptive", order) for order in PREEMPTIVE),
    *(("static", order) for order in (*ORDERS, "bins")),
]


@pytest.mark.parametrize(("kind", "order"), CASES)
def test_an_order_serves_as_its_paper_says(kind: str, order: str) -> None:
    for seed in range(40):
        compare(kind, order, seed)
