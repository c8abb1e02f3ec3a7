"""Who joins a batch and who is evicted, decided from outside: the same as the specification, and as the engine's own
rules where these are the answers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pecgym import WAIT
from pecgym.engine import EngineSettings, LongRules, Simulator
from pecgym.engine.batch_decisions import (
    asking_replica,
    evictable_in_order,
    may_join,
    may_wait,
    own_answer,
    waiting_in_order,
)
from pecgym.engine.simulator import Decision
from pecgym.errors import EngineError
from pecgym.policies import load_policy
from pecgym.workload import Trace
from tests.engine.cases import Case, cases, continuous, make_profile
from tests.engine.checker import Checker
from tests.engine.test_differential import assert_equal_results
from tests.engine.test_snapshot import assert_same_rows

Answer = Callable[[Decision], int]


@st.composite
def asked_cases(draw: Any, max_requests: int = 30) -> Case:
    """A random case in which batches are asked about."""
    case = draw(cases(max_requests))
    engine = case.settings.with_changes(preemptive=False, eviction="recompute", swap_gb_per_s=None)
    engine = continuous(engine, reservation="prompt")
    return replace(case, settings=engine, ask_batches=True)


def waiting(decision: Decision) -> list[int]:
    """The slots of all who wait at the replica that asks, in their order."""
    return in_order(waiting_in_order, decision)


def evictable(decision: Decision) -> list[int]:
    """The slots of all whom the replica that asks may evict, newest admitted first."""
    return in_order(evictable_in_order, decision)


def in_order(question: Any, decision: Decision) -> list[int]:
    state = decision.state
    out = np.full(len(state.requests), -7, np.int64)
    count = question(state, asking_replica(state), out, len(out))
    assert np.all(out[count:] == -7)
    return out[:count].tolist()


def candidates(decision: Decision) -> list[int]:
    """Slots of those whom the due decision may name."""
    if decision.kind == "evict":
        return evictable(decision)
    r = asking_replica(decision.state)
    return [slot for slot in waiting(decision) if may_join(decision.state, r, slot)]


class RandomAnswers:
    """Answers the decisions of each replica from a stream of its own, in either engine, and notes what was asked.

    patience: how often the answer is WAIT where it may be.
    """

    def __init__(self, n_replicas: int, seed: int, patience: float) -> None:
        self.streams = [np.random.default_rng([seed, r]) for r in range(n_replicas)]
        self.patience = patience
        self.asked: list[list[Any]] = [[] for _ in range(n_replicas)]

    def choose(self, r: int, kind: str, now_ps: int, rows: list[int], can_wait: bool) -> int:
        """An index of `rows`, or WAIT."""
        stream = self.streams[r]
        waits = can_wait and (not rows or stream.random() < self.patience)
        choice = WAIT if waits else int(stream.integers(len(rows)))
        self.asked[r].append((kind, now_ps, rows, choice))
        return choice

    def join(self, cluster: Any, replica: Any, requests: list[Any]) -> Any:
        """The naive engine's callback."""
        rows = [q.row for q in requests]
        choice = self.choose(replica.index, "join", cluster.now, rows, bool(replica.residents))
        return None if choice == WAIT else requests[choice]

    def victim(self, cluster: Any, replica: Any, requests: list[Any]) -> Any:
        """The same for evictions."""
        return requests[self.choose(replica.index, "evict", cluster.now, [q.row for q in requests], False)]

    def __call__(self, decision: Decision) -> int:
        state, slots = decision.state, candidates(decision)
        r = asking_replica(state)
        can_wait = decision.kind == "join" and bool(may_wait(state, r))
        rows = state.requests.row[slots].tolist()
        choice = self.choose(r, decision.kind, int(state.cluster[0].now_ps), rows, can_wait)
        if choice == WAIT:
            return WAIT
        return (waiting(decision) if decision.kind == "join" else slots).index(slots[choice])


def drive(simulator: Simulator, answer: Answer) -> Simulator:
    while (decision := simulator.next_decision()) is not None:
        simulator.apply(answer(decision))
    return simulator


