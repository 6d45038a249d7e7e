"""From budgets to a plan: the program, the closed loop, and the main job."""

from edgeprune.runs.sweep import Frontier, Point
from edgeprune.search.events import EventStream, Listener
from edgeprune.search.frontier import frontier
from edgeprune.search.options import Options
from edgeprune.search.prune import prune
from edgeprune.search.run import Result, plan_only

__all__ = ["EventStream", "Frontier", "Listener", "Options", "Point", "Result", "frontier", "plan_only", "prune"]
