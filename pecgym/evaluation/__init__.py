"""Evaluations of many policies, workloads and seeds: the main job."""

from pecgym.evaluation.plan import EngineConfig, EvaluationPlan, Job, ScenarioConfig, WorkloadConfig
from pecgym.evaluation.run import Evaluation, evaluate

__all__ = ["EngineConfig", "Evaluation", "EvaluationPlan", "Job", "ScenarioConfig", "WorkloadConfig", "evaluate"]
