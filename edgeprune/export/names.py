"""Short names for the tensors of a TFLite file.

The converter names a tensor by the classes and attributes of every module around it, several times over where operators were fused: a
tenth of a small file.  The attributes alone say the same: ``layer1.0.conv1``, its constants ``layer1.0.conv1/1``.
"""

from __future__ import annotations

import re
from typing import Any

from edgeprune.export import flatbuffer

_CLASS = re.compile(r"^(?:[^/]*\.)?_*[^/_]+_(?=.)")  # of "torch.nn.modules.conv.Conv2d_conv1", all but "conv1"
_WRAPPERS = {"module"}  # what this package puts around a model


def shorten(model: Any) -> None:
    """Rename, in place, every tensor but the inputs and outputs of the ``ModelT``; all names of a subgraph are different."""
    for graph in model.subgraphs:
        outside = {int(index) for index in (*graph.inputs, *graph.outputs)}
        names = {index: flatbuffer.text(graph.tensors[index].name) for index in outside}
        used = set(names.values())
        for operator in graph.operators or ():
            for index in map(int, operator.outputs):
                if index not in names:
                    names[index] = _unused(_path(flatbuffer.text(graph.tensors[index].name)), used)
            for place, index in enumerate(map(int, operator.inputs)):
                if index >= 0 and index not in names:
                    names[index] = _unused(f"{names[int(operator.outputs[0])]}/{place}", used)
        for index, name in names.items():
            graph.tensors[index].name = name


def _path(name: str) -> str:
    """``layer1.0.conv1`` of the converter's name: the deepest of the modules whose operators were fused into one."""
    parts = [part.rstrip(";") for part in re.sub(r";\d*$", "", name).split(";;")]
    deepest = max(parts, key=lambda part: (part.count("/"), part))
    segments = [_CLASS.sub("", segment) for segment in deepest.split("/")[1:]]
    while segments and segments[0] in _WRAPPERS:
        segments.pop(0)
    return ".".join(segments) or "model"


def _unused(name: str, used: set[str]) -> str:
    number, unique = 0, name
    while unique in used:
        number += 1
        unique = f"{name}:{number}"
    used.add(unique)
    return unique
