"""Short names for the tensors of a TFLite file.

The converter names a tensor by the classes and attributes of every module around it, several times over where operators were fused: a
tenth of a small file.  The attributes alone say the same: ``layer1.0.conv1``, its constants ``layer1.0.conv1/1``.
"""

from __future__ import annotations

import re
from typing import Any

from edgeprune.tflite import schema as flatbuffer

_CLASS = re.compile(r"^(?:[^/]*\.)?_*[^/_]+_(?=.)")  # of "torch.nn.modules.conv.Conv2d_conv1", all but "conv1"
_MOVES = {"TRANSPOSE", "RESHAPE", "PAD"}
_WRAPPERS = {"module"}  # what this package puts around a model


class _Names:
    """Of the tensors of one subgraph, by index."""

    def __init__(self, graph: Any) -> None:
        self.of = {int(index): flatbuffer.text(graph.tensors[index].name) for index in (*graph.inputs, *graph.outputs)}
        self._used = set(self.of.values())

    def give(self, index: int, name: str) -> None:
        """Name a tensor that has no name yet; with a number when another has this one."""
        if index < 0 or index in self.of:
            return
        number, unique = 0, name
        while unique in self._used:
            number += 1
            unique = f"{name}:{number}"
        self._used.add(unique)
        self.of[index] = unique


def shorten(model: Any) -> None:
    """Rename, in place, every tensor but the inputs and outputs of the ``ModelT``; all names of a subgraph are different."""
    names = {id(graph): _Names(graph) for graph in model.subgraphs}
    operators = list(flatbuffer.operators(model))
    for _, _, operator, graph in sorted(operators, key=lambda item: item[0] in _MOVES):  # what computes gets the plain name
        for index in map(int, operator.outputs):
            names[id(graph)].give(index, _path(flatbuffer.text(graph.tensors[index].name)))
    for _, _, operator, graph in operators:
        for place, index in enumerate(map(int, operator.inputs)):
            names[id(graph)].give(index, f"{names[id(graph)].of[int(operator.outputs[0])]}/{place}")
    for graph in model.subgraphs:
        for index, name in names[id(graph)].of.items():
            graph.tensors[index].name = name


def _path(name: str) -> str:
    """``layer1.0.conv1`` of the converter's name: the deepest of the modules whose operators were fused into one."""
    parts = [part.rstrip(";") for part in re.sub(r";\d*$", "", name).split(";;")]
    deepest = max(parts, key=lambda part: (part.count("/"), part))
    segments = [_CLASS.sub("", segment) for segment in deepest.split("/")[1:]]
    while segments and segments[0] in _WRAPPERS:
        segments.pop(0)
    return ".".join(segments) or "model"
