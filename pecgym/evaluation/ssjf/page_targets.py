"""The sections of the page on SSJF's own setting: its cases, and every policy on it."""

from __future__ import annotations

from collections.abc import Sequence

from pecgym.evaluation.ssjf.changes import Value, mean_value, relative_change
from pecgym.evaluation.ssjf.page_text import accuracy_of, said, say, say_if, table
from pecgym.evaluation.ssjf.study import Found
from pecgym.evaluation.ssjf.targets import MEASURES, Measure, claims, target

GUARDED = "ssjf"
COLUMNS = (
    ("JCT mean, s", "jct_mean_s"),
    ("JCT p99, s", "jct_p99_s"),
    ("slowdown mean", "slowdown_mean"),
    ("slowdown p99", "slowdown_p99"),
    ("TTFT mean, s", "ttft_mean_s"),
    ("TTFT p99, s", "ttft_p99_s"),
)


def change(found: Found, policy: str, metric: str) -> Value:
    """A policy's metric against that of FIFO on the same requests."""
    return relative_change(found.rows[policy], found.rows["fifo"], metric)


def targets_section(cases: Sequence[Found], link: str, is_shipped: bool) -> str:
    """The target table; link: to its picture. is_shipped: of what is true of the shipped settings alone."""
    guard = GUARDED in cases[0].rows
    drains = [found for found in cases if not found.case.key.startswith("steady")]
    claimed = claims()
    numbers = _numbers(cases)
    return say(
        "targets",
        runs=len(cases[0].case.cells),
        predictor=cases[0].case.predictor,
        accuracy=_accuracy(cases),
        link=link,
        table=_table(cases),
        guard=say("guard", table=_guard(cases), meaning=say_if(is_shipped, "guard_meaning", **numbers))
        if guard
        else "",
        claims=say(
            "claims",
            jct=f"{-claimed['jct'][1]:.1%} to {-claimed['jct'][0]:.1%}",
            throughput="{:g}x to {:g}x".format(*claimed["throughput"]),
            gains=_range(drains, MEASURES[1]),
            quarter=_range(drains, MEASURES[2]),
            full=_range(drains, MEASURES[3]),
            meaning=say_if(is_shipped, "claims_meaning", **numbers),
        ),
        meaning=say_if(is_shipped, "targets_meaning", **numbers, **_apart(cases)),
    )


def _numbers(cases: Sequence[Found]) -> dict[str, str]:
    """Every figure of the table for sentences, as case_measure: `steady_095_p99`; with the guard `..._guarded`."""
    found = {}
    for each in cases:
        case = each.case.key.replace("-", "_").replace(".", "")
        for measure in MEASURES:
            found[f"{case}_{measure.key}"] = _plain(each, measure, measure.policy)
            if GUARDED in each.rows:
                found[f"{case}_{measure.key}_guarded"] = _plain(each, measure, GUARDED)
    return found


def _plain(found: Found, measure: Measure, policy: str) -> str:
    return measure.show(change(found, policy, measure.metric).value, 2 if measure.is_ratio else 0)


def _apart(cases: Sequence[Found]) -> dict[str, str]:
    """How far the mean completion times are from those of the re-implementation at most, in points, by kind of case."""
    most: dict[str, float] = {}
    for found in cases:
        kind = {"static": "static", "steady": "steady"}.get(found.case.key.partition("-")[0], "drain")
        for measure in MEASURES[:2]:
            wanted = target(found.case.key, measure.key)
            if wanted is not None:
                away = abs(change(found, measure.policy, measure.metric).value - wanted)
                key = f"{kind}_{measure.policy}_apart"
                most[key] = max(most.get(key, 0.0), away)
    return {key: f"{100 * away:.1f}" for key, away in most.items()}


def _range(cases: Sequence[Found], measure: Measure) -> str:
    values = [change(found, measure.policy, measure.metric).value for found in cases]
    ends = sorted(values, key=abs) if not measure.is_ratio else sorted(values)
    return f"{measure.show(ends[0])} to {measure.show(ends[-1])}"


def _accuracy(cases: Sequence[Found]) -> str:
    tau, mae, same, near, calibration = accuracy_of([row for found in cases for row in found.accuracy])
    return say("accuracy", tau=tau, mae=mae, same=same, near=near, calibration=calibration).strip()


def _table(cases: Sequence[Found]) -> str:
    head = ["case", *(heading for m in MEASURES for heading in (m.heading, "re-impl."))]
    return table(head, [[found.case.title, *(cell for m in MEASURES for cell in _pair(found, m))] for found in cases])


def _pair(found: Found, measure: Measure) -> tuple[str, str]:
    """What was measured, with its interval, and what the re-implementation gave."""
    wanted = target(found.case.key, measure.key)
    measured = said(change(found, measure.policy, measure.metric), measure.show)
    return measured, "–" if wanted is None else measure.show(wanted)


def _guard(cases: Sequence[Found]) -> str:
    lines = []
    for found in cases:
        cells = [
            said(change(found, policy, measure.metric), measure.show)
            for measure in MEASURES[1:]
            for policy in ("spjf", GUARDED)
        ]
        lines.append((found.case.title, *cells))
    head = ["case", *(f"{m.heading}{which}" for m in MEASURES[1:] for which in (", no guard", ", guard"))]
    return table(head, lines)


def policies_section(cases: Sequence[Found], is_shipped: bool) -> str:
    """Every policy on the same requests."""
    parts = []
    for found in cases:
        lines = []
        for policy, rows in found.rows.items():
            gain = "–" if policy == "fifo" else said(change(found, policy, "jct_mean_s"))
            lines.append((f"`{policy}`", gain, *(_number(mean_value(rows, key).value) for _, key in COLUMNS)))
        head = ("policy", "JCT mean against `fifo`", *(heading for heading, _ in COLUMNS))
        title = found.case.title[0].upper() + found.case.title[1:]
        parts.append(f"### {title}\n\n{table(head, lines)}")
    first = cases[0]
    return say(
        "policies",
        runs=len(first.case.cells),
        jobs=f"{next(iter(first.rows.values()))[0]['n_requests']:,}",
        predictor=first.case.predictor,
        accuracy=_accuracy(cases),
        tables="\n\n".join(parts),
        meaning=say_if(is_shipped, "policies_meaning", **_of_policies(cases)),
    )


def _of_policies(cases: Sequence[Found]) -> dict[str, str]:
    """Changes against FIFO for sentences, as batching_arrivals_policy: of the mean; `..._p99` and `..._ttft`."""
    return {
        f"{found.case.key.replace('-', '_')}_{policy}{suffix}": f"{change(found, policy, metric).value:+.0%}"
        for found in cases
        for policy in found.rows
        for suffix, metric in (("", "jct_mean_s"), ("_p99", "jct_p99_s"), ("_ttft", "ttft_mean_s"))
    }


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
