"""Downloads public traces, checked, into the folder where PecGym looks for them.

    python scripts/fetch_traces.py --list
    python scripts/fetch_traces.py azure2023_conv_trace azure2023_code_trace
    python scripts/fetch_traces.py --all --dir data

A file placed by hand where --list shows it is verified and used. Without a network: one line on stderr, exit status 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pecgym.errors import TraceError
from pecgym.workload.fetch import DATA_VARIABLE, REGISTRY, PublicTrace, fetch_trace, sha256_of, trace_path


def list_traces(folder: Path | None, registry: Mapping[str, PublicTrace]) -> None:
    """Prints every public trace: whether its file is there, where, and under what terms."""
    for name, entry in registry.items():
        path = trace_path(name, folder, registry)
        print(f"{name}: {'present' if path.exists() else 'not fetched'}, {path}")
        print(f"    {entry.licence}; cite {entry.cite}")
        print(f"    {entry.url}")
        print(f"    sha256 {entry.sha256 or 'not published: the file cannot be verified'}")


def fetch_and_report(name: str, folder: Path | None, registry: Mapping[str, PublicTrace]) -> None:
    """Fetches one trace and prints where it is; the checksum too, where it could not be verified."""
    path = fetch_trace(name, folder, registry, progress=True)
    checked = "verified" if registry[name].sha256 else f"unverified, no checksum is known; sha256 {sha256_of(path)}"
    print(f"{name}: {path} ({checked})")


def main(arguments: Sequence[str] | None = None, registry: Mapping[str, PublicTrace] = REGISTRY) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Download public LLM request traces.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(registry)}")
    parser.add_argument("--all", action="store_true", help="fetch every trace (about 2 GB)")
    parser.add_argument("--list", action="store_true", help="show the traces, their terms and where they are")
    parser.add_argument("--dir", type=Path, help=f"folder to use instead of ${DATA_VARIABLE} or the cache folder")
    given = parser.parse_args(arguments)
    if given.list:
        list_traces(given.dir, registry)
        return 0
    names = list(registry) if given.all else given.names
    if not names:
        parser.error("name at least one trace, or give --all or --list")
    try:
        for name in names:
            fetch_and_report(name, given.dir, registry)
    except TraceError as error:
        print(f"fetch_traces: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fetch_traces: interrupted; nothing of the file under way was kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
