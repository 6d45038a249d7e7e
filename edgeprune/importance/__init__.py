"""How much a channel matters.  Importing this package registers the criteria."""

from edgeprune.importance import batchnorm, magnitude, random, taylor
from edgeprune.importance.registry import CRITERIA, Saliency, criterion, score

__all__ = ["CRITERIA", "Saliency", "batchnorm", "criterion", "magnitude", "random", "score", "taylor"]
