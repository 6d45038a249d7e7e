"""Readable names of layers, from what the file calls its weights and nodes."""

from __future__ import annotations

import re

from torch import fx

_LEAVES = re.compile(
    r"([./](weight|bias|kernel|gamma|beta|w|b|scale|running_mean|running_var|alpha|embeddings?))$|([._](w|b)_\d+)$|(_(weights?|bias|scale))$"
)
_GENERIC = re.compile(
    r"^(onnx::|val_\d|_val|node_|p2o\.|constant|const|auto_|t_?\d+$|\d+$|transpose|/?[a-z]\w*_\d+_output_\d+$|.*helper)", re.IGNORECASE
)


def generic(name: str) -> bool:
    """Whether an exporter made the name up."""
    return not name or bool(_GENERIC.search(name)) or "/Constant" in name


def layer_name(weight: str, node: str, op: str) -> str:
    """What a layer is called: as its weight is, else as its node is, else as its operator."""
    if not generic(weight):
        return clean(_LEAVES.sub("", without_reading(weight)))
    if node and not re.fullmatch(r"(node_)?\w*?_?\d+|p2o\..*|n\d+", node):
        return clean(_scoped(node, op))
    return clean(node.removeprefix("p2o.")) if node.startswith("p2o.") else op.lower()


def without_reading(name: str) -> str:
    """TensorFlow's names end in how a variable was read."""
    return re.sub(r"(/Conv2D|/MatMul|/BiasAdd|/depthwise)?(/ReadVariableOp|/Read|/resource)?(:\d+)?(__\d+)?$", "", name)


def _scoped(node: str, op: str) -> str:
    """``/layer1/layer1.0/conv1/Conv`` as ``layer1.0.conv1``."""
    parts: list[str] = []
    for part in node.strip("/").split("/"):
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    if len(parts) > 1 and re.fullmatch(rf"{op}(_\d+)?", parts[-1]):
        parts.pop()
    return ".".join(parts)


def clean(name: str) -> str:
    """A path of attribute names: letters, digits and underscores between dots."""
    parts = [re.sub(r"\W+", "_", part).strip("_") for part in re.split(r"[./]", name)]
    return ".".join(part for part in parts if part) or "layer"


class Names:
    """Gives every layer and constant a name of its own, none of them inside another."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._folders: set[str] = set()

    def unique(self, wanted: str) -> str:
        """``wanted``, numbered where it is taken; what would be inside a layer stands beside it."""
        parts = wanted.split(".")
        if parts[0] in _RESERVED:
            parts[0] = f"{parts[0]}_"
        while any(".".join(parts[:end]) in self._taken for end in range(1, len(parts))):
            parts = [*parts[:-2], f"{parts[-2]}_{parts[-1]}"]
        wanted = ".".join(parts)
        name, count = wanted, 1
        while name in self._taken or name in self._folders:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        self._folders |= {".".join(parts[:end]) for end in range(1, len(parts))}
        return name


_RESERVED = set(dir(fx.GraphModule)) | {"training", "graph", "code", "meta", "self"}
