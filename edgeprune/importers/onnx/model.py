"""An ONNX file as plain values: nodes, constants, inputs and outputs, without protocol buffers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Node:
    """One operation.  ``inputs``, ``outputs``: names of values, "" for those left out. ``version``: of the operator set of its domain."""

    op: str
    name: str
    domain: str
    version: int
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.op} {self.name or f'that makes {self.outputs[0]}'}"


@dataclass(frozen=True)
class Declared:
    """An input or an output of a file.  ``sizes``: a number where the file fixes one, else the name of the dimension ("" for none);
    None where not even the number of dimensions is given."""

    name: str
    dtype: torch.dtype
    sizes: tuple[int | str, ...] | None

    @property
    def text(self) -> str:
        """``x (N, 3, ?, ?)``."""
        return f"{self.name} ({', '.join(str(size) or '?' for size in self.sizes or ('rank unknown',))})"


@dataclass
class Graph:
    """Nodes in an order in which they can run.  ``constants``: initializers; ``opset``: the file's version of ONNX's own operators."""

    nodes: list[Node]
    constants: dict[str, Tensor]
    inputs: list[Declared]
    outputs: list[Declared]
    opset: int = 0

    def uses(self) -> dict[str, list[Node]]:
        """The nodes that read each value, once for each place; what graphs inside read and return counts too."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
            for inner in (value for value in node.attributes.values() if isinstance(value, Graph)):
                for name, users in inner.uses().items():
                    found.setdefault(name, []).extend(users)
                for one in inner.outputs:
                    found.setdefault(one.name, []).append(node)
        return found
