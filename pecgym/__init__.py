"""PecGym: a GPU cluster that serves LLM requests, its schedulers, and a Gymnasium environment of it."""

from pecgym.analysis import RequestLog
from pecgym.cluster import Cluster, make_cluster
from pecgym.engine import EngineSettings
from pecgym.envs import env_ids
from pecgym.errors import PecGymError
from pecgym.policies import WAIT, Policy
from pecgym.workload import ClosedLoop, Trace, load_trace

__version__ = "0.1.0"

__all__ = [
    "WAIT",
    "ClosedLoop",
    "Cluster",
    "EngineSettings",
    "PecGymError",
    "Policy",
    "RequestLog",
    "Trace",
    "env_ids",
    "load_trace",
    "make_cluster",
]
