"""Small instances of the batch scheduling problem: those of the paper, and random ones that a brute force can solve."""

from __future__ import annotations

import random
from typing import Any

from pecgym.costs import Profile, load_profile
from tests.engine.cases import make_profile
from tests.naive_optimum import Instance

LLAMA_7B = "infermax-llama-2-7b-a100"
LLAMA_70B = "infermax-llama-3-70b-a100-tp4"
CALIBRATED = "llama-3.1-8b-a100-80gb-tp1-vllm"  # g is flat, then steep, then flat: neither convex nor concave
PROFILES = (LLAMA_7B, LLAMA_70B, CALIBRATED)
MODES = ("free", "never", "peak")
_LOADED = {name: load_profile(name) for name in PROFILES}


def equal_requests(n: int, input_tokens: int, output_tokens: int, m: int, eviction: str = "free") -> Instance:
    """n equal requests on INFERMAX's 7B, with M KV tokens."""
    lengths = ((input_tokens,) * n, (output_tokens,) * n)
    return Instance(*lengths, _LOADED[LLAMA_7B], kv_capacity_tokens=m, eviction=eviction)


def random_profile(rng: random.Random) -> Profile:
    """Any coefficients, 0 among them; g grows, in pieces of any slope."""

    def coefficient(most: int) -> int:
        return rng.choice((0, rng.randint(1, most)))

    knots, times = [1], [rng.randint(1, 3000)]
    for _ in range(rng.randint(1, 4)):
        knots.append(knots[-1] + rng.randint(1, 4))
        times.append(times[-1] + coefficient(3000))
    return make_profile(
        g_tokens=tuple(knots),
        g_ps=tuple(times),
        prefill_base_ps=coefficient(3000),
        prefill_seq_ps=coefficient(300),
        prefill_kv_ps=coefficient(300),
        attn_ps_per_1024_pairs=coefficient(50_000),
        decode_base_ps=coefficient(3000),
        decode_seq_ps=coefficient(300),
        decode_kv_ps=coefficient(300),
    )


def random_instance(
    rng: random.Random,
    profile: str | None,
    *,
    chunked: bool,
    eviction: str,
    input_most: int = 5,
    output_most: int = 4,
    n_most: int = 3,
    tokens_most: int = 10**9,
) -> Instance:
    """Memory for one request at least and for all at most; half the time a batch limit that binds. profile None: a
    random one. tokens_most: of all prompts and outputs together."""
    while True:
        n = rng.randint(1, n_most)
        inputs = tuple(rng.randint(1, input_most) for _ in range(n))
        outputs = tuple(rng.randint(1, output_most) for _ in range(n))
        if sum(inputs) + sum(outputs) <= tokens_most:
            break
    if rng.random() < 0.25:
        inputs, outputs = (inputs[0],) * n, (outputs[0],) * n
    peaks = [i + o - 1 for i, o in zip(inputs, outputs, strict=True)]
    least_batch = 1 if chunked else max(inputs)
    return Instance(
        inputs,
        outputs,
        _LOADED[profile] if profile else random_profile(rng),
        max_batch_tokens=rng.choice((16384, rng.randint(least_batch, sum(inputs) + n))),
        kv_capacity_tokens=rng.randint(max(peaks), sum(peaks)),
        chunked=chunked,
        eviction=eviction,
    )


def label(instance: Any) -> str:
    """What a failing test prints of its instance."""
    return repr({**instance.options(), "profile": instance.profile.name})
