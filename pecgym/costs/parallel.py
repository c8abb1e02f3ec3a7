"""Sequence parallelism: what the prefill and decode of a long request take on a group of replicas.

A group has `degree` replicas (TP GPUs each, a replica inside one node) on `nodes` nodes. Tokens are spread evenly over
the replicas, causal attention is balanced between them (zig-zag). Strategies, after PecSched (arXiv:2409.15104):

    ring      one ring over all replicas: keys and values go round in `degree` steps
    ulysses   a ring of nodes; inside a node each GPU gathers the sequence for its share of the heads, and the weights
    megatron  a ring of nodes; inside a node sequences are gathered and scattered around work that is split by heads
    fast      a ring of nodes; inside a node the cheaper of the two, chosen apart for attention and MLP

All times are plain float64 sums, products, quotients and maxima, in one order, so that all machines agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pecgym.costs.profile import PAIRS_UNIT, Profile
from pecgym.costs.specs import ClusterSpec, GpuSpec, ModelSpec
from pecgym.costs.strategies import (
    DEFAULT_PARALLEL_CONSTANTS,
    STRATEGIES,
    Exchange,
    Floats,
    GroupShape,
    ParallelConstants,
    attention_megatron,
    attention_ulysses,
    mlp_megatron,
    mlp_ulysses,
)
from pecgym.errors import SpecError
from pecgym.units import PS_PER_S

STEP_TOKENS = 2048
GB = 1e9


@dataclass(frozen=True, eq=False)
class PrefillParts:
    """A prefill's time, float64[n] seconds each: the sum is `prefill_s`.

    compute_s: the profile's work over the degree, without communication. ring_steps_s: overhead of ring steps and what
    attention loses by smaller blocks. transfer_s: what the ring's transfers exceed attention by. exchange_s:
    communication inside nodes, TP's own included.
    """

    compute_s: Floats
    ring_steps_s: Floats
    transfer_s: Floats
    exchange_s: Floats


@dataclass(frozen=True, eq=False)
class _System:
    """Everything that does not depend on tokens, shape and strategy. Raises SpecError where the parts do not match."""

    model: ModelSpec
    gpu: GpuSpec
    cluster: ClusterSpec
    profile: Profile
    constants: ParallelConstants

    def __post_init__(self) -> None:
        named = (("model", self.profile.model, self.model.name), ("GPU", self.profile.gpu, self.gpu.name))
        for kind, theirs, ours in named:
            if theirs not in ("any", ours):
                raise SpecError(
                    f"profile {self.profile.name!r} is for {kind} {theirs!r}, but {ours!r} was given; pass parts that "
                    "belong together"
                )
        self.cluster.replica_count(self.profile.tp)

    @property
    def replicas_per_node(self) -> int:
        return self.cluster.gpus_per_node // self.profile.tp

    @property
    def nvlink_bytes_per_s(self) -> float:
        """What one GPU sends or receives inside its node."""
        return self.gpu.nvlink_one_way_gb_per_s * GB * self.constants.nvlink_efficiency

    @property
    def inter_node_bytes_per_s(self) -> float:
        """What one node sends, all its GPUs together."""
        return self.cluster.inter_node_gb_per_s * GB * self.constants.inter_node_efficiency

    def is_possible(self, degree: int, nodes: int) -> bool:
        """Whether that many nodes have room for that many replicas."""
        return 1 <= nodes <= min(degree, self.cluster.nodes) and -(-degree // self.replicas_per_node) <= nodes

    def require_possible(self, shape: GroupShape) -> None:
        if not self.is_possible(shape.degree, shape.nodes):
            raise SpecError(
                f"{shape.degree} replicas of {self.profile.tp} GPUs cannot sit on {shape.nodes} nodes of cluster "
                f"{self.cluster.name!r}, which has {self.cluster.nodes} nodes with room for {self.replicas_per_node} "
                "replicas each; ask for fewer replicas or more nodes"
            )

    def exchange_s(self, exchange: Exchange, gpus: int) -> Floats:
        """Time of an exchange in all layers among `gpus` GPUs of a node; nothing hides it."""
        received_bytes = (
            exchange.activation_elements * self.constants.activation_bytes
            + exchange.weight_elements * self.model.bytes_per_parameter
        )
        latency_s = exchange.collectives * (self.constants.exchange_base_s + self.constants.exchange_per_gpu_s * gpus)
        return self.model.layers * (received_bytes / self.nvlink_bytes_per_s + latency_s)

    def tp_exchange_s(self, tokens_per_replica: Floats) -> Floats:
        """What TP exchanges inside one replica, which the profile's times include: Megatron for attention and MLP."""
        tp = self.profile.tp
        own = tokens_per_replica / tp
        attention = self.exchange_s(attention_megatron(own, tp, self.model), tp)
        return attention + self.exchange_s(mlp_megatron(own, tp, self.model), tp)

    def g_s(self, tokens: Floats) -> Floats:
        """The profile's time of a prefill on one replica without attention, with what TP exchanges."""
        return self._between_knots(tokens, self._knot_times_s())

    def linear_s(self, tokens: Floats) -> Floats:
        """The same less what TP exchanges. As g is a fit, the difference is kept from falling with more tokens."""
        knots = self.profile.g_knots_tokens.astype(np.float64)
        rest_s = np.maximum(self._knot_times_s() - self.tp_exchange_s(knots), 0.0)
        return self._between_knots(tokens, np.maximum.accumulate(rest_s))

    def _knot_times_s(self) -> Floats:
        profile = self.profile
        times_s: Floats = (profile.g_knots_ps + profile.prefill_base_ps + profile.prefill_seq_ps) / PS_PER_S
        return times_s

    def _between_knots(self, tokens: Floats, times_s: Floats) -> Floats:
        """Linear between the profile's knots, going on with the last slope. (np.interp may fuse operations.)"""
        knots = self.profile.g_knots_tokens.astype(np.float64)
        i = np.clip(np.searchsorted(knots, tokens, side="right"), 1, len(knots) - 1) - 1
        beyond = np.maximum(tokens - knots[i], 0.0)
        value: Floats = times_s[i] + (times_s[i + 1] - times_s[i]) * beyond / (knots[i + 1] - knots[i])
        return value

    def attention_s(self, tokens: Floats) -> Floats:
        """The profile's time of attention of a whole prompt on one replica."""
        return tokens * tokens * self.profile.attn_ps_per_1024_pairs / PAIRS_UNIT / PS_PER_S

    def hop_s(self, block_tokens: Floats, replicas: int, nodes: int) -> Floats:
        """Time in which `replicas` replicas of a node send the keys and values of a block to the next ring member.

        Their GPUs send in parallel; what leaves a node shares its link. A way out is never faster than one inside.
        """
        block_bytes = block_tokens * self.model.kv_bytes_per_token
        inside_s = block_bytes / (replicas * self.profile.tp * self.nvlink_bytes_per_s)
        return np.maximum(inside_s, block_bytes / self.inter_node_bytes_per_s) if nodes > 1 else inside_s

    def ring_s(self, attention_s: Floats, hop_s: Floats, steps: int) -> tuple[Floats, Floats]:
        """What a ring of `steps` steps adds to attention of that time: by its steps, and by its transfers.

        Transfers run beside the attention with the block before; there is none in the last step.
        """
        further = steps - 1
        constants = self.constants
        own_s = further * (self.model.layers * constants.ring_step_s + constants.ring_step_loss * attention_s)
        return own_s, further * np.maximum(hop_s - attention_s / steps, 0.0)

    def parts(self, tokens: Floats, shape: GroupShape, strategy: str) -> PrefillParts:
        """A prefill's time by part; see `prefill_parts`."""
        degree, nodes, tp = shape.degree, shape.nodes, self.profile.tp
        own = tokens / degree
        attention_s = self.attention_s(tokens) / degree
        if degree == 1:
            exchange_s, none = self.tp_exchange_s(own), 0.0 * own
            return PrefillParts(self.g_s(own) - exchange_s + attention_s, none, none, exchange_s)
        compute_s = self.linear_s(own) + attention_s
        if strategy == "ring":
            steps_s, transfer_s = self.ring_s(attention_s, self.hop_s(own, 1, nodes), degree)
            return PrefillParts(compute_s, steps_s, transfer_s, self.tp_exchange_s(own))
        replicas = shape.replicas_per_node
        steps_s, transfer_s = self.ring_s(attention_s, self.hop_s(own * replicas, replicas, nodes), nodes)
        exchange_s = self.inside_node_s(own / tp, replicas * tp, strategy)
        return PrefillParts(compute_s, steps_s, transfer_s, exchange_s)

    def inside_node_s(self, tokens_per_gpu: Floats, gpus: int, strategy: str) -> Floats:
        """Communication of the strategy inside a node where the group has `gpus` GPUs.

        Both strategies do the same computation, so the cheapest of the four combinations is the one that communicates
        least. Attention spans the node, or a ring would remain in it; the MLP needs no more than its own replica.
        """
        tp, model = self.profile.tp, self.model
        megatron = (
            self.exchange_s(attention_megatron(tokens_per_gpu, gpus, model), gpus),
            self.exchange_s(mlp_megatron(tokens_per_gpu, tp, model), tp),
        )
        ulysses = (
            self.exchange_s(attention_ulysses(tokens_per_gpu, gpus, tp, model), gpus),
            self.exchange_s(mlp_ulysses(tokens_per_gpu, tp, model), tp),
        )
        if strategy == "megatron":
            return megatron[0] + megatron[1]
        if strategy == "ulysses":
            return ulysses[0] + ulysses[1]
        return np.minimum(megatron[0], ulysses[0]) + np.minimum(megatron[1], ulysses[1])

    def all_reduce_s(self, elements: float, shape: GroupShape) -> float:
        """An all-reduce of so many elements of each GPU with its counterparts in the group's other replicas."""
        if shape.degree == 1:
            return 0.0
        constants = self.constants
        hops = (shape.nodes - 1).bit_length()
        latency_s = constants.all_reduce_base_s + constants.all_reduce_per_gpu_s * shape.replicas_per_node
        one_way_bytes = 2.0 * elements * constants.activation_bytes * (shape.degree - 1) / shape.degree
        inside_s = one_way_bytes / self.nvlink_bytes_per_s
        across_s = one_way_bytes * self.profile.tp / self.inter_node_bytes_per_s if shape.nodes > 1 else 0.0
        return latency_s + hops * constants.inter_node_hop_s + max(inside_s, across_s)

    def decode_sync_s(self, shape: GroupShape) -> float:
        """What one iteration of a decode with a sharded cache adds: an all-reduce of partial outputs in each layer.

        Of one token: the output, and two numbers per head that say how to weigh it (maximum and sum of the softmax).
        """
        elements = self.model.query_heads * (self.model.head_dim + 2) / self.profile.tp
        return self.model.layers * self.all_reduce_s(elements, shape)


