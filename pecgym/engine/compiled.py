"""How rules are compiled, and where compiled code is kept.

numba's cache does not notice edits in other modules, so the cache folder is named by a hash of every source that can
be compiled into the kernel, of numba's and NumPy's versions and of the processor's kind.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import platformdirs

F = TypeVar("F", bound=Callable[..., Any])

# Rules allocate nothing, so numba's reference counting (most of the running time otherwise) is off.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
# Rules are called by compiled code only: no wrappers for Python and C, which would double the time of compilation.
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_PACKAGE = Path(__file__).resolve().parent.parent


def rule(function: F) -> F:
    """Compiles a small rule of the engine, which the compiler inlines wherever it is applied."""
    compiled: F = numba.njit(forceinline=True, **_INNER, **_OPTIONS)(function)
    return compiled


def glue(function: F) -> F:
    """Compiles a rule with one caller as a part of that caller, so that what it contains is not optimised twice."""
    compiled: F = numba.njit(inline="always", **_INNER, **_OPTIONS)(function)
    return compiled


def separate_rule(function: F) -> F:
    """Compiles a rule as a function of its own: a large or seldom applied one, which would compile slowly inlined."""
    compiled: F = numba.njit(**_INNER, **_OPTIONS)(function)
    return compiled


def question(function: F) -> F:
    """Compiles a rule that policies apply: a compiled policy in its own code, a Python policy by an ordinary call."""
    compiled: F = numba.njit(**_OPTIONS)(function)
    return compiled


def compile_cached(
    function: Callable[..., Any], signature: Any, announced_as: str = "", takes: str = "about half a minute"
) -> Any:
    """Compiles `function` for one signature, or loads it from the cache.

    announced_as: what a line on stderr says is being compiled, the first time; empty for what takes a second or two.
    takes: how long that line says it takes.
    """
    folder = cache_folder(function.__module__ or "")  # None: typed into an interpreter
    marker = folder / f"{function.__module__}.{function.__qualname__}.compiled"
    first_time = announced_as != "" and not marker.exists() and not numba.config.DISABLE_JIT
    if first_time:
        print(
            f"pecgym: compiling {announced_as}, once per installation: {takes} ...",
            file=sys.stderr,
            flush=True,
        )
    with _numba_config(CACHE_DIR=str(folder), LOOP_VECTORIZE=0):
        compiled = numba.njit(signature, cache=_cache_can_be_trusted(function), **_OPTIONS)(function)
    if first_time:
        marker.touch()
    return compiled


@contextmanager
def _numba_config(**values: Any) -> Iterator[None]:
    """numba's configuration, changed for a while. Rules have no loops worth vectorising: to try takes half the time of
    a compilation."""
    previous = {name: getattr(numba.config, name) for name in values}
    try:
        for name, value in values.items():
            setattr(numba.config, name, value)
        yield
    finally:
        for name, value in previous.items():
            setattr(numba.config, name, value)


def _cache_can_be_trusted(function: Callable[..., Any]) -> bool:
    """Whether the cache notices when the function, or a module that it imports from, changes: only in the package."""
    return Path(function.__code__.co_filename).resolve().is_relative_to(_PACKAGE)


def cache_folder(module: str = "pecgym.engine") -> Path:
    """Where this version's compiled code of a module is: under $PECGYM_CACHE_DIR, else the user's cache, else a
    temporary one."""
    of_environments = ("envs", "costs/energy.py") if module.startswith("pecgym.envs") else ()
    return _cache_folder(("engine", "policies", *of_environments))


@cache
def _cache_folder(sources: tuple[str, ...]) -> Path:
    base = os.environ.get("PECGYM_CACHE_DIR") or platformdirs.user_cache_dir("pecgym")
    for candidate in (
        Path(base),
        Path(tempfile.gettempdir()) / f"pecgym-{os.getuid() if hasattr(os, 'getuid') else 0}",
    ):
        folder = candidate / "kernels" / _sources_hash(sources)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise OSError(f"no folder to keep compiled code in: tried {base} and the temporary folder; set PECGYM_CACHE_DIR")


def _sources_hash(sources: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        root = _PACKAGE / source
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    for part in (numba.__version__, np.__version__, platform.machine(), platform.python_version()):
        digest.update(part.encode())
    return digest.hexdigest()[:16]
