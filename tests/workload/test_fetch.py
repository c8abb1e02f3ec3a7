"""Fetching from a local server: nothing half-written, one line without a network, hand-placed files verified."""

from __future__ import annotations

import hashlib
import importlib.util
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

from pecgym.errors import TraceError
from pecgym.workload import REGISTRY, PublicTrace, cached_trace, fetch_trace, load_trace
from pecgym.workload.download_bar import DownloadBar
from pecgym.workload.fetch import sha256_of
from tests.conftest import REPOSITORY, shared_file

CONTENT = b"arrival_s,input_tokens,output_tokens\n" + b"1,2,3\n" * 50_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SCRIPT = REPOSITORY / "scripts" / "fetch_traces.py"


class Handler(BaseHTTPRequestHandler):
    """Serves /good.csv whole, breaks off in the middle of /cut.csv, answers 404 to the rest."""

    def do_GET(self) -> None:
        if self.path not in ("/good.csv", "/cut.csv", "/other.csv"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path != "/cut.csv" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture
def registry(server: str) -> Mapping[str, PublicTrace]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed_port = free.getsockname()[1]
    return {
        "good": PublicTrace(f"{server}/good.csv", SHA256, "CC0", "nobody"),
        "unverified": PublicTrace(f"{server}/other.csv", None, "CC0", "nobody"),
        "wrong": PublicTrace(f"{server}/good.csv", "0" * 64, "CC0", "nobody"),
        "cut": PublicTrace(f"{server}/cut.csv", None, "CC0", "nobody"),
        "gone": PublicTrace(f"{server}/gone.csv", SHA256, "CC0", "nobody"),
        "offline": PublicTrace(f"http://127.0.0.1:{closed_port}/off.csv", SHA256, "CC0", "nobody"),
    }


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_traces", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_download_and_use_again(registry: Mapping[str, PublicTrace], tmp_path: Path) -> None:
    assert cached_trace("good", tmp_path, registry) is None
    path = fetch_trace("good", tmp_path / "new" / "folder", registry)
    assert path.read_bytes() == CONTENT
    assert cached_trace("good", tmp_path / "new" / "folder", registry) == path
    before = path.stat().st_mtime_ns
    assert fetch_trace("good", tmp_path / "new" / "folder", registry).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "reason"),
    [("wrong", "checksum"), ("cut", "broke off"), ("gone", "404"), ("offline", "no connection to 127.0.0.1")],
)
def test_failure_is_one_line_and_leaves_nothing(
    name: str,
    reason: str,
    registry: Mapping[str, PublicTrace],
    tmp_path: Path,
    script: ModuleType,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(TraceError, match=reason) as caught:
        fetch_trace(name, tmp_path, registry)
    assert str(tmp_path / registry[name].file_name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    capfd.readouterr()
    assert script.main([name, "--dir", str(tmp_path)], registry) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"fetch_traces: {caught.value}\n"
    assert list(tmp_path.iterdir()) == []


def test_script_reports(
    registry: Mapping[str, PublicTrace], tmp_path: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["good", "unverified", "--dir", str(tmp_path)], registry) == 0
    out = capsys.readouterr().out
    assert f"good: {tmp_path / 'good.csv'} (verified)" in out
    assert f"unverified: {tmp_path / 'other.csv'} (unverified, no checksum is known; sha256 {SHA256})" in out
    assert script.main(["--list", "--dir", str(tmp_path)], registry) == 0
    out = capsys.readouterr().out
    assert f"good: present, {tmp_path / 'good.csv'}" in out
    assert f"offline: not fetched, {tmp_path / 'off.csv'}" in out
    with pytest.raises(SystemExit) as caught:
        script.main([], registry)
    assert caught.value.code == 2
    assert script.main(["unknown", "--dir", str(tmp_path)], registry) == 1


def test_an_interrupt_leaves_nothing(
    registry: Mapping[str, PublicTrace],
    tmp_path: Path,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    received_bytes = []

    def interrupt(_: DownloadBar, more_bytes: int) -> None:
        received_bytes.append(more_bytes)
        raise KeyboardInterrupt

    monkeypatch.setattr(DownloadBar, "update", interrupt)
    assert script.main(["good", "--dir", str(tmp_path)], registry) == 130
    assert 0 < sum(received_bytes) < len(CONTENT)
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_placed_by_hand_is_verified(registry: Mapping[str, PublicTrace], tmp_path: Path) -> None:
    path = tmp_path / "off.csv"
    path.write_bytes(CONTENT)
    assert fetch_trace("offline", tmp_path, registry) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(TraceError, match=r"off\.csv is not offline: its sha256"):
        fetch_trace("offline", tmp_path, registry)
    assert path.read_bytes() == CONTENT[:-1]


def test_command_without_a_network(tmp_path: Path) -> None:
    # A proxy on a closed port cuts the process off from every host.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "azure2023_conv_trace"],
        env={
            "PECGYM_DATA": str(tmp_path),
            "PYTHONPATH": str(REPOSITORY),
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert str(tmp_path / "AzureLLMInferenceTrace_conv.csv") in result.stderr
    assert "no connection to raw.githubusercontent.com" in result.stderr


def test_public_traces_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PECGYM_DATA", str(tmp_path))
    with pytest.raises(TraceError, match=r"fetch_traces\.py azure2023_code_trace"):
        load_trace("azure2023_code_trace")
    real = shared_file("traces/azure2023/AzureLLMInferenceTrace_code.csv")
    (tmp_path / real.name).write_bytes(real.read_bytes())
    assert load_trace("azure2023_code_trace").equals(load_trace(real))


@pytest.mark.parametrize("kind", ["conv", "code"])
def test_checksums_are_those_of_the_published_files(kind: str) -> None:
    path = shared_file(f"traces/azure2023/AzureLLMInferenceTrace_{kind}.csv")
    assert sha256_of(path) == REGISTRY[f"azure2023_{kind}_trace"].sha256


def test_registry_is_complete() -> None:
    for entry in REGISTRY.values():
        assert entry.url.startswith("https://")
        assert entry.sha256 is None or len(entry.sha256) == 64
        assert entry.licence in ("CC BY 4.0", "Apache-2.0")
        assert "," in entry.cite
    assert len({entry.file_name for entry in REGISTRY.values()}) == len(REGISTRY)
