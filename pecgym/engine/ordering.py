"""In which order requests are served: the key of a request in a queue (smaller first, ties by its sequence number), and
how the keys of those who wait change with time. Which orders there are, and after whom: orders.py, docs/policies.md.

An order by length counts the output tokens of a short, and the time that a long would take alone.
"""

from __future__ import annotations

import math
from typing import Any

from pecgym.engine.compiled import rule, separate_rule
from pecgym.engine.queues import queue_pop, queue_push, queue_unlink
from pecgym.engine.service import service_ps
from pecgym.engine.state import (
    NEVER_PS,
    NONE,
    ORDER_BINS,
    ORDER_FCFS,
    ORDER_LTR,
    ORDER_ONE_BIT,
    ORDER_SHORTEST_PROMPT,
    ORDER_SHORTEST_REMAINING,
    ORDER_SKIP_PREDICT,
    ORDER_SSJF,
    ORDER_TIE,
    State,
)


@rule
def changes_with_time(order: int) -> bool:
    """Whether keys in this order change while requests wait."""
    return order >= ORDER_LTR


@rule
def depends_on_others(order: int) -> bool:
    """Whether a key in this order depends on who else waits."""
    return order > ORDER_LTR


@rule
def _size(state: State, slot: int, tokens: int) -> int:
    if state.requests[slot].is_long == 1:
        return service_ps(state, slot, tokens)
    return tokens


@rule
def order_key(state: State, order: int, slot: int, emitted_since: int) -> int:
    """The key by which a queue orders a request, apart from what depends on who else waits (`reorder`).

    emitted_since: tokens that a decode has emitted beyond `emitted_tokens`, one in each iteration.
    """
    if order in (ORDER_FCFS, ORDER_BINS):
        return 0
    request = state.requests[slot]
    if order == ORDER_SHORTEST_REMAINING:
        return max(request.rank_tokens - request.emitted_tokens - emitted_since, 0)
    if order == ORDER_SHORTEST_PROMPT:
        return request.input_tokens
    is_short = request.rank_tokens <= state.settings[0].threshold_tokens
    if order == ORDER_ONE_BIT:
        return 0 if is_short else 1
    if order == ORDER_SKIP_PREDICT:
        if is_short:
            return 0
        left = max(request.rank_tokens - request.emitted_tokens - emitted_since, 1)
        return _size(state, slot, left)
    size = _size(state, slot, request.rank_tokens)
    if order == ORDER_LTR and emitted_since < request.promoted_steps:
        return size - NEVER_PS
    return size


@separate_rule
def reorder(state: State, root: int, order: int, n: int, step: int, places: int) -> int:
    """Gives the n requests of a queue their keys of this moment; returns the queue's new root.

    step: iterations that its replica has done, or times that the global queues were looked at. places: requests that
    can be served at once by who takes from this queue.
    """
    if order == ORDER_BINS:
        return _reorder_bins(state, root, places)
    requests = state.requests
    listed = queue_unlink(requests, root)
    starving = order == ORDER_SSJF and _oldest_starves(state, listed)
    root = NONE
    while listed != NONE:
        slot = listed
        listed = requests[slot].sibling
        if order == ORDER_LTR:
            _promote_if_starving(state, slot, step)
        key = 0
        if order == ORDER_TIE:
            key = _tie_key(state, slot, n, places)
        elif not starving:
            key = order_key(state, order, slot, 0)
        root = queue_push(requests, root, slot, key, requests[slot].sequence)
    return root


@rule
def _oldest_starves(state: State, listed: int) -> bool:
    """Whether who waits longest has waited for longer than the guard allows: then the order is that of arrival (SSJF,
    arXiv:2404.08509; that only the oldest is looked at is from its released code).

    listed: the requests of a queue, linked as siblings.
    """
    oldest = listed
    slot = listed
    while slot != NONE:
        if state.requests[slot].sequence < state.requests[oldest].sequence:
            oldest = slot
        slot = state.requests[slot].sibling
    settings = state.settings[0]
    waited_ps = state.cluster[0].now_ps - state.requests[oldest].arrival_ps
    if waited_ps > settings.guard_wait_ps:
        return True
    if settings.guard_permille == NONE:
        return False
    alone_ps = service_ps(state, oldest, state.requests[oldest].rank_tokens)
    return waited_ps * 1000.0 > settings.guard_permille * float(alone_ps)


