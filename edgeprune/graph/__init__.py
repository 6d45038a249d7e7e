"""From a model to groups of channels that may be removed."""

from edgeprune.graph.analysis import Analysis, analyze
from edgeprune.graph.blocks import Block
from edgeprune.graph.groups import Group

__all__ = ["Analysis", "Block", "Group", "analyze"]
