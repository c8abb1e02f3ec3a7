"""The switches of one engine: which scheduler, batching and memory policy every replica runs.

Kim et al., "The Effect of Scheduling and Preemption on the Efficiency of LLM Inference Serving" (INFERMAX,
arXiv:2411.07447), show that the known engine schedulers are settings of one algorithm; the presets are such settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import yaml

from pecgym.engine import state as layout
from pecgym.errors import SpecError
from pecgym.units import PS_PER_S

_PRESETS = files("pecgym.engine") / "presets"

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
    "queue_order": {
        "fcfs": layout.ORDER_FCFS,
        "shortest": layout.ORDER_SHORTEST,
        "shortest_remaining": layout.ORDER_SHORTEST_REMAINING,
    },
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
        max_batch_tokens: new tokens in one iteration (INFERMAX's C). Decodes take their share first. A whole prompt
            that is longer runs alone.
        group_order: who gets memory, and without mixing the iteration: "prefill_first" or "decode_first".
        mixing: True if prefills and decodes share an iteration (hybrid batches).
        chunk_tokens: most prompt tokens of one request in an iteration; 0: whole prompts.
        reservation: KV memory that admission sets aside: the "prompt", the "peak" I + O - 1 (never evicts; needs the
            true output length), or the mean peak of finished requests in the same log2(input) bucket ("history").
        victim: who is evicted when KV memory overflows: the "newest" admitted (NRF), "fewest_computed" KV tokens
            (SRF) or "most_computed"; ties: the newest.
        eviction: "recompute" frees the KV, "swap" moves it to host memory and back at `swap_gb_per_s`.
        swap_gb_per_s: bandwidth of one replica to host memory, GB/s (1e9 bytes); None: swaps take no time.
        queue_order: order in a replica's queue: "fcfs", "shortest" or "shortest_remaining" output length.
        preemptive: True if a waiting request displaces a running one whose key in that order is larger.
        block_tokens: KV tokens in a block (vLLM: 16).
        watermark: share of the blocks kept free by admission while others run (vLLM: 0.01).
        kv_capacity_tokens: KV memory of a replica; None: the profile's.
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
    block_tokens: int = 16
    watermark: float = 0.01
    kv_capacity_tokens: int | None = None

    def __post_init__(self) -> None:
        for key, codes in _CODES.items():
            if getattr(self, key) not in codes:
                raise SpecError(f"engine.{key}={getattr(self, key)!r}: choose one of {', '.join(codes)}")
        positive = ("static_batch_size", "max_batch_requests", "max_batch_tokens", "block_tokens")
        optional = ("swap_gb_per_s", "kv_capacity_tokens")
        for key in positive + tuple(k for k in optional if getattr(self, k) is not None):
            if not getattr(self, key) > 0:
                raise SpecError(f"engine.{key}={getattr(self, key)}: must be above 0")
        for key in ("static_timeout_s", "chunk_tokens"):
            if not getattr(self, key) >= 0:
                raise SpecError(f"engine.{key}={getattr(self, key)}: must be 0 or more")
        if not 0 <= self.watermark < 1:
            raise SpecError(f"engine.watermark={self.watermark}: a share of the KV blocks, 0 <= watermark < 1")
        if self.preemptive and self.queue_order == "fcfs":
            raise SpecError("engine.preemptive=true needs engine.queue_order=shortest or shortest_remaining")

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
        _check_keys(changes, "engine")
        return replace(self, **changes)

    def write(self, record: Any, capacity_tokens: int, kv_bytes_per_token: int) -> None:
        """Fills the kernel's SETTINGS record. capacity_tokens: KV memory of a replica, in tokens."""
        for key, codes in _CODES.items():
            record[key] = codes[getattr(self, key)]
        record.static_size = self.slots
        record.static_timeout_ps = round(self.static_timeout_s * PS_PER_S)
        record.slots = self.slots
        record.max_batch_tokens = self.max_batch_tokens
        record.chunk_tokens = self.chunk_tokens
        record.mixing = self.mixing
        record.preemptive = self.preemptive
        if self.swap_gb_per_s is not None:
            record.swap_ps_per_token = round(kv_bytes_per_token / (self.swap_gb_per_s * 1e9) * PS_PER_S)
        record.block_tokens = self.block_tokens
        record.capacity_blocks = capacity_tokens // self.block_tokens
        record.watermark_blocks = int(np.floor(self.watermark * record.capacity_blocks))


def engine_names() -> list[str]:
    """The presets that ship with the package."""
    return sorted(Path(str(p)).stem for p in _PRESETS.iterdir() if p.name.endswith(".yaml"))


def load_engine(name_or_path: str | Path, **changes: Any) -> EngineSettings:
    """The preset of that name, or the settings in a YAML file, with `changes` on top. Unknown keys raise SpecError."""
    path = Path(str(name_or_path))
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise SpecError(f"{path}: no such engine file; the presets are {', '.join(engine_names())}")
        text, where = path.read_text(), str(path)
    else:
        preset = _PRESETS / f"{name_or_path}.yaml"
        if not preset.is_file():
            raise SpecError(
                f"engine {str(name_or_path)!r} does not exist; choose one of {', '.join(engine_names())}, "
                "or give the path of a .yaml file"
            )
        text, where = preset.read_text(), f"engine {name_or_path}"
    values = yaml.safe_load(text) or {}
    if not isinstance(values, Mapping):
        raise SpecError(f"{where}: must hold `key: value` lines")
    _check_keys(values, where)
    _check_types(values, where)
    _check_types(changes, "engine")
    return EngineSettings(**{"name": path.stem, **values}).with_changes(**changes)


def _check_keys(values: Mapping[str, Any], where: str) -> None:
    known = [f.name for f in fields(EngineSettings)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise SpecError(f"{where}: unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")


def _check_types(values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(EngineSettings)
    for key, value in values.items():
        kinds = get_args(hints.get(key)) or (hints.get(key),)
        allowed = tuple(k for k in kinds if isinstance(k, type)) + ((int,) if float in kinds else ())
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join(k.__name__ for k in allowed)
            raise SpecError(f"{where}: {key}={value!r} must be {names}")
