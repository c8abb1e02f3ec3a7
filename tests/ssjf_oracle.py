"""SSJF's setting (arXiv:2404.08509) in plain Python: one replica, one loop over its decisions.

It is written from the papers, apart from the engine: nothing here imports pecgym. A job needs as many
iterations of equal length as its prompt and its output say, whatever shares the batch. Time is an integer (ps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

S = 10**12  # ps

# Qiu et al.: P(predicted class | true class), the upper ends of the classes, and the output lengths.
MATRIX = np.array(
    [
        [0.7978, 0.1518, 0.0299, 0.0164, 0.0042],
        [0.1548, 0.5660, 0.1937, 0.0759, 0.0096],
        [0.0303, 0.2160, 0.4563, 0.2760, 0.0214],
        [0.0133, 0.0704, 0.2556, 0.5896, 0.0711],
        [0.0166, 0.0533, 0.1576, 0.5296, 0.2429],
    ]
)
CUTS = (42, 141, 294, 503)
QUANTILES = (2, 9, 13, 21, 31, 41, 57, 75, 95, 117, 140, 170, 201, 233, 263, 294, 325, 358, 397, 447, 511)


@dataclass(frozen=True)
class Job:
    """`predicted`, `tail`: mean and CVaR 0.9 of the predicted output (tokens); the prediction takes `prediction_ps`."""

    arrival_ps: int
    output: int
    predicted: int = 0
    tail: int = 0
    prediction_ps: int = 0


@dataclass(frozen=True)
class Rules:
    """An order and its parameters; a name means what the paper of that policy says."""

    order: str = "fcfs"  # shortest, remaining, ssjf, ltr, tie, one_bit, skip_predict, bins
    predicted: bool = False  # rank by predictions, and pay for them
    preemptive: bool = False
    preempt_share: float = float("inf")  # TRAIL's c: a running job yields while generated <= c x first estimate
    guard_wait_ps: float = float("inf")
    guard_services: float = float("inf")
    guard_all: bool = False  # whoever waits too long sets the guard off, not only who has waited longest
    threshold: int = 0
    edges: tuple[int, ...] = ()  # of bins: bin b holds lengths in (edges[b-1], edges[b]]
    starve_steps: int | None = None
    period_steps: int = 0
    services_ps: Callable[[int], int] = lambda tokens: S // 10 + tokens * (S // 50)


@dataclass
class State:
    """A job in the system."""

    job: Job
    row: int
    ready_ps: int
    left: int  # iterations
    done: int = 0
    idle_steps: int = 0
    quantum: int = 0
    start_ps: int = -1
    finish_ps: int = -1
    evictions: list[int] = field(default_factory=list)


def length(job: Job, rules: Rules) -> int:
    return job.predicted if rules.predicted else job.output


def entered(jobs: Sequence[Job], rules: Rules) -> list[int]:
    """When each job joins the queue: on arrival, or once its length is predicted, if the order reads predictions."""
    pays = rules.predicted and rules.order != "fcfs"
    return [job.arrival_ps + (job.prediction_ps if pays else 0) for job in jobs]


def generated(state: State, prompt_iterations: int) -> int:
    return max(0, state.done - prompt_iterations + 1)


def rank(state: State, rules: Rules, now: int, waiting: int, slots: int, prompt_iterations: int) -> tuple[float, ...]:
    """The order's key: least first; ties go to who arrived first, whenever it was predicted."""
    job, tokens = state.job, length(state.job, rules)
    remaining = max(tokens - generated(state, prompt_iterations), 0)
    tie_break = (job.arrival_ps, state.row)
    match rules.order:
        case "fcfs" | "bins":
            return tie_break
        case "shortest" | "ssjf":
            return (tokens, *tie_break)
        case "remaining":
            return (remaining, *tie_break)
        case "ltr":
            return (0 if state.quantum > 0 else 1, tokens, *tie_break)
        case "one_bit":
            return (tokens > rules.threshold, *tie_break)
        case "skip_predict":
            return (0, 0, *tie_break) if tokens <= rules.threshold else (1, remaining, *tie_break)
        case "tie":
            beta = min(max(Fraction(waiting, 10 * slots), Fraction(1, 10)), Fraction(1, 2))  # exact, for ties
            tail = job.tail if rules.predicted else job.output
            wait_s = (now - job.arrival_ps) / S
            return (float(tokens + beta * tail) * 0.9 ** (wait_s / 30), *tie_break)
    raise ValueError(rules.order)


def starving(queue: Sequence[State], rules: Rules, now: int) -> bool:
    """SSJF's guard: who has waited longest has waited too long, absolutely or against the time his service takes."""

    def too_long(s: State) -> bool:
        waited, service = now - s.job.arrival_ps, rules.services_ps(length(s.job, rules))
        return waited > rules.guard_wait_ps or waited > rules.guard_services * service

    return any(too_long(s) for s in (queue if rules.guard_all else [longest_waiting(queue)]))


