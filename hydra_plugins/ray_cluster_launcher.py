"""A launcher of Hydra that runs the jobs of a sweep as tasks of a Ray cluster: `hydra/launcher=ray_cluster`.

Hydra finds its plugins in the namespace package hydra_plugins, of which this folder is a part. Hydra's own Ray launcher
needs versions of cloudpickle that the other packages here do not work with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class RayClusterLauncher(Launcher):
    """Every job is one task, with the paths of the driver: each node sees the same checkout and the same folder of
    results, as on a shared file system. A job whose worker dies is run again, and goes on from its last save."""

    def __init__(self, address: str, num_cpus: float, num_gpus: float, max_retries: int) -> None:
        """address: of the cluster, "auto": the one that this machine belongs to, "local": one of its own. num_cpus,
        num_gpus: what a job takes. max_retries: how often a job is run again."""
        self._address = address
        self._resources: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": max_retries}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra gives before launch."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs; their results in order. Raises what a job raised."""
        try:
            import ray
        except ImportError as error:
            raise ImportError("hydra/launcher=ray_cluster needs Ray: pip install -e '.[ray]'") from error
        setup_globals()
        path = os.pathsep.join(filter(None, sys.path))
        ray.init(
            address=None if self._address == "local" else self._address,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
            log_to_driver=True,
        )
        try:
            task = ray.remote(**self._resources)(_run)
            shared = ray.put((self._context, self._task, self._config, Singleton.get_state()))
            jobs = [
                task.remote(str(Path.cwd()), initial_job_idx + i, list(overrides), shared)
                for i, overrides in enumerate(job_overrides)
            ]
            found = ray.get(jobs)
        finally:
            ray.shutdown()
        for i, (node, _) in enumerate(found):
            print(f"job {initial_job_idx + i} ran on node {node}", file=sys.stderr)
        return [job for _, job in found]


def _run(folder: str, number: int, overrides: list[str], shared: Any) -> tuple[str, JobReturn]:
    """One job, in a process of the cluster: the node where it ran, and its result."""
    import ray

    context, task, config, singletons = shared
    os.chdir(folder)
    setup_globals()
    Singleton.set_state(singletons)
    job_config = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(job_config):
        job_config.hydra.job.id = f"{job_config.hydra.job.name}_{number}"
        job_config.hydra.job.num = number
    HydraConfig.instance().set_config(job_config)
    job = run_job(
        hydra_context=context,
        config=job_config,
        task_function=task,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    return ray.get_runtime_context().get_node_id(), job
