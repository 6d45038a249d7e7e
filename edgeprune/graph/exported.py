"""One graph of ATen operations by ``torch.export``, with what the export adds taken out again."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from edgeprune.batches import Inputs
from edgeprune.errors import CaptureError
from edgeprune.graph.batch import first_tensor
from edgeprune.graph.decompose import decompose_unknown
from edgeprune.graph.nodes import argument
from edgeprune.graph.parts import set_tensor
from edgeprune.graph.twin import twin

CONVERSIONS = tuple(getattr(torch.ops.aten.to, name) for name in ("dtype", "dtype_layout", "device", "other"))
JOINS = (torch.ops.aten.cat.default, torch.ops.aten.concat.default, torch.ops.aten.concatenate.default)
REGIONS = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}
"""Parts of a graph that export sets apart, and which of their arguments is the graph of the part."""
EXPORT_SHOWS = "Data-dependent control flow is the usual cause: torch.export.export(model, inputs) shows where."


def exported(
    model: nn.Module, inputs: Inputs, dynamic_shapes: Any, kwargs: dict[str, Any] | None = None, *, training: bool = False
) -> fx.GraphModule:
    """The graph of ``model``, for inputs of these shapes or with ``dynamic_shapes`` as ``torch.export`` takes them.  The model is left as
    it was.  Raises :class:`CaptureError` when it cannot be exported, or has shapes that depend on the data."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, kwargs)
    try:
        module = _traced(twin(model).train(training), args, dynamic_shapes, kwargs)
    except Exception:
        try:
            kept = twin(model).train(training)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                kept(*args, **(kwargs or {}))  # what it keeps for these shapes (anchors), it keeps before it is captured
            module = _traced(kept.train().train(training), args, dynamic_shapes, kwargs)
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CaptureError(f"torch.export cannot capture {type(model).__name__}: {reason}", remedy=EXPORT_SHOWS) from error
    _inline_regions(module)
    _require_known_shapes(module, type(model).__name__)
    _drop_guards(module)
    _name_parameters(module, model)
    decompose_unknown(module)
    return module


def _traced(model: nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any, kwargs: dict[str, Any] | None) -> fx.GraphModule:
    """By ``torch.export``, without the thousands of lines that it logs and prints.  ``model`` is used up: what export leaves in its
    attributes is not a tensor."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            return torch.export.export(model, inputs, kwargs, dynamic_shapes=dynamic_shapes).module(check_guards=False)
    finally:
        logging.disable(logging.NOTSET)


def _inline_regions(module: fx.GraphModule) -> None:
    """Regions without gradients, or without autocast (of which there is none here), as a part of the graph around them."""
    for node in list(module.graph.nodes):
        place = REGIONS.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None
        if place is None or (place == 4 and node.args[2]):
            continue
        region = module.get_submodule(str(node.args[place].target))
        assert isinstance(region, fx.GraphModule)
        _inline_regions(region)
        inputs = [part for part in region.graph.nodes if part.op == "placeholder"]
        with module.graph.inserting_before(node):
            results: Any = module.graph.graph_copy(region.graph, dict(zip(inputs, node.args[place + 1 :], strict=True)))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)


def _require_known_shapes(module: fx.GraphModule, what: str) -> None:
    """Raise :class:`CaptureError` naming the first operation with as many elements as the data say (tokens of an expert)."""
    for node in module.graph.nodes:
        value = first_tensor(node)
        if value is not None and any(free_unbacked_symbols(size) for size in value.shape if isinstance(size, torch.SymInt)):
            raise CaptureError(f"the shapes in {what} depend on the data: {node.target}", remedy=EXPORT_SHOWS)


def _name_parameters(module: fx.GraphModule, model: nn.Module) -> None:
    """Parameters that a model reads past its modules (Keras does) are constants in the graph: give them back their names."""
    names = {(tensor.data_ptr(), tensor.shape): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    for node in module.graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith("lifted_tensor"):
            tensor = tensor_at(module, str(node.target))
            name = names.get((tensor.data_ptr(), tensor.shape))
            if name is not None and tensor.numel():
                set_tensor(module, name, tensor_at(model, name))
                node.target = name


def _drop_guards(module: fx.GraphModule) -> None:
    """Take out the checks that export adds, conversions to the type that a tensor has already, and parts of a tensor that hold nothing; let
    no operation depend on how its operand lies in memory."""
    for node in list(module.graph.nodes):
        guard = node.op == "call_module" and "_guards_fn" in str(node.target)
        if guard or node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif node.target in CONVERSIONS and node.meta["val"].dtype == node.args[0].meta["val"].dtype:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        elif node.target in JOINS:
            parts = argument(node, 0)
            filled = [part for part in parts if not any(size == 0 for size in part.meta["val"].shape if isinstance(size, int))]
            node.args = (filled or parts, *node.args[1:])
        elif node.target is torch.ops.aten.view.default:  # other kernels (of attention) lay their results out in another way
            node.target = torch.ops.aten.reshape.default
    module.graph.eliminate_dead_code()
    if hasattr(module, "_guards_fn"):
        del module._guards_fn
    module._forward_pre_hooks.clear()  # which check the shapes of the inputs
    module._forward_pre_hooks_with_kwargs.clear()
    module.recompile()


def tensor_at(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that dotted name."""
    owner, _, leaf = name.rpartition(".")
    value = getattr(module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value
