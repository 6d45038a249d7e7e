"""A model as one graph of ATen operations, by ``torch.export``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.batches import Inputs, call
from edgeprune.errors import CaptureError
from edgeprune.graph.batch import FOLLOWS, SIZES, batch_of, first_tensor, generalized, holds, resized
from edgeprune.graph.exported import EXPORT_SHOWS, exported, tensor_at
from edgeprune.graph.parts import Part, Parts, joined, record_any_batch, record_calls, with_shared
from edgeprune.graph.training import Still, Training, look
from edgeprune.graph.twin import twin
from edgeprune.parametrization import folded


@dataclass
class Captured:
    """``module``: the graph, its parameters and buffers as attributes under their own names.  ``inputs``: the example inputs it was
    captured with (a batch of at least 2 where ``any_batch``: it then takes any batch size).  ``batch``: the batch size of the user's
    examples. ``parts``: the submodules that were captured one by one where the model could not be captured whole; ``inputs`` are then
    theirs, and everything between them is left as it is. ``whole``: why it could not. ``training``: what it does in
    training only (None: nothing but dropout and batch norm)."""

    module: fx.GraphModule
    inputs: Inputs
    any_batch: bool
    batch: int = 1
    parts: tuple[Part, ...] = ()
    whole: CaptureError | None = None
    training: Training | None = None

    def extent(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of what a node computes (of several tensors: the first) for the user's batch size."""
        value, follows = first_tensor(node), node.meta.get(FOLLOWS, ())
        if value is None:
            return ()
        sizes = [size if isinstance(size, int) else int(size.node.hint) for size in value.shape]
        held = SIZES[0] if self.parts else batch_of(self.inputs)
        return tuple(size * self.batch // held if dim in follows else size for dim, size in enumerate(sizes))

    def misfit(self, inputs: Any) -> str:
        """Why the graph does not take ``inputs`` of a batch; "" where it does."""
        if self.parts:
            fits = self.any_batch or batch_of(inputs) == self.batch
            return "" if fits else f"its parts were captured for a batch of {self.batch}, and a batch has {batch_of(inputs)} samples"
        given, examples, held = pytree.tree_leaves(inputs), pytree.tree_leaves(self.inputs), batch_of(self.inputs)
        if len(given) != len(examples):
            return f"a batch has {len(given)} inputs, and the example {len(examples)}"
        for place, (value, example) in enumerate(zip(given, examples, strict=True)):
            if not isinstance(value, Tensor) or not isinstance(example, Tensor):
                continue
            free = 1 if self.any_batch and holds(example, held) else 0
            if value.dim() != example.dim() or value.shape[free:] != example.shape[free:]:
                shape = ["N" if dim < free else str(size) for dim, size in enumerate(example.shape)]
                return f"input {place} is ({', '.join(map(str, value.shape))}), and the graph takes ({', '.join(shape)})"
        return ""

    def view(self, model: nn.Module) -> nn.Module:
        """What of ``model`` was captured, as a module that takes ``inputs``."""
        return Parts(model, self.parts) if self.parts else model


def capture(model: nn.Module, example_inputs: Inputs) -> Captured:
    """Capture ``model`` in eval mode; it is left as it was.

    A model that cannot be captured whole (a detector's box filtering depends on the data) is captured by submodule. Raises
    :class:`CaptureError` when the example inputs do not fit or nothing of the model can be captured.
    """
    model = twin(folded(model))
    with eval_mode(model), _without_cache(model):
        watch = _WatchShapes()  # type: ignore[no-untyped-call]
        try:
            with watch:
                calls = record_calls(twin(model), _with_weights(model, ""), example_inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(value.shape)) for value in pytree.tree_leaves(example_inputs) if isinstance(value, Tensor))
            raise CaptureError(
                f"the model does not run on the example inputs {shapes}: {error}", remedy="Correct task.example_inputs, or the model."
            ) from error
        model.train().eval()  # timm's attention keeps its biases from one evaluation to the next until it has been in training mode
        try:
            if watch.seen:
                raise CaptureError(f"the shapes in {type(model).__name__} depend on the data: {watch.seen}", remedy=EXPORT_SHOWS)
            captured = _capture_any_batch(model, example_inputs)
            if captured is None:
                captured = Captured(exported(model, example_inputs, None), example_inputs, any_batch=False)
        except CaptureError as error:
            return _capture_parts(model, example_inputs, calls, error)
        return replace(captured, training=_capture_training(model, captured))


