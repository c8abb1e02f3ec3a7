"""Real runs: what is read, how a run is repeated, how effects are fitted, and how close the simulator comes."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pecgym.costs import find_profile, load_profile
from pecgym.engine import load_engine
from pecgym.errors import ProfileError, SpecError
from pecgym.validation.ablation import GRAPH_SIZES, padded_to_graphs
from pecgym.validation.client import Means, benchmark_requests, simulate
from pecgym.validation.effects import Effects, fit_effects
from pecgym.validation.runs import Deployment, Family, Run, read_runs
from scripts import validate

FAMILY = Family("meta-llama/Llama-3.1-70B", "h200_sxm", "vllm", "fp8")
KERNELS = load_profile("llama-3.1-70b-fp8-h200-141gb-tp4-vllm")
with_aic = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None, reason='needs pip install -e ".[calibrate]"'
)


def run(tokens: tuple[int, int] = (1024, 128), users: int = 8, tp: int = 4) -> Run:
    deployment = Deployment(FAMILY, tp, 1, 1, "fp8", "fp8")
    return Run(deployment, *tokens, users, ttft_ms=100.0, tpot_ms=10.0, source="source_file=2026-04-06.csv")


# -- the runs ---------------------------------------------------------------------------------------------------------


@with_aic
def test_the_sample_has_the_named_runs() -> None:
    runs, left_out = read_runs(model="Llama-3.1-70B", gpu="h100", engine="vllm")
    assert len(runs) == 45
    assert left_out == {}
    assert {each.deployment.tp for each in runs} == {2, 4, 8}
    assert {each.concurrency for each in runs} == {4, 8, 16, 32, 64}
    assert all(each.of_inference_max for each in runs)


@with_aic
def test_runs_of_several_engines_in_one_are_left_out_with_their_number() -> None:
    runs, left_out = read_runs(model="MiniMax", gpu="h100")
    assert len(runs) == 15
    assert left_out["attention is data parallel: several batches in one engine"] == 15


@with_aic
def test_a_family_that_does_not_exist_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(ProfileError, match="no run of model_path=GPT-5; see --list"):
        read_runs(model="GPT-5")


def test_a_file_that_is_no_sample_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("model,gpu\na,b\n")
    with pytest.raises(ProfileError, match=r"runs\.csv: row 1: missing column silicon_ttft_ms"):
        read_runs(path)


# -- the client -------------------------------------------------------------------------------------------------------


def test_requests_are_the_draws_of_the_benchmark() -> None:
    """`benchmark_serving.py --seed 0` draws all prompts, then all outputs, from the global generator."""
    trace = benchmark_requests(run((1024, 8192), users=4))
    np.random.seed(0)
    np.testing.assert_array_equal(trace.input_tokens, np.random.randint(819, 1025, size=40))
    np.testing.assert_array_equal(trace.output_tokens, np.random.randint(6553, 8193, size=40))


def test_a_single_user_waits_for_its_own_requests_only() -> None:
    """TTFT is the prefill alone and the frontend; TPOT the mean over decodes."""
    one = run((1024, 2), users=1)
    means = simulate(one, KERNELS, load_engine("vllm_v1_async"), frontend_ms=7.0)
    trace = benchmark_requests(one)
    prefills_ms = [KERNELS.prefill_ps(tokens) / 1e9 for tokens in trace.input_tokens.tolist()]
    assert means.ttft_ms == pytest.approx(np.mean(prefills_ms) + 7.0)
    decodes = zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    steps_ms = [KERNELS.iteration_ps([], [prompt]) / 1e9 for prompt, output in decodes if output == 2]
    assert means.tpot_ms == pytest.approx(np.mean(steps_ms))


def test_users_who_ask_again_wait_for_an_iteration_more_under_asynchronous_scheduling() -> None:
    late = simulate(run(), KERNELS, load_engine("vllm_v1_async"))
    at_once = simulate(run(), KERNELS, load_engine("vllm_v1"))
    assert late.ttft_ms > at_once.ttft_ms + 0.5 * at_once.tpot_ms


# -- effects ----------------------------------------------------------------------------------------------------------


def test_effects_change_the_terms_that_they_name() -> None:
    effects = Effects(base_factor=0.9, compute_factor=1.2, attention_factor=2.0, kv_factor=1.5)
    served = effects.on_profile(KERNELS)
    start = int(KERNELS.g_knots_ps[0])
    assert served.g_ps(1) == round(start * 0.9)
    assert served.g_ps(512) - served.g_ps(1) == pytest.approx((KERNELS.g_ps(512) - start) * 1.2, rel=1e-9)
    assert served.attn_ps_per_1024_pairs == round(KERNELS.attn_ps_per_1024_pairs * 2.0)
    assert served.decode_kv_ps == round(KERNELS.decode_kv_ps * 1.5)
    assert Effects().on_profile(KERNELS).g_ps(512) == KERNELS.g_ps(512)


def test_effects_are_found_again_in_runs_that_were_made_with_them() -> None:
    """Eight short runs with overheads, a frontend and slower kernels; the fit starts elsewhere."""
    truth = Effects(1500.0, 40.0, 3000.0, 12.0, 0.9, 1.15, 1.4, 1.3)
    engine = load_engine("vllm_v1_async")

    def with_effects(each: Run, effects: Effects) -> Means:
        return simulate(each, effects.on_profile(KERNELS), effects.on_engine(engine), effects.frontend_ms)

    plain = [run(tokens, users) for tokens in ((512, 64), (2048, 64), (4096, 256), (512, 512)) for users in (2, 12)]
    measured = []
    for each in plain:
        means = with_effects(each, truth)
        measured.append(replace(each, ttft_ms=means.ttft_ms, tpot_ms=means.tpot_ms))
    found = fit_effects(measured, with_effects)
    means = [with_effects(each, found) for each in measured]
    ttft_errors = [abs(one.ttft_ms / each.ttft_ms - 1) for one, each in zip(means, measured, strict=True)]
    tpot_errors = [abs(one.tpot_ms / each.tpot_ms - 1) for one, each in zip(means, measured, strict=True)]
    assert np.median(ttft_errors) < 0.03
    assert max(tpot_errors) < 0.02
    assert found.step_overhead_us + found.base_factor * 7427.8 == pytest.approx(1500 + 0.9 * 7427.8, rel=0.03)
    assert found.frontend_ms == pytest.approx(truth.frontend_ms, rel=0.15)


def test_an_effect_that_is_left_out_stays_at_nothing() -> None:
    found = fit_effects(
        [run(users=2), run(users=4)],
        lambda each, effects: simulate(each, effects.on_profile(KERNELS), load_engine("vllm_v1")),
        without=["frontend_ms"],
    )
    assert found.frontend_ms == 0.0


def test_batches_padded_to_graphs_take_the_time_of_the_next_size() -> None:
    padded = padded_to_graphs(KERNELS)
    for tokens in range(1, 513):
        size = next(each for each in GRAPH_SIZES if each >= tokens)
        assert padded.g_ps(tokens) == KERNELS.g_ps(size)
    assert padded.g_ps(5000) == KERNELS.g_ps(5000)


# -- the comparison ---------------------------------------------------------------------------------------------------


@with_aic
def test_at_most_half_of_the_runs_are_fitted_and_whole_configurations() -> None:
    from pecgym.validation.silicon import split

    for chosen in ({"gpu": "h100", "engine": "vllm"}, {"gpu": "h200", "engine": "vllm"}):
        runs, _ = read_runs(model="Llama-3.1-70B", **chosen)
        fitted, held_out = split(runs)
        assert len(fitted) <= len(runs) / 2
        assert sorted([*fitted, *held_out]) == runs
        both = [{(each.deployment, each.input_tokens, each.output_tokens) for each in half} for half in split(runs)]
        assert not both[0] & both[1]
    one, _ = split([run(users=users) for users in (1, 2, 4, 8, 16)])
    assert [each.concurrency for each in one] == [2, 8]


@with_aic
def test_the_kv_capacity_is_that_of_our_own_formula() -> None:
    """AIConfigurator counts weights and memory by itself; the two agree within 1.5 percent."""
    from pecgym.validation.deployments import Aic

    aic = Aic()
    for tp in (1, 2, 4, 8):
        deployment = Deployment(FAMILY, tp, 1, 1, "fp8", "fp8")
        ours = find_profile("llama-3.1-70b-fp8", "h200-141gb", tp, "vllm-served").kv_capacity_tokens
        assert aic.profile(deployment, "fp8").kv_capacity_tokens == pytest.approx(ours, rel=0.015)


@with_aic
def test_no_times_for_a_deployment_is_an_error_that_names_it() -> None:
    from pecgym.validation.deployments import Aic

    nowhere = Deployment(Family("openai/gpt-oss-120b", "h100_sxm", "vllm", "fp4"), 1, 1, 1, "nvfp4", "nvfp4")
    with pytest.raises(ProfileError, match=r"no times for openai/gpt-oss-120b fp4, h100_sxm, vllm, TP1"):
        Aic().profile(nowhere, "fp8")


@with_aic
def test_few_users_are_met_within_the_bars(tmp_path: Path) -> None:
    """A part of the named runs that is quick: H200, up to 16 users, who leave open of which type the KV cache is."""
    from pecgym.validation.silicon import Silicon

    runs, _ = read_runs(model="Llama-3.1-70B", gpu="h200", engine="vllm")
    result = Silicon().compare([each for each in runs if each.concurrency <= 16])
    found = {(each.group, each.metric): each for each in result.summaries()}
    for metric in ("ttft_ms", "tpot_ms"):
        assert found["held out", metric].holds
        assert found["held out", metric].median_error < found["AIConfigurator", metric].median_error


@pytest.mark.slow
@with_aic
@pytest.mark.parametrize(("gpu", "kv_type"), [("h100", "bfloat16"), ("h200", "fp8")])
def test_all_named_runs_are_met_within_the_bars(gpu: str, kv_type: str) -> None:
    """Also that the type of the KV cache comes out by itself, and that memory overflows when it did."""
    from pecgym.validation.silicon import Silicon

    runs, _ = read_runs(model="Llama-3.1-70B", gpu=gpu, engine="vllm")
    result = Silicon().compare(runs)
    assert result.setup.kv_type == kv_type
    assert result.left_out == {}
    found = {(each.group, each.metric): each for each in result.summaries()}
    assert all(each.holds is not False for each in found.values())
    overflow = [found[group, "ttft_ms"].n for group in ("KV overflow", "overflow, fitted")]
    assert overflow == {"h100": [2, 1], "h200": [1, 1]}[gpu]
    for metric in ("ttft_ms", "tpot_ms"):
        assert found["held out", metric].median_error < found["AIConfigurator", metric].median_error


@pytest.mark.slow
@with_aic
def test_the_command_writes_rows_summary_picture_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["silicon", "--model", "Llama-3.1-70B", "--gpu", "h200", "--engine", "vllm", "--rows"]
    files = {"--json": tmp_path / "out.json", "--plot": tmp_path / "out.png", "--write": tmp_path / "served"}
    assert validate.main([*arguments, *(str(part) for pair in files.items() for part in pair)]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert {"case", "metric", "reference", "simulated", "error"} <= set(content["rows"][0])
    assert {"metric", "n", "median_error", "p90_error", "bar", "holds"} <= set(content["summary"][0])
    assert content["families"][0]["setup"]["kv_type"] == "fp8"
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert "TP8" in capsys.readouterr().out
    for path in (tmp_path / "served").glob("*-served.yaml"):
        written, shipped = load_profile(path), load_profile(path.stem)
        assert written.g_ps(1024) == pytest.approx(shipped.g_ps(1024), rel=0.02)


@with_aic
def test_the_command_lists_families_and_refuses_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main(["silicon", "--list", "--model", "Llama-3.1-70B"]) == 0
    assert "h200_sxm" in capsys.readouterr().out
    assert validate.main(["silicon", "--model", "nobody"]) == 2
    assert "no run of model_path=nobody" in capsys.readouterr().err


# -- what ships -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "gpu"), [("llama-3.1-70b-fp8", "h200"), ("llama-3.1-70b-fp8-kv16", "h100")])
def test_served_profiles_and_their_engines_ship(model: str, gpu: str) -> None:
    served = find_profile(model, {"h200": "h200-141gb", "h100": "h100-80gb"}[gpu], 4, "vllm-served")
    assert "real runs of InferenceMAX" in served.source
    engine = load_engine(f"vllm_v1_{gpu}")
    assert engine.async_scheduling
    assert engine.step_overhead_us > 0
    assert replace(
        engine, name="vllm_v1_async", step_overhead_us=0.0, step_overhead_per_request_us=0.0, prefill_overhead_us=0.0
    ) == load_engine("vllm_v1_async")


@with_aic
def test_what_ships_is_what_was_validated() -> None:
    """Runs that were held out, with the shipped profiles and preset and nothing else."""
    runs, _ = read_runs(model="Llama-3.1-70B", gpu="h200", engine="vllm")
    held_out = [each for each in runs if each.concurrency <= 16 and each.deployment.tp in (2, 8)]
    held_out = [each for each in held_out if each.output_tokens == 8192]
    engine = load_engine("vllm_v1_h200")
    tpot_errors, ttft_errors = [], []
    for each in held_out:
        profile = find_profile("llama-3.1-70b-fp8", "h200-141gb", each.deployment.tp, "vllm-served")
        means = simulate(each, profile, engine.with_changes(max_batch_requests=each.concurrency), frontend_ms=7.5)
        tpot_errors.append(abs(means.tpot_ms / each.tpot_ms - 1))
        ttft_errors.append(abs(means.ttft_ms / each.ttft_ms - 1))
    assert len(held_out) == 6
    assert np.median(tpot_errors) < 0.02
    assert np.median(ttft_errors) < 0.06


@with_aic
def test_a_served_profile_is_written_for_our_own_models_only(tmp_path: Path) -> None:
    from pecgym.validation.deployments import Aic
    from pecgym.validation.served import write_served
    from pecgym.validation.silicon import FamilyResult, Setup

    other = FamilyResult(replace(FAMILY, model="Qwen/Qwen3-32B"), Setup("fp8"), Effects(), (), {})
    with pytest.raises(SpecError, match="no model or GPU file of ours is of Qwen/Qwen3-32B"):
        write_served(other, Aic(), tmp_path)


# -- odd input --------------------------------------------------------------------------------------------------------

HEADER = (
    "model_path,system,backend,precision,mode,isl,osl,gemm_quant_mode,moe_quant_mode,batch_size,tp_size,pp_size,"
    "attention_dp_size,moe_tp_size,moe_ep_size,silicon_ttft_ms,silicon_tpot_ms,silicon_data_source"
)
ROW = "m,h200_sxm,vllm,fp8,agg,1024,{osl},fp8,fp8,{users},{tp},1,1,{tp},1,{ttft},10.0,somewhere"


def sample(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def row(osl: object = 128, users: object = 8, tp: object = 4, ttft: object = 100.0) -> str:
    return ROW.format(osl=osl, users=users, tp=tp, ttft=ttft)


def test_a_measurement_that_is_there_twice_is_one_run_on_the_fewest_gpus(tmp_path: Path) -> None:
    runs, left_out = read_runs(sample(tmp_path / "runs.csv", row(tp=8), row(tp=4), row(tp=4), row(ttft=101.0)))
    assert [(each.deployment.tp, each.ttft_ms) for each in runs] == [(4, 100.0), (4, 101.0)]
    assert left_out == {"the same measurement as another row": 2}


def test_rows_that_are_no_runs_are_left_out_with_the_reason(tmp_path: Path) -> None:
    rows = [row(), row(osl=1), row(ttft="nan"), row(tp=64), row(osl="")]
    runs, left_out = read_runs(sample(tmp_path / "runs.csv", *rows))
    assert len(runs) == 1
    assert left_out == {
        "one output token, which has no TPOT": 1,
        "no TTFT, TPOT, concurrency, TP or lengths": 2,
        "more than the 8 GPUs of a node in one tensor parallel replica": 1,
    }


def test_a_short_row_and_an_unknown_engine_are_errors_that_name_the_row(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"runs\.csv: row 3: it has more or fewer cells"):
        read_runs(sample(tmp_path / "runs.csv", row(), "m,h200_sxm"))
    with pytest.raises(ProfileError, match=r"runs\.csv: row 2: backend is 'tgi'; choose vllm, sglang, trtllm"):
        read_runs(sample(tmp_path / "runs.csv", row().replace("vllm", "tgi")))


def test_a_folder_that_is_not_there_is_noticed_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert validate.main(["tetris", "--json", str(tmp_path / "none" / "out.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
