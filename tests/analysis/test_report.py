"""The report's numbers against those of the rows and logs it is made from, and the page as one file."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pecgym.analysis.report import write_report
from pecgym.analysis.report.curves import (
    MAX_POINTS,
    MAX_SLICES,
    MEASURES,
    cdf,
    cdf_figure,
    pareto_figure,
    pareto_front,
    shares_of_time,
    timeline_payload,
)
from pecgym.analysis.report.inputs import Case, read_cases
from pecgym.analysis.report.tables import definitions_html, results_html, targets_html
from pecgym.analysis.timeline import Timeline
from pecgym.errors import PecGymError
from pecgym.random import random_stream
from pecgym.units import PS_PER_S
from tests.analysis.synthetic import synthetic_run

POLICIES = {"pecsched": True, "pecsched/PE": False}
RUNS = {
    (policy, seed): synthetic_run(policy, seed=seed, preempt=preempt)
    for policy, preempt in POLICIES.items()
    for seed in (0, 1, 2)
}
LOGS = [log for log, _ in RUNS.values()]
ROWS = [log.metrics() for log in LOGS]
TIMELINES = {policy: RUNS[policy, 0][1] for policy in POLICIES}


def report_files(folder: Path) -> tuple[Path, Path, Path]:
    """The rows, requests and timelines as an evaluation leaves them."""
    (folder / "summary.json").write_text(json.dumps(ROWS))
    tables = [
        log.to_table(**{key: log.facts.labels[key] for key in ("policy", "workload", "scenario", "seed")})
        for log in LOGS
    ]
    pq.write_table(pa.concat_tables(tables), folder / "requests.parquet")
    (folder / "timelines").mkdir()
    for number, (log, timeline) in enumerate(RUNS.values()):
        timeline.save(folder / "timelines" / f"{9 - number}.parquet", **log.facts.labels)
    return folder / "summary.json", folder / "requests.parquet", folder / "timelines"


def the_case() -> Case:
    (case,) = read_cases(ROWS, LOGS, TIMELINES)
    return case


def page_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/gzip" id="data">([^<]*)</script>', page)
    assert found
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(found[1])))
    return data


class Elements(HTMLParser):
    """Every element's attributes, and the text of table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("n", [1, 2, 399, 5000])
def test_a_cdf_gives_the_share_at_or_below_each_of_its_times(n: int) -> None:
    values = random_stream(n, "cdf").lognormal(size=n)
    x, share = cdf(values)
    assert len(x) <= MAX_POINTS
    np.testing.assert_allclose(share, [np.mean(values <= limit) for limit in x])
    assert (x[0], x[-1], share[-1]) == (values.min(), values.max(), 1.0)
    assert np.quantile(values, 0.99, method="inverted_cdf") == pytest.approx(x[np.searchsorted(share, 0.99)], rel=0.02)


def test_what_never_happened_keeps_a_cdf_below_one() -> None:
    x, share = cdf(np.array([3.0, np.nan, 1.0, np.nan]))
    assert (x.tolist(), share.tolist()) == ([1.0, 3.0], [0.25, 0.5])
    assert not len(cdf(np.array([np.nan]))[0])


def test_curves_hold_the_delays_of_all_seeds_of_their_class() -> None:
    case = the_case()
    logs = [log for (policy, _), (log, _) in RUNS.items() if policy == "pecsched"]
    by_hand = np.concatenate([log.seconds("start") - log.seconds("arrival") for log in logs])
    is_long = np.concatenate([log.is_long for log in logs])
    np.testing.assert_array_equal(np.sort(case.delays["pecsched"]["short_queueing_delay"]), np.sort(by_hand[~is_long]))
    assert len(case.delays["pecsched"]["long_jct"]) == is_long.sum()
    assert np.isnan(case.delays["pecsched"]["long_jct"]).sum() == 3
    assert len(case.delays["pecsched"]["ttft"]) == len(is_long)


def test_figures_are_valid_plotly_figures_with_a_trace_for_each_policy() -> None:
    case = the_case()
    for figure in [*(cdf_figure(case, measure) for measure in MEASURES), pareto_figure(case)]:
        assert figure is not None
        go.Figure(figure)
        assert [trace["name"] for trace in figure["data"] if "policy" in trace["meta"]] == list(POLICIES)