class _WatchShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees operations whose results have as many elements as the data say (filtering boxes): no graph of fixed shapes has them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or func.name() in ("aten::nonzero", "aten::masked_select", "torchvision::nms"):
            self.seen = self.seen or func.name()
        return func(*args, **(kwargs or {}))


def _with_weights(model: nn.Module, name: str) -> list[str]:
    """The submodules of ``name`` that have parameters, each by the first name it has in the model."""
    first = set(dict(model.named_modules()))
    children = [(f"{name}.{leaf}".lstrip("."), child) for leaf, child in model.get_submodule(name).named_children()]
    return [child for child, module in children if child in first and next(module.parameters(), None) is not None]


def _capture_parts(model: nn.Module, example_inputs: Inputs, calls: dict[str, Part], whole: CaptureError) -> Captured:
    """The largest submodules that can be captured, each with the inputs it has when the model runs on the examples."""
    found: list[tuple[Part, fx.GraphModule]] = []
    names = _with_weights(model, "")
    while names:
        failed, dynamic = [], record_any_batch(model, names, example_inputs)
        for name in names:
            part = _part_any_batch(model, dynamic.get(name)) or _part(model, calls.get(name))
            if part is None:
                failed.append(name)
            else:
                found.append(part)
        names = [child for name in failed for child in _with_weights(model, name)]
        calls = record_calls(model, names, example_inputs) if names else {}
    if not found:
        raise whole
    found = with_shared(found)
    parts, inputs = tuple(part for part, _ in found), tuple(leaf for part, _ in found for leaf in part.leaves)
    any_batch = all(part.follows is not None for part in parts)
    return Captured(joined(found), inputs, any_batch, batch_of(example_inputs) or 1, parts=parts, whole=whole)


def _part(model: nn.Module, call: Part | None) -> tuple[Part, fx.GraphModule] | None:
    """A submodule with its graph; None when it is not called, or cannot be captured either."""
    if call is None:
        return None
    try:
        graph = exported(model.get_submodule(call.name), call.args, None, call.kwargs)
    except CaptureError:
        return None
    return replace(call, codegen=graph.graph._codegen), graph


def _part_any_batch(model: nn.Module, call: Part | None) -> tuple[Part, fx.GraphModule] | None:
    """The same for any number of samples; None where its code fixes it."""
    if call is None or call.follows is None:
        return None
    leaves, shapes = list(zip(call.leaves, call.follows, strict=True)), torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for value, dims in leaves:
        if dims:
            shapes[value] = dict.fromkeys(dims, torch.export.Dim.AUTO)
    try:
        graph = exported(model.get_submodule(call.name), call.args, shapes if any(call.follows) else None, call.kwargs)
    except CaptureError:
        return None
    given = [node for node in graph.graph.nodes if node.op == "placeholder"]
    if any(not _free(node.meta["val"].shape[dim]) for node, (_, dims) in zip(given, leaves, strict=True) for dim in dims):
        return None
    _note_batch(graph)
    return replace(call, codegen=graph.graph._codegen), graph


