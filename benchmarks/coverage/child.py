"""One model of the coverage benchmark, measured in this process: ``python coverage_child.py KIND MODEL`` prints one row as JSON.

KIND is edgeprune (prune half of every group), torch-pruning (the same with that tool) or export (pruned, then exported).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.coverage.models import built, find_case, half
from benchmarks.coverage.train import training_step
from edgeprune.graph import Analysis, analyze
from edgeprune.graph.capture import eval_mode
from edgeprune.report.structure import owned_elements

Row = dict[str, Any]
HEAD = "reaches the model's output"


def measure(name: str) -> Row:
    """The row of one model; what edgeprune raises is raised."""
    model, inputs = built(name)
    analyze(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), (torch.zeros(1, 3, 4, 4),))  # loads torch.export itself
    reset_peak()
    resident, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    analysis = analyze(model, inputs)
    row: Row = {
        "analysis_s": time.perf_counter() - wall,
        "analysis_cpu_s": time.process_time() - cpu,
        "analysis_peak_bytes": memory("VmHWM") - resident,
    }
    inside, whole = prunable_share(analysis, model)
    row |= {"groups": len(analysis.groups), "blocks": len(analysis.blocks), "prunable": whole, "prunable_inside": inside}
    row |= {"fixed": reasons(analysis)[:5], "unsupported": sorted({operation for _, operation in analysis.unsupported})}
    row |= {"stays": staying(analysis, model)[:5]}
    names = set(stored_names(analysis))
    row |= {"parameters_before": parameters(model, names), "macs_before": captured_macs(analysis, model, inputs)}
    wall = time.perf_counter()
    pruned = half(model, analysis)
    row |= {"apply_s": time.perf_counter() - wall, "mode": pruned.mode, "difference": pruned.error}
    row |= {"parameters_after": parameters(pruned.model, names), "macs_after": captured_macs(analysis, pruned.model, inputs)}
    wall = time.perf_counter()
    trains = training_step(model, pruned.model, find_case(name).family, inputs)
    return row | {"trains": trains, "train_s": time.perf_counter() - wall, "inactive": list(pruned.inactive)}


def prunable_share(analysis: Analysis, model: nn.Module) -> tuple[float, float]:
    """Shares of parameter elements that prunable groups own: outside stems, heads and protected layers, and of all that inference reads.

    A group owns the elements that go with its channels, whether they produce or read them. Elements that stay are not counted in the
    first share when they stand in a stem (a parameter of the first layer behind an input), or in a layer some of whose channels reach
    the model's output or are protected.
    """
    sizes, free, inside = owned_by_groups(analysis, model), 0, 0
    for size, part, edge in sizes.values():
        free, inside = free + part, inside + (part if edge else size)
    return free / max(inside, 1), free / max(sum(size for size, _, _ in sizes.values()), 1)


def staying(analysis: Analysis, model: nn.Module) -> list[tuple[str, int]]:
    """The parameters with elements that stay though they are in no stem, head or protected layer, and how many; most first."""
    found = [(name, size - part) for name, (size, part, edge) in owned_by_groups(analysis, model).items() if size > part and not edge]
    return sorted(found, key=lambda entry: -entry[1])


def owned_by_groups(analysis: Analysis, model: nn.Module) -> dict[str, tuple[int, int, bool]]:
    """For every parameter that inference reads: its elements, those that groups own, whether it is in a stem, head or protected layer."""
    free = np.zeros(len(analysis.roots), bool)
    for group in analysis.groups:
        free[group.rows] = True
    owned = owned_elements(analysis, model, free)
    edge = {layer(name) for name in stems(analysis)}
    for (name, _), labels in analysis.flow.owners.items():
        if any(protected(analysis.fixed.get(channel, "")) for channel in np.unique(analysis.channels_of(labels).numpy()).tolist()):
            edge.add(layer(name))
    known = dict(model.named_parameters(remove_duplicate=False))
    return {name: (known[name].numel(), owned.get(name, 0), layer(name) in edge) for name in stored_names(analysis) if name in known}


def protected(reason: str) -> bool:
    """Whether channels fixed for this reason stand at the model's edge, or were protected by the user."""
    return reason.endswith(HEAD) or "protected: " in reason


def stored_names(analysis: Analysis) -> list[str]:
    """The parameters and buffers that inference reads."""
    return list(dict.fromkeys(str(node.target) for node in analysis.captured.module.graph.nodes if node.op == "get_attr"))


def layer(parameter: str) -> str:
    """The module that holds a parameter."""
    return parameter.rpartition(".")[0] or parameter


def stems(analysis: Analysis) -> set[str]:
    """The parameters of the first operations behind the inputs that read any."""
    untouched, found = set(), set()
    for node in analysis.captured.module.graph.nodes:
        if node.op == "placeholder":
            untouched.add(node)
        elif node.op == "call_function" and untouched & set(node.all_input_nodes):
            stored = [str(part.target) for part in node.all_input_nodes if part.op == "get_attr"]
            found |= set(stored)
            if not stored:
                untouched.add(node)
    return found


def reasons(analysis: Analysis) -> list[tuple[str, int]]:
    """Why channels must stay and how many for each reason, most first."""
    return Counter(analysis.fixed.values()).most_common()


def parameters(model: nn.Module, names: set[str]) -> int:
    """Elements of the parameters of these names, shared ones once."""
    kept = {id(value): value.numel() for name, value in model.named_parameters(remove_duplicate=False) if name in names}
    return sum(kept.values())


def captured_macs(analysis: Analysis, model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """:func:`macs`; of a model that was captured by submodule those of the submodules, on what they were shown by the original: what lies
    between them does as much work as the weights find boxes."""
    captured = analysis.captured
    return macs(captured.view(model), captured.inputs) if captured.parts else macs(model, inputs)


def macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Multiply-accumulates of one inference: half the operations that torch counts, with no fused kernel that it would miss."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    fused = any(isinstance(module, nn.RNNBase) for module in model.modules()) or recurrent_graph(model)
    trainable = [value for value in model.parameters() if value.requires_grad]  # the counter hooks what asks for gradients, in vain
    try:
        for value in trainable:
            value.requires_grad_(False)
        counter = FlopCounterMode(display=False)
        onednn = torch.backends.mkldnn.flags(enabled=not fused)  # type: ignore[no-untyped-call]
        with eval_mode(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), onednn, counter:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for value in trainable:
            value.requires_grad_(True)
    return counter.get_total_flops() // 2


def recurrent_graph(model: nn.Module) -> bool:
    """Whether a graph module calls a fused recurrent layer."""
    graph = getattr(model, "graph", None)
    return graph is not None and any(str(node.target).startswith(("aten.lstm", "aten.gru", "aten.rnn")) for node in graph.nodes)


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since :func:`reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def reset_peak() -> None:
    """Let the peak be counted from now (see proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def main(kind: str, name: str) -> None:
    """Print one row; an error is a row too."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        if kind == "edgeprune":
            work = measure
        elif kind == "export":
            from benchmarks.coverage.export import measure as work  # type: ignore[assignment]
        else:
            from benchmarks.coverage.peers import measure as work  # type: ignore[assignment]
        try:
            row = work(name)
        except Exception as error:
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(row))


if __name__ == "__main__":
    main(*sys.argv[1:])
