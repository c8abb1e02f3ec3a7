"""Whole batches from outside: the same as the specification, with the limits kept."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pecgym.engine import EngineSettings, Simulator
from pecgym.engine.batch_decisions import asking_replica
from pecgym.errors import EngineError
from pecgym.workload import ClosedLoop, Trace
from tests.engine.cases import Case, cases, continuous, make_profile
from tests.engine.test_differential import assert_equal_results

Plan = tuple[list[int], dict[int, int]]


@st.composite
def planned_cases(draw: Any, max_requests: int = 30) -> Case:
    """A random case in which batches come from outside: their token budget holds every whole prompt."""
    case = draw(cases(max_requests))
    lengths = case.workload.lengths if isinstance(case.workload, ClosedLoop) else case.workload
    largest = int(np.max(lengths.input_tokens + lengths.output_tokens, initial=1))
    engine = case.settings.with_changes(
        preemptive=False,
        eviction="recompute",
        swap_gb_per_s=None,
        max_batch_tokens=max(case.settings.max_batch_tokens, largest),
    )
    engine = continuous(engine, reservation="prompt")
    return replace(case, settings=engine, plan_batches=True)


class RandomPlans:
    """Plans batches of the specification at random, and notes them by replica and row."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.made: dict[int, list[Plan]] = defaultdict(list)

    def __call__(self, cluster: Any, replica: Any) -> Any:
        limits, rng = cluster.settings, self.rng
        evicted = [q for q in replica.prefills if q.evictions < 3 and rng.random() < 0.15]
        held = {q: q.computed for q in replica.prefills if q not in evicted}
        tokens: dict[Any, int] = {}
        everybody = [*replica.prefills, *replica.waiting]
        for k in rng.permutation(len(everybody)):
            q = everybody[k]
            fresh = q in evicted or q in replica.waiting
            prompt = q.input + q.emitted if q in evicted else q.prompt
            lacks = prompt - (0 if fresh else q.computed)
            most = lacks if limits.chunk_tokens == 0 else min(lacks, limits.chunk_tokens)
            count = lacks if limits.chunk_tokens == 0 else int(rng.integers(1, most + 1))
            after = {**held, q: (0 if fresh else q.computed) + count}
            kinds = {p.decoding and p not in evicted for p in [*tokens, q]}
            if (
                rng.random() < 0.7
                and sum(tokens.values()) + count <= limits.max_batch_tokens
                and len(after) <= cluster.slots
                and sum(cluster.blocks(n) for n in after.values()) <= cluster.capacity
                and (limits.mixing or len(kinds) == 1)
            ):
                tokens[q], held = count, after
        if not tokens:  # one alone, whom nobody stands in the way
            q = everybody[0]
            evicted = [p for p in replica.prefills if p is not q]
            lacks = q.prompt - q.computed
            tokens = {q: lacks if limits.chunk_tokens == 0 else min(lacks, limits.chunk_tokens)}
        self.made[replica.index].append(([q.row for q in evicted], {q.row: n for q, n in tokens.items()}))
        return evicted, tokens


def assert_same(case: Case, seed: int) -> None:
    plans = RandomPlans(seed)
    naive = case.naive(plan=plans)
    naive.run()
    fast = case.fast()
    while (decision := fast.next_decision()) is not None:
        assert decision.kind == "batch"
        evicted, tokens = plans.made[int(asking_replica(decision.state))].pop(0)
        fast.apply_batch(tokens, evicted)
    assert_equal_results(case, fast, naive)
    assert not any(plans.made.values())
    assert not fast.state.replicas.used_blocks.any()
    assert not fast.state.replicas.reserved_blocks.any()
    assert not fast.state.replicas.queued_tokens.any()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(planned_cases(), st.integers(0, 2**32))
def test_same_as_the_specification(case: Case, seed: int) -> None:
    assert_same(case, seed)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(planned_cases(max_requests=80), st.integers(0, 2**32))
def test_same_as_the_specification_on_many_cases(case: Case, seed: int) -> None:
    assert_same(case, seed)


PROFILE = make_profile(prefill_base_ps=700, decode_base_ps=90, decode_kv_ps=3, kv_capacity_tokens=12)


def simulator(**changes: Any) -> Simulator:
    """Two requests of 4 prompt and 3 output tokens on one replica that holds 12 tokens; the first batch is due."""
    engine = EngineSettings(max_batch_tokens=10, mixing=True, block_tokens=1, max_batch_requests=2)
    made = Simulator(1, PROFILE, engine.with_changes(**changes), plan_batches=True)
    made.load_trace(Trace(np.zeros(2), np.array([4, 4]), np.array([3, 3])))
    for _ in range(2):
        assert made.next_decision().kind == "place"  # type: ignore[union-attr]
        made.apply(0)
    assert made.next_decision().kind == "batch"  # type: ignore[union-attr]
    return made


def test_a_resident_may_stand_idle_and_be_evicted() -> None:
    run = simulator()
    plans: list[Plan] = [([], {0: 4}), ([], {1: 4}), ([], {0: 1}), ([1], {0: 1}), ([], {1: 5}), ([], {1: 1})]
    for evicted, tokens in plans:
        run.apply_batch(tokens, evicted)
        decision = run.next_decision()
    assert decision is None
    expected = [PROFILE.iteration_ps([(4, 0)], [])] * 2
    expected += [PROFILE.iteration_ps([], [4]), PROFILE.iteration_ps([], [5])]
    expected += [PROFILE.iteration_ps([(5, 0)], []), PROFILE.iteration_ps([], [5])]
    log = run.finished()
    assert log.finish_ps.tolist() == [sum(expected[:4]), sum(expected)]
    assert log.evictions.tolist() == [0, 1]
    assert log.recomputed_tokens.tolist() == [0, 4]


@pytest.mark.parametrize(
    ("changes", "tokens", "evicted", "said"),
    [
        ({}, {}, [], "no tokens"),
        ({}, {0: 3}, [], "others than it lacks"),
        ({"chunk_tokens": 2}, {0: 3}, [], "others than it lacks"),
        ({}, {0: 4, 7: 4}, [], "elsewhere"),
        ({}, {0: 4}, [1], "holds no memory"),
        ({"max_batch_tokens": 7}, {0: 4, 1: 4}, [], "max_batch_tokens"),
        ({"max_batch_requests": 1}, {0: 4, 1: 4}, [], "max_batch_requests"),
        ({"kv_capacity_tokens": 7}, {0: 4, 1: 4}, [], "KV memory"),
    ],
)
def test_what_breaks_a_limit_is_refused(
    changes: dict[str, Any], tokens: dict[int, int], evicted: list[int], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        simulator(**changes).apply_batch(tokens, evicted)


def test_prompts_and_decodes_are_mixed_only_where_the_engine_does() -> None:
    run = simulator(mixing=False)
    run.apply_batch({0: 4})
    run.next_decision()
    with pytest.raises(EngineError, match="mixing"):
        run.apply_batch({0: 1, 1: 4})


def test_another_answer_is_refused() -> None:
    with pytest.raises(EngineError, match="apply_batch"):
        simulator().apply(0)
    run = simulator()
    run.apply_batch({0: 4})
    with pytest.raises(EngineError, match="no batch is due"):
        run.apply_batch({0: 1})
