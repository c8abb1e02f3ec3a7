"""Each switch of the engine on an example small enough to be worked by hand. Times in picoseconds.

An iteration of t new tokens takes 100 + 10 t, so a prompt of 5 takes 150 and a decode alone 110. KV blocks hold one
token and no watermark applies, unless a test says so.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pecgym.engine import EngineSettings, Simulator
from pecgym.engine.state import OPEN
from pecgym.errors import EngineError
from pecgym.policies import load_policy
from pecgym.workload import ClosedLoop, Trace
from tests.engine.cases import make_profile

Request = tuple[int, int, int]  # arrival, input tokens, output tokens


def make(
    requests: list[Request] | ClosedLoop,
    *,
    replicas: int = 1,
    policy: str = "jsq_requests",
    decode_kv_ps: int = 0,
    **engine: Any,
) -> Simulator:
    chosen = load_policy(policy)
    simulator = Simulator(
        replicas,
        make_profile(g_tokens=(1, 2), g_ps=(110, 120), decode_kv_ps=decode_kv_ps),
        EngineSettings(**{"block_tokens": 1, "watermark": 0.0, **engine}),
        choose=chosen.choose,
        load=chosen.load,
        global_order=chosen.global_order,
    )
    if isinstance(requests, ClosedLoop):
        simulator.load_closed_loop(requests)
        return simulator
    arrivals, inputs, outputs = (np.array(column) for column in zip(*requests, strict=True))
    simulator.load_trace(Trace(arrivals * 1e-12, inputs, outputs))
    return simulator


def serve(requests: list[Request], **options: Any) -> Any:
    simulator = make(requests, **options)
    assert simulator.run()
    log = simulator.finished()
    return log[np.argsort(log.row)]


def test_one_request() -> None:
    """Prefill 0 to 150, two decodes of 110; with 1 ps per KV token these read 5 and 6 tokens more."""
    log = serve([(0, 5, 3)])
    assert (log.start_ps[0], log.first_token_ps[0], log.finish_ps[0]) == (0, 150, 370)
    assert serve([(0, 5, 3)], decode_kv_ps=1).finish_ps[0] == 370 + 5 + 6
    assert serve([(0, 5, 1)]).finish_ps[0] == 150


A_DECODES_WHEN_B_COMES: list[Request] = [(0, 5, 4), (200, 10, 1)]
"""A's prompt ends at 150 and its decodes at 260, 370, 480 if nothing intervenes; B's prompt of 10 takes 200."""


@pytest.mark.parametrize(
    ("engine", "starts", "finishes"),
    [
        # At the boundary 260 B's prompt runs alone until 460, then A's last two decodes.
        ({"group_order": "prefill_first", "mixing": False}, [0, 260], [680, 460]),
        # At 260 prompt and decode share an iteration of 11 tokens, 210; A's last decode ends at 580.
        ({"group_order": "prefill_first", "mixing": True}, [0, 260], [580, 470]),
        ({"group_order": "decode_first", "mixing": True}, [0, 260], [580, 470]),
        # Decodes alone until there are none: B starts when A leaves.
        ({"group_order": "decode_first", "mixing": False}, [0, 480], [480, 680]),
        ({"batching": "none"}, [0, 480], [480, 680]),
    ],
)
def test_mixing_and_the_order_of_groups(engine: dict[str, Any], starts: list[int], finishes: list[int]) -> None:
    log = serve(A_DECODES_WHEN_B_COMES, **engine)
    assert log.start_ps.tolist() == starts
    assert log.finish_ps.tolist() == finishes


def test_a_long_prompt_is_chunked() -> None:
    """10 = 4 + 4 + 2 tokens: 140 + 140 + 120."""
    assert serve([(0, 10, 1)], chunk_tokens=4).finish_ps[0] == 400


def test_chunks_share_the_token_budget_with_decodes() -> None:
    """Budget 4: A's 1 and 3 of B's 6 until 140; then A's decode and the other 3 until 280; A's last decode alone."""
    log = serve([(0, 1, 3), (0, 6, 1)], group_order="decode_first", mixing=True, chunk_tokens=4, max_batch_tokens=4)
    assert log.first_token_ps.tolist() == [140, 280]
    assert log.finish_ps.tolist() == [390, 280]


def test_prompts_share_an_iteration_up_to_the_token_budget() -> None:
    """3 + 5 = 8 tokens until 180, the third prompt after it; nobody overtakes the one that does not fit."""
    log = serve([(0, 3, 1), (0, 5, 1), (0, 1, 1)], max_batch_tokens=8)
    assert log.finish_ps.tolist() == [180, 180, 290]
    log = serve([(0, 3, 1), (0, 6, 1), (0, 1, 1)], max_batch_tokens=8)
    assert log.finish_ps.tolist() == [130, 130 + 170, 130 + 170]


def test_a_prompt_above_the_token_budget_runs_alone() -> None:
    assert serve([(0, 20, 1), (0, 3, 1)], max_batch_tokens=8).finish_ps.tolist() == [300, 430]
    assert serve([(0, 3, 1), (0, 20, 1)], max_batch_tokens=8).finish_ps.tolist() == [130, 430]


TWO_GROW: list[Request] = [(0, 5, 10), (0, 5, 10)]
"""In 20 blocks: prompts until 200, then 5 decodes of both until 800, when each holds 10 and has emitted 6."""


def test_reserving_the_prompt_evicts_by_recomputation() -> None:
    """At 800 B is evicted; A decodes 4 times until 1240; B's prompt of 5 + 6 takes 210 and emits; 3 decodes more."""
    log = serve(TWO_GROW, kv_capacity_tokens=20)
    assert log.start_ps.tolist() == [0, 0]
    assert log.first_token_ps.tolist() == [200, 200]
    assert log.finish_ps.tolist() == [1240, 1240 + 210 + 330]
    assert log.evictions.tolist() == [0, 1]
    assert log.recomputed_tokens.tolist() == [0, 10]


