"""Policies by a name with changes in braces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pecgym import make_cluster
from pecgym.engine import LongRules
from pecgym.errors import SpecError
from pecgym.evaluation import EvaluationPlan, LongConfig, WorkloadConfig
from pecgym.evaluation.keys import policy_source
from pecgym.policies import load_policy
from pecgym.policies.parameters import split_name
from pecgym.workload import Trace


@pytest.mark.parametrize(
    ("text", "name", "given"),
    [
        ("pecsched", "pecsched", {}),
        ("pecsched/PE", "pecsched/PE", {}),
        ("module:NAME", "module:NAME", {}),
        ("pecsched{sp_degree:7}", "pecsched", {"sp_degree": 7}),
        ("pecsched{sp_degree: memory, preemption:false}", "pecsched", {"sp_degree": "memory", "preemption": False}),
        ("m:N{decode_replicas:0,switch_s:1e-3}", "m:N", {"decode_replicas": 0, "switch_s": 0.001}),
        ("planner{controls:[order,start]}", "planner", {"controls": ["order", "start"]}),
    ],
)
def test_reads_a_name_and_its_changes(text: str, name: str, given: dict[str, Any]) -> None:
    assert split_name(text) == (name, given)


@pytest.mark.parametrize(
    "text",
    [
        *("pecsched{", "pecsched{}", "pecsched}", "{sp_degree:7}", "pecsched{sp_degree}", "pecsched{sp_degree:7"),
        *("a{b:1}c", "pecsched{sp_degree:7,sp_degree:8}", "pecsched{[1]}"),
    ],
)
def test_refuses_what_it_cannot_read(text: str) -> None:
    with pytest.raises(SpecError, match=r"^policy .*(write the changes as|does not exist)"):
        load_policy(text)


def test_changes_the_rules_and_nothing_else() -> None:
    base, changed = load_policy("pecsched"), load_policy("pecsched{sp_degree:7,long_order:shortest}")
    assert changed.name == "pecsched{sp_degree:7,long_order:shortest}"
    assert changed.rules == base.rules.with_changes(sp_degree=7, long_order="shortest")
    assert (changed.choose, changed.start, changed.load) == (base.choose, base.start, base.load)
    assert load_policy("pecsched").rules == base.rules


def test_is_what_the_rules_of_an_evaluation_are() -> None:
    trace = Trace(np.arange(40) * 0.5, np.full(40, 900), np.full(40, 50), is_long=np.arange(40) % 10 == 3, name="mixed")
    named = make_cluster("llama-3.1-8b", policy="pecsched{sp_degree:3,preemption:false}", workload=trace).run()
    ruled = make_cluster(
        "llama-3.1-8b", policy="pecsched", workload=trace, rules={"sp_degree": 3, "preemption": False}
    ).run()
    assert named.digest() == ruled.digest()
    assert named.facts.labels["policy"] == "pecsched{sp_degree:3,preemption:false}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pecsched{degree:7}", r"unknown key degree; the keys are backfill, .*sp_degree"),
        ("pecsched{sp_degree:many}", r"'pecsched\{sp_degree:many\}': long.sp_degree='many': choose node, memory"),
        ("pecsched{preemption:1}", "long.preemption=1: must be of type bool"),
        ("pecshed{sp_degree:7}", "policy 'pecshed' does not exist"),
    ],
)
def test_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        load_policy(text)


def test_a_rule_has_one_place() -> None:
    policy = load_policy("pecsched{sp_degree:7}")
    assert policy.rules_with(4, long_order="shortest").long_order == "shortest"
    with pytest.raises(SpecError, match=r"sets sp_degree: leave long\.sp_degree out"):
        policy.rules_with(4, sp_degree="memory")
    plan = EvaluationPlan(
        ("pecsched{sp_degree:7}",), long=LongConfig(sp_degree="node"), workload=WorkloadConfig(duration_s=60.0)
    )
    with pytest.raises(SpecError, match=r"sets sp_degree"):
        plan.check()


def test_reserved_replicas_of_a_name_are_not_those_of_the_paper() -> None:
    assert load_policy("reservation{sp_degree:memory}").rules_with(4).reserved_replicas == 5 / 8
    assert load_policy("reservation{reserved_replicas:0}").rules_with(4).reserved_replicas == 0
    assert load_policy("reservation{reserved_replicas:2}").rules_with(2).reserved_replicas == 2


def test_two_of_one_policy_in_an_evaluation() -> None:
    names = ("pecsched", "pecsched{sp_degree:7}", "pecsched{sp_degree:6}")
    plan = EvaluationPlan(names, workload=WorkloadConfig(duration_s=60.0))
    plan.check()
    assert len({job.key() for job in plan.jobs()}) == 3
    assert policy_source("pecsched{sp_degree:7}", "any", "any") == ""


def test_a_policy_by_import_path() -> None:
    policy = load_policy("pecgym.policies.pecsched:PECSCHED{sp_degree:2}", "any", "any")
    assert policy.rules == load_policy("pecsched").rules.with_changes(sp_degree=2)
    assert "def place_short" in policy_source("pecgym.policies.pecsched:PECSCHED{sp_degree:2}", "any", "any")
    assert LongRules().sp_degree == "node"
