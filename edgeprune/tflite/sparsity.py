"""Weights without their zeros, as TFLite stores them: ``SparsityParameters`` with all dimensions dense but the last, which is CSR.

Source: TFLite's schema.fbs (``SparsityParameters``, ``DimensionMetadata``).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_WIDTHS: Final[tuple[tuple[int, str, Any, Any], ...]] = (
    (1 << 8, "Uint8Vector", np.uint8, schema.Uint8VectorT),
    (1 << 16, "Uint16Vector", np.uint16, schema.Uint16VectorT),
    (1 << 31, "Int32Vector", np.int32, schema.Int32VectorT),
)


def without_zeros(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], Any]:
    """The values that are not zero, in a row, and the ``SparsityParametersT`` that says where they stand in ``values``."""
    rows = values.reshape(-1, values.shape[-1])
    row, column = np.nonzero(rows)
    sparsity = schema.SparsityParametersT()
    sparsity.traversalOrder = np.arange(values.ndim, dtype=np.int32)
    sparsity.dimMetadata = [_dense_dimension(size) for size in values.shape[:-1]]
    segments = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))])
    sparsity.dimMetadata.append(_compressed_dimension(segments, column))
    return rows[row, column], sparsity


def _dense_dimension(size: int) -> Any:
    dimension = schema.DimensionMetadataT()
    dimension.format, dimension.denseSize = schema.DimensionType.DENSE, size
    return dimension


def _compressed_dimension(segments: np.ndarray[Any, Any], indices: np.ndarray[Any, Any]) -> Any:
    dimension = schema.DimensionMetadataT()
    dimension.format = schema.DimensionType.SPARSE_CSR
    dimension.arraySegmentsType, dimension.arraySegments = _vector(segments)
    dimension.arrayIndicesType, dimension.arrayIndices = _vector(indices)
    return dimension


def _vector(values: np.ndarray[Any, Any]) -> tuple[int, Any]:
    """Whole numbers in the narrowest of the schema's vectors that holds them."""
    largest = int(values.max(initial=0))
    _, name, dtype, make = next(width for width in _WIDTHS if largest < width[0])
    vector = make()
    vector.values = values.astype(dtype)
    return getattr(schema.SparseIndexVector, name), vector
