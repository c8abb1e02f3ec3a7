"""Random small worlds for the environments' tests, and what agents do in them.

A world is a cluster of a shipped model with little KV memory, under a file of shorts and longs that come in bursts, so
that within some hundred decisions replicas are full, longs wait, gather, are suspended and decode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pecgym.costs import load_profile
from pecgym.engine.long_rules import LongRules
from pecgym.envs.cluster_env import ClusterEnv, ClusterVectorEnv
from pecgym.envs.config import CONTROLS
from pecgym.policies import load_policy
from pecgym.workload import Trace

MODELS = {"llama-3.1-8b": 1, "mistral-7b": 1, "phi-3-14b": 1, "llama-3.1-70b": 4}
"""GPUs per replica."""
POLICIES = (
    "pecsched",
    "pecsched/PE",
    "pecsched/Dis",
    "pecsched/CoL",
    "pecsched/FSP",
    "pecsched_shortest_long",
    "pecsched_fewest",
    "pecsched_adaptive_pool",
    "fifo",
    "reservation",
    "priority",
)
ENGINES = ("vllm", "vllm_v1", "vllm_hybrid", "sarathi", "orca")
WITHOUT_ROLES = CONTROLS[:-1]


def write_cluster(folder: Path, nodes: int, gpus_per_node: int) -> str:
    """The path of a cluster of that many A100."""
    path = folder / f"{nodes}x{gpus_per_node}.yaml"
    path.write_text(
        f"name: test\ngpu: a100-80gb\nnodes: {nodes}\ngpus_per_node: {gpus_per_node}\n"
        "inter_node_gb_per_s: 50.0\nsources: [test]\n"
    )
    return str(path)


def make_trace(
    seed: int,
    n: int,
    *,
    capacity: int,
    able: int,
    gap_s: float = 0.05,
    share_of_longs: float = 0.1,
    longest_s: int = 60,
) -> Trace:
    """n requests; shorts of up to `longest_s` output tokens, longs that need up to all the memory of `able` replicas of
    `capacity` tokens. Arrivals in bursts, mean gap `gap_s`."""
    random = np.random.default_rng(seed)
    is_long = random.random(n) < share_of_longs
    outputs = random.integers(1, longest_s, n)
    most = np.where(is_long, able * capacity // random.choice([1, 2, 4]), min(capacity, 2000)) - outputs
    inputs = 1 + np.floor(random.random(n) * (most - 1)).astype(np.int64)
    gaps = np.maximum(random.random(n) - 0.5, 0) * 8 * gap_s
    return Trace(np.cumsum(gaps), inputs, outputs, is_long=is_long, name="random")


def able_replicas(policy: str, n_replicas: int, tp: int) -> int:
    """How many replicas may serve one long."""
    rules = load_policy(policy).rules_with(tp)
    if rules.pool_interval_s:
        return 1
    reserved = LongRules.count_of_replicas(rules.reserved_replicas, n_replicas)
    return reserved or n_replicas - LongRules.count_of_replicas(rules.decode_replicas, n_replicas)


def make_world(
    folder: Path,
    seed: int = 0,
    *,
    model: str = "llama-3.1-8b",
    nodes: int = 2,
    per_node: int = 2,
    policy: str = "pecsched",
    n_requests: int = 150,
    kv_blocks: int = 300,
    engine: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Keyword arguments of an environment of `nodes` x `per_node` replicas. workload: changes make_trace."""
    tp = MODELS[model]
    block = load_profile(f"{model}-a100-80gb-tp{tp}-vllm").block_tokens
    capacity = kv_blocks * block
    able = able_replicas(policy, nodes * per_node, tp)
    trace = make_trace(seed, n_requests, **{"capacity": capacity, "able": able, **(workload or {})})
    path = folder / f"trace_{seed}_{nodes}x{per_node}_{policy.replace('/', '_')}_{n_requests}_{kv_blocks}.csv"
    trace.write_csv(path)
    return {
        "model": model,
        "cluster": write_cluster(folder, nodes, per_node * tp),
        "engine": {"name": "vllm", "kv_capacity_tokens": capacity, **(engine or {})},
        "workload": {"name": "file", "path": str(path)},
        "scenario": {"name": "native"},
        "policy": policy,
        "episode": {"requests": None, "random_start": False},
        **settings,
    }


