"""How long replicas have been busy, and with what: the time that energy is charged for.

A replica is busy while an iteration runs. Iterations with prompt tokens (the prefill of a long too, and decodes that
share a batch with prompts) load the arithmetic units, those with decodes alone the memory: they draw different power.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule
from pecgym.engine.state import DECODE_STALLED, NEVER_PS, PREFILL, PREFILL_STALLED, RUNNING, SERVING, State


@rule
def note_work(replica: Any, duration_ps: int, prompt_tokens: int) -> None:
    """The replica has been busy for `duration_ps` more; prompt_tokens: 1 if prompt tokens were in its iterations."""
    replica.busy_ps += duration_ps
    if prompt_tokens == 1:
        replica.prefill_ps += duration_ps


def work_until_now(state: State, r: int) -> tuple[int, int]:
    """Picoseconds that replica r has been busy up to now, and of these in iterations with prompt tokens.

    What runs counts as far as it has come; of a long that is to stop, until it does. Plain Python, which rewards
    compile.
    """
    replica = state.replicas[r]
    until_ps = state.cluster[0].now_ps
    prompt_tokens = replica.with_prefills == 1
    running = replica.status == RUNNING
    if replica.status == SERVING:
        group = state.groups[replica.lead]
        running = state.event_ps[replica.lead] != NEVER_PS  # else it ended at this moment, and has been counted
        if group.phase == PREFILL_STALLED or group.phase == DECODE_STALLED:
            until_ps = min(until_ps, group.stop_ps)
        if group.phase == PREFILL or group.phase == PREFILL_STALLED:
            prompt_tokens = True
    work_ps = max(until_ps - replica.started_ps, 0) if running else 0
    return replica.busy_ps + work_ps, replica.prefill_ps + (work_ps if prompt_tokens else 0)
