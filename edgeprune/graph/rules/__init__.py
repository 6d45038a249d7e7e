"""One rule an ATen operation, by family.  Importing this package registers them all."""

from edgeprune.graph.rules import contraction, elementwise, normalization, pooling, reduction, shape

__all__ = ["contraction", "elementwise", "normalization", "pooling", "reduction", "shape"]
