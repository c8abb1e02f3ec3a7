"""The queues of requests against a sorted list: pushes, pops, takes from the middle, and looks at the first."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pecgym.engine import queues
from pecgym.engine.state import NONE, REQUEST
from tests.engine.checker import columns, queue_slots


@numba.njit
def _push(requests: Any, root: int, slot: int, key: int, sequence: int) -> Any:
    return queues.queue_push(requests, root, slot, key, sequence)


@numba.njit
def _pop(requests: Any, root: int) -> Any:
    return queues.queue_pop(requests, root)


@numba.njit
def _take(requests: Any, root: int, k: int) -> Any:
    return queues.queue_take(requests, root, k)


@numba.njit
def _first(requests: Any, root: int, out: Any, n: int) -> Any:
    return queues.queue_first(requests, root, out, n)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "push", "pop", "take", "first"]), st.integers(0, 5), st.integers(0, 40)),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS)
def test_a_queue_is_a_sorted_list(operations: list[tuple[str, int, int]]) -> None:
    """Entries are (key, sequence, slot); equal keys stay in order of their sequence."""
    requests: Any = np.zeros(80, REQUEST).view(np.recarray)
    free, model, root, sequence = list(range(80)), [], NONE, 0
    for operation, key, k in operations:
        if operation == "push":
            slot, sequence = free.pop((7 * sequence) % len(free)), sequence + 1
            root = _push(requests, root, slot, key, sequence)
            model = sorted([*model, (key, sequence, slot)])
        elif model and operation == "pop":
            assert root == model[0][2]
            free.append(model.pop(0)[2])
            root = _pop(requests, root)
        elif model and operation == "take":
            taken, root = _take(requests, root, k % len(model))
            assert taken == model.pop(k % (len(model)))[2]
            free.append(taken)
        elif operation == "first":
            out = np.full(50, -9)
            count, root = _first(requests, root, out, k)
            assert count == min(k, len(model))
            assert out[:count].tolist() == [slot for _, _, slot in model[:count]]
            assert np.all(out[count:] == -9)
        assert sorted(queue_slots(columns(requests), root)) == sorted(slot for _, _, slot in model)
        assert root == (model[0][2] if model else NONE)