def prefill_parts(
    tokens: Floats,
    shape: GroupShape,
    strategy: str,
    model: ModelSpec,
    gpu: GpuSpec,
    cluster: ClusterSpec,
    profile: Profile,
    constants: ParallelConstants = DEFAULT_PARALLEL_CONSTANTS,
) -> PrefillParts:
    """Time by part in which a group prefills one prompt of so many tokens, float64[n], >= 1.

    Raises SpecError for an unknown strategy, an impossible shape, or specs that do not belong together.
    """
    system = _System(model, gpu, cluster, profile, constants)
    system.require_possible(shape)
    if strategy not in STRATEGIES:
        raise SpecError(f"no strategy named {strategy!r}; choose one of {', '.join(STRATEGIES)}")
    return system.parts(np.asarray(tokens, np.float64), shape, strategy)


def prefill_s(
    tokens: Floats,
    shape: GroupShape,
    strategy: str,
    model: ModelSpec,
    gpu: GpuSpec,
    cluster: ClusterSpec,
    profile: Profile,
    constants: ParallelConstants = DEFAULT_PARALLEL_CONSTANTS,
) -> Floats:
    """Time in which a group prefills one prompt, float64[n] seconds: the sum of `prefill_parts`, which see."""
    parts = prefill_parts(tokens, shape, strategy, model, gpu, cluster, profile, constants)
    return _total_s(parts)