def random_world(folder: Path, seed: int, n_requests: int = 150, gap_s: float | None = None) -> dict[str, Any]:
    """A world of 1 to 32 replicas with a random policy, engine, controls and switches. gap_s: mean gap of arrivals,
    None: random, shorter for more replicas."""
    random = np.random.default_rng(seed)
    model = str(random.choice(list(MODELS)))
    nodes, per_node = int(random.integers(1, 5)), int(random.integers(1, 9))
    policy = str(random.choice(POLICIES))
    if policy in ("reservation", "pecsched_adaptive_pool"):
        per_node = max(per_node, 2)
    n_replicas, able = nodes * per_node, able_replicas(policy, nodes * per_node, MODELS[model])
    controls = [name for name in WITHOUT_ROLES if random.random() < 0.6] or [str(random.choice(WITHOUT_ROLES))]
    if policy.startswith("pecsched") and policy != "pecsched/Dis" and n_replicas > 1 and random.random() < 0.3:
        controls.append("roles")
        able = 1
    degree: Any = [None, "node", "memory", int(random.integers(1, able + 1))][random.integers(4)]
    return make_world(
        folder,
        seed,
        model=model,
        nodes=nodes,
        per_node=per_node,
        policy=policy,
        n_requests=n_requests,
        kv_blocks=int(random.choice([200, 300, 1000])),
        engine={"name": str(random.choice(ENGINES))},
        workload={"able": able, "gap_s": gap_s or float(random.choice([0.01, 0.1, 0.4])) * 4 / n_replicas},
        agent_controls=controls,
        allow_wait=bool(random.random() < 0.7),
        n_longs=int(random.integers(1, 9)),
        long={"sp_degree": degree},
        role_interval_s=float(random.choice([0.5, 5.0])),
        skip_forced=bool(random.random() < 0.7),
    )


def make_env(**settings: Any) -> ClusterEnv:
    """One copy of Cluster-v0, without wrappers."""
    return ClusterEnv(**settings)


def make_vector(n: int, **settings: Any) -> ClusterVectorEnv:
    """n copies of Cluster-v0."""
    return ClusterVectorEnv(num_envs=n, **settings)


def sample(mask: Any, sizes: Any, random: np.random.Generator) -> Any:
    """int64[..., components]: a random value of each component, of those that the mask [..., M] allows."""
    scores = np.asarray(mask) * (1.0 + random.random(np.shape(mask)))
    ends = np.cumsum(sizes)
    parts = [scores[..., end - size : end].argmax(-1) for size, end in zip(sizes, ends, strict=True)]
    return np.stack(parts, -1)


def first_allowed(env: ClusterEnv) -> Any:
    """The first value that the mask allows of every component."""
    return np.array([int(np.argmax(part)) for part in split(env.action_masks(), env.action_space.nvec)])


def waiting(env: ClusterEnv) -> Any:
    """To wait."""
    action = np.zeros(len(env.action_space.nvec), np.int64)
    action[0] = env.action_space.nvec[0] - 1
    return action


def split(mask: Any, sizes: Any) -> list[Any]:
    """The mask of each component."""
    return np.split(np.asarray(mask), np.cumsum(sizes)[:-1].tolist())


def play(env: ClusterEnv, choose: Any, seed: int = 0, options: Any = None) -> list[tuple[Any, ...]]:
    """An episode in which `choose(env, random)` decides: what reset and every step returned."""
    random = np.random.default_rng(seed)
    seen: list[tuple[Any, ...]] = [env.reset(seed=seed, options=options)]
    done = False
    while not done:
        seen.append(env.step(choose(env, random)))
        done = seen[-1][2] or seen[-1][3]
    return seen


def at_random(env: ClusterEnv, random: np.random.Generator) -> Any:
    """A random action that is allowed."""
    return sample(env.action_masks(), env.action_space.nvec, random)


def as_reference(env: ClusterEnv, random: np.random.Generator) -> Any:
    """What the reference policy does."""
    return env.reference_action()


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of dicts, tuples and arrays are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """`equal`, saying where they differ."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), f"{where}: {sorted(a)} against {sorted(b)}"
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, other, f"{where}[{i}]")
    elif not equal(a, b):
        places = np.argwhere(np.not_equal(a, b)).tolist() if np.shape(a) == np.shape(b) else []
        shown = places[:5] or f"{a!r} against {b!r}"
        raise AssertionError(f"{where}: {type(a).__name__} and {type(b).__name__} differ at {shown}")
