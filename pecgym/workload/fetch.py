"""Public traces: where each comes from, and a download that is checked or leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from pecgym.errors import TraceError

DATA_VARIABLE = "PECGYM_DATA"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class PublicTrace:
    """A published trace file. `sha256` is None where no checksum is known: what is fetched is then unverified."""

    url: str
    sha256: str | None
    licence: str
    cite: str

    @property
    def file_name(self) -> str:
        return urlparse(self.url).path.rsplit("/", 1)[-1]


_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data"
_AZURE_2024 = "https://github.com/Azure/AzurePublicDataset/releases/download/dataset-llm-2024"
_SPLITWISE = "Patel et al., Splitwise, ISCA 2024"
_DYNAMOLLM = "Stojkovic et al., DynamoLLM, HPCA 2025"

REGISTRY: Mapping[str, PublicTrace] = {
    "azure2023_conv_trace": PublicTrace(
        f"{_AZURE}/AzureLLMInferenceTrace_conv.csv",
        "2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        "CC BY 4.0",
        _SPLITWISE,
    ),
    "azure2023_code_trace": PublicTrace(
        f"{_AZURE}/AzureLLMInferenceTrace_code.csv",
        "54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        "CC BY 4.0",
        _SPLITWISE,
    ),
    "azure2024_conv_trace": PublicTrace(
        f"{_AZURE_2024}/AzureLLMInferenceTrace_conv_1week.csv", None, "CC BY 4.0", _DYNAMOLLM
    ),
    "azure2024_code_trace": PublicTrace(
        f"{_AZURE_2024}/AzureLLMInferenceTrace_code_1week.csv",
        "71de5c55cbc35f8f1ed0b6b7806b4cd1e9764b0058469725a6aac98023a1448f",
        "CC BY 4.0",
        _DYNAMOLLM,
    ),
    "mooncake_conv_trace": PublicTrace(
        "https://raw.githubusercontent.com/kvcache-ai/Mooncake/a2a4b18ac537fd798d50e6e9f57031ce86419a37"
        "/FAST25-release/traces/conversation_trace.jsonl",
        None,
        "Apache-2.0",
        "Qin et al., Mooncake, FAST 2025",
    ),
    # The repository keeps this file in Git LFS: `raw` redirects to the data, and the checksum is the LFS object's.
    "burstgpt_trace": PublicTrace(
        "https://github.com/HPMLL/BurstGPT/raw/5d93d820d9b6bee4e26914df003e5713538164ae/data/BurstGPT_1.csv",
        "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122",
        "CC BY 4.0",
        "Wang et al., BurstGPT, KDD 2025",
    ),
}


def data_folder(folder: str | Path | None = None) -> Path:
    """Where traces are kept: `folder`, else the environment's PECGYM_DATA, else the system's cache folder."""
    import pooch

    return Path(folder or os.environ.get(DATA_VARIABLE) or pooch.os_cache("pecgym")).expanduser()


def trace_path(name: str, folder: str | Path | None = None, registry: Mapping[str, PublicTrace] = REGISTRY) -> Path:
    """Where the file of a public trace is looked for, whether it is there or not. TraceError for an unknown name."""
    if name not in registry:
        raise TraceError(f"no public trace {name!r}; there are {', '.join(registry)}")
    return data_folder(folder) / registry[name].file_name


def cached_trace(
    name: str, folder: str | Path | None = None, registry: Mapping[str, PublicTrace] = REGISTRY
) -> Path | None:
    """The file of a public trace if it is there, its checksum verified where one is known; None if it is not.

    Raises TraceError where the file is another one than the registry's; it is left alone.
    """
    path = trace_path(name, folder, registry)
    if not path.exists():
        return None
    known = registry[name].sha256
    if known is not None and (found := sha256_of(path)) != known:
        raise TraceError(f"{path} is not {name}: its sha256 is {found}, not {known}; remove it and fetch it again")
    return path


def fetch_trace(
    name: str,
    folder: str | Path | None = None,
    registry: Mapping[str, PublicTrace] = REGISTRY,
    *,
    progress: bool = False,
) -> Path:
    """The verified file of a public trace, downloaded if it is not there yet.

    The file appears under its name only when it is complete and its checksum right. Raises TraceError, one line that
    names the path for a file placed by hand, where the download fails.
    """
    present = cached_trace(name, folder, registry)
    if present is not None:
        return present
    import pooch
    import requests

    from pecgym.workload.download_bar import DownloadBar

    entry, path = registry[name], trace_path(name, folder, registry)
    # Pooch tells of every download and unknown checksum by itself; here the caller decides what is said.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")
    bar = DownloadBar(name) if progress else None
    try:
        pooch.retrieve(
            entry.url,
            known_hash=None if entry.sha256 is None else f"sha256:{entry.sha256}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar, timeout=_TIMEOUT_S),
        )
    except (requests.RequestException, OSError, ValueError) as error:
        raise TraceError(
            f"cannot download {name} from {entry.url} ({_reason(error, entry.url)}); "
            f"get the file another way, place it at {path} and try again"
        ) from error
    finally:
        logger.setLevel(level)
        if bar is not None:
            bar.close()
    return path


def sha256_of(path: Path) -> str:
    """The sha256 checksum of a file, in hexadecimal."""
    import pooch

    return str(pooch.file_hash(str(path)))


def _reason(error: Exception, url: str) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no connection to {urlparse(url).netloc}"
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return "the checksum of what came is wrong"
    return " ".join(str(error).split())