@pytest.mark.parametrize(
    ("swap_gb_per_s", "finishes"),
    [
        (math.inf, [1240, 1240 + 4 * 110]),
        # 1000 bytes per token at 1e14 bytes/s: 10 ps per token, 100 for B's ten, out at 800 and in when A has left.
        (1e5, [1340, 1340 + 100 + 4 * 110]),
    ],
)
def test_swapping_takes_the_time_of_its_bytes(swap_gb_per_s: float, finishes: list[int]) -> None:
    log = serve(TWO_GROW, kv_capacity_tokens=20, eviction="swap", swap_gb_per_s=swap_gb_per_s)
    assert log.finish_ps.tolist() == finishes
    assert log.evictions.tolist() == [0, 1]
    assert log.recomputed_tokens.tolist() == [0, 0]


def test_nobody_overtakes_one_that_was_swapped_out() -> None:
    """C, of one token, would fit beside A at 910, but B is before it: both come in when A leaves at 1240."""
    log = serve([*TWO_GROW, (805, 1, 1)], kv_capacity_tokens=20, eviction="swap", swap_gb_per_s=math.inf)
    assert log.start_ps[2] == 1240
    assert log.finish_ps.tolist() == [1240, 1240 + 110 + 440, 1350]


def test_reserving_the_peak_never_evicts() -> None:
    """5 + 10 - 1 = 14 blocks each: B starts when A leaves, at 150 + 9 * 110."""
    log = serve(TWO_GROW, kv_capacity_tokens=20, reservation="peak")
    assert log.start_ps.tolist() == [0, 1140]
    assert log.finish_ps.tolist() == [1140, 2280]
    assert log.evictions.tolist() == [0, 0]
    assert serve(TWO_GROW, kv_capacity_tokens=28, reservation="peak").start_ps.tolist() == [0, 0]
    assert serve(TWO_GROW, kv_capacity_tokens=27, reservation="peak").start_ps.tolist() == [0, 1140]


