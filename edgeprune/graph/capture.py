"""A model as one graph of ATen operations, by ``torch.export``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import CaptureError


@dataclass
class Captured:
    """``module``: the graph, its parameters and buffers as attributes under their own names.  ``inputs``: the example inputs it was
    captured with (a batch of at least 2 where ``any_batch``: it then takes any batch size).  ``batch``: the batch size of the user's
    examples."""

    module: fx.GraphModule
    inputs: tuple[Any, ...]
    any_batch: bool
    batch: int = 1


def capture(model: nn.Module, example_inputs: tuple[Any, ...]) -> Captured:
    """Capture ``model`` in eval mode; its training flags are left as they were.

    Raises :class:`CaptureError` when the example inputs do not fit or the model cannot be captured whole.
    """
    with eval_mode(model):
        try:
            with torch.no_grad():
                model(*example_inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(value.shape)) for value in example_inputs)
            raise CaptureError(
                f"the model does not run on the example inputs {shapes}: {error}", remedy="Correct task.example_inputs, or the model."
            ) from error
        captured = _capture_any_batch(model, example_inputs)
        if captured is None:
            captured = Captured(_export(model, example_inputs, None), example_inputs, any_batch=False)
    _drop_guards(captured.module)
    return captured


def _capture_any_batch(model: nn.Module, example_inputs: tuple[Any, ...]) -> Captured | None:
    sizes = {value.shape[0] if value.dim() else 0 for value in example_inputs}
    if len(sizes) != 1 or sizes == {0}:
        return None
    inputs = tuple(torch.cat([value, value])[: max(2, value.shape[0])] for value in example_inputs)
    try:
        module = _export(model, inputs, tuple({0: torch.export.Dim.AUTO} for _ in inputs))
    except CaptureError:
        return None
    first = next(node for node in module.graph.nodes if node.op == "placeholder")
    return (
        Captured(module, inputs, any_batch=True, batch=example_inputs[0].shape[0])
        if isinstance(first.meta["val"].shape[0], torch.SymInt)
        else None
    )


def _export(model: nn.Module, inputs: tuple[Any, ...], dynamic_shapes: Any) -> fx.GraphModule:
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return torch.export.export(model, inputs, dynamic_shapes=dynamic_shapes).module()  # type: ignore[return-value]
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CaptureError(
            f"torch.export cannot capture {type(model).__name__}: {reason}",
            remedy="Data-dependent control flow is the usual cause: torch.export.export(model, inputs) shows where.",
        ) from error
    finally:
        log.setLevel(level)


def _drop_guards(module: fx.GraphModule) -> None:
    """Take out the checks of input shapes that export adds."""
    for node in list(module.graph.nodes):
        if node.op == "call_module" and "_guards_fn" in str(node.target):
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    if hasattr(module, "_guards_fn"):
        del module._guards_fn
    module.recompile()


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in eval mode, and every module back as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def tensor_at(module: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that dotted name."""
    owner, _, leaf = name.rpartition(".")
    value = getattr(module.get_submodule(owner), leaf)
    assert isinstance(value, Tensor)
    return value
