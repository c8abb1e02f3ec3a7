"""How long things take and what they cost: specs of GPUs, models and clusters, cost profiles, KV memory, sequence
parallelism, energy.
"""

from pecgym.costs.energy import cost_usd, energy_joules
from pecgym.costs.memory import DEFAULT_ACTIVATION_RESERVE_BYTES, kv_capacity_tokens, replicas_for_tokens
from pecgym.costs.parallel import GroupCosts, PrefillParts, group_costs, prefill_parts, prefill_s
from pecgym.costs.profile import Profile, find_profile, load_profile, profile_name, profile_names
from pecgym.costs.profile_schema import FitError, FittedRange
from pecgym.costs.specs import ClusterSpec, GpuSpec, ModelSpec, load_cluster, load_gpu, load_model
from pecgym.costs.strategies import (
    DEFAULT_PARALLEL_CONSTANTS,
    STRATEGIES,
    GroupShape,
    ParallelConstants,
    ring_hides_above_tokens,
)

__all__ = [
    "DEFAULT_ACTIVATION_RESERVE_BYTES",
    "DEFAULT_PARALLEL_CONSTANTS",
    "STRATEGIES",
    "ClusterSpec",
    "FitError",
    "FittedRange",
    "GpuSpec",
    "GroupCosts",
    "GroupShape",
    "ModelSpec",
    "ParallelConstants",
    "PrefillParts",
    "Profile",
    "cost_usd",
    "energy_joules",
    "find_profile",
    "group_costs",
    "kv_capacity_tokens",
    "load_cluster",
    "load_gpu",
    "load_model",
    "load_profile",
    "prefill_parts",
    "prefill_s",
    "profile_name",
    "profile_names",
    "replicas_for_tokens",
    "ring_hides_above_tokens",
]
