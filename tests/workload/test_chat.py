"""SSJF's setting: lengths from the released quantiles, arrivals beside them, and the paper's service time, exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pecgym.cluster import make_cluster
from pecgym.configs import ScenarioConfig, WorkloadConfig
from pecgym.engine import EngineSettings, load_engine
from pecgym.errors import SpecError, TraceError
from pecgym.workload import draw_chat, interarrival_cv
from pecgym.workload.chat import output_distribution, output_table

CHAT: dict[str, Any] = {"name": "chat", "requests": 50, "rate_rps": 5.0}
BURST: dict[str, Any] = {"name": "chat", "requests": 50, "arrivals": "burst"}


def service_ps(output_tokens: Any) -> Any:
    """0.1 s + 0.02 s per output token."""
    return 10**11 + 2 * 10**10 * output_tokens


def test_lengths_have_the_released_quantiles() -> None:
    tokens = draw_chat(200_000, "burst", seed=1).output_tokens
    assert (tokens.min(), tokens.max()) == (2, 511)
    released = [2, 41, 140, 294, 511]
    assert np.abs(np.quantile(tokens, np.linspace(0, 1, 5)) - released).max() <= 2


def test_the_distribution_is_that_of_the_draws() -> None:
    tokens, shares = output_distribution()
    assert shares.sum() == pytest.approx(1)
    drawn = draw_chat(400_000, "burst", seed=2).output_tokens
    counted = np.bincount(drawn, minlength=tokens[-1] + 1)[tokens[0] :] / len(drawn)
    assert np.abs(counted - shares).max() < 5 * np.sqrt(shares.max() / len(drawn))
    # The exact mean of the piecewise linear quantile function, before rounding: the mean of its knots' midpoints.
    knots = np.array([2, 9, 13, 21, 31, 41, 57, 75, 95, 117, 140, 170, 201, 233, 263, 294, 325, 358, 397, 447, 511])
    assert tokens @ shares == pytest.approx(((knots[1:] + knots[:-1]) / 2).mean(), abs=0.01)
    assert output_table().grid[1] == pytest.approx(0.05)


def test_two_rates_meet_the_same_lengths_and_fewer_are_a_prefix() -> None:
    slow, fast = (draw_chat(300, "poisson", rate, seed=4) for rate in (1.0, 4.0))
    np.testing.assert_array_equal(slow.output_tokens, fast.output_tokens)
    np.testing.assert_allclose(slow.arrival_s, 4 * fast.arrival_s)
    assert draw_chat(100, "poisson", 1.0, seed=4).equals(slow.slice(0, 100))
    assert not draw_chat(300, "poisson", 1.0, seed=5).equals(slow)


def test_arrivals_are_of_the_kind_asked_for() -> None:
    bursty = draw_chat(40_000, "gamma", 2.0, cv=3.0, seed=1)
    assert interarrival_cv(bursty.arrival_s) == pytest.approx(3, rel=0.1)
    assert bursty.rate_rps == pytest.approx(2, rel=0.1)
    assert interarrival_cv(draw_chat(40_000, "poisson", 2.0, seed=1).arrival_s) == pytest.approx(1, rel=0.05)
    assert not draw_chat(50, "burst").arrival_s.any()


def test_a_configuration_gives_the_same() -> None:
    assert WorkloadConfig(**CHAT).load(3).equals(draw_chat(50, "poisson", 5.0, seed=3))
    ranged = WorkloadConfig(**CHAT, input_range=[10, 20]).load(3)
    np.testing.assert_array_equal(ranged.output_tokens, draw_chat(50, "burst", seed=3).output_tokens)
    assert set(ranged.input_tokens) <= set(range(10, 21))
    assert set(WorkloadConfig(**BURST).load(3).input_tokens) == {6}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """100 prompts, of which the last 20 are held out."""
    path = tmp_path / "mine.csv"
    lines = [f"text {i},{i + 1},{2 * i + 3}" for i in range(100)]
    path.write_text("\n".join(["prompt,output_tokens,input_tokens", *lines]) + "\n")
    return path


def test_prompts_give_lengths_and_texts_from_the_held_out_rows(prompts: Path) -> None:
    config = WorkloadConfig(**{**CHAT, "requests": 15}, prompts=str(prompts))
    starts = set()
    for seed in range(6):
        trace = config.load(seed)
        rows = trace.output_tokens - 1
        assert set(rows) <= set(range(80, 100))
        np.testing.assert_array_equal(np.diff(rows) % 20, 1)
        assert trace.prompt is not None
        assert [str(text) for text in trace.prompt] == [f"text {row}" for row in rows]
        np.testing.assert_array_equal(trace.input_tokens, 2 * rows + 3)
        np.testing.assert_array_equal(trace.arrival_s, draw_chat(15, "poisson", 5.0, seed=seed).arrival_s)
        starts.add(int(rows[0]))
    assert len(starts) > 1
    assert set(replace(config, input_range=[6, 6]).load(0).input_tokens) == {6}
    assert config.file() == prompts
    with pytest.raises(TraceError, match="held-out 20% of the prompts 'mine' are 20"):
        replace(config, requests=21).load(0)


def test_prompts_of_zero_tokens_are_left_out_if_asked(prompts: Path) -> None:
    prompts.write_text(prompts.read_text().replace("text 90,91,", "text 90,0,"))
    config = WorkloadConfig(**{**CHAT, "requests": 19}, prompts=str(prompts))
    with pytest.raises(TraceError, match=r"row 92.*on_empty"):
        config.load(0)
    assert 90 not in replace(config, on_empty="drop").load(0).output_tokens - 1
    assert 1 in replace(config, on_empty="one", requests=20).load(0).output_tokens
    with pytest.raises(SpecError, match="sort are for files"):
        replace(config, sort=True).check()
    with pytest.raises(SpecError, match=r"workload.prompts=absent.csv: no such file"):
        replace(config, prompts="absent.csv").check()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"name": "chat"}, "give requests"),
        ({"name": "azure2023_conv", "rate_rps": 5.0}, r"rate_rps: of name=chat alone, not of azure2023_conv"),
        ({"name": "azure2023_conv", "requests": 5}, r"of name=offline or chat alone"),
        ({**CHAT, "output_range": [1, 2]}, r"output_range: of name=offline alone, not of chat"),
        ({**BURST, "speedup": 2.0}, "leave speedup"),
        ({**CHAT, "sort": True}, "are for files"),
        ({**CHAT, "duration_s": 5.0}, "duration_s"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        WorkloadConfig(**keys).check()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({**BURST, "rate_rps": 1.0}, "burst arrivals take no rate_rps"),
        ({"name": "chat", "requests": 5}, "poisson arrivals need rate_rps"),
        ({**CHAT, "cv": 2.0}, "poisson arrivals take no cv"),
        ({**CHAT, "arrivals": "gamma"}, "gamma arrivals need cv"),
        ({**CHAT, "arrivals": "mmpp"}, "choose one of poisson, gamma, burst"),
        ({**CHAT, "requests": 0}, "requests=0"),
        ({**CHAT, "rate_rps": -1.0}, "rate_rps must be"),
        ({**CHAT, "input_range": [5]}, "input_range"),
    ],
)
def test_numbers_that_cannot_be_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(TraceError, match=said):
        WorkloadConfig(**keys).load(0)


def test_a_workload_of_that_name_keeps_the_numbers_and_others_lose_them() -> None:
    like = WorkloadConfig(**CHAT, arrivals="gamma", cv=2.0)
    assert WorkloadConfig.of("chat", like) == like
    assert WorkloadConfig.of("azure2023_conv", WorkloadConfig(**CHAT)) == WorkloadConfig()
    assert ScenarioConfig(arrival_scale=2.0).applied_to(like).load(0).rate_rps == pytest.approx(
        2 * like.load(0).rate_rps
    )


def log_of(engine: EngineSettings, profile: str, seed: int) -> Any:
    trace = draw_chat(300, "poisson", 3.0, seed=seed)
    return make_cluster("llama-3.1-8b", "a100_x1", "fifo", trace, engine, profile=profile).run()


@pytest.mark.parametrize(
    ("engine", "profile"),
    [(load_engine("one_at_a_time"), "ssjf-linear")]
    + [(load_engine("slots", max_batch_requests=slots), "ssjf-slots") for slots in (1, 2, 8, 64)],
)
def test_a_job_takes_the_papers_time_whatever_runs_beside_it(engine: EngineSettings, profile: str) -> None:
    for seed in range(3):
        log = log_of(engine, profile, seed)
        np.testing.assert_array_equal(log.ps["finish"] - log.ps["start"], service_ps(log.counts["output_tokens"]))


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_static_batch_lasts_as_long_as_its_longest_member(size: int) -> None:
    for seed in range(3):
        log = log_of(load_engine("static", static_batch_size=size), "ssjf-linear", seed)
        for start_ps in np.unique(log.ps["start"]):
            batch = log.ps["start"] == start_ps
            assert batch.sum() <= size
            longest_ps = service_ps(log.counts["output_tokens"][batch].max())
            assert set(log.ps["finish"][batch] - start_ps) == {longest_ps}


def test_a_slot_is_taken_at_the_next_boundary() -> None:
    """Nobody waits longer than 20 ms while a slot is free: jobs join and leave at the boundaries of iterations."""
    log = log_of(load_engine("slots", max_batch_requests=300), "ssjf-slots", 0)
    waited_ps = log.ps["start"] - log.ps["arrival"]
    assert 0 <= waited_ps.min() <= waited_ps.max() < 2 * 10**10
