"""How much a channel matters.  Importing this package registers the criteria."""

from edgeprune.importance import activation, batchnorm, fisher, geometry, lamp, magnitude, random, taylor
from edgeprune.importance.registry import CRITERIA, Criterion, Saliency, criterion, score

__all__ = [
    "CRITERIA",
    "Criterion",
    "Saliency",
    "activation",
    "batchnorm",
    "criterion",
    "fisher",
    "geometry",
    "lamp",
    "magnitude",
    "random",
    "score",
    "taylor",
]
