"""One rule an ATen operation, by family.  Importing this package registers them all."""

from edgeprune.graph.rules import contraction, creation, elementwise, indexing, normalization, pooling, product, recurrent, reduction, shape

__all__ = [
    "contraction", "creation", "elementwise", "indexing", "normalization", "pooling", "product", "recurrent", "reduction", "shape",
]  # fmt: skip
