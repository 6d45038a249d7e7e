"""Loading an ONNX file as a module that trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.errors import ModelFileError
from edgeprune.importers.onnx import operators  # noqa: F401  (registers them)
from edgeprune.importers.onnx.builder import Builder
from edgeprune.importers.onnx.check import TOLERANCE, Runtime, compare, first_difference
from edgeprune.importers.onnx.model import Declared, Graph
from edgeprune.importers.onnx.patterns import recognise
from edgeprune.importers.onnx.reader import graph_of, read_proto
from edgeprune.importers.onnx.sizes import CHECKED, TRIED, Shapes, seeded, shapes_of
from edgeprune.importers.onnx.values import BatchDependentError
from edgeprune.importers.onnx.widen import widen

InputShapes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]
"""Sizes of inputs of one inference, by name or in the file's order."""


@dataclass(frozen=True)
class Imported:
    """A file as a module.  ``inputs``, ``outputs``: as the file declares them. ``example_inputs``: seeded, of one inference, in its
    order. ``samples``: by input, the dimension that holds the samples; empty where the batch size is fixed. ``difference``: from ONNX
    Runtime, the largest of any output as a share of its magnitude. ``notes``: what its user should know."""

    module: fx.GraphModule
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    example_inputs: tuple[Tensor, ...]
    samples: dict[str, int]
    difference: float
    opset: int
    notes: tuple[str, ...] = ()


def open_file(path: str | Path, input_shapes: InputShapes | None = None, constants: Mapping[str, Any] | None = None) -> Imported:
    """Import the ONNX file ``path``, compared with ONNX Runtime on seeded inputs.

    ``input_shapes``: of one inference; needed where the file leaves sizes other than the batch open. ``constants``: values of inputs that
    are set for good, by name. Raises :class:`ModelFileError`.
    """
    path = Path(path)
    proto = read_proto(path)
    notes = ["half-precision weights were made float32"] if widen(proto) else []
    try:
        graph = graph_of(proto)
        known = _constants(graph, constants or {})
        graph.inputs = [one for one in graph.inputs if one.name not in known]
        runtime = Runtime(proto, known)
        shapes = shapes_of(graph.inputs, input_shapes)
        recognise(graph)
        return _import(graph, shapes, runtime, known, notes)
    except ModelFileError as error:
        raise ModelFileError(f"{path.name}: {error.message}", remedy=error.remedy) from error


def _constants(graph: Graph, given: Mapping[str, Any]) -> dict[str, Tensor]:
    inputs = {one.name: one for one in graph.inputs}
    for name in given:
        if name not in inputs:
            raise ModelFileError(f"a value was given for {name}, which is no input", remedy=f"The inputs are {', '.join(inputs)}.")
    return {name: torch.as_tensor(value).to(inputs[name].dtype) for name, value in given.items()}


def _import(graph: Graph, shapes: Shapes, runtime: Runtime, known: dict[str, Tensor], notes: list[str]) -> Imported:
    """For any batch size where that can be: files that are written for one sample are tried too."""
    unit = not shapes.samples and all(sizes[:1] == (1,) for sizes in shapes.given.values())
    if shapes.samples or unit:
        tried = Shapes(shapes.given, dict.fromkeys(shapes.given, 0)) if unit else shapes
        try:
            return _made(graph, tried, runtime, known, notes, free=True, unit=unit)
        except BatchDependentError as error:
            if not unit:
                notes = [*notes, f"it takes batches of {shapes.batch} only: {error}"]
    return _made(graph, Shapes(shapes.given, {}), runtime, known, notes, free=False, batch=shapes.batch)


def _made(
    graph: Graph,
    shapes: Shapes,
    runtime: Runtime,
    known: dict[str, Tensor],
    notes: list[str],
    *,
    free: bool,
    batch: int | None = None,
    unit: bool = False,
) -> Imported:
    batches = TRIED if free else (batch or shapes.batch,)
    each = [seeded(graph, shapes.of(count), seed) for seed, count in enumerate(batches)]
    examples = {name: tuple(one[name] for one in each) for name in each[0]}
    first = next(iter(shapes.samples.items())) if free else None
    builder = Builder(graph, examples, batches, first, known, unit)
    module = builder.build()
    worst = _compared(module, builder, graph, runtime, seeded(graph, shapes.given), False, False)
    if free:
        worst = max(worst, _compared(module, builder, graph, runtime, seeded(graph, shapes.of(CHECKED), 1), True, unit))
    return Imported(
        module,
        tuple(graph.inputs),
        tuple(graph.outputs),
        tuple(seeded(graph, shapes.given).values()),
        dict(shapes.samples),
        worst,
        graph.opset,
        tuple(notes),
    )


def _compared(
    module: fx.GraphModule, builder: Builder, graph: Graph, runtime: Runtime, inputs: dict[str, Tensor], batch: bool, apart: bool
) -> float:
    """How far the module is from ONNX Runtime (``apart``: for each sample by itself).  Raises :class:`ModelFileError` naming the first node
    that differs, and :class:`BatchDependentError` where only another batch size does."""
    try:
        found = compare(module, runtime, inputs, apart)
    except (ModelFileError, RuntimeError, ValueError) as error:
        if batch or builder.unit:
            raise BatchDependentError(f"for a batch of {CHECKED}: {str(error).splitlines()[0]}") from error
        raise
    if found <= TOLERANCE:
        return found
    if builder.unit:
        raise BatchDependentError("its samples depend on each other")
    where = first_difference(module, builder, graph, runtime, inputs)
    if batch:
        raise BatchDependentError(f"for a batch of {CHECKED}, {where}")
    raise ModelFileError(
        f"the import does not compute what ONNX Runtime computes (difference {found:.1e}, {TOLERANCE:.0e} allowed): {where}",
        remedy="This is a fault of edgeprune or of the file: please report it with the node that is named.",
    )
