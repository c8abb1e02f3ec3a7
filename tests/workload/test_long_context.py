"""The three long-context rewrites."""

from __future__ import annotations

import numpy as np
import pytest

from pecgym.errors import TraceError
from pecgym.workload import Trace, generate, rewrite_linear, rewrite_long, rewrite_paper, rewrite_rank


@pytest.fixture(scope="module")
def trace() -> Trace:
    return generate("azure2023_conv", 0)


@pytest.mark.parametrize("mode", ["paper", "linear", "rank"])
def test_only_inputs_of_the_long_change(mode: str, trace: Trace) -> None:
    rewritten = rewrite_long(trace, mode, seed=1)  # type: ignore[arg-type]
    long = rewritten.is_long
    assert 0 < long.sum() <= 0.05 * len(trace)
    assert rewritten.arrival_s.tolist() == trace.arrival_s.tolist()
    assert rewritten.output_tokens.tolist() == trace.output_tokens.tolist()
    assert rewritten.input_tokens[~long].tolist() == trace.input_tokens[~long].tolist()
    assert rewritten.input_tokens[long].min() >= 100_000
    assert rewritten.input_tokens[long].max() <= 500_000
    assert trace.input_tokens[long].min() > trace.input_tokens[~long].max() - 1
    assert rewritten.equals(rewrite_long(trace, mode, seed=1))  # type: ignore[arg-type]
    assert not rewritten.equals(rewrite_long(trace, mode, seed=2)) or mode == "rank"  # type: ignore[arg-type]
    growth = rewritten.input_tokens.sum() / trace.input_tokens.sum()
    assert growth > 2
    with pytest.raises(TraceError, match="long requests already"):
        rewrite_long(rewritten, mode)  # type: ignore[arg-type]


def test_paper_is_uniform(trace: Trace) -> None:
    rewritten = rewrite_paper(trace, percentile=50)
    tokens = rewritten.input_tokens[rewritten.is_long]
    assert rewritten.is_long.tolist() == (trace.input_tokens > np.percentile(trace.input_tokens, 50)).tolist()
    assert tokens.mean() == pytest.approx(300_000, rel=0.01)
    assert np.quantile(tokens, 0.25) == pytest.approx(200_000, rel=0.02)


def test_linear(trace: Trace) -> None:
    exact = rewrite_linear(trace, jitter_tokens=0)
    long = exact.is_long
    source = trace.input_tokens[long]
    assert long.tolist() == (trace.input_tokens >= 4096).tolist()
    expected = 100_000 + (source - source.min()) / (source.max() - source.min()) * 400_000
    assert np.abs(exact.input_tokens[long] - expected).max() <= 0.5
    moved = rewrite_linear(trace).input_tokens[long] - exact.input_tokens[long]
    assert set(moved.tolist()) == {*range(-8, 9)}
    # A fixed source range treats a window as the whole trace is treated.
    fixed = rewrite_linear(trace, jitter_tokens=0, source_range=(4096, 14050))
    window = rewrite_linear(trace.slice(0, 5000), jitter_tokens=0, source_range=(4096, 14050))
    assert window.input_tokens.tolist() == fixed.input_tokens[:5000].tolist()
    with pytest.raises(TraceError, match="outside"):
        rewrite_linear(trace, source_range=(4096, 5000))
    with pytest.raises(TraceError, match="no width"):
        rewrite_linear(Trace([0.0], [5000], [1]))  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="jitter"):
        rewrite_linear(trace, jitter_tokens=-1)
    assert not rewrite_linear(trace, threshold_tokens=10**6).is_long.any()


def test_rank(trace: Trace) -> None:
    rewritten = rewrite_rank(trace, share=0.02, seed=3)
    long = rewritten.is_long
    assert long.sum() == round(0.02 * len(trace))
    order = np.argsort(rewritten.input_tokens[long])
    assert (np.diff(trace.input_tokens[long][order]) >= 0).all()
    logs = np.log(np.sort(rewritten.input_tokens[long]))
    assert np.diff(logs) == pytest.approx(np.log(5) / long.sum(), rel=0.05)
    assert rewrite_rank(trace, threshold_tokens=4096).is_long.sum() == (trace.input_tokens > 4096).sum()
    with pytest.raises(TraceError, match="at most one"):
        rewrite_rank(trace, share=0.1, percentile=90)


def test_rank_breaks_ties_at_random() -> None:
    flat = Trace(np.arange(1000.0), np.full(1000, 77), np.ones(1000))
    first, second = (rewrite_rank(flat, share=0.1, seed=seed) for seed in (1, 2))
    assert first.is_long.sum() == second.is_long.sum() == 100
    both = (first.is_long & second.is_long).sum()
    assert 1 <= both <= 30
    assert not rewrite_rank(flat).is_long.any()
    assert rewrite_rank(flat, share=1.0).is_long.all()
    assert not rewrite_rank(flat, share=0.0).is_long.any()


@pytest.mark.parametrize("mode", ["paper", "linear", "rank"])
def test_edges(mode: str, trace: Trace) -> None:
    empty = rewrite_long(trace.slice(0, 0), mode)  # type: ignore[arg-type]
    assert len(empty) == 0
    assert not rewrite_long(trace.slice(0, 1), mode).is_long.any()  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="low_tokens < high_tokens"):
        rewrite_long(trace, mode, low_tokens=5, high_tokens=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown"):
        rewrite_long(trace, mode, unknown=1)  # type: ignore[arg-type]


def test_bad_options(trace: Trace) -> None:
    with pytest.raises(TraceError, match="paper, linear, rank"):
        rewrite_long(trace, "log")  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="percentile"):
        rewrite_paper(trace, percentile=101)
    with pytest.raises(TraceError, match="share"):
        rewrite_rank(trace, share=1.5)