def test_history_reserves_the_mean_peak_of_finished_requests_of_that_size() -> None:
    """Nothing is known for A and B; C and D then reserve 14 each, as A and B needed, so D waits for C."""
    log = serve([*TWO_GROW, (3000, 5, 10), (3000, 7, 10)], kv_capacity_tokens=20, reservation="history")
    assert log.evictions.tolist() == [0, 1, 0, 0]
    assert log.start_ps[2:].tolist() == [3000, 3000 + 1140]
    # An input of 9 is in the next bucket of log2, of which nothing is known: 9 blocks beside the 14 of C.
    requests: list[Request] = [*TWO_GROW, (3000, 5, 2), (3000, 9, 1)]
    assert serve(requests, kv_capacity_tokens=23, reservation="history").start_ps[3] == 3000
    assert serve(requests, kv_capacity_tokens=22, reservation="history").start_ps[3] > 3000


def test_history_reserves_the_prompt_at_least() -> None:
    """One of this bucket has needed 4 tokens; prompts of 7 reserve 7 all the same, so one waits in 12 blocks."""
    requests: list[Request] = [(0, 4, 1), (1000, 7, 2), (1000, 7, 1)]
    log = serve(requests, kv_capacity_tokens=12, reservation="history")
    assert log.start_ps.tolist() == [0, 1000, 1000 + 170 + 110]


@pytest.mark.parametrize(
    ("victim", "evicted"), [("newest", [0, 0, 1]), ("fewest_computed", [0, 1, 0]), ("most_computed", [1, 0, 0])]
)
def test_the_victim_when_memory_overflows(victim: str, evicted: list[int]) -> None:
    """30 blocks: prompts of 8, 2 and 5 until 250, five decodes of 130 until 900, when all 30 are held."""
    simulator = make([(0, 8, 20), (0, 2, 20), (0, 5, 20)], kv_capacity_tokens=30, victim=victim)
    simulator.run(until_s=899e-12)
    assert simulator.unfinished().evictions.tolist() == [0, 0, 0]
    simulator.run(until_s=900e-12)
    assert simulator.unfinished().evictions.tolist() == evicted


@pytest.mark.parametrize("victim", ["newest", "fewest_computed", "most_computed"])
def test_a_tie_between_victims_goes_to_the_newest(victim: str) -> None:
    """Three that hold the same: 15 blocks for their prompts, until 250, and 6 for two decodes of 130."""
    simulator = make([(0, 5, 9), (0, 5, 9), (0, 5, 9)], kv_capacity_tokens=15 + 6, victim=victim)
    simulator.run(until_s=250e-12 + 2 * 130e-12)
    assert simulator.unfinished().evictions.tolist() == [0, 0, 1]


def test_the_watermark_stays_free_while_others_run() -> None:
    """50 + 45 of 100 blocks: with 10 kept free B waits until A leaves, at 600 + 4 * 110. Alone, 95 may enter."""
    requests: list[Request] = [(0, 50, 5), (0, 45, 1)]
    assert serve(requests, kv_capacity_tokens=100).start_ps.tolist() == [0, 0]
    assert serve(requests, kv_capacity_tokens=100, watermark=0.05).start_ps.tolist() == [0, 0]
    assert serve(requests, kv_capacity_tokens=100, watermark=0.1).start_ps.tolist() == [0, 1040]
    assert serve([(0, 95, 1)], kv_capacity_tokens=100, watermark=0.1).start_ps.tolist() == [0]


def test_memory_is_given_in_whole_blocks() -> None:
    """17 tokens take two blocks of 16, so there is none for B's one token; in blocks of 1 both run until 280."""
    requests: list[Request] = [(0, 17, 1), (0, 1, 1)]
    assert serve(requests, kv_capacity_tokens=32, block_tokens=16).finish_ps.tolist() == [270, 380]
    assert serve(requests, kv_capacity_tokens=32, block_tokens=1).finish_ps.tolist() == [280, 280]


