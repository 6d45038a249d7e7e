"""From budgets to a plan: the program, the closed loop, and the main job."""

from edgeprune.search.events import Listener
from edgeprune.search.options import Options
from edgeprune.search.run import Result, plan_only, prune

__all__ = ["Listener", "Options", "Result", "plan_only", "prune"]
