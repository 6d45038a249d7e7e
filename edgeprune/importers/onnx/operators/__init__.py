"""One function an ONNX operator, by family.  Importing this package registers them all."""

from edgeprune.importers.onnx.operators import (
    activation,
    attention,
    control,
    convolution,
    creation,
    elementwise,
    indexing,
    normalization,
    pooling,
    product,
    recurrent,
    reduction,
    resize,
    shape,
)

__all__ = [
    "activation", "attention", "control", "convolution", "creation", "elementwise", "indexing", "normalization", "pooling", "product",
    "recurrent", "reduction", "resize", "shape",
]  # fmt: skip
