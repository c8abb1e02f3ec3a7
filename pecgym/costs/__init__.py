"""How long things take and what they cost: specs of GPUs, models and clusters, cost profiles, KV memory, energy."""

from pecgym.costs.energy import cost_usd, energy_joules
from pecgym.costs.memory import DEFAULT_ACTIVATION_RESERVE_BYTES, kv_capacity_tokens, replicas_for_tokens
from pecgym.costs.profile import Profile, find_profile, load_profile, profile_name, profile_names
from pecgym.costs.profile_schema import FitError, FittedRange
from pecgym.costs.specs import ClusterSpec, GpuSpec, ModelSpec, load_cluster, load_gpu, load_model

__all__ = [
    "DEFAULT_ACTIVATION_RESERVE_BYTES",
    "ClusterSpec",
    "FitError",
    "FittedRange",
    "GpuSpec",
    "ModelSpec",
    "Profile",
    "cost_usd",
    "energy_joules",
    "find_profile",
    "kv_capacity_tokens",
    "load_cluster",
    "load_gpu",
    "load_model",
    "load_profile",
    "profile_name",
    "profile_names",
    "replicas_for_tokens",
]
