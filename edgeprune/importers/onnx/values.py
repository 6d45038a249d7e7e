"""What an import computes with: values for one or more batch sizes at once, constant or of the graph under construction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx


class BatchDependentError(Exception):
    """The graph cannot be written for any batch size: it is then imported for the one that was given."""


@dataclass(frozen=True)
class Size:
    """An integer for every batch size that the import computes with; never the same for all."""

    values: tuple[int, ...]

    def line(self, batches: tuple[int, ...]) -> tuple[int, int]:
        """``(a, b)`` so that it is a + b * batch.  Raises :class:`BatchDependentError` where there are none."""
        (first, second), (low, high) = self.values[:2], batches[:2]
        slope, rest = divmod(second - first, high - low)
        if rest:
            raise BatchDependentError(f"a size is {first} for a batch of {low} and {second} for {high}")
        return first - slope * low, slope


Extent = int | Size


def extent(values: tuple[int, ...]) -> Extent:
    """An integer where they are all the same."""
    return values[0] if len(set(values)) == 1 else Size(values)


@dataclass(frozen=True, eq=False)
class Value:
    """What a name of the file stands for.  ``examples``: what it is, for every batch size. ``node``: what computes it in the graph; None
    where it is known without the inputs. ``source``: the name under which the file stores it, "" for what was computed."""

    examples: tuple[Any, ...]
    node: fx.Node | None = None
    source: str = ""

    @property
    def constant(self) -> bool:
        """Whether it is known without the inputs."""
        return self.node is None

    @property
    def fixed(self) -> Tensor | None:
        """The tensor that it is, whatever the batch size; None for what is computed or follows the batch size."""
        if not self.constant or not all(same(one, self.examples[0]) for one in self.examples[1:]):
            return None
        found: Tensor = self.examples[0]
        return found

    @property
    def example(self) -> Tensor:
        """For the first batch size."""
        found: Tensor = self.examples[0]
        return found

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return self.example.dim()

    @property
    def shape(self) -> list[Extent]:
        """Of every dimension the size."""
        return [extent(sizes) for sizes in zip(*(tuple(one.shape) for one in self.examples), strict=True)]

    @property
    def dtype(self) -> torch.dtype:
        """Its element type."""
        return self.example.dtype

    @property
    def floating(self) -> bool:
        """Whether it holds real numbers."""
        return self.example.is_floating_point()


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal in shape, type and every element."""
    return one is other or (one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other))
