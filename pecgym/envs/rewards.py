"""The reward: terms that are integrals over the time since the last decision, and their weighted sum.

| term | minus the amount of | unit |
|---|---|---|
| delay | waiting shorts, integrated over time: their queueing delays | request s |
| long | unfinished longs, integrated: their completion times | request s |
| tail | shorts that have waited longer than `tail_s`, integrated: their waits beyond it | request s |
| slo | shorts that passed `slo_ttft_s` without a first token | requests |
| energy | energy of all GPUs | kWh |
| money | price of all GPUs | USD |

The first four count whether somebody is served or not; where an episode is truncated, energy and money are charged for
what it leaves undone as well (pecgym.envs.unserved): to refuse is never cheaper than to serve. Over an episode the
delay term is minus the sum of the queueing delays of its shorts, wait so far included.
"""

from __future__ import annotations

from typing import Any

from pecgym.engine.compiled import rule
from pecgym.engine.state import (
    DECODE_STALLED,
    LATE_S,
    MISSED,
    NEVER_PS,
    OPEN_LONGS_S,
    PREFILL_STALLED,
    RUNNING,
    SECONDS_PER_PS,
    SERVING,
    WAITING_S,
    State,
)
from pecgym.units import J_PER_KWH

DELAY, LONG, TAIL, SLO, ENERGY, MONEY = range(6)


@rule
def busy_s(state: State) -> float:
    """Seconds that all replicas together have spent in iterations up to now; of a long that stops, until it does."""
    now_ps = state.cluster[0].now_ps
    total_s = 0.0
    for r in range(len(state.replicas)):
        replica = state.replicas[r]
        total_s += replica.busy_ps * SECONDS_PER_PS
        until_ps = now_ps
        if replica.status == SERVING:
            if state.event_ps[replica.lead] == NEVER_PS:
                continue  # what ends at this moment has been counted
            group = state.groups[replica.lead]
            if group.phase == PREFILL_STALLED or group.phase == DECODE_STALLED:
                until_ps = min(now_ps, group.stop_ps)
        elif replica.status != RUNNING:
            continue
        total_s += max(until_ps - replica.started_ps, 0) * SECONDS_PER_PS
    return total_s


@rule
def start_account(c: Any, i: int, state: State) -> None:
    """What has happened so far in copy i is not charged."""
    copy = c.copies[i]
    copy.waiting_s = state.sums[WAITING_S]
    copy.long_s = state.sums[OPEN_LONGS_S]
    copy.late_s = state.sums[LATE_S]
    copy.missed = state.sums[MISSED]
    copy.busy_s = busy_s(state)
    copy.last_ps = state.cluster[0].now_ps


@rule
def settle_account(c: Any, i: int, state: State) -> None:
    """Terms and reward of copy i for the time since the last decision."""
    copy = c.copies[i]
    shared = c.shared[0]
    elapsed_s = (state.cluster[0].now_ps - copy.last_ps) * SECONDS_PER_PS
    c.elapsed_s[i] = elapsed_s
    terms = c.terms[i]
    terms[DELAY] = copy.waiting_s - state.sums[WAITING_S]
    terms[LONG] = copy.long_s - state.sums[OPEN_LONGS_S]
    terms[TAIL] = copy.late_s - state.sums[LATE_S]
    terms[SLO] = copy.missed - state.sums[MISSED]
    busy_gpu_s = (busy_s(state) - copy.busy_s) * shared.gpus_per_replica
    extra_w = shared.busy_w - shared.idle_w
    terms[ENERGY] = -(busy_gpu_s * extra_w + elapsed_s * shared.gpus * shared.idle_w) / J_PER_KWH
    terms[MONEY] = -elapsed_s * shared.usd_per_s
    reward = 0.0
    for k in range(len(terms)):
        reward += c.weights[k] * terms[k]
    c.rewards[i] = reward
    start_account(c, i, state)
