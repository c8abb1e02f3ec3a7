"""The compiled simulator."""

from pecgym.engine.long_rules import LongRules, Topology
from pecgym.engine.settings import EngineSettings, engine_names, load_engine
from pecgym.engine.simulator import Decision, Simulator, Snapshot

__all__ = [
    "Decision",
    "EngineSettings",
    "LongRules",
    "Simulator",
    "Snapshot",
    "Topology",
    "engine_names",
    "load_engine",
]
