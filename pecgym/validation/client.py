"""A measured run again, in the simulator: the benchmark's users, its requests, and what it averages.

InferenceMAX / InferenceX measure with `benchmark_serving.py` (github.com/kimbochen/bench_serving, from vLLM):
`--max-concurrency C --num-prompts 10 C --request-rate inf --random-range-ratio 0.8 --ignore-eos`, seed 0. So C users
send at once and each sends its next request when the one before is answered, 10 C in all; prompts and outputs have
lengths drawn evenly from 0.8 of the nominal one to all of it, prompts first. Nothing is left out: the means include the
crowd at the start and the last users who are alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pecgym.costs import Profile
from pecgym.engine import EngineSettings, Simulator
from pecgym.policies import load_policy
from pecgym.units import ps_to_seconds
from pecgym.validation.runs import Run
from pecgym.workload import ClosedLoop, Trace

REQUESTS_PER_USER = 10
RANGE_RATIO = 0.8
BENCHMARK_SEED = 0


@dataclass(frozen=True)
class Means:
    """What a benchmark reports of a run, milliseconds; evictions: how often KV memory overflowed."""

    ttft_ms: float
    tpot_ms: float
    evictions: int


def benchmark_requests(run: Run, range_ratio: float = RANGE_RATIO) -> Trace:
    """The benchmark's requests, in the order in which users take them: the same draws from the same generator."""
    generator = np.random.RandomState(BENCHMARK_SEED)
    n = REQUESTS_PER_USER * run.concurrency
    inputs, outputs = (
        generator.randint(max(1, int(tokens * range_ratio)), tokens + 1, size=n)
        for tokens in (run.input_tokens, run.output_tokens)
    )
    return Trace(np.zeros(n), inputs, outputs, name=f"{run.input_tokens}/{run.output_tokens}")


def simulate(
    run: Run, profile: Profile, engine: EngineSettings, frontend_ms: float = 0.0, range_ratio: float = RANGE_RATIO
) -> Means:
    """The run on one replica.

    frontend_ms: what the server's frontend and the client take for a request outside the engine (HTTP, tokenisation,
    streaming). It is part of the TTFT, and it lies between an answer and the same user's next request.
    """
    loop = ClosedLoop(benchmark_requests(run, range_ratio), users=run.concurrency, think_s=frontend_ms * 1e-3)
    fifo = load_policy("fifo")
    simulator = Simulator(1, profile, engine, choose=fifo.choose, load=fifo.load)
    simulator.load_closed_loop(loop)
    simulator.run()
    log = simulator.finished()
    ttft_s = ps_to_seconds(log.first_token_ps - log.arrival_ps)
    decodes = np.maximum(log.output_tokens - 1, 1)
    tpot_s = ps_to_seconds(log.finish_ps - log.first_token_ps) / decodes
    return Means(
        ttft_ms=float(ttft_s.mean()) * 1e3 + frontend_ms,
        tpot_ms=float(tpot_s[log.output_tokens > 1].mean()) * 1e3,
        evictions=int(log.evictions.sum()),
    )
