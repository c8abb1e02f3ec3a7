"""Traces that come in chunks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pecgym.workload.trace import Trace


def merge_chunks(*sources: Iterator[Trace]) -> Iterator[Trace]:
    """Several streams of chunks as one, ordered by arrival, in bounded memory (a chunk or two of each source).

    Concatenated, the result is Trace.merge of the concatenated sources: ties keep the order of the arguments. Raises
    TraceError where a source goes back in time.
    """
    firsts = [(source, next(source, None)) for source in sources]
    running: list[Iterator[Trace] | None] = [source for source, first in firsts if first is not None]
    held = [first for _, first in firsts if first is not None]
    while held:
        # A running source may have more requests at the very time of its last one, so only what is before it is final.
        ends_s = [trace.duration_s for trace, source in zip(held, running, strict=True) if source is not None]
        final_s = min(ends_s, default=np.inf)
        cuts = [int(np.searchsorted(trace.arrival_s, final_s, side="left")) for trace in held]
        ready = Trace.merge(*(trace.slice(0, cut) for trace, cut in zip(held, cuts, strict=True)))
        if len(ready):
            yield ready
        if not ends_s:
            return
        held = [trace.slice(cut, None) for trace, cut in zip(held, cuts, strict=True)]
        for index, source in enumerate(running):
            if source is not None and held[index].duration_s == final_s:
                chunk = next(source, None)
                if chunk is None:
                    running[index] = None
                else:
                    held[index] = Trace.concatenate([held[index], chunk])