def test_front_holds_what_nothing_beats_in_both() -> None:
    random = random_stream(0, "front")
    points = [(float(x), float(y)) for x, y in random.integers(0, 12, (60, 2))]
    front = [points[i] for i in pareto_front(points)]
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert set(front) == set(points) - beaten
    assert front == sorted(front)


def test_trade_off_shows_the_median_and_the_range_of_the_seeds() -> None:
    figure = pareto_figure(the_case())
    assert figure is not None
    point = next(trace for trace in figure["data"] if trace["name"] == "pecsched/PE")
    delays = sorted(row["short_queueing_delay_p99_s"] for row in ROWS if row["policy"] == "pecsched/PE")
    assert point["x"] == [delays[1]]
    assert point["error_x"]["array"] == pytest.approx([delays[2] - delays[1]])
    assert point["error_x"]["arrayminus"] == pytest.approx([delays[1] - delays[0]])
    assert point["meta"]["hollow"]


def test_a_policy_that_starves_longs_is_not_on_the_front_beside_those_that_serve_them() -> None:
    good, starving = dict(ROWS[0]), dict(ROWS[0])
    good |= {"policy": "good", "starved_fraction": 0.0, "long_jct_mean_s": 90.0, "short_queueing_delay_p99_s": 2.0}
    starving |= {
        "policy": "starving",
        "starved_fraction": 0.9,
        "long_jct_mean_s": 9.0,
        "short_queueing_delay_p99_s": 1.0,
    }
    figure = pareto_figure(read_cases([good, starving], None, None)[0])
    assert figure is not None
    assert figure["data"][0]["x"] == [2.0]


def test_without_longs_the_trade_off_is_of_all_requests() -> None:
    rows = [row | {"long_jct_mean_s": None, "starved_fraction": None} for row in ROWS]
    figure = pareto_figure(read_cases(rows, None, None)[0])
    assert figure is not None
    assert figure["data"][1]["y"] == [sorted(row["jct_mean_s"] for row in rows[:3])[1]]


def test_timelines_come_back_from_the_page_slice_by_slice() -> None:
    timeline = TIMELINES["pecsched"]
    payload = timeline_payload(timeline)
    assert payload["resolution_s"] == 0
    joined = timeline.fitted(len(timeline))[0]
    for replica in range(8):
        edges = np.cumsum(payload["slices"][replica]) * payload["tick_s"]
        here = joined.replica == replica
        np.testing.assert_allclose(edges[::2], joined.start_ps[here] / PS_PER_S, atol=payload["tick_s"])
        np.testing.assert_allclose(edges[1::2], joined.end_ps[here] / PS_PER_S, atol=payload["tick_s"])
        assert [int(kind) for kind in payload["kinds"][replica]] == joined.kind[here].tolist()
        assert payload["rows"][replica] == joined.row[here].tolist()


def test_a_long_timeline_is_merged_and_its_slices_still_do_not_overlap() -> None:
    n = 300_000
    random = random_stream(5, "long timeline")
    edges = np.cumsum(random.integers(1, 10**10, 2 * n))
    kind = random.integers(0, 3, n)
    timeline = Timeline(np.zeros(n), kind, edges[::2], edges[1::2], np.full(n, -1), n_replicas=2)
    payload = timeline_payload(timeline)
    assert sum(map(len, payload["kinds"])) <= MAX_SLICES
    assert min(payload["slices"][0]) >= 0
    shown = np.bincount([int(k) for k in payload["kinds"][0]], payload["slices"][0][1::2]) * payload["tick_s"]
    np.testing.assert_allclose(shown, timeline.seconds_by_kind()[0, :3], rtol=1e-3)


def test_shares_of_time_are_those_of_the_replicas() -> None:
    timeline = Timeline([0, 1], [0, 3], [0, 0], [6 * PS_PER_S, 10 * PS_PER_S], [-1, 4], n_replicas=2)
    np.testing.assert_allclose(shares_of_time(timeline), [0.3, 0, 0, 0.5, 0, 0, 0.2])


