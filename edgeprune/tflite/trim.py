"""What a TFLite file can do without: tensors that nothing reads or makes, graphs that nothing runs, kinds of operators that it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgeprune.tflite import schema as flatbuffer

_RUNS = (
    "condSubgraphIndex",
    "bodySubgraphIndex",
    "thenSubgraphIndex",
    "elseSubgraphIndex",
    "initSubgraphIndex",
    "decompositionSubgraphIndex",
)
"""The options of operators that name graphs: of WHILE, IF, CALL_ONCE and composites."""


def drop_unread_tensors(model: Any) -> None:
    """Take out, in place, the tensors that nothing reads or makes: each has its struct in the arena."""
    for place, graph in enumerate(model.subgraphs):
        _drop_unread(model, graph, place)


def _drop_unread(model: Any, graph: Any, place: int) -> None:
    sides = [graph.inputs, graph.outputs]
    for operator in graph.operators or ():
        sides += [operator.inputs, operator.outputs, *([operator.intermediates] if operator.intermediates is not None else [])]
    used = sorted({int(index) for side in sides for index in side} - {-1})
    new = {old: index for index, old in enumerate(used)} | {-1: -1}

    def renumbered(indices: Any) -> Any:
        return np.array([new[int(index)] for index in indices], np.int32)

    graph.tensors = [graph.tensors[index] for index in used]
    graph.inputs, graph.outputs = renumbered(graph.inputs), renumbered(graph.outputs)
    for operator in graph.operators or ():
        operator.inputs, operator.outputs = renumbered(operator.inputs), renumbered(operator.outputs)
        if operator.intermediates is not None:
            operator.intermediates = renumbered(operator.intermediates)
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == place:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = new[entry.tensorIndex]


def drop_unrun_graphs(model: Any) -> None:
    """Take out, in place, the graphs that neither a signature nor an operator of a graph that is run names; the first is always run."""
    run = {0} | {int(signature.subgraphIndex) for signature in model.signatureDefs or ()}
    waiting = list(run)
    while waiting:
        named = {getattr(options, name) for options, name in _runs(model.subgraphs[waiting.pop()])} - run
        run |= named
        waiting += named
    new = {old: index for index, old in enumerate(sorted(run))}
    model.subgraphs = [model.subgraphs[old] for old in sorted(run)]
    for graph in model.subgraphs:
        for options, name in _runs(graph):
            setattr(options, name, new[getattr(options, name)])
    for signature in model.signatureDefs or ():
        signature.subgraphIndex = new[int(signature.subgraphIndex)]


def drop_unused_codes(model: Any) -> None:
    """Take out, in place, the kinds of operators that no graph has: runtimes that lack one refuse the file."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators or ()]
    used = sorted({int(operator.opcodeIndex) for operator in operators})
    model.operatorCodes = [model.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(int(operator.opcodeIndex))


def drop_unread_operators(graph: Any, model: Any, operations: tuple[str, ...]) -> None:
    """Take out, in place, the operators of these kinds whose outputs nothing reads."""
    names = {id(entry): name for name, _, entry, part in flatbuffer.operators(model) if part is graph}
    while True:
        read = {int(index) for side in (graph.outputs, *(entry.inputs for entry in graph.operators)) for index in side}
        kept = [entry for entry in graph.operators if names[id(entry)] not in operations or not read.isdisjoint(map(int, entry.outputs))]
        if len(kept) == len(graph.operators):
            return
        graph.operators = kept


def _runs(graph: Any) -> Iterator[tuple[Any, str]]:
    """The options and their fields that name the graphs which a graph's operators run."""
    for operator in graph.operators or ():
        for options in (operator.builtinOptions, operator.builtinOptions2):
            for name in _RUNS:
                if hasattr(options, name):
                    yield options, name