def engine_answer(decision: Decision) -> int:
    """The engine's own choice, as a caller derives it from the decision."""
    state, r = decision.state, asking_replica(decision.state)
    assert state.requests[decision.slot].replica == r
    if decision.kind == "evict":
        answer = evictable(decision).index(decision.slot)
    else:
        assert decision.slot == state.replicas[r].queue
        answer = 0 if may_join(state, r, decision.slot) else WAIT
    assert own_answer(state) == answer
    return answer


seeds = st.integers(0, 10**6)
patiences = st.sampled_from([0.0, 0.3, 0.9])


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked_cases())
def test_the_engines_own_choices_as_answers_change_nothing(case: Case) -> None:
    plain = replace(case, ask_batches=False).fast()
    assert plain.run()
    asked = drive(case.fast(), engine_answer)
    assert_same_rows(asked.finished(), plain.finished())
    for name in ("busy_ps", "iterations", "evictions", "admissions", "decode_steps"):
        np.testing.assert_array_equal(asked.state.replicas[name], plain.state.replicas[name], err_msg=name)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked_cases(), seeds, patiences)
def test_any_answers_do_the_same_as_in_the_specification(case: Case, seed: int, patience: float) -> None:
    assert_same_answered(case, seed, patience)


def assert_same_answered(case: Case, seed: int, patience: float) -> None:
    """Both engines are asked the same questions at the same times, with the same candidates, and do the same."""
    ours, theirs = (RandomAnswers(case.n_replicas, seed, patience) for _ in range(2))
    fast = drive(case.fast(), ours)
    naive = case.naive(join=theirs.join, victim=theirs.victim)
    naive.run()
    assert ours.asked == theirs.asked
    assert_equal_results(case, fast, naive)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked_cases(max_requests=100), seeds, patiences)
def test_any_answers_do_the_same_as_in_the_specification_on_many_cases(case: Case, seed: int, patience: float) -> None:
    assert_same_answered(case, seed, patience)


class AskedChecker(Checker):
    """Checks what holds after every point in time, and, of counts, memory and tokens, at every decision before."""

    def check_decision(self, decision: Decision) -> None:
        state = decision.state
        self.read(state)
        before, self.now_ps = self.now_ps, self.cluster.now_ps
        self.check_nobody_lost(state)
        for r in range(self.case.n_replicas):
            self.check_counters(r)
            self.check_memory(state, r)
            self.check_decode_heap(state, r)
            self.check_tokens(r)
        self.now_ps = before
        assert candidates(decision) or (decision.kind == "join" and may_wait(state, asking_replica(state)))

    def step(self, answer: Answer) -> bool:
        """One point in time, in which decisions may be due."""
        try:
            return self.simulator.step()
        except EngineError:  # a decision is due
            pass
        while (decision := self.simulator.next_decision(self.simulator.now_s)) is not None:
            self.check_decision(decision)
            self.simulator.apply(answer(decision))
        return True


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked_cases(15), seeds, patiences)
def test_invariants_hold_under_any_answers(case: Case, seed: int, patience: float) -> None:
    rehearsal = drive(case.fast(), RandomAnswers(case.n_replicas, seed, patience))
    assume(rehearsal.state.replicas.iterations.sum() <= 300)
    checker, answers = AskedChecker(case), RandomAnswers(case.n_replicas, seed, patience)
    while checker.step(answers):
        checker.check()
    checker.check_end()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked_cases(20), seeds, patiences, st.integers(0, 60))
