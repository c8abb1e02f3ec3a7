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

from pecgym.costs import energy_joules
from pecgym.engine.activity import work_until_now
from pecgym.engine.compiled import rule
from pecgym.engine.state import LATE_S, MISSED, OPEN_LONGS_S, SECONDS_PER_PS, WAITING_S, State
from pecgym.units import J_PER_KWH

DELAY, LONG, TAIL, SLO, ENERGY, MONEY = range(6)


_work_until_now = rule(work_until_now)
_energy_joules = rule(energy_joules)


@rule
def _work_s(state: State) -> tuple[float, float]:
    """Seconds that all replicas together have been busy up to now, and of these in iterations with prompt tokens."""
    busy_s = 0.0
    prefill_s = 0.0
    for r in range(len(state.replicas)):
        busy_ps, prefill_ps = _work_until_now(state, r)
        busy_s += busy_ps * SECONDS_PER_PS
        prefill_s += prefill_ps * SECONDS_PER_PS
    return busy_s, prefill_s


@rule
def start_account(c: Any, i: int, state: State) -> None:
    """What has happened so far in copy i is not charged."""
    copy = c.copies[i]
    copy.waiting_s = state.sums[WAITING_S]
    copy.long_s = state.sums[OPEN_LONGS_S]
    copy.late_s = state.sums[LATE_S]
    copy.missed = state.sums[MISSED]
    copy.busy_s, copy.prefill_s = _work_s(state)
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
    busy_s, prefill_s = _work_s(state)
    joules = _energy_joules(
        elapsed_s * shared.gpus,
        (busy_s - copy.busy_s) * shared.gpus_per_replica,
        (prefill_s - copy.prefill_s) * shared.gpus_per_replica,
        shared.idle_w,
        shared.decode_w,
        shared.prefill_w,
    )
    terms[ENERGY] = -joules / J_PER_KWH
    terms[MONEY] = -elapsed_s * shared.usd_per_s
    reward = 0.0
    for k in range(len(terms)):
        reward += c.weights[k] * terms[k]
    c.rewards[i] = reward
    start_account(c, i, state)