@contextlib.contextmanager
def _without_cache(model: nn.Module) -> Iterator[None]:
    """Language models return a cache of keys and values beside their output unless it is switched off."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "use_cache", None) is not True:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = True


def _capture_any_batch(model: nn.Module, example_inputs: Inputs) -> Captured | None:
    batch = batch_of(example_inputs)
    if not batch:
        return None
    inputs = resized(example_inputs, max(2, batch))
    module = _any_batch(model, inputs)
    return Captured(module, inputs, any_batch=True, batch=batch) if module is not None else None


def _any_batch(model: nn.Module, inputs: Inputs, training: bool = False) -> fx.GraphModule | None:
    """The graph for any number of samples; None where the model's code fixes it."""
    batch = batch_of(inputs)
    follows = pytree.tree_map(lambda value: {0: torch.export.Dim.AUTO} if holds(value, batch) else None, inputs)
    try:
        module = exported(model, inputs, follows, training=training)
        if _any_size(module, inputs):
            _note_batch(module)
            return module
    except CaptureError:
        pass
    return _from_two(model, inputs, training)


def _any_size(module: fx.GraphModule, inputs: Inputs) -> bool:
    """Whether no tensor of samples was found to hold one number of them."""
    batch, given = batch_of(inputs), [node for node in module.graph.nodes if node.op == "placeholder"]
    sizes = [node.meta["val"].shape[0] for node, value in zip(given, pytree.tree_leaves(inputs), strict=True) if holds(value, batch)]
    return all(map(_free, sizes))


def _free(size: Any) -> bool:
    """Whether a size was not found to be one number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _note_batch(module: fx.GraphModule) -> None:
    """Note which dimensions follow the batch size, now: whoever asks a symbolic size for its number makes it that number."""
    for node in module.graph.nodes:
        value = first_tensor(node)
        node.meta[FOLLOWS] = () if value is None else tuple(dim for dim, size in enumerate(value.shape) if not isinstance(size, int))


def _from_two(model: nn.Module, inputs: Inputs, training: bool) -> fx.GraphModule | None:
    """Where the model's own code fixes the batch size (Keras, shapes that are compared): from two graphs of fixed ones, if the result is
    right for a third."""
    two, three, five = (resized(inputs, count) for count in (*SIZES, 5))
    try:
        module = exported(model, two, None, training=training)
        if not generalized(module, exported(model, three, None, training=training)):
            return None
        with torch.no_grad(), torch.random.fork_rng(devices=[]), Still() if training else contextlib.nullcontext():
            got, wanted = (pytree.tree_leaves(call(one, five)) for one in (module, twin(model).train(training)))
    except (CaptureError, RuntimeError):
        return None
    same = all(a.shape == b.shape and torch.allclose(a, b, atol=1e-4) for a, b in zip(got, wanted, strict=True) if isinstance(a, Tensor))
    return module if same else None


def _capture_training(model: nn.Module, captured: Captured) -> Training | None:
    """What ``model`` does in training only, with its graph where that can be captured as ``captured`` was."""
    seen = look(model, captured.inputs)
    if seen is None or seen.why:
        return seen
    try:
        if captured.any_batch:
            module = _any_batch(model, captured.inputs, training=True)
        else:
            module = exported(model, captured.inputs, None, training=True)
    except CaptureError as error:
        return replace(seen, why=error.message)
    if module is None:
        return replace(seen, why="a training step is fixed to one batch size")
    _own_names(module, model)
    return replace(seen, graph=module)


def _own_names(module: fx.GraphModule, model: nn.Module) -> None:
    """Give constants of a training step names that no graph of an inference has, and leave counting batches to the batch norms."""
    known = {name for name, _ in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]}
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and str(node.target) not in known and isinstance(_attribute(module, str(node.target)), Tensor):
            name = f"training_{str(node.target).replace('.', '_')}"
            module.register_buffer(name, tensor_at(module, str(node.target)), persistent=False)
            node.target = name
        counted = node.args[0] if node.target is torch.ops.aten.add_.Tensor else None
        if isinstance(counted, fx.Node) and str(counted.target).endswith("num_batches_tracked") and not node.users:
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _attribute(module: nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


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
