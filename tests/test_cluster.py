"""The front door: clusters by name, a user's own policies, scenarios, streams."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pecgym
from pecgym.analysis.metrics import jct_s
from pecgym.costs import load_profile
from pecgym.engine import load_engine
from pecgym.errors import EngineError, PecGymError, ProfileError, SpecError
from pecgym.policies import view
from pecgym.policies.base import Policy
from pecgym.scenario import capacity_rps, scale_to_load
from pecgym.workload import ClosedLoop, Trace, generate, stream_trace

SHORT = generate("azure2023_conv", duration_s=120.0)


class Alternate:
    """A policy in plain Python: even rows to replica 0, odd rows to replica 1."""

    name = "alternate"

    def act(self, decision: pecgym.engine.Decision) -> int:
        return decision.row % 2


def to_last(state, slot):
    """A compiled policy: always the last replica."""
    return view.n_replicas(state) - 1


LAST = Policy("last", to_last)


def test_defaults_run_the_embedded_hour() -> None:
    log = pecgym.make_cluster().run()
    row = log.metrics()
    assert row["n_finished"] == row["n_requests"] == len(log) > 15_000
    assert (row["policy"], row["model"], row["cluster"]) == ("fifo", "llama-3.1-70b", "p4de_x4")
    assert row["makespan_s"] > 3400
    assert 0 <= row["idle_rate"] <= 1


def test_a_python_policy_and_a_compiled_one_go_through_the_same_door() -> None:
    rows = np.arange(len(SHORT))
    log = pecgym.make_cluster(policy=Alternate, workload=SHORT).run()
    np.testing.assert_array_equal(log.counts["replica"], rows % 2)
    log = pecgym.make_cluster(policy=LAST, workload=SHORT).run()
    assert set(log.counts["replica"]) == {7}
    by_path = pecgym.make_cluster(policy="tests.test_cluster:LAST", workload=SHORT).run()
    assert by_path.digest() == log.digest()
    by_class = pecgym.make_cluster(policy="tests.test_cluster:Alternate", workload=SHORT)
    assert by_class.run().metrics()["policy"] == "alternate"


def test_decisions_by_hand_equal_a_policy() -> None:
    byhand = pecgym.make_cluster(policy=None, workload=SHORT)
    turn = 0
    while byhand.next_decision() is not None:
        byhand.apply(turn % byhand.n_replicas)
        turn += 1
    assert byhand.log().digest() == pecgym.make_cluster(policy="round_robin", workload=SHORT).run().digest()


def test_a_cluster_without_a_policy_says_how_to_drive_it() -> None:
    with pytest.raises(EngineError, match="next_decision"):
        pecgym.make_cluster(policy=None, workload=SHORT).run()


def test_an_interrupted_run_holds_what_is_in_the_system() -> None:
    cluster = pecgym.make_cluster(workload=SHORT)
    log = cluster.run(until_s=60.0)
    arrived = int((SHORT.arrival_s <= log.facts.end_s).sum())
    assert len(log) == arrived
    assert (log.ps["finish"] == -1).any()
    assert log.facts.busy_s.max() <= log.facts.end_s
    assert cluster.run().digest() == pecgym.make_cluster(workload=SHORT).run().digest()


def test_two_policies_meet_the_same_requests_and_equal_seeds_give_equal_runs() -> None:
    logs = [pecgym.make_cluster(policy=p, workload=SHORT, seed=3).run() for p in ("random", "power_of_two", "random")]
    for name in ("arrival",):
        np.testing.assert_array_equal(logs[0].ps[name], logs[1].ps[name])
    np.testing.assert_array_equal(logs[0].counts["output_tokens"], logs[1].counts["output_tokens"])
    assert logs[0].digest() == logs[2].digest() != logs[1].digest()
    assert pecgym.make_cluster(policy="random", workload=SHORT, seed=4).run().digest() != logs[0].digest()


def test_closed_loop_keeps_its_concurrency() -> None:
    loop = ClosedLoop.constant(1024, 128, n_requests=200, users=16)
    log = pecgym.make_cluster("llama-3.1-8b", "a100_x1", workload=loop).run()
    arrival, finish = log.ps["arrival"], log.ps["finish"]
    assert len(log) == 200
    for moment in np.linspace(0, arrival.max() - 1, 50):
        assert ((arrival <= moment) & (finish > moment)).sum() == 16


def test_names_that_do_not_exist_list_what_does() -> None:
    with pytest.raises(SpecError, match="jsq_tokens"):
        pecgym.make_cluster(policy="fifi", workload=SHORT)
    with pytest.raises(SpecError, match="sarathi"):
        pecgym.make_cluster(engine="vlm", workload=SHORT)
    with pytest.raises(ProfileError, match="calibrate"):
        pecgym.make_cluster("yi-34b", "p5_x4", workload=SHORT)
    with pytest.raises(SpecError, match="cannot be imported"):
        pecgym.make_cluster(policy="no_such_module:thing", workload=SHORT)
    with pytest.raises(PecGymError, match="azure2023_conv"):
        pecgym.make_cluster(workload="azure2022_conv")


def test_a_request_larger_than_memory_is_refused_by_name() -> None:
    trace = pecgym.Trace([0.0, 1.0], [10, 2_000_000], [5, 5], name="mine")
    with pytest.raises(EngineError, match=r"'mine'.*1 of 2.*request 1 .* with 2,000,004 tokens"):
        pecgym.make_cluster(workload=trace)


def test_a_streamed_file_gives_the_same_requests_as_the_whole(tmp_path) -> None:
    SHORT.write_csv(tmp_path / "trace.csv")
    parts = []
    cluster = pecgym.make_cluster(policy="jsq_tokens", workload=SHORT)
    seconds = cluster.run_stream(stream_trace(tmp_path / "trace.csv", chunk_rows=100), parts.append)
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows["row"])]
    whole = cluster.run()
    assert seconds > 0
    np.testing.assert_array_equal(rows["finish_ps"], whole.ps["finish"])
    np.testing.assert_array_equal(rows["replica"], whole.counts["replica"])


def test_steady_load_is_the_share_of_the_simulated_capacity() -> None:
    profile, engine = load_profile("llama-3.1-70b-a100-80gb-tp4-vllm"), load_engine("vllm")
    trace = generate("azure2023_conv")
    scaled, factor = scale_to_load(trace, 0.5, 8, profile, engine)
    assert scaled.rate_rps == pytest.approx(trace.rate_rps * factor)
    assert scaled.rate_rps == pytest.approx(0.5 * 8 * capacity_rps(trace, profile, engine))
    overloaded, _ = scale_to_load(trace, 1.3, 8, profile, engine)
    delays = [pecgym.make_cluster(workload=t).run().metrics()["all_queueing_delay_p50_s"] for t in (scaled, overloaded)]
    assert delays[0] < 1.0 < 20.0 < delays[1], "the queue stays short below capacity and grows above it"


def test_capacity_does_not_depend_on_the_length_of_the_trace() -> None:
    profile, engine = load_profile("llama-3.1-8b-a100-80gb-tp1-vllm"), load_engine("vllm")
    trace = generate("azure2023_conv")
    stream = np.random.default_rng(0)
    whole = capacity_rps(trace, profile, engine)
    for n in (50, 256, 1000):
        part = trace.take(np.sort(stream.choice(len(trace), n, replace=False)))
        assert capacity_rps(part, profile, engine) == pytest.approx(whole, rel=0.25)


def test_a_profile_of_something_else_is_refused() -> None:
    with pytest.raises(SpecError, match=r"of model llama-2-7b, not llama-3\.1-70b"):
        pecgym.make_cluster(workload=SHORT, profile="llama-2-7b-a100-80gb-tp1-vllm")
    with pytest.raises(SpecError, match="of GPU a100-80gb, not h100-80gb"):
        pecgym.make_cluster(cluster="p5_x4", workload=SHORT, profile="llama-3.1-70b-a100-80gb-tp4-vllm")
    with pytest.raises(SpecError, match="tp=2"):
        pecgym.make_cluster(workload=SHORT, tp=2, profile="llama-3.1-70b-a100-80gb-tp4-vllm")


def test_block_size_comes_from_the_profile_unless_the_engine_says_otherwise() -> None:
    loop = ClosedLoop.constant(8, 4, n_requests=4, users=2)
    infermax = pecgym.make_cluster("llama-2-7b", workload=loop, profile="infermax-llama-2-7b-a100")
    assert infermax.simulator.settings.block_tokens == 1
    assert pecgym.make_cluster("llama-2-7b", workload=loop).simulator.settings.block_tokens == 16


def test_an_answer_that_is_no_replica_is_refused() -> None:
    cluster = pecgym.make_cluster(policy=None, workload=SHORT)
    cluster.next_decision()
    for answer in (None, 1.7, "0"):
        with pytest.raises(EngineError, match="must be a replica's index or WAIT"):
            cluster.apply(answer)
    with pytest.raises(EngineError, match="give a replica"):
        cluster.apply(8)


def test_a_policy_says_what_it_is() -> None:
    with pytest.raises(SpecError, match="and not both"):
        Policy("nothing")
    with pytest.raises(SpecError, match="choose one of none, requests, queued_tokens"):
        Policy("x", to_last, load="tokens")


def test_a_function_that_numba_cannot_compile_is_named() -> None:
    def to_text(state, slot):
        return "0"

    with pytest.raises(SpecError, match=r"'to_text' .*test_cluster.* cannot be compiled"):
        pecgym.make_cluster(policy=Policy("text", to_text), workload=SHORT)


def test_a_policy_typed_into_an_interpreter_works() -> None:
    names: dict[str, object] = {}
    exec("def to_first(state, slot):\n    return 0\n", names)
    log = pecgym.make_cluster(policy=Policy("typed", names["to_first"]), workload=SHORT).run()
    assert set(log.counts["replica"]) == {0}


@pytest.mark.parametrize("load", [0.0, -1.0, math.nan])
def test_a_load_must_be_above_zero(load: float) -> None:
    with pytest.raises(SpecError, match="load"):
        scale_to_load(SHORT, load, 8, load_profile("ssjf-linear"), load_engine("vllm"))


def test_what_work_takes_has_the_overhead_of_iterations_once() -> None:
    """In the simulator, in the costs of groups and in what unserved work is charged with."""
    changes = {"step_overhead_us": 100_000.0}
    trace = Trace(np.zeros(1), np.array([100]), np.array([2]))
    plain, slower = (
        pecgym.make_cluster("llama-3.1-8b", "a100_x1", workload=trace, engine=load_engine("vllm", **each))
        for each in ({}, changes)
    )
    assert slower.profile.prefill_ps(100) - plain.profile.prefill_ps(100) == 10**11
    assert jct_s(slower.run())[0] - jct_s(plain.run())[0] == pytest.approx(0.2)
    assert slower.simulator.profile.g_ps(1) == slower.profile.g_ps(1)
