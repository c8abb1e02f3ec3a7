"""Pictures of a cluster at work: a Gantt chart that slides with time, a live table, a window, and animated files."""

from pecgym.envs.render.gantt import Gantt
from pecgym.envs.render.output import Window, save_gif
from pecgym.envs.render.table import live_table

__all__ = ["Gantt", "Window", "live_table", "save_gif"]
