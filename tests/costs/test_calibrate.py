"""scripts/calibrate.py: shipped profiles are what it makes, and a CSV becomes a profile that loads."""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pecgym.costs import find_profile, load_gpu, load_model, load_profile, profile_name, profile_names
from pecgym.costs.aic import aic_samples
from pecgym.costs.calibration import AIC_PROFILES, aic_profile, block_capacity_tokens
from pecgym.costs.fit import fit_samples, predict_ms
from pecgym.costs.profile import profile_of
from pecgym.costs.samples import PHASES
from pecgym.errors import ProfileError

pytest.importorskip("scipy")

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_spec = importlib.util.spec_from_file_location("calibrate", REPOSITORY / "scripts" / "calibrate.py")
assert _spec is not None
assert _spec.loader is not None
calibrate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(calibrate)

EXAMPLE = REPOSITORY / "examples" / "step_times.csv"
FOR_LLAMA = ["--model", "llama-3.1-8b", "--gpu", "a100-80gb", "--tp", "1", "--engine", "vllm 0.11.0"]


@pytest.mark.parametrize(
    ("model", "gpu", "tp"), [("llama-3.1-70b", "a100-80gb", 4), ("phi-3-14b", "a100-80gb", 1)], ids=str
)
def test_shipped_profiles_are_what_the_script_makes(model, gpu, tp):
    pytest.importorskip("aiconfigurator_core")
    made_file, _ = aic_profile(model, gpu, tp)
    made, shipped = profile_of(made_file, "made"), find_profile(model, gpu, tp)
    assert made.g_knots_tokens.tolist() == shipped.g_knots_tokens.tolist()
    assert np.allclose(made.g_knots_ps, shipped.g_knots_ps, rtol=1e-4)
    assert made.prefill_ps(4096) == pytest.approx(shipped.prefill_ps(4096), rel=1e-4)
    assert made.iteration_ps([(512, 999)], [700] * 40) == pytest.approx(
        shipped.iteration_ps([(512, 999)], [700] * 40), rel=1e-4
    )
    for field in ("name", "engine", "precision", "kv_capacity_tokens", "fitted_range", "source", "licence"):
        assert getattr(made, field) == getattr(shipped, field)


def test_prediction_is_close_to_its_source_where_the_source_is_not_a_sample():
    """Prompts, contexts and batches that the grids do not contain."""
    pytest.importorskip("aiconfigurator_core")
    from pecgym.costs.aic import steps_of_model

    steps = steps_of_model(load_model("yi-34b"), "a100-80gb", 4)
    profile = find_profile("yi-34b", "a100-80gb", 4)
    errors = [profile.prefill_ps(c) / 1e9 / steps.prefill_ms(1, c, 0) - 1 for c in (333, 1234, 5678, 23_456, 98_765)]
    errors += [
        profile.iteration_ps([], [context] * n) / 1e9 / steps.decode_ms(n, context) - 1
        for n, context in product((3, 20, 70, 200), (300, 1500, 3000))
    ]
    assert np.mean(np.abs(errors)) < 0.03
    assert np.max(np.abs(errors)) < 0.09