def _total_s(parts: PrefillParts) -> Floats:
    return parts.compute_s + parts.ring_steps_s + parts.transfer_s + parts.exchange_s


@dataclass(frozen=True, eq=False)
class GroupCosts:
    """What groups of replicas take, in whole picoseconds (int64), tabulated once so that engines and machines agree.

    D is the largest degree, K the largest number of nodes. Between knots a time is interpolated and rounded down. From
    32,768 tokens on that is within 0.1 % of `prefill_s` (attention is a parabola, the table a chain of chords); within
    0.4 % in the interval where a ring begins to hide its transfers, 2 % in one where the profile's g jumps. Below the
    first knot it is a line from zero, too fast for such a prompt: groups are for long ones.

    step_tokens: distance of the knots. shape_index: int64[D + 1, K + 1], by degree and nodes: index of the shape, -1
    where it is impossible. prefill_table_ps: int64[4, shapes, knots], by strategy, at 0, step, 2 step, ... tokens.
    decode_sync_ps: int64[shapes], what an iteration of a sharded decode adds. decode_kv_ps: int64[D + 1], time per
    token of context in such an iteration by degree, [0] unused.
    """

    step_tokens: int
    shape_index: NDArray[np.int64]
    prefill_table_ps: NDArray[np.int64]
    decode_sync_ps: NDArray[np.int64]
    decode_kv_ps: NDArray[np.int64]

    @property
    def max_degree(self) -> int:
        """Replicas of the largest group."""
        return int(self.shape_index.shape[0]) - 1

    @property
    def max_nodes(self) -> int:
        """Nodes of the widest group."""
        return int(self.shape_index.shape[1]) - 1

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest prompt in the table."""
        return (int(self.prefill_table_ps.shape[2]) - 1) * self.step_tokens

    def prefill_ps(self, strategy: int, degree: int, nodes: int, tokens: int) -> int:
        """Time in which a group prefills a prompt, in ps: the reference for the engine's. Raises SpecError."""
        if not 0 <= strategy < len(STRATEGIES):
            raise SpecError(f"strategy is {strategy}; it must be 0 to {len(STRATEGIES) - 1} ({', '.join(STRATEGIES)})")
        inside = 1 <= degree <= self.max_degree and 1 <= nodes <= self.max_nodes
        shape = int(self.shape_index[degree, nodes]) if inside else -1
        if shape < 0:
            raise SpecError(
                f"{degree} replicas on {nodes} nodes: no such group fits the cluster within {self.max_degree} replicas "
                f"and {self.max_nodes} nodes; see shape_index"
            )
        if not 0 <= tokens <= self.max_tokens:
            raise SpecError(f"a prompt of {tokens} tokens: the table has 0 to {self.max_tokens}; raise max_tokens")
        row = self.prefill_table_ps[strategy, shape]
        i = min(tokens // self.step_tokens, len(row) - 2)
        start_ps, end_ps = int(row[i]), int(row[i + 1])
        return start_ps + (end_ps - start_ps) * (tokens - i * self.step_tokens) // self.step_tokens


def group_costs(
    model: ModelSpec,
    gpu: GpuSpec,
    cluster: ClusterSpec,
    profile: Profile,
    max_tokens: int,
    *,
    max_degree: int = 32,
    max_nodes: int = 32,
    constants: ParallelConstants = DEFAULT_PARALLEL_CONSTANTS,
) -> GroupCosts:
    """The tables for prompts of up to `max_tokens`, and groups up to those sizes or as large as the cluster is.

    Raises SpecError for a limit below 1, or specs that do not belong together.
    """
    for name, limit in (("max_tokens", max_tokens), ("max_degree", max_degree), ("max_nodes", max_nodes)):
        if limit < 1:
            raise SpecError(f"{name} is {limit}; it must be at least 1")
    system = _System(model, gpu, cluster, profile, constants)
    degrees = min(max_degree, cluster.replica_count(profile.tp))
    widths = min(max_nodes, cluster.nodes)
    shape_index = np.full((degrees + 1, widths + 1), -1, np.int64)
    shapes: list[GroupShape] = []
    for degree in range(1, degrees + 1):
        for nodes in range(1, widths + 1):
            if system.is_possible(degree, nodes):
                shape_index[degree, nodes] = len(shapes)
                shapes.append(GroupShape(degree, nodes))
    tokens = np.arange(1, -(-max_tokens // STEP_TOKENS) + 1, dtype=np.float64) * STEP_TOKENS
    table = np.zeros((len(STRATEGIES), len(shapes), len(tokens) + 1), np.int64)
    for code, strategy in enumerate(STRATEGIES):
        for index, shape in enumerate(shapes):
            table[code, index, 1:] = np.rint(_total_s(system.parts(tokens, shape, strategy)) * PS_PER_S)
    sync = np.rint(np.array([system.decode_sync_s(shape) for shape in shapes]) * PS_PER_S).astype(np.int64)
    kv = [0, *((2 * profile.decode_kv_ps + degree) // (2 * degree) for degree in range(1, degrees + 1))]
    costs = GroupCosts(STEP_TOKENS, shape_index, table, sync, np.array(kv, np.int64))
    for array in (costs.shape_index, costs.prefill_table_ps, costs.decode_sync_ps, costs.decode_kv_ps):
        array.setflags(write=False)
    return costs
