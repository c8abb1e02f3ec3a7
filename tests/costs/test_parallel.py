"""Sequence parallelism: identities, orders and crossovers of the formulas, and the measured ring."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from pecgym.costs import (
    STRATEGIES,
    GroupShape,
    ParallelConstants,
    find_profile,
    group_costs,
    load_cluster,
    load_gpu,
    load_model,
    load_profile,
    prefill_parts,
    prefill_s,
    ring_hides_above_tokens,
)
from pecgym.costs.ring_measurements import fit_ring, median_error, ring_errors
from pecgym.costs.strategies import attention_megatron, attention_ulysses, mlp_megatron, mlp_ulysses
from pecgym.errors import SpecError

A100, P4DE = load_gpu("a100-80gb"), load_cluster("p4de_x4")
PECSCHED = ("mistral-7b", "phi-3-14b", "yi-34b", "llama-3.1-70b")
LONG = np.linspace(100_000, 500_000, 41)
LOSSLESS = ParallelConstants(
    ring_step_s=0.0,
    ring_step_loss=0.0,
    nvlink_efficiency=1.0,
    inter_node_efficiency=1.0,
    exchange_base_s=0.0,
    exchange_per_gpu_s=0.0,
)


@cache
def system(name):
    model = load_model(name)
    return model, A100, P4DE, find_profile(name, "a100-80gb", model.default_tp)


COSTS = {name: group_costs(*system(name), 500_000) for name in PECSCHED}


def shapes(costs):
    return [(int(d), int(k)) for d, k in np.argwhere(costs.shape_index >= 0)]


@pytest.mark.parametrize("name", PECSCHED)
def test_a_group_of_one_is_the_profile(name):
    profile = system(name)[3]
    tokens = np.array([1, 7, 300, 4096, 33_333, 131_072, 300_001, 500_000], dtype=np.float64)
    expected_s = [profile.prefill_ps(int(n)) / 1e12 for n in tokens]
    for code, strategy in enumerate(STRATEGIES):
        assert prefill_s(tokens, GroupShape(1, 1), strategy, *system(name)) == pytest.approx(expected_s, rel=1e-9)
        for n in (32_768, 65_536, 100_001, 333_333, 500_000):
            assert COSTS[name].prefill_ps(code, 1, 1, n) == pytest.approx(profile.prefill_ps(n), rel=1e-3)
        assert abs(COSTS[name].prefill_ps(code, 1, 1, 2048 * 100) - profile.prefill_ps(2048 * 100)) <= 2
    assert COSTS[name].decode_sync_ps[COSTS[name].shape_index[1, 1]] == 0


@pytest.mark.parametrize("name", PECSCHED)
def test_the_table_is_the_model_within_its_bound(name):
    """Within 0.1 %; 0.4 % where the ring begins to hide its transfers, 2 % where the profile's g jumps (a new tile)."""
    costs, profile = COSTS[name], system(name)[3]
    tokens = np.concatenate([np.arange(32_768.0, 100_000.0, 1999.0), np.arange(100_000.0, 500_000.0, 9001.0)])
    knots = np.arange(0.0, costs.max_tokens + 1, costs.step_tokens)
    jumps = profile.g_knots_tokens[:-1][np.diff(profile.g_knots_tokens) == 1]
    assert jumps.size
    for degree, nodes in shapes(costs):
        smooth = ~np.isin(tokens // costs.step_tokens, jumps * degree // costs.step_tokens)
        smooth &= ~np.isin(tokens // costs.step_tokens, (jumps * degree - 1) // costs.step_tokens)
        assert smooth.mean() > 0.9
        row = costs.shape_index[degree, nodes]
        for code, strategy in enumerate(STRATEGIES):
            exact_s = prefill_s(tokens, GroupShape(degree, nodes), strategy, *system(name))
            error = np.abs(np.interp(tokens, knots, costs.prefill_table_ps[code, row] / 1e12) / exact_s - 1)
            assert error[smooth].max() <= (1e-3 if degree == 1 else 4e-3)
            assert np.quantile(error, 0.9) <= 1e-3
            assert error.max() <= 2e-2


def test_interpolation_rounds_down_between_whole_knots():
    for name, degree, nodes in (("yi-34b", 4, 2), ("mistral-7b", 32, 4)):
        costs = COSTS[name]
        for code in range(len(STRATEGIES)):
            row = costs.prefill_table_ps[code, costs.shape_index[degree, nodes]].tolist()
            for i in (0, 60, len(row) - 2):
                for beyond in (0, 1, 777, 2047, 2048):
                    expected = row[i] + (row[i + 1] - row[i]) * beyond // 2048
                    assert costs.prefill_ps(code, degree, nodes, i * 2048 + beyond) == expected
            assert costs.prefill_ps(code, degree, nodes, 0) == 0


@pytest.mark.parametrize(
    ("profile", "cluster"),
    [
        *((f"{name}-a100-80gb-tp{load_model(name).default_tp}-vllm", "p4de_x4") for name in PECSCHED),
        ("llama-3.1-70b-fp8-h100-80gb-tp2-vllm", "p5_x4"),
        ("llama-3.1-70b-h200-141gb-tp8-vllm", "p5e_x4"),
        ("infermax-llama-3-70b-a100-tp4", "p4de_x4"),
    ],
)
def test_more_tokens_never_take_less_time(profile, cluster):
    p, spec = load_profile(profile), load_cluster(cluster)
    costs = group_costs(load_model(p.model), load_gpu(p.gpu), spec, p, 500_000)
    assert costs.prefill_table_ps.dtype == np.int64
    assert np.all(np.diff(costs.prefill_table_ps, axis=2) >= 0)
    assert np.all(costs.prefill_table_ps[:, :, 0] == 0)
    assert np.all(costs.prefill_table_ps[:, :, 1] > 0)


@pytest.mark.parametrize("name", PECSCHED)
def test_more_nodes_are_never_faster(name):
    """Ring: in every knot. Fast and Ulysses: from 32K tokens, but for 0.3 %: a ring hides its traffic, they do not.

    Not Megatron, whose traffic grows with the GPUs of a node that it spans.
    """
    costs = COSTS[name]
    for degree in range(2, costs.max_degree + 1):
        rows = [i for i in costs.shape_index[degree] if i >= 0]
        for fewer, more in pairwise(rows):
            assert np.all(costs.prefill_table_ps[0, more] >= costs.prefill_table_ps[0, fewer])
            for code in (1, 3):
                least = costs.prefill_table_ps[code, fewer] * 0.997
                assert np.all((costs.prefill_table_ps[code, more] >= least)[16:])
            assert costs.decode_sync_ps[more] > 0


@pytest.mark.parametrize("name", PECSCHED)
def test_more_replicas_are_faster_for_long_prompts(name):
    """Nodes filled one after the other, in the range that a long request has."""
    costs = COSTS[name]
    per_node = P4DE.gpus_per_node // system(name)[3].tp
    long = slice(100_000 // costs.step_tokens, None)
    rows = [costs.shape_index[d, -(-d // per_node)] for d in (1, 2, 4, 8, 16, 32) if d <= costs.max_degree]
    for fewer, more in pairwise(rows):
        table = costs.prefill_table_ps[:, :, long]
        assert np.all(table[:, more] < table[:, fewer])
        assert np.all(2.1 * table[:, more] > 0.95 * table[:, fewer])  # and never more than TP's own exchange allows


@pytest.mark.parametrize("name", PECSCHED)
def test_fast_is_the_cheapest(name):
    ring, ulysses, megatron, fast = COSTS[name].prefill_table_ps
    assert np.all(fast <= np.minimum(ulysses, megatron))
    long = slice(100_000 // COSTS[name].step_tokens, None)
    assert np.all(fast[:, long] <= 1.002 * ring[:, long])


def test_fast_is_ring_where_each_node_has_one_replica_of_one_gpu():
    parts = [prefill_s(LONG, GroupShape(4, 4), strategy, *system("mistral-7b")) for strategy in STRATEGIES]
    for other in parts[1:]:
        np.testing.assert_allclose(other, parts[0], rtol=1e-12)


def test_fast_has_no_ring_on_one_node_and_a_ring_of_nodes_beyond():
    for name, degree in (("mistral-7b", 8), ("yi-34b", 2)):
        inside = prefill_parts(LONG, GroupShape(degree, 1), "fast", *system(name))
        assert np.all(inside.ring_steps_s == 0)
        assert np.all(inside.transfer_s == 0)
    four = prefill_parts(LONG, GroupShape(32, 4), "fast", *system("mistral-7b"))
    ring = prefill_parts(LONG, GroupShape(32, 4), "ring", *system("mistral-7b"))
    np.testing.assert_allclose(ring.ring_steps_s, four.ring_steps_s * 31 / 3)
    np.testing.assert_array_equal(ring.compute_s, four.compute_s)


def test_compute_is_shared_evenly_whatever_the_strategy():
    profile = system("mistral-7b")[3]
    for degree, nodes in ((2, 1), (8, 1), (16, 2), (32, 4)):
        g_s = np.array([profile.g_ps(int(n)) for n in LONG / degree]) / 1e12
        fixed_s = (profile.prefill_base_ps + profile.prefill_seq_ps) / 1e12
        expected = g_s + fixed_s + LONG**2 * profile.attn_ps_per_1024_pairs / 1024 / 1e12 / degree
        for strategy in STRATEGIES:
            parts = prefill_parts(LONG, GroupShape(degree, nodes), strategy, *system("mistral-7b"))
            np.testing.assert_allclose(parts.compute_s, expected, rtol=1e-4)


def test_tp_exchange_of_the_profile_is_counted_once():
    """A ring of TP4 replicas costs what the profile says for its share, and its steps: nothing else."""
    model, gpu, cluster, profile = system("llama-3.1-70b")
    for degree in (1, 2, 4):
        parts = prefill_parts(LONG, GroupShape(degree, degree), "ring", model, gpu, cluster, profile, LOSSLESS)
        assert np.all(parts.exchange_s > 0)
        share_s = np.array([profile.prefill_ps(int(n)) for n in LONG / degree]) / 1e12
        others_s = (LONG**2 / degree - (LONG // degree) ** 2) * profile.attn_ps_per_1024_pairs / 1024 / 1e12
        np.testing.assert_allclose(parts.compute_s + parts.exchange_s, share_s + others_s, rtol=1e-4)


def test_elements_are_those_of_the_papers_table():
    """Summed over a node of G GPUs as printed: attention's projections N_h + 2 N_kv wide, the real MLP."""
    model, tokens = load_model("llama-3.1-70b"), np.array([5000.0])
    s, d, width, gpus, tp = 5000, 8192, (64 + 8) * 128, 8, 4
    assert attention_megatron(tokens, tp, model).activation_elements * gpus == 2 * s * d * (tp - 1) * gpus
    ulysses = attention_ulysses(tokens, gpus, tp, model)
    assert ulysses.activation_elements * gpus == 2 * s * width * (gpus - 1)
    projections = d * (64 + 2 * 8) * 128 + d * d
    assert ulysses.weight_elements * gpus == projections * gpus * (tp - 1) / tp
    assert mlp_megatron(tokens, tp, model).activation_elements * gpus == 2 * s * d * (tp - 1) * gpus
    assert mlp_ulysses(tokens, tp, model).weight_elements * gpus == 3 * d * 28_672 * (tp - 1) * gpus / tp


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_mlp_prefers_ulysses_above_4_d_over_tp_tokens(tp):
    """With the paper's MLP of 8 d^2 weights; in general above 1.5 ffn / T."""
    model = replace(load_model("yi-34b"), hidden=6144, ffn=16_384)
    crossover = 4 * model.hidden / tp
    for tokens, ulysses_wins in ((0.99 * crossover, False), (1.01 * crossover, True)):
        megatron = float(mlp_megatron(np.array([tokens]), tp, model).activation_elements[0])
        assert (mlp_ulysses(np.array([tokens]), tp, model).weight_elements < megatron) == ulysses_wins


def test_fast_switches_its_mlp_at_the_crossover():
    """On one node each Yi-34B has two ways for its MLP; with no latencies they meet at 1.5 ffn / T tokens per GPU."""
    model, gpu, cluster, profile = system("yi-34b")
    shape, crossover = GroupShape(2, 1), 1.5 * model.ffn / 4 * 8
    tokens = np.array([0.98, 1.02]) * crossover
    fast, ulysses = (
        prefill_parts(tokens, shape, strategy, model, gpu, cluster, profile, LOSSLESS).exchange_s
        for strategy in ("fast", "ulysses")
    )
    assert fast[0] < ulysses[0] * (1 - 1e-9)
    assert fast[1] == ulysses[1]


@pytest.mark.parametrize(("gb_per_s", "expected"), [(300.0, 1_040), (12.5, 24_960)])
def test_ring_hides_above_the_papers_block_sizes(gb_per_s, expected):
    """4 s^2 d operations of a whole block at A100's 312e12 a second, multi-head attention; grouped queries divide."""
    model = load_model("yi-34b")
    multi_head = replace(model, kv_heads=model.query_heads)
    s_per_pair = 4 * model.hidden * model.layers / 312e12
    assert ring_hides_above_tokens(multi_head, s_per_pair, gb_per_s * 1e9) == pytest.approx(expected, rel=1e-9)
    grouped = ring_hides_above_tokens(model, s_per_pair, gb_per_s * 1e9)
    assert grouped == pytest.approx(expected * model.kv_heads / model.query_heads, rel=1e-9)


@pytest.mark.parametrize(("shape", "gb_per_s"), [(GroupShape(8, 1), 300.0), (GroupShape(16, 2), 50.0)])
def test_transfers_are_exposed_below_that_size_only(shape, gb_per_s):
    model, gpu, cluster, profile = system("mistral-7b")
    s_per_pair = profile.attn_ps_per_1024_pairs / 1024 / 1e12
    block = ring_hides_above_tokens(model, s_per_pair, gb_per_s * 1e9)
    tokens = shape.degree * block * np.array([0.5, 0.99, 1.01, 2.0])
    exposed = prefill_parts(tokens, shape, "ring", model, gpu, cluster, profile, LOSSLESS).transfer_s
    assert np.all(exposed[:2] > 0)
    assert np.all(exposed[2:] == 0)


def test_a_slow_network_shows():
    """Of 16 replicas on two nodes at 1 GB/s: 15 transfers of a block's keys and values, less attention beside them."""
    model, gpu, cluster, profile = system("mistral-7b")
    slow = replace(cluster, inter_node_gb_per_s=1.0)
    shape, tokens = GroupShape(16, 2), np.array([160_000.0])
    parts = prefill_parts(tokens, shape, "ring", model, gpu, slow, profile, LOSSLESS)
    hop_s = 10_000 * 131_072 / 1e9
    attention_s = 160_000**2 * profile.attn_ps_per_1024_pairs / 1024 / 1e12 / 16**2
    assert parts.transfer_s == pytest.approx(15 * (hop_s - attention_s), rel=1e-9)
    ring_of_nodes = prefill_parts(tokens, shape, "fast", model, gpu, slow, profile, LOSSLESS)
    assert ring_of_nodes.transfer_s == pytest.approx(8 * hop_s - 8 * attention_s, rel=1e-9)


def test_the_constants_are_the_fit():
    step_s, loss = fit_ring()
    assert ParallelConstants().ring_step_s == pytest.approx(step_s, rel=2e-3)
    assert ParallelConstants().ring_step_loss == pytest.approx(loss, rel=2e-3)


def test_the_measured_ring_alone():
    rows = ring_errors()
    assert len(rows) == 34
    assert {row.sp for row in rows if row.held_out} == {4, 16}
    assert median_error(rows, 1) < 0.025
    assert median_error(rows, 2, 8) < 0.02
    assert median_error(rows, 4) < 0.03
    assert median_error(rows, 16) < 0.03
    assert max(abs(row.error) for row in rows) < 0.12
    cell = next(row for row in rows if (row.sp, row.tokens) == (8, 131_072))
    assert cell.measured_s == 3.96
    assert cell.error == cell.simulated_s / 3.96 - 1


def test_the_measured_ring_with_the_shipped_profile():
    rows = ring_errors(find_profile("llama-3.1-8b", "a100-80gb", 1))
    assert all(median_error(rows, sp) < 0.10 for sp in (1, 2, 4, 8, 16))
    assert median_error(rows, 2, 4, 8, 16) < 0.09
    assert max(abs(row.error) for row in rows) < 0.21


def test_a_sharded_decode_reads_its_share_and_synchronises_each_layer():
    costs, (model, _, _, profile) = COSTS["llama-3.1-70b"], system("llama-3.1-70b")
    assert costs.decode_kv_ps[0] == 0
    for degree in range(1, costs.max_degree + 1):
        assert abs(int(costs.decode_kv_ps[degree]) * degree - profile.decode_kv_ps) <= degree / 2
    two, across = costs.decode_sync_ps[costs.shape_index[2, 1]], costs.decode_sync_ps[costs.shape_index[2, 2]]
    assert two / model.layers / 1e6 == pytest.approx(10.2, abs=0.1)  # NCCL's 10.1 us for two GPUs, and 4 KB
    assert across / model.layers / 1e6 == pytest.approx(19.2, abs=0.6)
    sync_ps = np.array([costs.decode_sync_ps[costs.shape_index[d, k]] for d, k in ((1, 1), (2, 1), (4, 2), (8, 4))])
    assert np.all(np.diff(sync_ps) > 0)


def test_building_is_fast_repeatable_and_read_only():
    start = time.perf_counter()
    again = group_costs(*system("mistral-7b"), 500_000)
    assert time.perf_counter() - start < 0.5  # 20 ms on an idle machine
    for field in ("shape_index", "prefill_table_ps", "decode_sync_ps", "decode_kv_ps"):
        array = getattr(again, field)
        np.testing.assert_array_equal(array, getattr(COSTS["mistral-7b"], field))
        assert array.dtype == np.int64
        assert not array.flags.writeable


def test_shapes_are_those_that_fit_the_cluster():
    costs = COSTS["llama-3.1-70b"]
    assert (costs.max_degree, costs.max_nodes, costs.max_tokens) == (8, 4, 501_760)
    assert shapes(costs) == [(d, k) for d in range(1, 9) for k in range(1, 5) if -(-d // 2) <= k <= d]
    assert sorted(costs.shape_index[costs.shape_index >= 0]) == list(range(costs.decode_sync_ps.size))
    small = group_costs(*system("mistral-7b"), 10_000, max_degree=3, max_nodes=2)
    assert shapes(small) == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert small.prefill_table_ps.shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GroupShape(2, 3), "2 replicas on 3 nodes is impossible"),
        (lambda: GroupShape(0, 0), "0 replicas on 0 nodes is impossible"),
        (lambda: prefill_s(LONG, GroupShape(3, 1), "ring", *system("yi-34b")), "3 replicas of 4 GPUs cannot sit on 1"),
        (lambda: prefill_s(LONG, GroupShape(5, 5), "ring", *system("yi-34b")), "which has 4 nodes with room for 2"),
        (lambda: prefill_s(LONG, GroupShape(2, 1), "star", *system("yi-34b")), "no strategy named 'star'; choose one"),
        (lambda: COSTS["yi-34b"].prefill_ps(0, 3, 1, 5), "3 replicas on 1 nodes: no such group"),
        (lambda: COSTS["yi-34b"].prefill_ps(0, 9, 4, 5), "9 replicas on 4 nodes: no such group"),
        (lambda: COSTS["yi-34b"].prefill_ps(0, -1, 1, 5), "-1 replicas on 1 nodes: no such group"),
        (lambda: COSTS["yi-34b"].prefill_ps(4, 1, 1, 5), "strategy is 4; it must be 0 to 3"),
        (lambda: COSTS["yi-34b"].prefill_ps(0, 1, 1, 600_000), "the table has 0 to 501760; raise max_tokens"),
        (lambda: group_costs(*system("yi-34b"), 0), "max_tokens is 0"),
        (lambda: group_costs(*system("yi-34b"), 1000, max_degree=0), "max_degree is 0"),
        (lambda: group_costs(load_model("phi-3-14b"), *system("yi-34b")[1:], 1000), "is for model 'yi-34b'"),
        (lambda: ParallelConstants(ring_step_s=-1.0), "ring_step_s is -1.0; it must be finite and >= 0"),
        (lambda: ParallelConstants(inter_node_hop_s=float("nan")), "inter_node_hop_s is nan"),
        (lambda: ParallelConstants(nvlink_efficiency=1.1), "nvlink_efficiency is 1.1; it must be above 0"),
    ],
)
def test_what_is_impossible_is_refused(call, message):
    with pytest.raises(SpecError) as caught:
        call()
    assert message in str(caught.value)