def test_decodes_take_a_block_when_theirs_is_full() -> None:
    """Prompts of 15 and 16 in three blocks of 16: at 410 only B needs a block; at 530 A needs one, and B is evicted."""
    simulator = make([(0, 15, 9), (0, 16, 9)], kv_capacity_tokens=48, block_tokens=16)
    simulator.run(until_s=529e-12)
    assert simulator.state.replicas.used_blocks[0] == 2
    assert simulator.unfinished().evictions.tolist() == [0, 0]
    simulator.run(until_s=530e-12)
    assert simulator.unfinished().evictions.tolist() == [0, 1]
    assert simulator.state.replicas.used_blocks[0] == 1


def test_a_static_batch_starts_when_full_and_is_padded_to_its_longest() -> None:
    """B fills the batch at 400; prompts until 600; two decodes of both until 840, though B needed none of them."""
    log = serve([(0, 5, 3), (400, 5, 1)], batching="static", static_batch_size=2, static_timeout_s=1e-9)
    assert log.start_ps.tolist() == [400, 400]
    assert log.first_token_ps.tolist() == [600, 600]
    assert log.finish_ps.tolist() == [840, 840]


def test_a_static_batch_starts_when_the_timeout_is_over() -> None:
    """A alone from 1000 until 1370; B came at 1100, is not let in, and has waited 1000 at 2100."""
    log = serve([(0, 5, 3), (1100, 5, 2)], batching="static", static_batch_size=2, static_timeout_s=1e-9)
    assert log.start_ps.tolist() == [1000, 2100]
    assert log.finish_ps.tolist() == [1370, 2100 + 150 + 110]
    at_once = serve([(0, 5, 3), (0, 5, 3), (1, 5, 2)], batching="static", static_batch_size=3)
    assert at_once.start_ps.tolist() == [0, 0, 200 + 240]


def test_a_static_batch_holds_what_memory_takes_padded() -> None:
    """Padded to 8 outputs each takes 5 + 7 blocks: two in 24, one in 23. A budget of 9 tokens holds one prompt of 5."""
    requests: list[Request] = [(0, 5, 8), (0, 5, 1), (0, 5, 1)]
    static = {"batching": "static", "static_batch_size": 3}
    assert serve(requests, kv_capacity_tokens=24, **static).start_ps.tolist() == [0, 0, 200 + 7 * 120]
    assert serve(requests, kv_capacity_tokens=23, **static).start_ps.tolist() == [0, 150 + 7 * 110, 150 + 7 * 110]
    assert serve(requests, max_batch_tokens=9, **static).start_ps.tolist() == [0, 920, 920 + 150]


ORDERED: list[Request] = [(0, 5, 3), (1, 5, 9), (2, 5, 2)]
"""Alone each takes 150 + 110 (output - 1): 370, 1030 and 260."""


@pytest.mark.parametrize("order", ["shortest", "shortest_remaining"])
def test_shorter_outputs_go_first(order: str) -> None:
    assert serve(ORDERED, batching="none").start_ps.tolist() == [0, 370, 370 + 1030]
    assert serve(ORDERED, batching="none", queue_order=order).start_ps.tolist() == [0, 370 + 260, 370]


