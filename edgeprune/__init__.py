"""edgeprune: prune a trained PyTorch model to latency, memory, energy and size budgets, measured on your own device.

``prune(task, target, budget=Budget(latency="50%"))`` is the main job; ``bench`` measures an exported model; ``load`` restores a pruned
checkpoint.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeprune import bench, importers
    from edgeprune.budget import Budget
    from edgeprune.graph import analyze
    from edgeprune.search import Options, Result
    from edgeprune.search.prune import prune
    from edgeprune.surgery import load
    from edgeprune.task import Task

__version__ = "0.2.0"

__all__ = ["Budget", "Options", "Result", "Task", "analyze", "bench", "importers", "load", "prune"]

_HOME = {
    "Budget": "edgeprune.budget",
    "Options": "edgeprune.search",
    "Result": "edgeprune.search",
    "Task": "edgeprune.task",
    "analyze": "edgeprune.graph",
    "load": "edgeprune.surgery",
    "prune": "edgeprune.search",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: ``import edgeprune`` itself costs nothing."""
    if name in ("bench", "importers"):
        return import_module(f"edgeprune.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgeprune' has no attribute {name!r}")
