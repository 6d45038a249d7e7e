"""Which sizes an import is made for, and seeded inputs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.errors import ModelFileError
from edgeprune.importers.onnx.model import Declared, Graph, Node

TRIED = (2, 3)
"""The batch sizes that an import for any batch size is computed for."""

CHECKED = 5
"""The batch size that it is compared with ONNX Runtime on, beside the one that was given."""

_THROUGH = {"Cast", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Flatten", "Clip", "Expand", "Tile", "Transpose"}


@dataclass(frozen=True)
class Shapes:
    """``given``: of every input, the sizes of one inference. ``samples``: by input, the dimension that holds the samples, for those that
    have one."""

    given: dict[str, tuple[int, ...]]
    samples: dict[str, int]

    @property
    def batch(self) -> int:
        """The batch size of one inference."""
        return next((self.given[name][dim] for name, dim in self.samples.items()), 1)

    def of(self, batch: int) -> dict[str, tuple[int, ...]]:
        """The sizes for another batch size."""
        found = {}
        for name, sizes in self.given.items():
            dim = self.samples.get(name)
            found[name] = sizes if dim is None else (*sizes[:dim], batch, *sizes[dim + 1 :])
        return found


def shapes_of(inputs: Sequence[Declared], given: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None) -> Shapes:
    """The sizes of one inference: ``given`` by name or in order, else what the file fixes, with one sample where it leaves the batch open.

    Raises :class:`ModelFileError` that names the input whose sizes are missing or do not fit.
    """
    named = _named(inputs, given)
    batch = _batch_name(inputs)
    sizes = {one.name: _sized(one, named.get(one.name), batch) for one in inputs}
    samples = {}
    if batch is not None:
        count = next(sizes[name][dim] for name, dim in [batch])
        label = next(one.sizes[batch[1]] for one in inputs if one.name == batch[0] and one.sizes is not None)
        for one in inputs:
            for dim, size in enumerate(one.sizes or ()):
                same_name = bool(label) and size == label
                unnamed = isinstance(size, str) and dim == 0 and (not label or not size) and sizes[one.name][0] == count
                if (same_name or unnamed) and one.name not in samples:
                    samples[one.name] = dim
    return Shapes(sizes, samples)


def _batch_name(inputs: Sequence[Declared]) -> tuple[str, int] | None:
    """The first input whose first dimension is open, and that dimension."""
    return next(((one.name, 0) for one in inputs if one.sizes and isinstance(one.sizes[0], str)), None)


def _named(inputs: Sequence[Declared], given: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    if given is None:
        return {}
    names = [one.name for one in inputs]
    if not isinstance(given, Mapping):
        if len(given) > len(names):
            raise ModelFileError(f"sizes of {len(given)} inputs were given, and the file has {len(names)}: {', '.join(names)}")
        given = dict(zip(names, given, strict=False))
    for name in given:
        if name not in names:
            raise ModelFileError(
                f"sizes were given for {name}, which is no input of the file", remedy=f"Its inputs are {', '.join(names)}."
            )
    return {name: tuple(sizes) for name, sizes in given.items()}


def _sized(one: Declared, given: tuple[int, ...] | None, batch: tuple[str, int] | None) -> tuple[int, ...]:
    declared = one.sizes or ()
    if given is None:
        open_ = [dim for dim, size in enumerate(declared) if isinstance(size, str) and not (dim == 0 and batch is not None)]
        if open_:
            example = "x".join(str(size) if isinstance(size, int) else "1" if dim == 0 else "224" for dim, size in enumerate(declared))
            raise ModelFileError(
                f"the file leaves sizes of input {one.text} open", remedy=f"Give them: --input {example} (input_shapes= from Python)."
            )
        return tuple(size if isinstance(size, int) else 1 for size in declared)
    fits = len(given) == len(declared) and all(isinstance(size, str) or size == has for size, has in zip(declared, given, strict=True))
    if not fits or any(size < 1 for size in given):
        raise ModelFileError(
            f"input {one.text} cannot have the sizes {'x'.join(map(str, given))}", remedy="Give sizes that the file allows."
        )
    return given


def seeded(graph: Graph, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Inputs of these sizes: normal numbers, and integers that may be looked up in the tables that they index."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for one in graph.inputs:
        shape = shapes[one.name]
        if one.dtype == torch.bool:
            found[one.name] = torch.rand(shape, generator=generator) > 0.5
        elif one.dtype.is_floating_point:
            found[one.name] = torch.randn(shape, generator=generator).to(one.dtype)
        else:
            found[one.name] = torch.randint(0, _rows(graph, one.name), shape, generator=generator).to(one.dtype)
    return found


def _rows(graph: Graph, name: str) -> int:
    """How many values an integer input may have: the rows of the smallest table that it indexes, or as many as it is compared with; else
    two, as in a mask."""
    uses, made = graph.uses(), {output: node for node in graph.nodes for output in node.outputs}
    left, seen, rows = [name], {name}, []
    while left:
        for node in uses.get(left.pop(), []):
            if node.op == "Gather" and node.inputs[1] in seen and (table := _origin(graph, made, node.inputs[0])) is not None:
                rows.append(table.shape[int(node.attributes.get("axis", 0))])
            if node.op in ("Equal", "OneHot"):
                other = _origin(graph, made, node.inputs[1 if node.op == "OneHot" or node.inputs[0] in seen else 0])
                if other is not None and (other.numel() > 1 or node.op == "OneHot"):
                    rows.append(int(other.max()) + (node.op == "Equal"))
            if node.op in _THROUGH:
                new = [output for output in node.outputs if output not in seen]
                seen.update(new)
                left += new
    return max(min(rows, default=2), 1)


def _origin(graph: Graph, made: Mapping[str, Node], name: str) -> Tensor | None:
    """The constant that ``name`` is another shape or type of."""
    while name not in graph.constants:
        node = made.get(name)
        if node is None:
            return None
        if node.op == "Constant":
            found = node.attributes.get("value")
            return found if isinstance(found, Tensor) else None
        if node.op not in _THROUGH:
            return None
        name = node.inputs[0]
    return graph.constants[name]
