"""Fits: they find what made the samples, and the CSV reader refuses what it cannot understand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from pecgym.costs.fit import choose_knots, fit_coefficients, fit_samples, predict_ms
from pecgym.costs.profile_schema import Coefficients
from pecgym.costs.samples import Samples, iteration_point, read_points_csv
from pecgym.errors import ProfileError
from tests.conftest import shared_file

pytest.importorskip("scipy")

TRUTH = Coefficients(
    g_tokens=[1, 64, 256, 1024, 8192],
    g_us=[20_000.0, 21_000.0, 30_000.0, 90_000.0, 700_000.0],
    prefill_base_us=900.0,
    prefill_per_sequence_us=40.0,
    prefill_per_past_token_ns=30.0,
    attention_per_1024_pairs_ns=2000.0,
    decode_base_us=1200.0,
    decode_per_sequence_us=5.0,
    decode_per_kv_token_ns=60.0,
)
HEADER = "prefill_tokens,prefill_past_tokens,n_decodes,kv_tokens_read,time_ms\n"
VIDUR_COLUMNS = {
    "prefill_tokens": "num_prefill_tokens",
    "prefill_past_tokens": "prefill_kv",
    "n_decodes": "num_decodes",
    "kv_tokens_each": "decode_kv_each",
    "time_ms": "predicted_ms",
}


def samples_of_truth(noise: float = 0.0) -> Samples:
    lengths = (1, 16, 64, 100, 200, 256, 500, 1024, 2000, 4096, 8192)
    points = [iteration_point([(c, m)] * n, [], 1.0) for c, m, n in product(lengths, (0, 3000, 50_000), (1, 3))]
    batches, contexts = (1, 2, 8, 32, 64, 128, 256), (50, 400, 3000, 9000)
    points += [iteration_point([], [k] * n, 1.0) for n, k in product(batches, contexts)]
    points += [iteration_point([(c, 100)], [k] * n, 1.0) for c, n, k in product(lengths, batches, contexts)]
    samples = Samples.of(points)
    wobble = 1 + noise * np.sin(np.arange(len(samples)) * 2.3)
    return replace(samples, time_ms=predict_ms(TRUTH, samples) * wobble)


def test_a_fit_finds_the_coefficients_that_made_the_samples():
    fit = fit_samples(samples_of_truth())
    found = fit.coefficients
    for name, value in TRUTH.times().items():
        if not name.startswith("g_us"):
            assert getattr(found, name) == pytest.approx(value, rel=0.02), name
    g = np.interp(TRUTH.g_tokens, found.g_tokens, found.g_us)
    assert g == pytest.approx(TRUTH.g_us, rel=0.01)
    assert set(fit.errors) == {"prefill", "chunked prefill", "decode", "mixed"}
    assert all(error.worst_percent < 0.5 for error in fit.errors.values())


def test_held_out_samples_are_a_third_and_judged_apart():
    fit = fit_samples(samples_of_truth(noise=0.05))
    points = sum(error.points for error in fit.errors.values())
    held_out = sum(error.held_out_points for error in fit.errors.values())
    assert 0.30 * points < held_out <= points / 3
    assert all(0.5 < error.held_out_mean_percent < 6 for error in fit.errors.values())
    assert fit_samples(samples_of_truth(noise=0.05)) == fit


def test_the_range_is_that_of_the_samples():
    fitted = fit_samples(samples_of_truth()).fitted_range
    assert (fitted.prompt_tokens_min, fitted.prompt_tokens_max) == (1, 58_192)
    assert (fitted.context_tokens_min, fitted.context_tokens_max) == (50, 9000)
    assert (fitted.batch_min, fitted.batch_max) == (1, 256)


def test_coefficients_never_reward_longer_prompts():
    """Samples in which longer prompts are cheaper: g stays flat instead of falling."""
    points = [iteration_point([(c, 0)], [], 1000.0 / (1 + c)) for c in range(1, 40)]
    points += [iteration_point([], [100] * n, 10.0) for n in (1, 2, 4, 8)]
    found = fit_samples(Samples.of(points)).coefficients
    assert np.all(np.diff(found.g_us) >= 0)
    assert min(found.times().values()) >= 0


def test_knots_start_at_one_lie_where_samples_are_and_find_a_step():
    samples = samples_of_truth()
    knots = choose_knots(samples)
    assert knots[0] == 1
    assert len(knots) <= 24
    assert knots[-1] <= samples.tokens.max()
    tokens = list(range(1, 1200, 7))
    stepped = Samples.of(iteration_point([(c, 0)], [], 10.0 if c <= 256 else 30.0) for c in tokens)
    assert {256, 257} & set(choose_knots(stepped))


def test_a_step_that_was_sampled_further_above_only_is_no_cost_of_mixing():
    """Whole tiles without decodes, and the same with some: the step at 257 tokens is seen from 260 up."""
    truth = replace(TRUTH, g_tokens=[1, 64, 256, 257, 512, 8192], g_us=[2e4, 2.1e4, 3e4, 4.5e4, 6e4, 7e5])
    alone = [iteration_point([(c, 0)], [], 1.0) for c in (64, 128, 256, 512, 1024, 2048, 4096, 8192)]
    decodes = [iteration_point([], [k] * n, 1.0) for n, k in product((1, 4, 16, 64), (100, 1000, 3000))]
    mixed = [
        iteration_point([(c, 0)], [k] * n, 1.0)
        for c, n, k in product((64, 256, 1024), (4, 16, 64), (100, 500, 1000, 2000, 3000, 4000))
    ]
    samples = Samples.of([*alone, *decodes, *mixed])
    samples = replace(samples, time_ms=predict_ms(truth, samples))
    assert 257 in choose_knots(samples)
    found = fit_coefficients(samples, choose_knots(samples))
    at_256 = Samples.of([iteration_point([(240, 0)], [1000] * 16, 1.0)])
    assert predict_ms(found, at_256) == pytest.approx(predict_ms(truth, at_256), rel=0.03)
    few = Samples.of([*alone, *decodes])
    assert 257 not in choose_knots(few)


def test_g_is_flat_below_the_smallest_count():
    points = [iteration_point([(c, 0)], [], 10.0 + c / 10) for c in range(100, 3000, 13)]
    points += [iteration_point([], [500] * n, 15.0 + n / 10) for n in range(100, 400, 20)]
    found = fit_samples(Samples.of(points)).coefficients
    assert found.g_tokens[:2] == [1, 97]
    assert found.g_us[0] == found.g_us[1]


def test_unmixed_samples_share_what_both_phases_have():
    """Without mixed iterations g's base and the phases' cannot be told apart: the common part goes to g."""
    points = [iteration_point([(c, 0)], [], 30.0 + c / 10) for c in range(64, 4096, 64)]
    points += [iteration_point([], [k] * n, 20.0 + k * n / 1e4) for n, k in product((1, 4, 16, 64), (100, 1000, 2000))]
    found = fit_samples(Samples.of(points)).coefficients
    assert found.g_us[0] == pytest.approx(20_000, rel=0.02)
    assert found.decode_base_us < 200


def test_vidurs_step_times_fit():
    samples, ignored = read_points_csv(shared_file("reference/vidur/step_times.csv"), VIDUR_COLUMNS)
    assert len(samples) == 263
    assert "tp_comm_ms" in ignored
    errors = fit_samples(samples).errors
    assert errors["decode"].points == 96
    assert all(error.mean_percent < 1.5 and error.held_out_mean_percent < 3.5 for error in errors.values())


def test_too_few_or_one_sided_samples_are_refused():
    few = Samples.of(iteration_point([(c, 0)], [], 1.0) for c in range(1, 11))
    with pytest.raises(ProfileError, match="10 samples are too few"):
        fit_samples(few)
    no_decodes = Samples.of(iteration_point([(c, 0)], [], 1.0) for c in range(1, 100))
    with pytest.raises(ProfileError, match="no sample has decodes"):
        fit_samples(no_decodes)


def test_a_csv_is_read_with_its_optional_columns(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(
        "prefill_tokens,prefill_past_tokens,n_decodes,kv_tokens_each,time_ms,n_prefills,prefill_pairs\n"
        "100,50,0,0,12.5,1,20000\n300,0,4,1000,20,2,50000\n0,0,8,500,9.75,0,0\n"
    )
    samples, ignored = read_points_csv(path)
    assert ignored == []
    assert samples.phase.tolist() == ["chunked prefill", "mixed", "decode"]
    assert samples.kv_tokens_read.tolist() == [0, 4000, 4000]
    assert samples.prefill_pairs.tolist() == [20_000, 50_000, 0]
    assert samples.tokens.tolist() == [100, 304, 8]
    path.write_text(HEADER + "100,50,0,0,12.5\n")
    assert read_points_csv(path)[0].prefill_pairs.tolist() == [100 * 100 + 2 * 100 * 50]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,0,0,0,5\n1,0,0,0,fast\n", "row 3: column time_ms is 'fast'"),
        (HEADER + "1,0,0,0,0\n", "row 2: column time_ms is '0'; expected milliseconds > 0"),
        (HEADER + "1,0,0,0,inf\n", "row 2: column time_ms"),
        (HEADER + "-1,0,0,0,5\n", "row 2: column prefill_tokens is '-1'"),
        (HEADER + "1.5,0,0,0,5\n", "row 2: column prefill_tokens is '1.5'; expected a whole number"),
        (HEADER + "1,0,0,0\n", "row 2: it has more or fewer cells"),
        (HEADER + "1,0,0,0,5,6\n", "row 2: it has more or fewer cells"),
        (HEADER + "0,0,0,0,5\n", "row 2: column prefill_tokens"),
        (HEADER + "0,9,1,0,5\n", "row 2: column prefill_past_tokens"),
        (HEADER + "1,0,0,9,5\n", "row 2: column kv_tokens_read"),
        (HEADER, "no rows below the header"),
        ("", "missing column prefill_tokens"),
        (HEADER.replace("time_ms", "ms") + "1,0,0,0,5\n", "missing column time_ms"),
        (HEADER.replace(",time", ",gpu,time") + "1,0,0,0,1,5\n", "unknown column gpu"),
        (HEADER.replace("n_decodes", "time_ms"), "time_ms appears more than once"),
        (HEADER.replace("kv_tokens_read,", "") + "1,0,0,5\n", "exactly one of the columns kv_tokens_read"),
        (HEADER.strip() + ",n_prefills\n9,0,0,0,5,2\n", "row 2: column prefill_pairs"),
    ],
)
def test_a_bad_csv_is_refused_with_file_row_and_column(tmp_path, text, message):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        read_points_csv(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_mapping_to_unknown_names_is_refused(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text(HEADER + "1,0,0,0,5\n")
    with pytest.raises(ProfileError, match="cannot map speed"):
        read_points_csv(path, {"speed": "time_ms"})
    with pytest.raises(ProfileError, match=r"time_ms \(ms in the file\)"):
        read_points_csv(path, {"time_ms": "ms"})
    with pytest.raises(ProfileError, match="cannot be read"):
        read_points_csv(tmp_path / "none.csv")


def test_longer_prompts_go_on_with_a_slope_of_many_tokens():
    """The largest samples are 4,096 tokens and one decode more: what lies between them says nothing of 8,192 tokens."""
    points = [iteration_point([(c, 0)], [], 10.0 + c / 10) for c in (*range(1, 60), *range(64, 4097, 64))]
    points += [iteration_point([(4096, 0)], [8], 425.0), *(iteration_point([], [64] * n, 10.0) for n in range(1, 9))]
    found = fit_samples(Samples.of(points)).coefficients
    assert found.g_tokens[-1] - found.g_tokens[-2] > 1
    longer = Samples.of([iteration_point([(8192, 0)], [], 829.2)])
    assert predict_ms(found, longer)[0] == pytest.approx(829.2, rel=0.05)
