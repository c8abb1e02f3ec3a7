"""Evaluations of many policies, workloads and seeds: the main job."""

from pecgym.configs import EngineConfig, LongConfig, OrderConfig, ScenarioConfig, WorkloadConfig
from pecgym.evaluation.plan import EvaluationPlan, Job
from pecgym.evaluation.run import Evaluation, evaluate

__all__ = [
    "EngineConfig",
    "Evaluation",
    "EvaluationPlan",
    "Job",
    "LongConfig",
    "OrderConfig",
    "ScenarioConfig",
    "WorkloadConfig",
    "evaluate",
]