def test_copies_of_a_run_in_the_middle_of_a_batch_continue_bit_for_bit(
    case: Case, seed: int, patience: float, at: int
) -> None:
    simulator, answers = case.fast(), RandomAnswers(case.n_replicas, seed, patience)
    decision = simulator.next_decision()
    for _ in range(at):
        if decision is None:
            break
        simulator.apply(answers(decision))
        decision = simulator.next_decision()
    assume(decision is not None)
    then, snapshot = copy.deepcopy(answers), simulator.snapshot()
    copies = [copy.deepcopy(simulator), pickle.loads(pickle.dumps(simulator)), simulator.twin(), case.fast()]
    copies[-1].restore(snapshot)
    expected = drive(simulator, answers).finished().copy()
    simulator.restore(snapshot)
    for other in [*copies, simulator]:
        again = copy.deepcopy(then)
        assert_same_rows(drive(other, again).finished(), expected)
        assert again.asked == answers.asked


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked_cases(15), seeds)
def test_answers_that_are_not_allowed_are_refused_and_change_nothing(case: Case, seed: int) -> None:
    """All that may not be are tried at every decision; then it is answered as in a run without them."""
    expected = drive(case.fast(), RandomAnswers(case.n_replicas, seed, 0.3)).finished().copy()
    simulator, answers = case.fast(), RandomAnswers(case.n_replicas, seed, 0.3)
    while (decision := simulator.next_decision()) is not None:
        state, r = decision.state, asking_replica(decision.state)
        wrong = [len(evictable(decision)), WAIT, 2**40]
        said = "is evicted is said by a place among the residents without tokens"
        if decision.kind == "join":
            slots = waiting(decision)
            wrong = [k for k in range(len(slots)) if not may_join(state, r, slots[k])] + [len(slots), 2**40]
            wrong += [] if may_wait(state, r) else [WAIT]
            said = "joins a batch is said by a place in the queue"
        for answer in wrong:
            simulator.apply(answer)
            with pytest.raises(EngineError, match=said):
                simulator.next_decision()
            again = simulator.next_decision()
            assert (again.kind, again.slot, again.now_s) == (decision.kind, decision.slot, decision.now_s)
        simulator.apply(answers(decision))
    assert_same_rows(simulator.finished(), expected)


# -- examples worked by hand: an iteration of t new tokens takes 100 + 10 t ps ----------------------------------------


def make(requests: list[tuple[int, int, int]], **engine: Any) -> Simulator:
    """One replica; requests: arrival in ps, input tokens, output tokens."""
    policy = load_policy("jsq_requests")
    simulator = Simulator(
        1,
        make_profile(g_tokens=(1, 2), g_ps=(110, 120)),
        EngineSettings(**{"block_tokens": 1, "watermark": 0.0, **engine}),
        choose=policy.choose,
        load=policy.load,
        ask_batches=True,
    )
    arrivals, inputs, outputs = (np.array(column) for column in zip(*requests, strict=True))
    simulator.load_trace(Trace(arrivals * 1e-12, inputs, outputs))
    return simulator


def serve(simulator: Simulator, answers: list[int]) -> tuple[list[tuple[str, int, int]], Any]:
    """What was asked (kind, ps, row that the engine looks at), and the log by row, with these answers."""
    asked, given = [], iter(answers)

    def answer(decision: Decision) -> int:
        asked.append((decision.kind, int(decision.state.cluster[0].now_ps), decision.row))
        return next(given)

    log = drive(simulator, answer).finished()
    assert list(given) == []
    return asked, log[np.argsort(log.row)]


def test_a_later_request_overtakes_the_head_of_the_queue() -> None:
    """B's 2 tokens until 120; A's 10 exceed the 6 that are left of 8, and run alone from 120 to 320."""
    asked, log = serve(make([(0, 10, 1), (0, 2, 1)], max_batch_tokens=8), [1, WAIT, 0])
    assert asked == [("join", 0, 0), ("join", 0, 0), ("join", 120, 0)]
    assert log.finish_ps.tolist() == [320, 120]


def test_a_request_that_waits_by_choice_is_asked_about_at_every_boundary() -> None:
    """A's prompt ends at 150, its decodes at 260 and 370; B, there since 200, joins at 370 and its prompt runs alone
    until 570; A's last decode ends at 680."""
    asked, log = serve(make([(0, 5, 4), (200, 10, 1)]), [0, WAIT, 0])
    assert asked == [("join", 0, 0), ("join", 260, 1), ("join", 370, 1)]
    assert log.finish_ps.tolist() == [680, 570]