@rule
def _promote_if_starving(state: State, slot: int, step: int) -> None:
    """Who has waited for `starving_steps` goes before the others until it has run for `promoted_steps` (LTR,
    arXiv:2408.15792)."""
    settings = state.settings[0]
    request = state.requests[slot]
    if request.waits_from_step == NONE:
        request.waits_from_step = step
    if step - request.waits_from_step >= settings.starving_steps:
        request.promoted_steps = settings.promoted_steps


@rule
def _tie_key(state: State, slot: int, n: int, places: int) -> int:
    """Least (E + beta CVaR) x decay^(wait / decay_s) first, as the time of an arrival: a score e times as high counts
    like a later one (TIE, arXiv:2604.00499)."""
    settings = state.settings[0]
    request = state.requests[slot]
    beta = min(max(settings.tie_weight_permille * n // places, settings.tie_least_permille), settings.tie_most_permille)
    mean, tail = _size(state, slot, request.rank_tokens), _size(state, slot, request.tail_tokens)
    score = 1000.0 * mean + beta * float(tail)
    return request.arrival_ps + int(settings.tie_unit_ps * math.log(score))


@rule
def bin_of(state: State, tokens: int) -> int:
    """The bin of an output length."""
    b = 0
    while b < len(state.bin_edges) and tokens > state.bin_edges[b]:
        b += 1
    return b


@rule
def _reorder_bins(state: State, root: int, places: int) -> int:
    """Multi-bin batching (arXiv:2412.04504): in each bin every `places` requests in turn are a batch. Batches that are
    full come first, as they became full; their keys are negative. Behind them the others, the bin of the oldest first.
    """
    requests = state.requests
    latest_first = _latest_first(requests, root)
    for b in range(len(state.bin_edges) + 1):
        partial, oldest = _begun_batch(state, latest_first, b, places)
        seen = 0
        key = oldest
        slot = latest_first
        while slot != NONE:
            if bin_of(state, requests[slot].rank_tokens) == b:
                if seen >= partial and (seen - partial) % places == 0:
                    key = requests[slot].sequence - NEVER_PS
                requests[slot].key = key
                seen += 1
            slot = requests[slot].sibling
    root = NONE
    while latest_first != NONE:
        slot = latest_first
        latest_first = requests[slot].sibling
        root = queue_push(requests, root, slot, requests[slot].key, requests[slot].sequence)
    return root


@rule
def _latest_first(requests: Any, root: int) -> int:
    """The requests of a queue as a list, linked as siblings, the largest sequence number first."""
    listed = queue_unlink(requests, root)
    in_turn = NONE
    while listed != NONE:
        slot = listed
        listed = requests[slot].sibling
        in_turn = queue_push(requests, in_turn, slot, 0, requests[slot].sequence)
    latest_first = NONE
    while in_turn != NONE:
        slot = in_turn
        in_turn = queue_pop(requests, slot)
        requests[slot].sibling = latest_first
        latest_first = slot
    return latest_first


@rule
def _begun_batch(state: State, latest_first: int, b: int, places: int) -> tuple[int, int]:
    """Of the batch of a bin that is not full: how many are in it, and the sequence number of the oldest."""
    count = 0
    slot = latest_first
    while slot != NONE:
        if bin_of(state, state.requests[slot].rank_tokens) == b:
            count += 1
        slot = state.requests[slot].sibling
    partial = count % places
    oldest = 0
    slot = latest_first
    count = 0
    while slot != NONE and count < partial:
        if bin_of(state, state.requests[slot].rank_tokens) == b:
            count += 1
            oldest = state.requests[slot].sequence
        slot = state.requests[slot].sibling
    return partial, oldest
