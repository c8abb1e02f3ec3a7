"""What learned predictors need beside the base install."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

from pecgym.errors import SpecError

P = ParamSpec("P")
T = TypeVar("T")


def require_sklearn() -> None:
    """Raises SpecError, naming the extra, where scikit-learn or skops is not installed."""
    absent = [name for name in ("sklearn", "skops") if importlib.util.find_spec(name) is None]
    if absent:
        raise SpecError(f"a learned predictor needs {' and '.join(absent)}: pip install -e '.[predict]'")


def one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Runs a function of scikit-learn's trees on one thread: more lose, as a tree of thousands of rows is done before
    threads have met, and on a busy machine wait for one another."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with _threads().limit(limits=1, user_api="openmp"):
            return function(*args, **kwargs)

    return run


@cache
def _threads() -> Any:
    """The thread pools of this process, found once, when scikit-learn's are there: the search takes milliseconds."""
    import sklearn.ensemble  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
