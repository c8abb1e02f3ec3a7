"""The switches of one engine: which scheduler, batching and memory policy every replica runs.

Kim et al., "The Effect of Scheduling and Preemption on the Efficiency of LLM Inference Serving" (INFERMAX,
arXiv:2411.07447), show that the known engine schedulers are settings of one algorithm; the presets are such settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pecgym.costs import Profile
from pecgym.engine import state as layout
from pecgym.engine.orders import PREEMPTIVE_ORDERS, QUEUE_ORDERS
from pecgym.engine.variants import HOW_TO_NAME, variant_names, variant_of
from pecgym.errors import SpecError
from pecgym.strict import check_types, find_yaml, load_strict, packaged_names
from pecgym.units import HORIZON_S, PS_PER_S, PS_PER_US, seconds_to_ps

_LARGEST = 2**40
_SLOWEST_SWAP_GB_PER_S = 1e-3
_OVERHEADS = ("step_overhead_us", "step_overhead_per_request_us", "prefill_overhead_us")
_LONGEST_OVERHEAD_US = 1e6
_PRESETS = Path(__file__).resolve().parent / "presets"

_CODES: dict[str, dict[str, int]] = {
    "batching": {"continuous": layout.CONTINUOUS, "static": layout.STATIC, "none": layout.CONTINUOUS},
    "group_order": {"prefill_first": layout.PREFILL_FIRST, "decode_first": layout.DECODE_FIRST},
    "reservation": {"prompt": layout.RESERVE_PROMPT, "peak": layout.RESERVE_PEAK, "history": layout.RESERVE_HISTORY},
    "victim": {
        "newest": layout.VICTIM_NEWEST,
        "fewest_computed": layout.VICTIM_FEWEST_COMPUTED,
        "most_computed": layout.VICTIM_MOST_COMPUTED,
    },
    "eviction": {"recompute": layout.EVICT_RECOMPUTE, "swap": layout.EVICT_SWAP},
    "queue_order": QUEUE_ORDERS,
}


@dataclass(frozen=True)
class EngineSettings:
    """The settings of every replica's engine. Choices are listed in docs/engine.md.

    Attributes:
        name: of the preset, for tables.
        batching: "continuous" (requests join and leave between iterations), "static" (a batch starts when
            `static_batch_size` requests wait or the first has waited `static_timeout_s`, and its members return
            together when the longest is done), or "none" (one request at a time).
        max_batch_requests: requests that a replica serves at once.
        max_batch_tokens: new tokens in one iteration (INFERMAX's C). Decodes take their share first. The first whole
            prompt of an iteration may exceed what is left.
        group_order: who gets memory, and without mixing the iteration: "prefill_first" or "decode_first".
        mixing: True if prefills and decodes share an iteration (hybrid batches).
        chunk_tokens: most prompt tokens of one request in an iteration; 0: whole prompts.
        reservation: KV memory that admission sets aside: the "prompt", the "peak" I + O - 1 (never evicts; needs the
            true output length), or the mean peak of finished requests in the same log2(input) bucket ("history").
        victim: who is evicted when KV memory overflows: the "newest" admitted (NRF), "fewest_computed" KV tokens
            (SRF) or "most_computed"; ties: the newest.
        eviction: "recompute" frees the KV, "swap" moves it to host memory and back at `swap_gb_per_s`.
        swap_gb_per_s: bandwidth of one replica to host memory, GB/s (1e9 bytes), of eviction "swap"; inf: free.
        queue_order: order in a replica's queue: "fcfs", "shortest" or "shortest_remaining" output length, "ssjf",
            "ltr", "tie", "one_bit", "skip_predict", or "bins" (pecgym.engine.orders).
        preemptive: True if a waiting request displaces a running one whose key in that order is larger.
        block_tokens: KV tokens in a block; None: the profile's (vLLM: 16, INFERMAX: 1).
        watermark: share of the blocks kept free by admission while others run (vLLM: 0.01).
        kv_capacity_tokens: KV memory of a replica; None: the profile's.
        async_scheduling: True if a batch is composed while the one before it runs (vLLM's --async-scheduling, SGLang's
            overlap scheduler): it knows only of requests that were placed when that one began. A replica that stands
            idle, or has nobody left, composes at once.
        batch_wait_iterations: beside decodes prompts are held back until the iteration would have
            `batch_wait_ratio` x max_batch_tokens new tokens, in at most this many iterations since some last joined;
            0: never (TensorRT-LLM's batch_wait_timeout_iters).
        batch_wait_ratio: that share (TensorRT-LLM's batch_wait_max_tokens_ratio).
        step_overhead_us: time of every iteration on top of the profile's, microseconds: scheduling, input preparation,
            sampling, launching, detokenisation, where they do not overlap with the GPU's work.
        step_overhead_per_request_us: the same for each request in the iteration.
        prefill_overhead_us: the same for an iteration with prompt tokens, whose kernels engines launch one by one
            rather than as a CUDA graph.
    """

    name: str = "custom"
    batching: str = "continuous"
    static_batch_size: int = 8
    static_timeout_s: float = 0.0
    max_batch_requests: int = 256
    max_batch_tokens: int = 16384
    group_order: str = "prefill_first"
    mixing: bool = False
    chunk_tokens: int = 0
    reservation: str = "prompt"
    victim: str = "newest"
    eviction: str = "recompute"
    swap_gb_per_s: float | None = None
    queue_order: str = "fcfs"
    preemptive: bool = False
    block_tokens: int | None = None
    watermark: float = 0.01
    kv_capacity_tokens: int | None = None
    async_scheduling: bool = False
    batch_wait_iterations: int = 0
    batch_wait_ratio: float = 1.0
    step_overhead_us: float = 0.0
    step_overhead_per_request_us: float = 0.0
    prefill_overhead_us: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "engine", SpecError)
        for key, codes in _CODES.items():
            if getattr(self, key) not in codes:
                raise SpecError(f"engine.{key}={getattr(self, key)!r}: choose one of {', '.join(codes)}")
        positive = ("static_batch_size", "max_batch_requests", "max_batch_tokens")
        optional = ("block_tokens", "kv_capacity_tokens")
        for key in positive + tuple(k for k in optional if getattr(self, k) is not None):
            if not 0 < getattr(self, key) < _LARGEST:
                raise SpecError(f"engine.{key}={getattr(self, key)}: must be above 0 and below {_LARGEST:.0e}")
        if self.swap_gb_per_s is not None and not self.swap_gb_per_s >= _SLOWEST_SWAP_GB_PER_S:
            raise SpecError(
                f"engine.swap_gb_per_s={self.swap_gb_per_s}: must be {_SLOWEST_SWAP_GB_PER_S} or more; .inf: free swaps"
            )
        if not 0 <= self.static_timeout_s <= HORIZON_S:
            raise SpecError(f"engine.static_timeout_s={self.static_timeout_s}: must be 0 to {HORIZON_S:.0e} seconds")
        if not 0 <= self.chunk_tokens < _LARGEST:
            raise SpecError(f"engine.chunk_tokens={self.chunk_tokens}: must be 0 (whole prompts) or more")
        if not 0 <= self.batch_wait_iterations < _LARGEST:
            raise SpecError(
                f"engine.batch_wait_iterations={self.batch_wait_iterations}: must be 0 (prompts join at once) or more"
            )
        if not 0 < self.batch_wait_ratio <= 1:
            raise SpecError(
                f"engine.batch_wait_ratio={self.batch_wait_ratio}: a share of max_batch_tokens, "
                "0 < batch_wait_ratio <= 1; to wait for nobody leave batch_wait_iterations 0"
            )
        for key in _OVERHEADS:
            if not 0 <= getattr(self, key) <= _LONGEST_OVERHEAD_US:
                raise SpecError(
                    f"engine.{key}={getattr(self, key)}: must be 0 to {_LONGEST_OVERHEAD_US:.0e} microseconds"
                )
        if not 0 <= self.watermark < 1:
            raise SpecError(f"engine.watermark={self.watermark}: a share of the KV blocks, 0 <= watermark < 1")
        for wrong, message in (
            (
                self.preemptive and self.queue_order not in PREEMPTIVE_ORDERS,
                f"preemptive=true needs queue_order={', '.join(PREEMPTIVE_ORDERS[:-1])} or {PREEMPTIVE_ORDERS[-1]}",
            ),
            (
                self.queue_order == "bins" and self.batching != "static",
                "queue_order=bins makes batches out of bins: batching=static",
            ),
            (self.eviction == "swap" and self.swap_gb_per_s is None, "eviction=swap needs swap_gb_per_s (.inf: free)"),
            (self.eviction != "swap" and self.swap_gb_per_s is not None, "swap_gb_per_s needs eviction=swap"),
            (self.batching == "static" and self.mixing, "static batches are never mixed: leave mixing false"),
            (self.batching == "static" and self.chunk_tokens > 0, "static batches run whole prompts: chunk_tokens=0"),
            (
                self.batching == "static" and self.preemptive,
                "nobody is displaced from a static batch: preemptive=false",
            ),
            (
                self.batching == "static" and self.reservation == "history",
                "static batches hold the padded peak, not a history",
            ),
            (
                self.batching == "static" and self.async_scheduling,
                "static batches are composed at their start: async_scheduling=false",
            ),
            (
                self.preemptive and self.async_scheduling,
                "nobody is displaced for a request that is not known yet: async_scheduling=false",
            ),
            (
                self.batch_wait_iterations > 0 and self.batching != "continuous",
                "prompts wait for others only where requests join a running batch: batch_wait_iterations > 0 needs "
                "batching=continuous",
            ),
            (
                self.batch_wait_iterations > 0 and not (self.mixing and self.group_order == "decode_first"),
                "prompts are held back while decodes run: batch_wait_iterations > 0 needs mixing=true and "
                "group_order=decode_first",
            ),
            (
                self.batch_wait_iterations > 0 and self.preemptive,
                "nobody is displaced for a prompt that is held back: batch_wait_iterations > 0 needs preemptive=false",
            ),
            (
                self.batch_wait_iterations == 0 and self.batch_wait_ratio != 1.0,
                "batch_wait_ratio needs batch_wait_iterations > 0",
            ),
            (self.batching != "static" and self.static_timeout_s > 0, "static_timeout_s needs batching=static"),
        ):
            if wrong:
                raise SpecError(f"engine: {message}")

    @property
    def slots(self) -> int:
        """Requests that a replica serves at once: one decode token each must fit in an iteration."""
        if self.batching == "none":
            return 1
        if self.batching == "static":
            return min(self.static_batch_size, self.max_batch_tokens)
        return min(self.max_batch_requests, self.max_batch_tokens)

    def with_changes(self, **changes: Any) -> EngineSettings:
        """A copy with some settings changed; an unknown one raises SpecError."""
        known = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise SpecError(f"engine: unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")
        return replace(self, **changes)

    def resolved(self, profile: Profile) -> EngineSettings:
        """A copy in which what was left to the profile, block size and KV memory, has the profile's value."""
        return replace(
            self,
            block_tokens=self.block_tokens or profile.block_tokens,
            kv_capacity_tokens=self.kv_capacity_tokens or profile.kv_capacity_tokens,
        )

    def with_overhead(self, profile: Profile) -> Profile:
        """The profile with this engine's overhead in every iteration."""
        return profile.with_overhead(*(round(getattr(self, key) * PS_PER_US) for key in _OVERHEADS))

    def write(self, record: Any, profile: Profile) -> None:
        """Fills the kernel's SETTINGS record from resolved settings."""
        assert self.block_tokens is not None
        assert self.kv_capacity_tokens is not None
        for key, codes in _CODES.items():
            record[key] = codes[getattr(self, key)]
        record.slots = record.static_size = min(self.slots, self.kv_capacity_tokens)
        record.static_timeout_ps = seconds_to_ps(self.static_timeout_s)
        record.max_batch_tokens = self.max_batch_tokens
        record.chunk_tokens = self.chunk_tokens
        record.mixing = self.mixing
        record.preemptive = self.preemptive
        record.async_scheduling = self.async_scheduling
        record.batch_wait_iterations = self.batch_wait_iterations
        record.batch_wait_tokens = math.ceil(self.batch_wait_ratio * self.max_batch_tokens)
        if self.swap_gb_per_s is not None:
            record.swap_ps_per_token = round(profile.kv_bytes_per_token / (self.swap_gb_per_s * 1e9) * PS_PER_S)
        record.block_tokens = self.block_tokens
        record.capacity_blocks = self.kv_capacity_tokens // self.block_tokens
        record.watermark_blocks = int(self.watermark * record.capacity_blocks)


def engine_names() -> list[str]:
    """The presets that ship with the package, and the names derived from them (pecgym.engine.variants)."""
    return sorted(packaged_names(_PRESETS) + variant_names())


def load_engine(name_or_path: str | Path, **changes: Any) -> EngineSettings:
    """The preset of that name ("vllm", "sarathi_hist_srf"), or the settings in a YAML file, with `changes` on top.

    Raises SpecError for a name that does not exist, suffixes that mean nothing together, and unknown keys.
    """
    name = str(name_or_path)
    variant = None if name in packaged_names(_PRESETS) else variant_of(name)
    if variant is not None:
        base, of_name = variant
        return load_engine(base, **{"name": name, **of_name, **changes})
    path = find_yaml(_PRESETS, name_or_path, SpecError, HOW_TO_NAME)
    settings = load_strict(EngineSettings, path, SpecError)
    if settings.name == "custom":
        settings = replace(settings, name=path.stem)
    return settings.with_changes(**changes)
