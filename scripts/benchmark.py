"""Speed against the bars, one row each. A benchmark, not a test: run it on a quiet machine.

    python scripts/benchmark.py [--json FILE] [--only NAME ...] [--repeats N]

Engine times exclude set-up (reading, generating, allocating) unless the row's name says otherwise; medians of several
runs. Figures of other simulators in the table of docs/engine.md were measured on the same kind of machine (2 cores).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pecgym import Trace, make_cluster
from pecgym.bounds import bound_row
from pecgym.cluster import Cluster
from pecgym.optimum import solve
from pecgym.scenario import scale_to_load
from pecgym.workload import generate, generate_chunks, rewrite_long

WEEK_S = 7 * 86400.0


@dataclass(frozen=True)
class Row:
    """One measured figure: `holds` says whether it is on the right side of its bar (None: no bar)."""

    name: str
    value: float
    unit: str
    bar: float | None
    holds: bool | None


def at_least(name: str, value: float, unit: str, bar: float) -> Row:
    return Row(name, value, unit, bar, value >= bar)


def at_most(name: str, value: float, unit: str, bar: float) -> Row:
    return Row(name, value, unit, bar, value <= bar)


def engine_seconds(make: Callable[[], Cluster], repeats: int) -> tuple[float, int]:
    """Median wall-clock seconds of the engine alone, and the number of requests."""
    seconds, requests = [], 0
    for _ in range(repeats):
        log = make().run()
        seconds.append(log.facts.wall_s)
        requests = len(log)
    return median(seconds), requests


def hour(policy: str, repeats: int, engine: str = "vllm") -> Iterator[Row]:
    """The Azure conversation hour on 32 A100s, Llama-3.1-70B TP4 (8 replicas)."""
    trace = generate("azure2023_conv")
    seconds, requests = engine_seconds(lambda: make_cluster(policy=policy, workload=trace, engine=engine), repeats)
    yield at_least(f"hour, {policy}, {engine}", requests / seconds, "requests/s", 1e6)


def hour_32_replicas(repeats: int) -> Iterator[Row]:
    """The same hour on 32 replicas of a 7B model."""
    trace = generate("azure2023_conv")
    seconds, requests = engine_seconds(lambda: make_cluster("mistral-7b", policy="jsq_tokens", workload=trace), repeats)
    yield at_least("hour, jsq_tokens, 32 replicas", requests / seconds, "requests/s", 1e6)


MIXED = "azure2023_conv+azure2023_code"
MIXED_SCALE = 0.04  # of the native rate: with 5% longs about half of what 8 replicas of a 70B model can do


def with_longs(trace: Trace) -> Trace:
    """5% of the inputs become 100K-500K tokens long, at a rate that 32 A100s can serve."""
    return rewrite_long(trace, "paper").scale_rate(MIXED_SCALE)


def hour_with_longs(policy: str, repeats: int) -> Iterator[Row]:
    """Both Azure hours with PecSched's longs on 32 A100s: suspensions, pushes and groups."""
    trace = with_longs(generate(MIXED))
    seconds, requests = engine_seconds(lambda: make_cluster(policy=policy, workload=trace), repeats)
    yield at_least(f"hours with longs, {policy}", requests / seconds, "requests/s", 1e6)


def growth(policy: str, repeats: int, longs: bool = False) -> Iterator[Row]:
    """Cost of a request when GPUs and arrivals grow together from 32 to 4096 (the same hour's rate, 128 times)."""
    name = MIXED if longs else "azure2023_conv"
    small = generate(name)
    copies = 128
    large = Trace.merge(*(generate(name, seed=seed, duration_s=300.0) for seed in range(copies)))
    if longs:
        small, large = with_longs(small), with_longs(large)
    few, n_few = engine_seconds(lambda: make_cluster(policy=policy, workload=small), repeats)
    many, n_many = engine_seconds(lambda: make_cluster(cluster="p4de_x512", policy=policy, workload=large), repeats)
    label = f"{policy}, with longs" if longs else policy
    yield at_most(f"cost of a request, 4096 / 32 GPUs, {label}", (many / n_many) / (few / n_few), "x", 2.0)


def overload(repeats: int) -> Iterator[Row]:
    """Twice the load that the cluster can serve: long queues everywhere."""
    base = make_cluster(policy="fifo")
    trace, _ = scale_to_load(base.trace, 2.0, base.n_replicas, base.profile, base.engine)
    seconds, requests = engine_seconds(lambda: make_cluster(policy="fifo", workload=trace), repeats)
    yield at_least("hour at twice the capacity, fifo", requests / seconds, "requests/s", 5e5)