def longest_waiting(queue: Sequence[State]) -> State:
    return min(queue, key=lambda s: (s.job.arrival_ps, s.row))


def take(
    queue: list[State],
    count: int,
    rules: Rules,
    now: int,
    slots: int,
    prompt_iterations: int,
    one_by_one: bool = False,
) -> list[State]:
    """Take `count` jobs off the queue: one decision, or, where jobs are taken one by one, `count` of them."""
    taken: list[State] = []
    waiting = len(queue)
    guarded = rules.order == "ssjf" and bool(queue) and starving(queue, rules, now)
    while queue and len(taken) < count:
        if one_by_one:
            waiting, guarded = len(queue), rules.order == "ssjf" and starving(queue, rules, now)
        if guarded:
            best = longest_waiting(queue)
        else:
            best = min(queue, key=lambda s: rank(s, rules, now, waiting, slots, prompt_iterations))
        queue.remove(best)
        taken.append(best)
    return taken


def entering(jobs: Sequence[Job], rules: Rules, prompt_iterations: int) -> list[State]:
    ready = entered(jobs, rules)
    states = [State(j, i, ready[i], prompt_iterations + j.output - 1) for i, j in enumerate(jobs)]
    return sorted(states, key=lambda s: (s.ready_ps, s.row))


def continuous(
    jobs: Sequence[Job],
    rules: Rules,
    slots: int,
    iteration_ps: int = S // 50,
    prompt_iterations: int = 6,
    head_displaces: bool = False,
    committed: bool = False,
) -> list[State]:
    """`slots` jobs share iterations; jobs join and leave where one ends, and an evicted job keeps what it has done.

    head_displaces: at a boundary a running job is displaced for the first of the queue only, not for the next.
    committed: a free slot is given away as soon as a job is there, not when the iteration ends that runs meanwhile.
    """
    coming = entering(jobs, rules, prompt_iterations)
    states, queue, running, held, now = list(coming), list[State](), list[State](), list[State](), 0
    while coming or queue or running or held:
        if not (queue or running or held):
            now = max(now, coming[0].ready_ps)
        queue += joining(coming, now)
        running, held = running + held, []
        if rules.preemptive:
            running, queue = reshuffled(running, queue, rules, now, slots, prompt_iterations, head_displaces)
        else:
            running += take(queue, slots - len(running), rules, now, slots, prompt_iterations, committed)
        for s in running:
            s.start_ps = now if s.start_ps < 0 else s.start_ps
        steps = 1 if rules.preemptive else min(s.left for s in running)
        if coming:
            steps = min(steps, -((now - coming[0].ready_ps) // iteration_ps))
        now += steps * iteration_ps
        while committed and coming and (point := coming[0].ready_ps) < now:
            queue += joining(coming, point)
            held += take(queue, slots - len(running + held), rules, point, slots, prompt_iterations, committed)
        for s in running:
            s.left, s.done = s.left - steps, s.done + steps
            if s.left == 0:
                s.finish_ps = now
        count_steps(running, queue, rules, steps)
        running = [s for s in running if s.left > 0]
    return sorted(states, key=lambda s: s.row)


def joining(coming: list[State], now: int) -> list[State]:
    """Who has come by now, taken off those who are still to come."""
    there = [s for s in coming if s.ready_ps <= now]
    coming[:] = coming[len(there) :]
    return there


def reshuffled(
    running: list[State],
    queue: list[State],
    rules: Rules,
    now: int,
    slots: int,
    prompt_iterations: int,
    head_displaces: bool,
) -> tuple[list[State], list[State]]:
    """The best `slots` of all run; a running job that may not be preempted any more stays (TRAIL)."""

    def key(s: State) -> tuple[float, ...]:
        return rank(s, rules, now, len(queue), slots, prompt_iterations)

    def fixed(s: State) -> bool:
        return generated(s, prompt_iterations) > rules.preempt_share * length(s.job, rules)

    running, queue = list(running), sorted(queue, key=key)
    head = queue[0] if queue else None
    while queue:
        if len(running) < slots:
            running.append(queue.pop(0))
            continue
        # Among equals who joined the batch last: `running` is in that order.
        worst = max((s for s in reversed(running) if not fixed(s)), key=lambda s: key(s)[:-2], default=None)
        if worst is None or key(worst)[:-2] <= key(queue[0])[:-2] or (head_displaces and queue[0] is not head):
            break
        running.remove(worst)
        worst.evictions.append(now)
        running.append(queue.pop(0))
        queue = sorted([*queue, worst], key=key)
    return running, queue


def pool(jobs: Sequence[Job], rules: Rules, servers: int) -> list[State]:
    """`servers` that serve one job at a time, behind one queue."""
    coming = entering(jobs, rules, 1)
    states, queue, free_at = list(coming), list[State](), [0] * servers
    while coming or queue:
        now = max(min(free_at), 0 if queue else coming[0].ready_ps)
        queue += joining(coming, now)
        idle = [i for i, end in enumerate(free_at) if end <= now]
        for s, i in zip(take(queue, len(idle), rules, now, servers, 1, one_by_one=True), idle, strict=False):
            s.start_ps, s.finish_ps = now, now + rules.services_ps(s.job.output)
            free_at[i] = s.finish_ps
    return sorted(states, key=lambda s: s.row)


def count_steps(running: Sequence[State], queue: Sequence[State], rules: Rules, steps: int) -> None:
    """LTR's starvation prevention: idle for `starve_steps` steps, a job is promoted until it has run `period_steps`."""
    if rules.starve_steps is None:
        return
    for s in queue:
        s.idle_steps += steps
        if s.idle_steps >= rules.starve_steps:
            s.idle_steps, s.quantum = 0, rules.period_steps
    for s in running:
        s.idle_steps, s.quantum = 0, max(0, s.quantum - steps)


def static(
    jobs: Sequence[Job],
    rules: Rules,
    size: int,
    timeout_ps: int,
    service_ps: Callable[[int], int] = lambda tokens: S // 10 + tokens * (S // 50),
) -> list[State]:
    """Batches of `size`, or of who waits once the oldest has waited `timeout_ps`; all return with the longest."""
    coming = entering(jobs, rules, 1)
    states, queue, now = list(coming), list[State](), 0
    full: list[list[State]] = []  # batches of one bin, in the order in which they filled up
    while coming or queue or full:
        for s in joining(coming, now):
            queue.append(s)
            if rules.order == "bins":
                full += filled(queue, rules, size)
        batch: list[State] = []
        oldest = min((s.ready_ps for s in queue), default=None)
        if rules.order == "bins":
            if full:
                batch = full.pop(0)
            elif oldest is not None and now - oldest >= timeout_ps:
                batch = bin_of(queue[0], queue, rules)
        elif len(queue) >= size or (oldest is not None and now - oldest >= timeout_ps):
            batch = take(list(queue), size, rules, now, size, 1)
        if not batch:
            due = [coming[0].ready_ps] if coming else []
            now = min(due + ([oldest + timeout_ps] if oldest is not None else []))
            continue
        queue = [s for s in queue if s not in batch]
        end = now + service_ps(max(s.job.output for s in batch))
        for s in batch:
            s.start_ps, s.finish_ps = now, end
        now = end
    return sorted(states, key=lambda s: s.row)


def bin_of(state: State, queue: Sequence[State], rules: Rules) -> list[State]:
    """Who waits in the bin of `state`."""
    index = int(np.searchsorted(rules.edges, length(state.job, rules)))
    return [s for s in queue if int(np.searchsorted(rules.edges, length(s.job, rules))) == index]


def filled(queue: list[State], rules: Rules, size: int) -> list[list[State]]:
    """The batch that the newest of the queue completes in its bin, taken off the queue."""
    mates = bin_of(queue[-1], queue, rules)
    if len(mates) < size:
        return []
    for s in mates:
        queue.remove(s)
    return [mates]


def lengths(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Output lengths (tokens) by the inverse of the released distribution."""
    at = np.linspace(0, 1, len(QUANTILES))
    return np.rint(np.interp(generator.random(count), at, QUANTILES)).astype(np.int64)


def confused(generator: np.random.Generator, outputs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The 0.60-accurate proxy: mean and mean of the worst tenth of the output, given the predicted class."""
    true_class = np.searchsorted(CUTS, outputs, side="right")
    draws = generator.random(len(outputs))
    cumulative = MATRIX.cumsum(axis=1) / MATRIX.sum(axis=1, keepdims=True)
    predicted_class = np.minimum((draws[:, None] > cumulative[true_class]).sum(axis=1), len(CUTS))
    grid = np.interp((np.arange(100_000) + 0.5) / 100_000, np.linspace(0, 1, len(QUANTILES)), QUANTILES)
    classes = np.searchsorted(CUTS, grid, side="right")
    mean, tail = np.zeros(5, np.int64), np.zeros(5, np.int64)
    for c in range(5):
        weight = MATRIX[classes, c]
        mean[c] = round(float(np.average(grid, weights=weight)))
        above = np.clip(weight.cumsum() - 0.9 * weight.sum(), 0, weight)
        tail[c] = round(float(np.average(grid, weights=above)))
    return mean[predicted_class], tail[predicted_class]
