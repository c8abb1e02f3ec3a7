"""Priority queues of requests: intrusive pairing heaps ordered by (key, sequence), linked through the request table.

A queue is the slot of its first request (NONE if empty), so any number of queues live in one table without memory
of their own. A request is in one queue at a time. Push is O(1), pop O(log n) amortised. Order is total: sequence
numbers differ. Fredman et al., "The pairing heap", Algorithmica 1986.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.state import NONE


@rule
def _meld(requests: Any, a: int, b: int) -> int:
    """Joins two heaps whose roots have no siblings; the later root becomes the first child of the earlier."""
    if a == NONE:
        return b
    if b == NONE:
        return a
    if requests[b].key < requests[a].key or (
        requests[b].key == requests[a].key and requests[b].sequence < requests[a].sequence
    ):
        first, second = b, a
    else:
        first, second = a, b
    requests[second].sibling = requests[first].child
    requests[first].child = second
    return first


@rule
def queue_push(requests: Any, root: int, slot: int, key: int, sequence: int) -> int:
    """Adds the request `slot`; returns the queue's new root."""
    q = requests[slot]
    q.key = key
    q.sequence = sequence
    q.child = NONE
    q.sibling = NONE
    return _meld(requests, root, slot)


@rule
def queue_pop(requests: Any, root: int) -> int:
    """Removes the first request, which is `root` itself; returns the queue's new root."""
    pairs = NONE
    node = requests[root].child
    while node != NONE:
        other = requests[node].sibling
        requests[node].sibling = NONE
        following = NONE
        if other != NONE:
            following = requests[other].sibling
            requests[other].sibling = NONE
        pair = _meld(requests, node, other)
        requests[pair].sibling = pairs
        pairs = pair
        node = following
    new_root = NONE
    while pairs != NONE:
        following = requests[pairs].sibling
        requests[pairs].sibling = NONE
        new_root = _meld(requests, new_root, pairs)
        pairs = following
    requests[root].child = NONE
    return new_root


@rule
def queue_unlink(requests: Any, root: int) -> int:
    """The requests of a queue as a list in no particular order, linked as siblings."""
    listed = NONE
    to_do = root
    while to_do != NONE:
        slot = to_do
        to_do = requests[slot].sibling
        child = requests[slot].child
        while child != NONE:
            following = requests[child].sibling
            requests[child].sibling = to_do
            to_do = child
            child = following
        requests[slot].sibling = listed
        listed = slot
    return listed


@rule
def _put_back(requests: Any, root: int, taken: int) -> int:
    """Adds requests that were popped and are linked as siblings; returns the queue's new root."""
    while taken != NONE:
        slot = taken
        taken = requests[slot].sibling
        root = queue_push(requests, root, slot, requests[slot].key, requests[slot].sequence)
    return root


@separate_rule
def queue_take(requests: Any, root: int, k: int) -> tuple[int, int]:
    """Takes request k of a queue, which has more than k, out; returns its slot and the queue's new root."""
    taken = NONE
    for _ in range(k + 1):
        rest = queue_pop(requests, root)
        requests[root].sibling = taken
        taken = root
        root = rest
    return taken, _put_back(requests, root, requests[taken].sibling)


@separate_rule
def queue_remove(requests: Any, root: int, slot: int) -> int:
    """Takes the request `slot`, which is in the queue, out of it; returns the queue's new root."""
    taken = NONE
    while root != slot:
        rest = queue_pop(requests, root)
        requests[root].sibling = taken
        taken = root
        root = rest
    return _put_back(requests, queue_pop(requests, root), taken)


@rule
def queue_first(requests: Any, root: int, out: Any, n: int) -> tuple[int, int]:
    """Writes the slots of the first n of a queue, or of all, into `out`; returns how many, and the queue's new root."""
    count = 0
    taken = NONE
    while count < n and root != NONE:
        out[count] = root
        count += 1
        rest = queue_pop(requests, root)
        requests[root].sibling = taken
        taken = root
        root = rest
    return count, _put_back(requests, root, taken)
