"""The report in a real browser, opened from disk: figures drawn, controls at work, no errors, nothing loaded.

Needs Chromium or Chrome on the PATH; `make test-browser` runs it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pecgym.analysis.report import write_report
from tests.analysis.test_report import LOGS, POLICIES, ROWS, TIMELINES

pytestmark = pytest.mark.browser
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = Path(__file__).resolve().parent
INJECTED = """<script>
const look = () => { SCRIPT };
const whenReady = () => {
  if (!document.body.dataset.ready) return setTimeout(whenReady, 20);
  const result = Object.assign(document.createElement("pre"), { id: "result", textContent: JSON.stringify(look()) });
  document.body.append(result);
};
whenReady();
</script>"""


@dataclass(frozen=True)
class Visit:
    """What a browser made of a page.

    result: what the injected script returned. console: messages, also of every request that the page's policy refused.
    """

    result: Any
    console: list[str]


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(NAMES)} on the PATH")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    other = [row | {"workload": "burst", "long_jct_mean_s": None} for row in ROWS]
    targets = [{"metric": "p99", "paper": 2.0, "measured": 1.8, "note": ""}]
    write_report([*ROWS, *other], LOGS, path, timelines=_folder(path.parent), targets=targets)
    return path


def _folder(parent: Path) -> Path:
    folder = parent / "timelines"
    folder.mkdir()
    for number, (policy, timeline) in enumerate(TIMELINES.items()):
        log = next(log for log in LOGS if log.facts.labels["policy"] == policy)
        timeline.save(folder / f"{number}.parquet", **log.facts.labels)
    return folder


def run_browser(browser: str, page: Path, tmp_path: Path, *options: str) -> tuple[str, list[str]]:
    """Opens a page and returns what was printed and the console's messages."""
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    done = subprocess.run([*command, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def visit(browser: str, report: Path, tmp_path: Path, script: str, *options: str) -> Visit:
    """Opens a copy of the report that runs `script`, the body of a function, when it is ready."""
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", INJECTED.replace("SCRIPT", script) + "</body>"))
    dom, console = run_browser(browser, page, tmp_path, "--dump-dom", *options)
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert found, f"the page did not become ready: {console}"
    return Visit(json.loads(unescape(found[1])), console)


def test_everything_is_drawn_without_errors_or_requests(browser: str, report: Path, tmp_path: Path) -> None:
    seen = visit(
        browser,
        report,
        tmp_path,
        (HERE / "drawn.js").read_text(),
        "--window-size=1600,1200",
    )
    assert seen.console == []
    assert seen.result["resources"] == []
    traces = {name: (n_traces, n_marks) for name, n_traces, n_marks in seen.result["plots"]}
    assert traces["pareto"] == (len(POLICIES) + 1, len(POLICIES) + 1)
    for name in ("short_queueing_delay", "ttft", "long_jct"):
        assert traces[name] == (len(POLICIES), len(POLICIES))
    shown = [sum(map(len, payload)) for payload in ([line.kind.tolist()] for line in TIMELINES.values())]
    for (drawn, colours, width), n_slices in zip(seen.result["canvases"], shown, strict=True):
        assert 0.5 * n_slices < drawn <= n_slices
        assert colours >= 6
        assert width > 1200
    assert seen.result["wider"] <= 0


def test_a_request_would_be_refused_and_noticed(browser: str, report: Path, tmp_path: Path) -> None:
    script = 'document.body.append(Object.assign(new Image(), { src: "https://example.invalid/a.png" })); return true;'
    seen = visit(browser, report, tmp_path, script)
    assert len(seen.console) == 1
    assert "Content Security Policy" in seen.console[0]


def test_controls_sort_zoom_hide_and_change_what_is_shown(browser: str, report: Path, tmp_path: Path) -> None:
    seen = visit(
        browser,
        report,
        tmp_path,
        (HERE / "controls.js").read_text(),
        "--window-size=900,1200",
    )
    assert seen.console == []
    result = seen.result
    medians = {p: sorted(r["short_queueing_delay_p99_s"] for r in ROWS if r["policy"] == p)[1] for p in POLICIES}
    assert result["sorted"] == [sorted(POLICIES, key=medians.__getitem__, reverse=down) for down in (False, True)]
    inside = [len(timeline.between(20.0, 40.0)) for timeline in TIMELINES.values()]
    assert all(0.5 * n < drawn <= n for drawn, n in zip(result["zoomed"], inside, strict=True))
    assert all(few < many for few, many in zip(result["zoomed"], result["all"], strict=True))
    assert result["tip"].startswith("replica 0, 30.0")
    assert result["dragged"] == pytest.approx([25.0, 30.0], abs=0.1)
    assert (result["single"], result["lines"], result["tail"]) == (1, len(POLICIES) - 1, "log")
    assert result["cases"] == [False, True]
    assert result["themes"][0] != result["themes"][1]


@pytest.mark.parametrize("width", [900, 1600])
def test_screenshots_fill_the_page(browser: str, report: Path, tmp_path: Path, width: int) -> None:
    picture = tmp_path / "page.png"
    _, console = run_browser(browser, report, tmp_path, f"--screenshot={picture}", f"--window-size={width},2600")
    assert console == []
    with Image.open(picture) as image:
        assert image.size == (width, 2600)
        bands = [image.convert("RGB").crop((0, top, width, top + 325)) for top in range(0, 2600, 325)]
    assert all(len(band.getcolors(1 << 22) or []) > 20 for band in bands)


def test_print_gives_a_pdf(browser: str, report: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    _, console = run_browser(browser, report, tmp_path, f"--print-to-pdf={target}")
    assert console == []
    assert target.read_bytes().startswith(b"%PDF")
    assert target.stat().st_size > 50_000