@pytest.mark.parametrize(
    ("order", "output_of_b", "preempts"),
    [
        # At 220 A has emitted 2 of 10 tokens: 8 remain. A larger key must be strictly larger to be displaced.
        ("shortest_remaining", 7, True),
        ("shortest_remaining", 8, False),
        ("shortest", 8, True),
        ("shortest", 9, True),
        ("shortest", 10, False),
    ],
)
def test_a_shorter_request_displaces_a_longer_one(order: str, output_of_b: int, preempts: bool) -> None:
    log = serve(
        [(0, 1, 10), (200, 1, output_of_b)],
        batching="none",
        queue_order=order,
        preemptive=True,
        eviction="swap",
        swap_gb_per_s=math.inf,
    )
    alone = 110 * output_of_b
    if preempts:
        assert log.finish_ps.tolist() == [1100 + alone, 220 + alone]
        assert log.evictions.tolist() == [1, 0]
    else:
        assert log.finish_ps.tolist() == [1100, 1100 + alone]
        assert log.evictions.tolist() == [0, 0]


def test_a_tie_between_displaced_goes_to_the_newest() -> None:
    """A and B are alike and fill both slots; C, which is shorter, comes in at their boundary 240 for B."""
    log = serve(
        [(0, 1, 10), (0, 1, 10), (200, 1, 2)],
        max_batch_requests=2,
        queue_order="shortest",
        preemptive=True,
        eviction="swap",
        swap_gb_per_s=math.inf,
    )
    assert log.evictions.tolist() == [0, 1, 0]
    assert log.start_ps[2] == 240


def test_after_an_eviction_the_queue_is_looked_at_again_at_the_next_boundary() -> None:
    """At 800 memory is full and B is evicted; at 910 A holds 11 of 20, and D, of 6, goes before the longer B."""
    log = serve([*TWO_GROW, (700, 6, 1)], kv_capacity_tokens=20, queue_order="shortest")
    assert log.evictions.tolist() == [0, 1, 0]
    assert log.start_ps[2] == 910


def test_displacement_by_recomputation() -> None:
    """A, displaced at 220 by B (220 to 440), computes 1 + 2 tokens again, 130, which emits its third; 7 decodes."""
    log = serve([(0, 1, 10), (200, 1, 2)], batching="none", queue_order="shortest_remaining", preemptive=True)
    assert log.finish_ps.tolist() == [440 + 130 + 770, 440]
    assert log.recomputed_tokens.tolist() == [2, 0]


def test_an_arrival_at_a_boundary_joins_the_batch_that_starts_there() -> None:
    """A's first decode ends at 260; a picosecond later it is the next one, at 370."""
    assert serve([(0, 5, 4), (260, 10, 1)]).start_ps[1] == 260
    assert serve([(0, 5, 4), (261, 10, 1)]).start_ps[1] == 370


def test_a_policy_sees_the_completions_of_its_time() -> None:
    """One at a time, first come first served: A leaves at 370, when B arrives and is placed at once."""
    log = serve([(0, 5, 3), (370, 5, 1), (370, 5, 1)], policy="fifo", batching="none")
    assert log.placed_ps.tolist() == [0, 370, 520]
    assert log.start_ps.tolist() == [0, 370, 520]


def test_ties_between_replicas_go_to_the_first_and_between_arrivals_to_the_earlier_row() -> None:
    log = serve([(0, 5, 1)] * 4, replicas=3)
    assert log.replica.tolist() == [0, 1, 2, 0]
    assert serve([(0, 5, 2)] * 3, batching="none").start_ps.tolist() == [0, 260, 520]


def test_queued_tokens_are_those_not_yet_computed() -> None:
    """Prompts of 100 (until 1100) and 10 (until 200): C goes to the second replica; at 1200 both have computed all."""
    log = serve([(0, 100, 50), (0, 10, 50), (300, 5, 50), (1200, 5, 50)], replicas=2, policy="jsq_tokens")
    assert log.replica.tolist() == [0, 1, 1, 0]


def test_an_evicted_prompt_counts_as_queued_again() -> None:
    simulator = make(TWO_GROW, kv_capacity_tokens=20, policy="jsq_tokens")
    simulator.run(until_s=799e-12)
    assert simulator.state.replicas.queued_tokens[0] == 0
    simulator.run(until_s=800e-12)
    assert simulator.state.replicas.queued_tokens[0] == 11
    assert simulator.state.loads[OPEN, 0] == (11 << 24) + 2