def test_a_newcomer_behind_the_head_may_join_at_the_next_boundary() -> None:
    """A holds 6 of 10 blocks when B, of 6, comes: at 260, 370 it does not fit. C, of 1, comes at 380 and joins at 480,
    before A's decode: its prompt of 110 ends at 590, and A leaves at 700. Then B, until 860."""
    asked, log = serve(
        make([(0, 5, 5), (200, 6, 1), (380, 1, 1)], kv_capacity_tokens=10), [0, WAIT, WAIT, 1, WAIT, WAIT, 0]
    )
    assert asked[:4] == [("join", 0, 0), ("join", 260, 1), ("join", 370, 1), ("join", 480, 1)]
    assert log.start_ps.tolist() == [0, 700, 480]
    assert log.finish_ps.tolist() == [700, 860, 590]


def test_nobody_is_asked_about_while_no_slot_is_free_or_nobody_waits() -> None:
    asked, log = serve(make([(0, 5, 3), (10, 5, 3), (20, 5, 3)], batching="none"), [0, 1, 0])
    assert asked == [("join", 0, 0), ("join", 370, 1), ("join", 740, 1)]
    assert log.start_ps.tolist() == [0, 740, 370]


@pytest.mark.parametrize("victim", ["newest", "fewest_computed", "most_computed"])
def test_the_answer_says_who_is_evicted(victim: str) -> None:
    """Two of 5 + 10 tokens in 20 blocks: prompts until 200, 5 decodes until 800, then each holds 10. A, the older,
    goes; B decodes 4 times until 1240; A's prompt of 5 + 6 takes 210 and emits one token, 3 decodes end at 1780."""
    engine = {"kv_capacity_tokens": 20, "victim": victim}
    asked, log = serve(make([(0, 5, 10), (0, 5, 10)], **engine), [0, 0, 1, WAIT, WAIT, WAIT, 0])
    assert asked[2] == ("evict", 800, 1), "equally computed: the rule says the newest"
    assert asked[3:] == [("join", 910 + 110 * i, 0) for i in range(4)]
    assert log.finish_ps.tolist() == [1780, 1240]
    assert log.evictions.tolist() == [1, 0]
    assert log.recomputed_tokens.tolist() == [10, 0]


def test_nobody_is_asked_whom_to_evict_where_only_one_may_go() -> None:
    """A holds 6 of 10 blocks at 260, where B's prompt of 4 joins: A's next token does not fit, and B is in the batch.
    B's prompt ends at 400; then A's of 5 + 2 until 570, and two decodes until 790."""
    engine = {"kv_capacity_tokens": 10, "mixing": True}
    asked, log = serve(make([(0, 5, 5), (200, 4, 1)], **engine), [0, 0, 0])
    assert asked == [("join", 0, 0), ("join", 260, 1), ("join", 400, 0)]
    assert log.evictions.tolist() == [1, 0]
    assert log.finish_ps.tolist() == [790, 400]


@pytest.mark.parametrize(
    ("engine", "rules", "remedy"),
    [
        ({"batching": "static"}, {}, "engine.batching=continuous"),
        ({"queue_order": "shortest", "preemptive": True}, {}, "engine.preemptive=false"),
        ({"eviction": "swap", "swap_gb_per_s": 16.0}, {}, "engine.eviction=recompute"),
        ({}, {"decode_replicas": 1}, "long.decode_replicas=0"),
        ({}, {"reserved_replicas": 1}, "long.reserved_replicas=0"),
    ],
)
def test_what_cannot_be_asked_about_is_refused(engine: dict[str, Any], rules: dict[str, Any], remedy: str) -> None:
    with pytest.raises(EngineError, match=f"ask_batches needs {remedy}"):
        Simulator(4, make_profile(), EngineSettings(**engine), rules=LongRules(**rules), ask_batches=True)


def test_a_policy_that_decides_by_itself_cannot_run_a_simulator_that_asks() -> None:
    with pytest.raises(EngineError, match=r"a decision \('join'\) is due"):
        make([(0, 5, 1)]).run()
