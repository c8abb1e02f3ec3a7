"""The Gymnasium environments. Importing this registers their ids; they are loaded when one is made."""

from __future__ import annotations

import gymnasium as gym

from pecgym.envs.presets import NAMESPACE, presets

__all__ = ["env_ids", "register"]

_REPLICA = "pecgym.envs.replica_env:Replica"
_CLASSES = dict.fromkeys(("Replica-v0", "Infermax-Small-v0", "Infermax-Offline-v0"), _REPLICA)
_CLUSTER = "pecgym.envs.cluster_env:Cluster"


def env_ids() -> list[str]:
    """The ids that `register` registers."""
    return [f"{NAMESPACE}/{name}" for name in presets()]


def register() -> None:
    """Registers the ids with Gymnasium, those that are not yet."""
    for name in presets():
        env_id = f"{NAMESPACE}/{name}"
        if env_id not in gym.registry:
            place = _CLASSES.get(name, _CLUSTER)
            gym.register(
                env_id,
                entry_point=f"{place}Env",
                vector_entry_point=f"{place}VectorEnv",
                kwargs={"preset": name},
            )


register()
