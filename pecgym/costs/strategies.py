"""Sequence parallelism strategies: their names, the shape of a group, what GPUs exchange in a layer, and the constants.

Elements per layer after the table of PecSched (arXiv:2409.15104, Fast SP), here per GPU instead of summed over a node,
with the model's real widths: N_h + 2 N_kv heads in the projection of queries, keys and values, three matrices of
hidden x ffn in the gated MLP.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pecgym.costs.specs import ModelSpec
from pecgym.errors import SpecError

Floats = NDArray[np.float64]

STRATEGIES = ("ring", "ulysses", "megatron", "fast")
"""Names of the strategies; the index is the engine's code."""


@dataclass(frozen=True)
class GroupShape:
    """`degree` replicas on `nodes` nodes, at most ceil(degree / nodes) of them on one. Raises SpecError."""

    degree: int
    nodes: int

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= self.degree:
            raise SpecError(
                f"a group of {self.degree} replicas on {self.nodes} nodes is impossible: it needs at least one node, "
                "and a replica on each"
            )

    @property
    def replicas_per_node(self) -> int:
        """Replicas on the fullest node."""
        return -(-self.degree // self.nodes)


@dataclass(frozen=True)
class ParallelConstants:
    """What the specs of model, GPU and cluster do not say. Measured with A100s; replace them for other hardware.

    Raises SpecError for a value that is negative or not finite, or an efficiency that is 0 or above 1.
    """

    # Fitted by `ring_measurements.fit_ring` to the rows SP2 and SP8 of Tetris, Table I (ISCA 2026).
    ring_step_s: float = 0.743e-3
    """A ring step's launches and synchronisation, per layer."""
    ring_step_loss: float = 0.00785
    """Attention is longer by this fraction per further ring step: smaller blocks, partial results to be merged."""

    # NCCL 2.27.3 on 8 A100 SXM, 512 MB of bf16: 203, 205, 213 GB/s in all-to-all, all-gather, reduce-scatter of 300
    # (aiconfigurator-core 0.12.0, systems/data/a100_sxm/comm/nccl/2.27.3). 4 GPUs reach 0.64, 2 GPUs 0.50.
    nvlink_efficiency: float = 0.68
    # 16 A100 on two nodes: 86 GB/s of the 100 of four HDR NICs (github.com/NVIDIA/nccl/issues/1048).
    inter_node_efficiency: float = 0.86

    # Straight lines through the means for messages up to 4 KB on 2, 4 and 8 GPUs of the same NCCL table.
    exchange_base_s: float = 7.96e-6
    exchange_per_gpu_s: float = 0.856e-6
    """All-gather, reduce-scatter or all-to-all: 9.7, 11.4 and 14.8 us."""
    all_reduce_base_s: float = 6.26e-6
    all_reduce_per_gpu_s: float = 1.95e-6
    """All-reduce: 10.1, 14.2 and 21.8 us."""
    # One A100 on each of two nodes (HDR InfiniBand): 19.2 us (github.com/NVIDIA/nccl-tests/issues/150), less the line
    # above for one GPU per node. More than two nodes: one such hop per level of a binary tree, an assumption.
    inter_node_hop_s: float = 11.0e-6

    # Activations travel as bf16, also where weights and cache are FP8 (those are quantised at the matrix product).
    activation_bytes: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            efficiency = field.name.endswith("_efficiency")
            if not math.isfinite(value) or value < 0 or (efficiency and not 0 < value <= 1):
                bound = "above 0 and at most 1" if efficiency else "finite and >= 0"
                raise SpecError(f"{field.name} is {value}; it must be {bound}")


DEFAULT_PARALLEL_CONSTANTS = ParallelConstants()


@dataclass(frozen=True)
class Exchange:
    """What one GPU receives from the other GPUs of its node in one layer, and in how many collectives.

    activation_elements: float64[n], one per number of tokens. weight_elements: whatever the tokens.
    """

    activation_elements: Floats
    weight_elements: float
    collectives: int


def attention_megatron(tokens_per_gpu: Floats, gpus: int, model: ModelSpec) -> Exchange:
    """All-gather before and reduce-scatter after attention that is split by heads over `gpus` GPUs."""
    return Exchange(2.0 * tokens_per_gpu * model.hidden * (gpus - 1), 0.0, 2 if gpus > 1 else 0)


def attention_ulysses(tokens_per_gpu: Floats, gpus: int, tp: int, model: ModelSpec) -> Exchange:
    """All-to-all of queries, keys and values before and of outputs after attention; the projections' weights if TP.

    A GPU sends all but 1 / gpus of N_h + 2 N_kv heads of its tokens and gets N_h back: 2 (N_h + N_kv) together.
    """
    heads = 2.0 * (model.query_heads + model.kv_heads) * model.head_dim
    activations = tokens_per_gpu * heads * (gpus - 1) / gpus
    weights = 2.0 * (model.query_heads + model.kv_heads) * model.head_dim * model.hidden
    return Exchange(activations, weights * (tp - 1) / tp, (2 if gpus > 1 else 0) + (1 if tp > 1 else 0))


def mlp_megatron(tokens_per_gpu: Floats, tp: int, model: ModelSpec) -> Exchange:
    """All-gather before and reduce-scatter after an MLP that is split over the GPUs of a replica."""
    return Exchange(2.0 * tokens_per_gpu * model.hidden * (tp - 1), 0.0, 2 if tp > 1 else 0)


def mlp_ulysses(tokens_per_gpu: Floats, tp: int, model: ModelSpec) -> Exchange:
    """Each GPU gathers the weights of the gated MLP from its replica and works on its own tokens."""
    return Exchange(0.0 * tokens_per_gpu, 3.0 * model.hidden * model.ffn * (tp - 1) / tp, 1 if tp > 1 else 0)


def ring_hides_above_tokens(model: ModelSpec, attention_s_per_pair: float, bytes_per_s: float) -> float:
    """Tokens of a block above which its ring transfer takes less time than attention with it.

    attention_s_per_pair: of all layers, per pair of a query and a key token of a block, by one ring member.
    bytes_per_s: what the member sends with.
    """
    return model.kv_bytes_per_token / (attention_s_per_pair * bytes_per_s)
