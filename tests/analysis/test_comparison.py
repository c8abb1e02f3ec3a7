"""Interquartile means, their bootstrap intervals, and the pairing of runs."""

from __future__ import annotations

import json
import math
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import trim_mean

from pecgym.analysis.comparison import CONFIDENCE, METRICS, bootstrap_interval, compare, iqm, iqm_weights
from pecgym.analysis.report.tables import comparison_html
from pecgym.analysis.tables import comparison_table, results_table
from pecgym.errors import SpecError
from tests.analysis.synthetic import synthetic_run

KEYS = [metric.key for metric in METRICS]
P99, THROUGHPUT = "short_queueing_delay_p99_s", "short_throughput_rps"


def row(policy: str, seed: int = 0, window: int | None = 0, **metrics: Any) -> dict[str, Any]:
    labels = {"policy": policy, "workload": "w", "scenario": "steady-0.8", "seed": seed}
    window_labels = {"split": None if window is None else "test", "window": window}
    return labels | window_labels | dict.fromkeys(KEYS) | metrics


def runs(policy: str, values: list[list[float | None]], key: str = P99) -> list[dict[str, Any]]:
    """values: by seed and window."""
    return [row(policy, s, w, **{key: value}) for s, of in enumerate(values) for w, value in enumerate(of)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 5.0], 3.0),
        ([9.0, 1.0, 2.0], (0.25 * 1 + 2 + 0.25 * 9) / 1.5),
        ([4.0, 1.0, 100.0, 2.0], 3.0),
        ([1.0, 2.0, 3.0, 4.0, 100.0], (0.75 * 2 + 3 + 0.75 * 4) / 2.5),
        ([0.0, 1.0, 2.0, 6.0, 9.0, 99.0], (0.5 * 1 + 2 + 6 + 0.5 * 9) / 3),
        ([5.0, 5.0, 5.0, 5.0, 5.0], 5.0),
        ([0.0, 0.0, 0.0, 8.0], 0.0),
    ],
)
def test_an_interquartile_mean_is_that_by_hand(values: list[float], expected: float) -> None:
    assert iqm(values) == pytest.approx(expected, rel=1e-12)


def test_where_quarters_are_whole_it_is_the_trimmed_mean() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert iqm(values) == pytest.approx(trim_mean(values, 0.25))
    for n in range(1, 30):
        weights = iqm_weights(n)
        assert weights.sum() == pytest.approx(1)
        assert np.allclose(weights, weights[::-1])


def test_intervals_of_a_known_distribution_cover_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(random.normal(3.0, 2.0, (1, 40)), ["one"] * 40) or (0, 0)
        covered += low <= 3.0 <= high
    assert CONFIDENCE - 0.05 <= covered / 200 <= CONFIDENCE + 0.04


def test_windows_replace_each_other_within_their_stratum_only() -> None:
    values = np.array([[1.0] * 10 + [9.0] * 10])
    assert bootstrap_interval(values, ["a"] * 10 + ["b"] * 10) == (5.0, 5.0)
    low, high = bootstrap_interval(values, ["one"] * 20) or (0, 0)
    assert low < 4 < 6 < high
    assert bootstrap_interval(np.array([[1.0, 2.0]]), ["a", "b"]) is None
    assert bootstrap_interval(np.zeros((1, 0)), []) is None


def test_training_seeds_are_drawn_too() -> None:
    alike = np.repeat([[1.0], [2.0], [3.0]], 10, axis=1)
    assert bootstrap_interval(alike, ["one"] * 10) == (1.0, 3.0)
    assert bootstrap_interval(alike[1:2], ["one"] * 10) == (2.0, 2.0)


def test_differences_are_paired() -> None:
    """Windows differ by much more than the policies do."""
    base = [[10.0, 200.0, 3000.0, 40.0], [50.0, 600.0, 70.0, 8000.0]]
    better = [[0.9 * value for value in of] for of in base]
    found = compare(runs("base", base) + runs("other", better), "base")
    (other,) = found["policies"]
    metric = other["metrics"][P99]
    assert (found["pairs"], found["resampled_within"]) == (8, "workload and seed")
    assert metric["relative_difference"]["iqm"] == pytest.approx(-0.1)
    assert metric["relative_difference"]["interval"] == pytest.approx([-0.1, -0.1])
    assert metric["difference"]["iqm"] == pytest.approx(iqm([-0.1 * value for of in base for value in of]))
    assert (metric["wins"], metric["ties"], metric["losses"]) == (8, 0, 0)
    assert metric["verdict"] == "better"
    assert set(other["metrics"]) == {P99}
    assert compare(runs("base", base) + runs("other", better), "base") == found


@pytest.mark.parametrize(
    ("key", "shift", "verdict"),
    [
        (P99, 1.0, "worse"),
        (P99, -1.0, "better"),
        (THROUGHPUT, 1.0, "better"),
        (THROUGHPUT, -1.0, "worse"),
        (P99, 0.0, "equal"),
    ],
)
def test_a_verdict_follows_what_is_better(key: str, shift: float, verdict: str) -> None:
    base = [[10.0, 11.0, 12.0, 13.0]]
    other = [[value + shift for value in base[0]]]
    metric = compare(runs("a", base, key) + runs("b", other, key), "a")["policies"][0]["metrics"][key]
    assert metric["verdict"] == verdict
    assert metric["better"] == ("more" if key == THROUGHPUT else "less")


def test_a_difference_of_either_sign_is_not_resolved() -> None:
    base, other = [[1.0, 1.0, 1.0, 1.0]], [[2.0, 0.5, 1.5, 0.0]]
    metric = compare(runs("a", base) + runs("b", other), "a")["policies"][0]["metrics"][P99]
    assert metric["verdict"] == "not resolved"
    assert (metric["wins"], metric["losses"]) == (2, 2)


