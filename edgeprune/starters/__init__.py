"""Recipes that ``edgeprune init`` writes: for a model of a library or a file, and data in a folder."""

from edgeprune.starters.fill import Starter, check, write
from edgeprune.starters.models import onnx, timm, torchvision, transformers
from edgeprune.starters.pixels import detection, segmentation

__all__ = ["Starter", "check", "detection", "onnx", "segmentation", "timm", "torchvision", "transformers", "write"]
