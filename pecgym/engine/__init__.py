"""The compiled simulator."""

from pecgym.engine.settings import EngineSettings, engine_names, load_engine
from pecgym.engine.simulator import Decision, Simulator, Snapshot

__all__ = ["Decision", "EngineSettings", "Simulator", "Snapshot", "engine_names", "load_engine"]