def test_with_one_run_for_each_seed_the_seeds_are_drawn() -> None:
    base = [[10.0], [20.0], [30.0], [40.0]]
    other = [[9.0], [18.0], [33.0], [36.0]]
    found = compare(runs("a", base) + runs("b", other), "a")
    assert found["resampled_within"] == "workload"
    low, high = found["policies"][0]["metrics"][P99]["difference"]["interval"]
    assert low < 0 < high
    two = [row("a", window=None, **{P99: 1.0}), row("b", window=None, **{P99: 2.0})]
    two += [each | {"workload": "another"} for each in two]
    metric = compare(two, "a")["policies"][0]["metrics"][P99]
    assert metric["difference"] == {"iqm": 1.0, "interval": None}
    assert metric["verdict"] == "not resolved"


def test_training_seeds_of_an_agent_are_pooled() -> None:
    base = runs("base", [[1.0, 2.0, 3.0]])
    agents = [each for seed in range(3) for each in runs(f"ppo/x-s{seed}", [[1.0 + seed, 2.0 + seed, 3.0 + seed]])]
    found = compare(base + agents, "base", {"ppo/x": ("ppo/x-s0", "ppo/x-s1", "ppo/x-s2")})
    (agent,) = found["policies"]
    assert (agent["policy"], len(agent["policies"])) == ("ppo/x", 3)
    metric = agent["metrics"][P99]
    assert metric["difference"] == {"iqm": 1.0, "interval": [0.0, 2.0]}
    assert (metric["wins"], metric["ties"], metric["losses"]) == (0, 3, 6)
    assert metric["verdict"] == "not resolved"


def test_what_does_not_exist_is_null_and_counted() -> None:
    base = runs("a", [[0.0, None, 4.0, 2.0, math.inf]])
    other = runs("b", [[1.0, 3.0, 2.0, None, 1.0]])
    found = compare(base + other, "a")
    metric = found["policies"][0]["metrics"][P99]
    assert (metric["pairs"], metric["pairs_left_out"], metric["relative_pairs"]) == (2, 3, 1)
    assert metric["difference"]["iqm"] == pytest.approx((1.0 - 2.0) / 2)
    assert metric["relative_difference"] == {"iqm": -0.5, "interval": None}
    never = compare(runs("a", [[None, None]]) + runs("b", [[1.0, 2.0]]), "a")["policies"][0]["metrics"][P99]
    assert (never["pairs"], never["pairs_left_out"], never["verdict"]) == (0, 2, "not resolved")
    assert never["baseline"] == {"iqm": None, "interval": None}
    zeros = compare(runs("a", [[0.0, 0.0]]) + runs("b", [[1.0, 2.0]]), "a")["policies"][0]["metrics"][P99]
    assert zeros["relative_difference"] == {"iqm": None, "interval": None}
    assert zeros["verdict"] == "worse"
    for each in (found, never, zeros):
        json.dumps(each, allow_nan=False)


def test_pairs_must_be_complete() -> None:
    base, other = runs("a", [[1.0, 2.0], [3.0, 4.0]]), runs("b", [[1.0, 2.0], [3.0, 4.0]])
    missing = r"policy 'b' has no run of workload w, scenario steady-0.8, seed 1, split test, window 0, which 'a' has"
    with pytest.raises(SpecError, match=missing):
        compare([*base, other[0], other[1], other[3]], "a")
    with pytest.raises(SpecError, match=r"policy 'a' has no run of .*seed 0.*window 1, which 'b' has \(1 such runs\)"):
        compare([base[0], *base[2:], *other], "a")
    with pytest.raises(SpecError, match=r"policy 'b' has two runs of workload w"):
        compare([*base, *other, other[0]], "a")
    with pytest.raises(SpecError, match=r"policy 'c' has no run to compare; there are a, b"):
        compare(base + other, "a", {"c": ("c",)})


def test_tables_say_what_was_found() -> None:
    base = [[10.0, 20.0, 30.0, 50.0]]
    other = [[value + 0.25 for value in base[0]]]
    comparison = compare(runs("first", base) + runs("second", other), "first")
    for width in (80, 160):
        console = Console(width=width, record=True, file=StringIO())
        console.print(comparison_table(comparison, narrow=width < 120))
        text = console.export_text()
        assert "against first on the same 4 runs" in " ".join(text.split())
        assert "0.25 [0.25, 0.25]" in text
        assert "worse" in text
        assert all(len(line) <= width for line in text.splitlines())
    page = comparison_html(comparison)
    assert "<small>0.250 to 0.250</small>" in page or "<small>0.25 to 0.25</small>" in page
    assert "0 / 0 / 4" in page


def test_the_results_of_windows_are_their_interquartile_mean() -> None:
    rows = [synthetic_run(seed=seed)[0].metrics() for seed in range(5)]
    for number, each in enumerate(rows):
        each |= {"seed": number // 3, "split": "test", "window": number % 3, P99: float(10**number)}
    console = Console(width=200, record=True, file=StringIO())
    console.print(results_table(rows))
    text = " ".join(console.export_text().split())
    assert "interquartile mean of 2 seeds x 3 windows of split test" in text
    assert f"{(7.5 + 100 + 750) / 2.5:.3g}" in text


def test_tables_show_names_with_brackets() -> None:
    name = "planner{controls:[order]}"
    rows = runs(name, [[1.0, 2.0]]) + runs("second", [[1.0, 3.0]])
    console = Console(width=200, record=True, file=StringIO())
    console.print(comparison_table(compare(rows, name)), comparison_table(compare(rows, "second")))
    assert console.export_text().count(name) == 2