def week(repeats: int) -> Iterator[Row]:
    """A synthetic week of both Azure 2024 workloads on 32 replicas, generated and simulated in chunks, in a process of
    its own so that its peak memory is its own."""
    output = subprocess.run(
        [sys.executable, __file__, "--week"], capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    seen = json.loads(output.splitlines()[-1])
    yield at_least("week, requests", seen["requests"], "requests", 4.3e7)
    yield at_most("week, 32 replicas, generating included", seen["seconds"], "s", 180.0)
    yield Row("week, engine", seen["requests"] / seen["engine_s"], "requests/s", None, None)
    yield at_most("week, peak memory", seen["peak_bytes"] / 2**30, "GiB", 2.0)


def run_week() -> None:
    """The body of `week`: prints one JSON line."""
    cluster = make_cluster(
        "llama-3.1-8b", "p4de_x4", policy="jsq_tokens", workload=generate("azure2023_conv").slice(0, 1)
    )
    started = time.perf_counter()
    chunks = generate_chunks("azure2024_conv+azure2024_code", duration_s=WEEK_S)
    finished = 0
    queued_ps = 0

    def sink(rows: Any) -> None:
        nonlocal finished, queued_ps
        finished += len(rows)
        queued_ps += int((rows.start_ps - rows.arrival_ps).sum())

    engine_s = cluster.run_stream(chunks, sink)
    print(
        json.dumps(
            {
                "requests": finished,
                "seconds": time.perf_counter() - started,
                "engine_s": engine_s,
                "mean_queueing_delay_s": queued_ps / 1e12 / max(finished, 1),
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


FIRST_REQUEST = "import pecgym; pecgym.make_cluster(workload=pecgym.load_trace('azure2023_conv').slice(0, 1)).run()"
FIRST_RESET = "import gymnasium; gymnasium.make('pecgym:pecgym/Cluster-v0').reset(seed=0)"


def first_run(repeats: int) -> Iterator[Row]:
    """Fresh processes with an empty cache of compiled code, then with a full one: a cluster's first request, and an
    environment's first reset (which finds the engine compiled)."""
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PECGYM_CACHE_DIR": folder}

        def seconds(program: str) -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True)
            return time.perf_counter() - started

        engine_s, environment_s = seconds(FIRST_REQUEST), seconds(FIRST_RESET)
        yield at_most("first run, compilation included", engine_s, "s", 60.0)
        yield at_most("the same, and an environment's", engine_s + environment_s, "s", 60.0)
        for name, program in (("first request", FIRST_REQUEST), ("first reset", FIRST_RESET)):
            yield at_most(f"later run: import and {name}", median(seconds(program) for _ in range(repeats)), "s", 2.0)


def masked_actions(random: np.random.Generator, mask: Any, sizes: Any) -> Any:
    """int64[N, components]: for each copy an action that is uniform over what its mask, int8[N, M], allows."""
    keys = random.random(mask.shape) * mask
    ends = np.cumsum(sizes)
    return np.stack([keys[:, end - size : end].argmax(axis=1) for size, end in zip(sizes, ends, strict=True)], axis=1)


def of_environment(name: str, env_id: str, decisions_per_s: float, bar: float) -> Row:
    """The bars are of the default environment, 8 replicas on 32 GPUs; a decision costs more with more replicas."""
    if env_id == "pecgym/Cluster-v0":
        return at_least(name, decisions_per_s, "decisions/s", bar)
    return Row(name, decisions_per_s, "decisions/s", None, None)


def single_environment(env_id: str, repeats: int, decisions: int = 20_000) -> Iterator[Row]:
    """One copy by gym.make, wrappers included, under a random policy: `step` and the resets between episodes, not the
    policy."""
    env = gymnasium.make(env_id)
    sizes = list(env.get_wrapper_attr("action_space").nvec)
    figures = []
    for repeat in range(max(1, repeats // 3)):
        random = np.random.default_rng(repeat)
        _, info = env.reset(seed=repeat)
        seconds = 0.0
        for _ in range(decisions):
            action = masked_actions(random, np.concatenate(info["action_mask"])[None], sizes)[0]
            started = time.perf_counter()
            _, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                _, info = env.reset()
            seconds += time.perf_counter() - started
        figures.append(decisions / seconds)
    yield of_environment(f"{env_id}, 1 copy", env_id, median(figures), 5e4)


def vector_environment(env_id: str, repeats: int, copies: int = 64, steps: int = 2_000) -> Iterator[Row]:
    """The native vector environment under a random policy, copies that end begin anew; also with the time of drawing
    the actions, and one by one through Gymnasium's SyncVectorEnv."""
    for name, mode, n in (("", "vector_entry_point", steps), (" (SyncVectorEnv)", "sync", steps // 10)):
        envs = gymnasium.make_vec(env_id, num_envs=copies, vectorization_mode=mode)
        space = envs.single_action_space
        assert isinstance(space, gymnasium.spaces.MultiDiscrete)
        sizes = space.nvec.tolist()
        figures, with_policy = [], []
        for repeat in range(max(1, repeats // 5)):
            random = np.random.default_rng(repeat)
            _, info = envs.reset(seed=repeat)
            seconds = 0.0
            began = time.perf_counter()
            for _ in range(n):
                mask = info["action_mask"]
                if mode == "sync":
                    mask = np.stack([np.concatenate(parts) for parts in mask])
                actions = masked_actions(random, mask, sizes)
                started = time.perf_counter()
                _, _, _, _, info = envs.step(actions)
                seconds += time.perf_counter() - started
            figures.append(n * copies / seconds)
            with_policy.append(n * copies / (time.perf_counter() - began))
        label = f"{env_id}, {copies} copies{name}"
        if mode == "sync":
            yield Row(label, median(figures), "decisions/s", None, None)
        else:
            yield of_environment(label, env_id, median(figures), 5e5)
            yield Row(f"{label}, drawing included", median(with_policy), "decisions/s", None, None)


def environment(repeats: int) -> Iterator[Row]:
    """Cluster-v0 as it is by default: 8 replicas of Llama-3.1-70B on 32 A100s; then 32 replicas of Mistral-7B."""
    for env_id in ("pecgym/Cluster-v0", "pecgym/PecSched-Mistral7B-v0", "pecgym/Replica-v0"):
        yield from single_environment(env_id, repeats)
        yield from vector_environment(env_id, repeats)


def training(repeats: int) -> Iterator[Row]:
    """A short run of scripts/train.py as it is by default, but for its length: PPO alone, and without evaluations."""
    if importlib.util.find_spec("sb3_contrib") is None:
        print("training: left out, it needs pip install -e '.[train]'", file=sys.stderr)
        return
    script = Path(__file__).with_name("train.py")
    with tempfile.TemporaryDirectory() as folder:
        short = ("agent.total_timesteps=65536", "agent.imitation.steps=0", "evaluation.windows=1", "logger=none")
        subprocess.run([sys.executable, str(script), *short, f"out={folder}/run"], check=True, capture_output=True)
        found = json.loads((Path(folder) / "run" / "summary.json").read_text())
    yield Row("PPO, 64 copies", found["steps_per_s"], "decisions/s", None, None)
    yield Row("its environments alone", found["env_steps_per_s"], "decisions/s", None, None)
    yield at_most("their share of its time", found["env_share"], "", 0.2)


def optimum(repeats: int) -> Iterator[Row]:
    """Exact optima of four requests on INFERMAX's 7B, whose bars are a search in plain Python; and the bounds of the
    hour for any policy."""
    for requests, lengths, kv_tokens, bar in ((4, (8, 4), 34, 0.1), (4, (16, 8), 69, 1.0)):
        inputs, outputs = [lengths[0]] * requests, [lengths[1]] * requests
        solve(inputs, outputs, kv_capacity_tokens=kv_tokens)  # compiles
        seconds = median(solve(inputs, outputs, kv_capacity_tokens=kv_tokens).wall_s for _ in range(repeats))
        yield at_most(f"optimum of {requests} x {lengths}, M = {kv_tokens}", seconds, "s", bar)
    cluster = make_cluster(workload=generate("azure2023_conv"))
    bound_row(cluster)  # compiles
    started = time.perf_counter()
    bound_row(cluster)
    yield at_most("hour, bounds of any policy", time.perf_counter() - started, "s", 1.0)


def memory(repeats: int) -> Iterator[Row]:
    """Peak memory of this process, after the rows before it."""
    yield Row("peak memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GiB", None, None)


BENCHMARKS: dict[str, Callable[[int], Iterator[Row]]] = {
    "hour_fifo": lambda n: hour("fifo", n),
    "hour_jsq_tokens": lambda n: hour("jsq_tokens", n),
    "hour_srpt": lambda n: hour("srpt", n),
    "hour_sarathi": lambda n: hour("fifo", n, "sarathi"),
    "hour_32_replicas": hour_32_replicas,
    "hour_pecsched": lambda n: hour("pecsched", n),
    "longs_fifo": lambda n: hour_with_longs("fifo", n),
    "longs_pecsched": lambda n: hour_with_longs("pecsched", n),
    "overload": overload,
    "growth_fifo": lambda n: growth("fifo", n),
    "growth_jsq_tokens": lambda n: growth("jsq_tokens", n),
    "growth_pecsched": lambda n: growth("pecsched", n),
    "growth_pecsched_longs": lambda n: growth("pecsched", n, longs=True),
    "environment": environment,
    "training": training,
    "optimum": optimum,
    "memory": memory,
    "week": week,
    "first_run": first_run,
}


def _number(value: float) -> str:
    return f"{value:,.3g}" if value < 1e4 else f"{value:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the rows as a JSON list; - for standard output")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=15, help="runs per engine figure (default 15)")
    parser.add_argument("--week", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.week:
        run_week()
        return
    make_cluster(workload=generate("azure2023_conv").slice(0, 10)).run()
    rows: list[Row] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        names = arguments.only or list(BENCHMARKS)
        for name in progress.track(names, description="benchmarks"):
            rows += BENCHMARKS[name](arguments.repeats)
    if arguments.json == "-":
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    if arguments.json:
        with open(arguments.json, "w") as file:  # noqa: PTH123
            json.dump([asdict(row) for row in rows], file, indent=1)
    table = Table(title=f"PecGym on {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    for heading in ("figure", "value", "unit", "bar", "holds"):
        table.add_column(heading, justify="left" if heading in ("figure", "unit") else "right")
    for row in rows:
        holds = {None: "", True: "yes", False: "[red]no"}[row.holds]
        table.add_row(row.name, _number(row.value), row.unit, "" if row.bar is None else _number(row.bar), holds)
    Console().print(table)


if __name__ == "__main__":
    main()
