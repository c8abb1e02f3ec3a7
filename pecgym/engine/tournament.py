"""The least key of an array in O(log n) per change: a tournament tree of indices, ties to the lowest index."""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule


@rule
def update_key(keys: Any, tree: Any, index: int, key: int) -> None:
    """Sets keys[index] and replays its matches. keys: int64[P], tree: int64[2P], P a power of two; tree[1] wins."""
    keys[index] = key
    node = (len(keys) + index) >> 1
    while node >= 1:
        left = tree[2 * node]
        right = tree[2 * node + 1]
        if keys[right] < keys[left]:
            tree[node] = right
        else:
            tree[node] = left
        node >>= 1
