"""What the hardware and the models are: GPUs, models and clusters, one strict YAML file each."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pecgym.errors import SpecError
from pecgym.strict import find_yaml, load_strict

_DATA = Path(__file__).resolve().parent


def _require_positive(spec: Any, zero_allowed: tuple[str, ...] = ()) -> None:
    """Every number of a spec is finite and > 0 (>= 0 where listed)."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            allowed = value > 0 or (value == 0 and field.name in zero_allowed)
            if not math.isfinite(value) or not allowed:
                bound = ">= 0" if field.name in zero_allowed else "> 0"
                raise SpecError(f"key {field.name!r} is {value}; it must be a finite number {bound}")


@dataclass(frozen=True)
class GpuSpec:
    """One GPU model.

    memory_bytes: what the driver reports. nvlink_one_way_gb_per_s: per GPU, one direction, 1e9 bytes per second.
    idle_w, decode_w, prefill_w: watts of one GPU without work but with a model in its memory, in iterations of decodes
    alone, and in those with prompt tokens. power_source: where they are from, which profiles repeat.
    price_per_hour_usd: one GPU for one hour. sources: where each other figure is from.
    """

    name: str = MISSING
    memory_bytes: int = MISSING
    nvlink_one_way_gb_per_s: float = MISSING
    idle_w: float = MISSING
    decode_w: float = MISSING
    prefill_w: float = MISSING
    power_source: str = MISSING
    price_per_hour_usd: float = MISSING
    sources: list[str] = MISSING

    def __post_init__(self) -> None:
        _require_positive(self, zero_allowed=("idle_w", "price_per_hour_usd"))
        for name in ("decode_w", "prefill_w"):
            if getattr(self, name) < self.idle_w:
                raise SpecError(f"{name} ({getattr(self, name)}) is below idle_w ({self.idle_w}); swap or correct them")


@dataclass(frozen=True)
class ModelSpec:
    """A dense decoder of the Llama shape: grouped query attention, gated MLP, untied embedding and LM head.

    bytes_per_parameter holds for the weights of the layers; embeddings and LM head have their own (quantised models
    keep them in 16 bits). default_tp: tensor parallelism used when nothing else is asked for.
    """

    name: str = MISSING
    layers: int = MISSING
    hidden: int = MISSING
    query_heads: int = MISSING
    kv_heads: int = MISSING
    head_dim: int = MISSING
    ffn: int = MISSING
    vocab: int = MISSING
    bytes_per_parameter: float = MISSING
    bytes_per_embedding_parameter: float = MISSING
    bytes_per_kv_element: float = MISSING
    default_tp: int = MISSING
    sources: list[str] = MISSING

    def __post_init__(self) -> None:
        _require_positive(self)
        if self.query_heads % self.kv_heads:
            raise SpecError(f"query_heads ({self.query_heads}) must be a multiple of kv_heads ({self.kv_heads})")

    @property
    def layer_parameter_count(self) -> int:
        """Parameters of all layers (attention, three matrices of the gated MLP, two norms) and of the last norm."""
        attention = 2 * self.hidden * self.query_heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.ffn + 2 * self.hidden) + self.hidden

    @property
    def embedding_parameter_count(self) -> int:
        """Parameters of the token embedding and of the LM head."""
        return 2 * self.vocab * self.hidden

    @property
    def parameter_count(self) -> int:
        """All parameters."""
        return self.layer_parameter_count + self.embedding_parameter_count

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights of one copy of the model."""
        return math.ceil(
            self.layer_parameter_count * self.bytes_per_parameter
            + self.embedding_parameter_count * self.bytes_per_embedding_parameter
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token over the whole replica: keys and values of the KV heads of every layer."""
        return math.ceil(2 * self.layers * self.kv_heads * self.head_dim * self.bytes_per_kv_element)


@dataclass(frozen=True)
class ClusterSpec:
    """Equal nodes of equal GPUs. inter_node_gb_per_s: one node's network, one way, shared by its GPUs (1e9 bytes/s)."""

    name: str = MISSING
    gpu: str = MISSING
    nodes: int = MISSING
    gpus_per_node: int = MISSING
    inter_node_gb_per_s: float = MISSING
    sources: list[str] = MISSING

    def __post_init__(self) -> None:
        _require_positive(self)

    @property
    def gpu_count(self) -> int:
        """GPUs in the cluster."""
        return self.nodes * self.gpus_per_node

    def replica_count(self, tp: int) -> int:
        """Replicas of `tp` GPUs that fit when a replica stays inside one node. Raises SpecError where none fits."""
        if not 1 <= tp <= self.gpus_per_node:
            raise SpecError(
                f"tensor parallelism {tp} does not fit a node of cluster {self.name!r} ({self.gpus_per_node} GPUs); "
                f"choose 1 to {self.gpus_per_node}"
            )
        return self.nodes * (self.gpus_per_node // tp)


def load_gpu(name_or_path: str | Path) -> GpuSpec:
    """The GPU of that shipped name or .yaml file. Raises SpecError."""
    return load_strict(GpuSpec, find_yaml(_DATA / "gpus", name_or_path, SpecError), SpecError)


def load_model(name_or_path: str | Path) -> ModelSpec:
    """The model of that shipped name or .yaml file. Raises SpecError."""
    return load_strict(ModelSpec, find_yaml(_DATA / "models", name_or_path, SpecError), SpecError)


def load_cluster(name_or_path: str | Path) -> ClusterSpec:
    """The cluster of that shipped name or .yaml file; its GPU must exist too. Raises SpecError."""
    path = find_yaml(_DATA / "clusters", name_or_path, SpecError)
    cluster = load_strict(ClusterSpec, path, SpecError)
    try:
        load_gpu(cluster.gpu)
    except SpecError as problem:
        raise SpecError(f"{path}: key 'gpu': {problem}") from problem
    return cluster