def test_table_marks_the_best_and_shows_the_range() -> None:
    table = results_html(the_case())
    values = {p: sorted(r["short_queueing_delay_p99_s"] for r in ROWS if r["policy"] == p) for p in POLICIES}
    best = min(values, key=lambda policy: values[policy][1])
    assert f'<b class="best" title="best of this column">{values[best][1]:.3g}</b>' in table
    for seeds in values.values():
        assert f"<small>{seeds[0]:.3g}–{seeds[2]:.3g}</small>" in table
    assert ("preemptions" in table) == any(row["preemptions"] for row in ROWS)
    Elements(table)


def test_paper_against_measured_divides_numbers_only() -> None:
    table = targets_html(
        [
            {"metric": "delay <with> longs", "paper": 10.0, "measured": 9.0, "note": "fitted"},
            {"metric": "throughput", "paper": "+42% to +318%", "measured": "+51%"},
            {"metric": "starved", "paper": 1.0, "measured": None, "note": None},
        ]
    )
    assert table.count("×") == 1
    assert "0.90×" in table
    assert "delay &lt;with&gt; longs" in table
    assert "–" in table


def test_definitions_are_those_of_the_metrics() -> None:
    definitions = definitions_html()
    for name in ("queueing delay", "TPOT", "starved fraction"):
        assert f"<dt>{name}</dt>" in definitions


def test_page_from_files_is_whole_small_and_loads_nothing(tmp_path: Path) -> None:
    rows, requests, timelines = report_files(tmp_path)
    targets = [{"metric": "m", "paper": 1, "measured": 2, "note": ""}]
    out = tmp_path / "report.html"
    write_report(rows, requests, out, title="A <title>", timelines=timelines, targets=targets, command="run & see")
    page = out.read_text()
    assert out.stat().st_size < 8e6
    elements = Elements(page)
    assert elements.open == []
    for tag, attributes in elements.found:
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes), f"<{tag}> loads something"
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(", page)
    assert "A &lt;title&gt;" in page
    assert "run &amp; see" in page
    assert "Paper against measured" in page
    (case,) = page_data(page)["cases"]
    assert case["policies"] == list(POLICIES)
    assert set(case["timelines"]) == set(POLICIES)
    assert case["timelines"]["pecsched"] == json.loads(json.dumps(timeline_payload(TIMELINES["pecsched"])))
    write_report(ROWS, LOGS, tmp_path / "again.html", timelines=TIMELINES)
    assert page_data((tmp_path / "again.html").read_text()) == page_data(page)


def test_several_workloads_become_tabs(tmp_path: Path) -> None:
    other = [row | {"workload": "burst"} for row in ROWS]
    write_report([*ROWS, *other], None, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    tabs = [attributes for tag, attributes in Elements(page).found if attributes.get("role") == "tab"]
    assert [tab["aria-selected"] for tab in tabs] == ["true", "false"]
    assert "burst, native" in page
    assert page.count("not recorded in this evaluation") == 4


@pytest.mark.parametrize(
    ("rows", "requests", "timelines", "message"),
    [
        ([], None, None, "at least one row"),
        ([*ROWS, ROWS[0] | {"model": "yi-34b"}], None, None, "of one model.*llama-3.1-70b, yi-34b"),
        (ROWS[:3], LOGS, None, "requests of pecsched/PE.*no row"),
        (ROWS[:3], None, TIMELINES, "timelines of pecsched/PE.*no row"),
        (ROWS, pa.table({"policy": ["a"]}), None, "no column workload"),
        ([ROWS[0], ROWS[0] | {"workload": "b"}], None, TIMELINES, "one workload and scenario"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    rows: Any, requests: Any, timelines: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PecGymError, match=message):
        write_report(rows, requests, tmp_path / "report.html", timelines=timelines)
    assert not list(tmp_path.iterdir())


def test_a_timeline_without_labels_is_named(tmp_path: Path) -> None:
    TIMELINES["pecsched"].save(tmp_path / "nameless.parquet")
    with pytest.raises(PecGymError, match=r"nameless\.parquet: not a timeline with labels, it has no 'policy'"):
        read_cases(ROWS, None, tmp_path)
