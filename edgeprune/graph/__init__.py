"""From a model to groups of channels that may be removed."""

from edgeprune.graph.analysis import Analysis, analyze
from edgeprune.graph.groups import Group

__all__ = ["Analysis", "Group", "analyze"]