def closed_loop(n: int, users: int, think_ps: int, stagger_ps: int) -> Any:
    simulator = make(ClosedLoop.constant(5, 1, n, users, think_ps * 1e-12, stagger_ps * 1e-12))
    assert simulator.run()
    log = simulator.finished()
    return log[np.argsort(log.row)]


def test_users_think_between_requests() -> None:
    log = closed_loop(3, users=1, think_ps=500, stagger_ps=0)
    assert log.arrival_ps.tolist() == [0, 650, 1300]
    assert log.finish_ps.tolist() == [150, 800, 1450]


def test_users_ask_in_the_order_in_which_they_are_answered() -> None:
    """User 0 sends rows 0, 2, 3, ... every 150, the last at 1050; row 1 is user 1's first, at 1000."""
    log = closed_loop(9, users=2, think_ps=0, stagger_ps=1000)
    assert log.arrival_ps[[0, 2, 3, 4, 5, 6, 7]].tolist() == [0, 150, 300, 450, 600, 750, 900]
    assert log.arrival_ps[1] == 1000
    # Rows 1 and 8 start together at 1050: 10 tokens.
    assert log.arrival_ps[8] == 1050
    assert log.finish_ps[[1, 8]].tolist() == [1250, 1250]


@pytest.mark.parametrize("policy", ["fifo", "jsq_requests"])
@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("prompt", [19, 20, 21, 500])
def test_a_prompt_longer_than_the_budget_does_not_wait_for_decodes_to_end(
    policy: str, mixing: bool, prompt: int
) -> None:
    """A decodes for 100 iterations; B, of about the budget of 20 tokens, starts at A's next boundary, at 220 or 260."""
    log = serve([(0, 5, 100), (200, prompt, 1)], policy=policy, mixing=mixing, max_batch_tokens=20)
    assert log.start_ps[1] == 260


def test_asynchronous_scheduling_makes_a_newcomer_wait_one_iteration_more() -> None:
    """Iterations of 110 ps after a prefill of 150. A newcomer at 200, during the first decode, would join at 260; the
    batch of 260 was composed at 150, so it joins at 370. One that comes as an iteration begins is known to the next."""
    at_once = serve([(0, 5, 6), (200, 5, 1)], mixing=True)
    late = serve([(0, 5, 6), (200, 5, 1)], mixing=True, async_scheduling=True)
    assert (at_once.start_ps[1], late.start_ps[1]) == (260, 370)
    assert serve([(0, 5, 6), (260, 5, 1)], mixing=True, async_scheduling=True).start_ps[1] == 370


def test_asynchronous_scheduling_does_not_delay_an_idle_replica() -> None:
    """One that is idle, and one whose last request leaves as the newcomer waits."""
    log = serve([(0, 5, 1), (100, 5, 1), (1000, 5, 1)], mixing=True, async_scheduling=True)
    assert log.start_ps.tolist() == [0, 150, 1000]


WAITING: dict[str, Any] = {"mixing": True, "group_order": "decode_first", "batch_wait_iterations": 3}


def test_prompts_wait_beside_decodes_for_as_many_iterations() -> None:
    """A's prompt ends at 150, its decodes take 110. B comes at 200 and could join at 260: it is held back in the
    iterations from 260, 370 and 480, and its 5 tokens join at 590, until 590 + 100 + 60. C, which comes at 600, could
    join at 750: it is held back as long, during the decodes of A and B of 120."""
    log = serve([(0, 5, 20), (200, 5, 20), (600, 5, 1)], **WAITING)
    assert log.start_ps.tolist() == [0, 590, 750 + 3 * 120]
    assert log.first_token_ps.tolist() == [150, 750, 750 + 3 * 120 + 170]


