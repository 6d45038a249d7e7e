"""Weights that nothing reads, taken out of an exported program."""

from __future__ import annotations

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def trim(program: ExportedProgram) -> list[str]:
    """Remove every parameter, buffer and constant without a reader (a batch norm's count of batches, a head that is not called), in
    place; returns their names."""
    signature = program.graph_signature
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    changed = {spec.target for spec in signature.output_specs}
    removed = []
    for spec in list(signature.input_specs):
        node = nodes[spec.arg.name] if spec.kind in _STATE else None
        if node is None or node.users or spec.target is None or spec.target in changed:
            continue
        program.graph.erase_node(node)
        signature.input_specs.remove(spec)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
        removed.append(spec.target)
    if removed:
        program.graph_module.recompile()
    return removed