def test_real_runs_are_slower_than_their_kernels_by_about_a_tenth():
    """90 closed-loop runs of vLLM: a token takes a decode, its share of the others' prefills, and overhead."""
    aic = pytest.importorskip("aiconfigurator_core")
    with (Path(aic.__file__).parent / "systems" / "silicon_sample.csv").open(newline="") as file:
        gpus = {"h100_sxm": "h100-80gb", "h200_sxm": "h200-141gb"}
        runs = [
            run
            for run in csv.DictReader(file)
            if (run["model_path"], run["backend"]) == ("meta-llama/Llama-3.1-70B", "vllm")
            and run["system"] in gpus
            and run["tp_size"] != "1"
        ]
    errors = []
    for run in runs:
        profile = find_profile("llama-3.1-70b-fp8", gpus[run["system"]], int(run["tp_size"]))
        prompt, output, users = int(run["isl"]), int(run["osl"]), int(run["batch_size"])
        decode_ps = profile.iteration_ps([], [prompt + output // 2] * users)
        token_ps = decode_ps + (users - 1) * profile.prefill_ps(prompt) / output
        errors.append(token_ps / 1e9 / float(run["silicon_tpot_ms"]) - 1)
    assert len(errors) == 90
    assert -0.12 < np.median(errors) < -0.05
    assert np.mean(np.array(errors) < 0) > 0.9


def test_every_profile_that_the_script_makes_ships_and_is_good():
    for model, gpu, tp in AIC_PROFILES:
        profile = find_profile(model, gpu, tp)
        assert profile.name == profile_name(model, gpu, tp)
        assert all(error.mean_percent < 5 for error in profile.fit.values())


def test_the_page_shows_the_table_that_the_script_prints():
    table = calibrate.profiles_markdown()
    assert all(f"`{name}`" in table for name in profile_names())
    assert table in (REPOSITORY / "docs" / "cost-model.md").read_text(encoding="utf-8")


def test_a_csv_becomes_a_profile_with_a_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "mine.yaml", tmp_path / "fit.png"
    arguments = ["--csv", str(EXAMPLE), *FOR_LLAMA, "--kv-capacity-tokens", "430000"]
    assert calibrate.main([*arguments, "--out", str(out), "--plot", str(plot)]) == 0
    profile = load_profile(out)
    assert profile.engine == "vllm 0.11.0"
    assert profile.kv_capacity_tokens == 430_000
    assert all(error.held_out_mean_percent < 5 for error in profile.fit.values())
    assert (profile.prefill_w, profile.decode_w) == (pytest.approx(385, rel=0.02), pytest.approx(290, rel=0.02))
    assert profile.idle_w == load_gpu("a100-80gb").idle_w
    assert profile.power_source.startswith("prefill_w, decode_w: measured")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "held out" in capsys.readouterr().out


def test_watts_of_a_csv_are_found_again_and_its_energy_is_exact(tmp_path):
    """Each kind of iteration with watts of its own, and one that differs."""
    rows = list(csv.DictReader(EXAMPLE.read_text(encoding="utf-8").splitlines()))
    for row in rows:
        row["power_w"] = "391.5" if int(row["prefill_tokens"]) else "277.25"
    rows[0]["power_w"] = "300"
    path, out = tmp_path / "steps.csv", tmp_path / "mine.yaml"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert calibrate.main(["--csv", str(path), *FOR_LLAMA, "--out", str(out)]) == 0
    profile = load_profile(out)
    assert profile.decode_w == pytest.approx(277.25, abs=0.051)
    with_prompts = [row for row in rows if int(row["prefill_tokens"])]
    joules = sum(float(row["power_w"]) * float(row["time_ms"]) for row in with_prompts)
    assert profile.prefill_w * sum(float(row["time_ms"]) for row in with_prompts) == pytest.approx(joules, rel=2e-4)
    assert 300 < profile.prefill_w < 391.5


def test_without_watts_the_profile_has_those_of_the_gpu(tmp_path, capsys):
    rows = EXAMPLE.read_text(encoding="utf-8").splitlines()
    path, out = tmp_path / "steps.csv", tmp_path / "mine.yaml"
    path.write_text("\n".join(row.rpartition(",")[0] for row in rows), encoding="utf-8")
    assert calibrate.main(["--csv", str(path), *FOR_LLAMA, "--out", str(out)]) == 0
    profile, gpu = load_profile(out), load_gpu("a100-80gb")
    for key in ("idle_w", "decode_w", "prefill_w", "power_source"):
        assert getattr(profile, key) == getattr(gpu, key)
    assert "no column power_w" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((",388.1\n", ",\n"), "row 2: column power_w is ''; expected watts of one GPU >= 0"),
        ((",388.1\n", ",-1\n"), "row 2: column power_w is '-1'"),
        ((",388.1\n", ",nan\n"), "row 2: column power_w is 'nan'"),
        (("power_w", "watts"), "row 1: unknown column watts; valid are"),
    ],
)
def test_bad_watts_are_refused_with_row_and_column(tmp_path, capsys, change, message):
    path = tmp_path / "steps.csv"
    path.write_text(EXAMPLE.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    assert calibrate.main(["--csv", str(path), *FOR_LLAMA]) == 2
    assert message in capsys.readouterr().err


def test_iterations_of_one_kind_alone_are_refused(tmp_path, capsys):
    """With watts too, which need both kinds."""
    header, *rows = EXAMPLE.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "steps.csv"
    path.write_text("\n".join([header, *(row for row in rows if row.split(",")[4] == "0")]), encoding="utf-8")
    assert calibrate.main(["--csv", str(path), *FOR_LLAMA]) == 2
    assert "no sample has decodes" in capsys.readouterr().err


def test_a_hundred_and_twenty_points_are_enough():
    """As the page says: a fit to some of AIConfigurator's samples, with noise, is good for all the others."""
    pytest.importorskip("aiconfigurator_core")
    model, gpu = load_model("llama-3.1-8b"), load_gpu("a100-80gb")
    samples, _ = aic_samples(model, gpu.name, 1, block_capacity_tokens(model, gpu, 1))
    random = np.random.default_rng(3)
    chosen = np.zeros(len(samples), bool)
    for phase, count in zip(PHASES, (36, 12, 36, 36), strict=True):
        chosen[random.choice(np.flatnonzero(samples.phase == phase), count, replace=False)] = True
    noisy = replace(samples[chosen], time_ms=samples[chosen].time_ms * np.exp(random.normal(0, 0.02, 120)))
    others = samples[~chosen]
    error = np.abs(predict_ms(fit_samples(noisy).coefficients, others) / others.time_ms - 1)
    assert error.mean() < 0.03
    assert np.percentile(error, 90) < 0.06


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--csv", str(EXAMPLE), "--model", "llama-3.1-8b"], "--gpu, --tp, --engine missing"),
        (["--aic", *FOR_LLAMA], "--engine: not used with --aic; leave out"),
        (["--table", "--all"], "--all: not used with --table"),
        (["--aic", "--all", "--out", "x.yaml"], "--out: not used with --aic --all"),
        (["--csv", "none.csv", *FOR_LLAMA], "none.csv: cannot be read"),
        (["--csv", str(EXAMPLE), *FOR_LLAMA, "--columns", "time_ms"], "--columns: 'time_ms' is not NAME=COLUMN"),
        (["--aic", "--model", "gpt-5", "--gpu", "a100-80gb", "--tp", "1"], "no model named 'gpt-5'"),
        (["--aic", "--model", "llama-3.1-70b", "--gpu", "a100-80gb", "--tp", "1"], "leaves no KV memory"),
    ],
)
def test_bad_arguments_are_an_error_without_a_traceback(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert calibrate.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_aiconfigurator_the_error_says_what_to_install(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    from pecgym.costs import aic

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(aic, "version", absent)
    with pytest.raises(ProfileError, match=r'pip install -e "\.\[calibrate\]"'):
        aic_profile("mistral-7b", "a100-80gb", 1)
