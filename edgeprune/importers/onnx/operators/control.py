"""Control flow: branches on what is known fold; loops are refused."""

from __future__ import annotations

from typing import NoReturn

from edgeprune.errors import ModelFileError
from edgeprune.importers.onnx.builder import Call
from edgeprune.importers.onnx.model import Graph
from edgeprune.importers.onnx.registry import operator
from edgeprune.importers.onnx.values import Value


@operator("If")
def branch(call: Call) -> list[Value]:
    """The branch that is taken whatever the inputs are."""
    if not call[0].constant:
        raise ModelFileError(
            f"{call.node.label} branches on the data",
            remedy="Set the input that it depends on for good (constants=), or export one branch.",
        )
    taken: Graph = call.attribute("then_branch" if bool(call.fixed(0, "a condition")) else "else_branch")
    call.builder.run(taken)
    return [call.builder.values[one.name] for one in taken.outputs]


@operator("Loop", "Scan")
def loop(call: Call) -> NoReturn:
    """Refused."""
    raise ModelFileError(
        f"{call.node.label} is a loop, which is not read",
        remedy="Export the model with its loops unrolled, or with layers (LSTM, GRU) instead.",
    )
