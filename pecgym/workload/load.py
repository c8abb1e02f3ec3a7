"""One door to every trace: a file, an embedded workload or a public trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pecgym.errors import TraceError
from pecgym.workload.fetch import REGISTRY, cached_trace, trace_path
from pecgym.workload.generator import generate, generator_names, is_generator_name
from pecgym.workload.readers import read_trace
from pecgym.workload.trace import Trace


def load_trace(path_or_name: str | Path, **options: Any) -> Trace:
    """A trace by name or path; a Path, and a string that is no known name, is a file.

    | given | what happens | options |
    |---|---|---|
    | "azure2023_conv", "azure2023_conv+azure2023_code", ... | the embedded generator makes it | of generate() |
    | "azure2023_conv_trace", ... | the public trace is read from where fetch_trace() puts it | of the format's reader |
    | a path | the file is read, its format recognised from its first bytes | of the format's reader |

    Raises TraceError where nothing fits, listing what would.
    """
    if isinstance(path_or_name, str):
        if is_generator_name(path_or_name):
            return generate(path_or_name, **options)
        if path_or_name in REGISTRY:
            path = cached_trace(path_or_name)
            if path is None:
                raise TraceError(
                    f"{path_or_name} is not at {trace_path(path_or_name)}; fetch it with "
                    f"`python scripts/fetch_traces.py {path_or_name}`, or place the file there"
                )
            return read_trace(path, **options)
    path = Path(path_or_name)
    if not path.exists():
        raise TraceError(
            f"{path_or_name} is neither a file, nor an embedded workload ({', '.join(generator_names())}), nor a "
            f"public trace ({', '.join(REGISTRY)}); check the path or name"
        )
    return read_trace(path, **options)