def test_prompts_join_with_those_that_make_enough_tokens() -> None:
    """Half of 24 tokens are enough. B and a decode are 6: B is held back from 260 and 370; with C, which comes at 400,
    they are 11: held back from 480; with D, which comes at 500, they are 12, which join at 590 until 590 + 220."""
    requests = [(0, 5, 20), (200, 5, 1), (400, 5, 1), (500, 1, 1)]
    waiting = {**WAITING, "batch_wait_iterations": 20, "max_batch_tokens": 24, "batch_wait_ratio": 0.5}
    log = serve(requests, **waiting)
    assert log.start_ps.tolist() == [0, 590, 590, 590]
    assert log.first_token_ps.tolist() == [150, 810, 810, 810]
    assert serve(requests[:3], **{**waiting, "batch_wait_ratio": 11 / 24}).start_ps.tolist() == [0, 480, 480]


def test_prompts_do_not_wait_without_decodes() -> None:
    """Nor is the count of iterations set back by those that ran alone: A's two decodes end at 370, when B, held back
    from 260, begins alone. C comes during B's decode from 520 to 630 and is held back twice, from 630 and 740."""
    log = serve([(0, 5, 3), (200, 5, 9), (600, 5, 1)], **WAITING)
    assert log.start_ps.tolist() == [0, 370, 850]


def test_whoever_is_held_back_has_its_memory_and_may_be_evicted() -> None:
    """B, of 3 tokens, is admitted at 260 beside A's 7 of 10. A's next token takes B's memory at once, as the newest;
    it cannot come back before A is gone."""
    log = serve([(0, 5, 5), (200, 3, 1)], **WAITING, kv_capacity_tokens=10)
    assert (log.evictions[1], log.recomputed_tokens[1], log.start_ps[1]) == (1, 0, 590)


def test_with_asynchronous_scheduling_a_newcomer_waits_from_the_iteration_that_knows_it() -> None:
    """B comes at 200, is known from 370, and is held back there, at 480 and at 590."""
    log = serve([(0, 5, 20), (200, 5, 1)], **WAITING, async_scheduling=True)
    assert log.start_ps.tolist() == [0, 700]


def test_overhead_is_charged_in_every_iteration_and_for_every_request_in_it() -> None:
    """A prefill of 10 tokens takes 200 + 7 + 2 x 3 + 11, the decode after it 120 + 7 + 2 x 3."""
    overhead = {"step_overhead_us": 7e-6, "step_overhead_per_request_us": 3e-6, "prefill_overhead_us": 11e-6}
    log = serve([(0, 5, 2), (0, 5, 2)], **overhead)
    assert log.first_token_ps.tolist() == [224, 224]
    assert log.finish_ps.tolist() == [224 + 133, 224 + 133]


def test_nobody_is_displaced_in_vain() -> None:
    """C, of 9 tokens, would not fit beside A even if B, the longer, were gone: B stays and finishes."""
    log = serve(
        [(0, 8, 3), (0, 4, 5), (1, 9, 4)],
        kv_capacity_tokens=20,
        queue_order="shortest",
        preemptive=True,
        reservation="peak",
        group_order="decode_first",
    )
    assert log.evictions.sum() == 0


def test_time_has_an_end_that_is_named() -> None:
    profile = make_profile(g_tokens=(1, 2), g_ps=(4 * 10**15, 4 * 10**15))
    simulator = Simulator(1, profile, EngineSettings(), choose=load_policy("fifo").choose)
    simulator.load_trace(Trace([0.0], [5], [2000]))
    with pytest.raises(EngineError, match=r"1 requests are unfinished after 4000000 s"):
        simulator.run()


def test_a_run_until_a_time_ends_at_that_time() -> None:
    simulator = make([(0, 5, 100)])
    assert not simulator.run(until_s=1e-9)
    assert simulator.now_s == 1e-9
    assert simulator.busy_ps()[0] == 1000
    assert simulator.run()
    assert simulator.finished().finish_ps[0] == 150 + 99 * 110
