"""Turning a graph of an ONNX file into a ``torch.fx`` graph whose layers are ordinary modules.

Everything is computed beside it on seeded inputs, for two batch sizes at once: what comes out the same for both is a size that the graph
holds as a number, what differs follows the batch.  So shape arithmetic folds by being computed, without rules of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import EdgepruneError, ModelFileError, suggest
from edgeprune.importers.onnx import registry
from edgeprune.importers.onnx.model import Graph, Node
from edgeprune.importers.onnx.names import Names, clean, generic, layer_name, without_reading
from edgeprune.importers.onnx.values import BatchDependentError, Extent, Size, Value, extent


class Call:
    """One node as its operator's function sees it: its inputs, its attributes, and how to add to the graph."""

    def __init__(self, builder: Builder, node: Node, inputs: list[Value | None]) -> None:
        self.builder, self.node, self.inputs = builder, node, inputs
        self.version = node.version

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> Value:
        """The input at ``place``.  Raises :class:`ModelFileError` where there is none."""
        found = self.optional(place)
        if found is None:
            self.refuse(f"lacks input {place}")
        return found

    def optional(self, place: int) -> Value | None:
        """The input at ``place``, None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or what it is by default."""
        return self.node.attributes.get(name, default)

    def given(self, name: str, place: int, default: Any = None) -> Any:
        """Integers that are an attribute in older operator sets and an input in newer ones."""
        if name in self.node.attributes:
            return self.node.attributes[name]
        return self.sizes(self[place]) if self.optional(place) is not None else default

    def refuse(self, why: str) -> NoReturn:
        """Raise :class:`ModelFileError` that names the node."""
        raise ModelFileError(f"{self.node.label} (operator set {self.version}) {why}", remedy="edgeprune does not read this form of it.")

    def fixed(self, place: int, what: str) -> Tensor:
        """The tensor that input ``place`` is, whatever the inputs are."""
        value = self[place]
        found = value.fixed
        if found is None:
            if value.constant:
                raise BatchDependentError(f"{what} of {self.node.label} follows the batch size")
            self.refuse(f"has {what} that depends on the inputs")
        return found

    def number(self, place: int, what: str, default: float | None = None) -> float | None:
        """The one number that input ``place`` holds."""
        if self.optional(place) is None:
            return default
        return float(self.fixed(place, what).flatten()[0])

    def sizes(self, value: Value) -> list[Extent]:
        """The integers of a tensor that is known without the inputs but for the batch size."""
        if not value.constant:
            self.refuse("takes sizes that depend on the data")
        lists = [one.flatten().tolist() for one in value.examples]
        if len({len(one) for one in lists}) > 1:
            raise BatchDependentError(f"{self.node.label} takes as many sizes as the batch has samples")
        return [extent(tuple(int(value) for value in values)) for values in zip(*lists, strict=True)]

    def integers(self, value: Value, what: str) -> list[int]:
        """The same where none may follow the batch size."""
        found = self.sizes(value)
        if any(isinstance(size, Size) for size in found):
            raise BatchDependentError(f"{what} of {self.node.label} follow the batch size")
        return [size for size in found if isinstance(size, int)]

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """``function`` of values, sizes and plain arguments; computed at once where no input of the model is among them."""
        return self.builder.apply(self.node, function, args, kwargs)

    def layer(self, module: nn.Module, *args: Value, weight: int = 1, name: str = "") -> Value:
        """A layer of the model; ``weight``: the input whose stored name it takes."""
        stored = self.optional(weight)
        named = layer_name(name or (stored.source if stored is not None else ""), self.node.name, self.node.op)
        return self.builder.layer(named, module, args, self.node)

    def parts(self, value: Value, count: int) -> list[Value]:
        """The first ``count`` values of a function or layer that returns several."""
        return [self.apply(operator.getitem, value, place) for place in range(count)]

    def read_once(self, place: int) -> bool:
        """Whether nothing but this node reads what input ``place`` is."""
        return self.builder.times_read(self.node.inputs[place]) == 1


class Builder:
    """Builds the graph of ``graph``.  ``examples``: of every input, the tensors for each of ``batches``. ``free``: an input and the
    dimension of it that holds the samples, None where the batch size is fixed. ``constants``: inputs that are given a value for good.
    ``unit``: the file is written for one sample: a leading 1 in its shapes stands for the batch.
    ``absorbed``: names of values that became a step inside a layer."""

    def __init__(
        self,
        graph: Graph,
        examples: dict[str, tuple[Tensor, ...]],
        batches: tuple[int, ...],
        free: tuple[str, int] | None,
        constants: dict[str, Tensor],
        unit: bool = False,
    ) -> None:
        self.source, self.batches, self.free, self.unit = graph, batches, free, unit
        self.root, self.graph, self.names = nn.Module(), fx.Graph(), Names()
        self.values: dict[str, Value] = {}
        self.absorbed: set[str] = set()
        self._uses = graph.uses()
        self._batch: fx.Node | None = None
        for name, tensor in constants.items():
            self.values[name] = Value((tensor,) * len(batches))
        for name, tensors in examples.items():
            self.values[name] = Value(tensors, self.graph.placeholder(_argument(name)))

    def build(self) -> fx.GraphModule:
        """The module, in eval mode.  Raises :class:`ModelFileError`, and :class:`BatchDependentError` where another batch size needs
        another graph."""
        with torch.no_grad():
            self.run(self.source)
            outputs = [self._output(self.source, one.name) for one in self.source.outputs]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        module = fx.GraphModule(self.root, self.graph, "ImportedModel")
        module.graph.eliminate_dead_code()
        module.recompile()
        module.delete_all_unused_submodules()
        return module.eval()

    def run(self, graph: Graph) -> None:
        """Add all nodes of ``graph``, which may be one inside another."""
        for name, tensor in graph.constants.items():
            self.values[name] = Value((tensor,) * len(self.batches), None, name)
        for node in graph.nodes:
            self._run(node)

    def _run(self, node: Node) -> None:
        function = registry.find(node.op, node.version) if node.domain == "" else None
        if function is None:
            raise _unknown(node)
        missing = [name for name in node.inputs if name and name not in self.values]
        if missing:
            raise ModelFileError(f"{node.label} reads {missing[0]}, which nothing makes", remedy="The file is damaged: export it again.")
        call = Call(self, node, [self.values[name] if name else None for name in node.inputs])
        try:
            found = function(call)
        except (EdgepruneError, BatchDependentError):
            raise
        except Exception as error:
            if len(self.batches) > 1:
                raise BatchDependentError(f"{node.label}: {error}") from error
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelFileError(
                f"{node.label} (operator set {node.version}) cannot be computed for these sizes: {text}",
                remedy="Give the sizes that the model is used with (--input 1x3x224x224).",
            ) from error
        results = [found] if isinstance(found, Value) else list(found)
        for name, value in zip(node.outputs, results, strict=False):
            if name and value is not None:
                self.values[name] = value

    def times_read(self, name: str) -> int:
        """How many nodes and outputs of the file read the value ``name``."""
        return len(self._uses.get(name, [])) + sum(one.name == name for one in self.source.outputs)

    def _output(self, graph: Graph, name: str) -> Any:
        if name not in self.values:
            raise ModelFileError(f"nothing makes the output {name}", remedy="The file is damaged: export it again.")
        return self._argument(self.values[name])

    def apply(self, node: Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        """See :meth:`Call.apply`."""
        examples = tuple(function(*_at(args, place), **_at(kwargs, place)) for place in range(len(self.batches)))
        if not any(isinstance(one, Value) and not one.constant for one in _leaves((args, kwargs))):
            return Value(examples)
        made = self.graph.call_function(function, self._argument(args), self._argument(kwargs))
        return Value(examples, made)

    def layer(self, name: str, module: nn.Module, args: Sequence[Value], node: Node) -> Value:
        """See :meth:`Call.layer`."""
        module.eval()
        examples = tuple(module(*_at(tuple(args), place)) for place in range(len(self.batches)))
        if all(one.constant for one in args):
            return Value(examples)
        target = self.names.unique(name)
        _put(self.root, target, module)
        made = self.graph.call_module(target, tuple(self._argument(one) for one in args))
        return Value(examples, made)

    def _argument(self, value: Any) -> Any:
        """What stands in the graph for values and sizes among arguments."""
        if isinstance(value, Value):
            return value.node if value.node is not None else self._stored(value)
        if isinstance(value, Size):
            return self.size(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._argument(one) for one in value)
        if isinstance(value, dict):
            return {name: self._argument(one) for name, one in value.items()}
        return value

    def size(self, size: Size) -> fx.Node:
        """A size that follows the batch, in the graph."""
        start, slope = size.line(self.batches)
        assert self.free is not None
        if self._batch is None:
            holder = self.values[self.free[0]].node
            assert holder is not None
            with self.graph.inserting_after(list(self.graph.find_nodes(op="placeholder"))[-1]):
                self._batch = self.graph.call_method("size", (holder, self.free[1]))
        found = self._batch if slope == 1 else self.graph.call_function(operator.mul, (self._batch, slope))
        return found if start == 0 else self.graph.call_function(operator.add, (found, start))

    def _stored(self, value: Value) -> fx.Node:
        """A constant as a parameter (weights with a name of their own) or a buffer, a new one for every use."""
        fixed = value.fixed
        if fixed is None:
            return self._repeated(value)
        own = not generic(value.source)
        name = self.names.unique(clean(without_reading(value.source)) if own else "constant")
        tensor = fixed.detach().clone()
        trained = own and tensor.is_floating_point() and tensor.numel() > 1 and bool(tensor.isfinite().all())
        _put(self.root, name, nn.Parameter(tensor) if trained else tensor)
        return self.graph.get_attr(name)

    def _repeated(self, value: Value) -> fx.Node:
        """A constant that holds the same for every sample: stored once and repeated."""
        first, second = value.examples[:2]
        if first.dim() != second.dim():
            raise BatchDependentError("a constant has as many dimensions as the batch says")
        grown = [dim for dim, (one, other) in enumerate(zip(first.shape, second.shape, strict=True)) if one != other]
        if len(grown) != 1:
            raise BatchDependentError("a constant follows the batch size in its values")
        dim = grown[0]
        once = first.narrow(dim, 0, 1)
        if not all(torch.equal(one, once.expand(one.shape)) for one in value.examples):
            raise BatchDependentError("a constant holds something else for every sample")
        stored = self._stored(Value((once.clone(),) * len(self.batches)))
        return self.graph.call_method("expand", (stored, *self._argument(tuple(value.shape))))


def _unknown(node: Node) -> ModelFileError:
    domain = node.domain or "ai.onnx"
    what = f"operator {node.op} of domain {domain}, operator set {node.version} (node {node.name or node.outputs[0]})"
    if node.domain:
        return ModelFileError(
            f"the file uses {what}: a custom domain", remedy="Export it without that domain's operators: with plain ONNX operators only."
        )
    return ModelFileError(f"the file uses {what}, which is not read", remedy=suggest(node.op, registry.names(), "operators"))


def _at(value: Any, place: int) -> Any:
    """Arguments for one of the batch sizes."""
    if isinstance(value, Value):
        return value.examples[place]
    if isinstance(value, Size):
        return value.values[place]
    if isinstance(value, (list, tuple)):
        return type(value)(_at(one, place) for one in value)
    if isinstance(value, dict):
        return {name: _at(one, place) for name, one in value.items()}
    return value


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for one in value for leaf in _leaves(one)]
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in _leaves(one)]
    return [value]


def _argument(name: str) -> str:
    """An input's name as one of Python's."""
    plain = clean(name).replace(".", "_")
    return plain if plain.isidentifier() else f"input_{plain}"


def _put(root: nn.Module, path: str, value: nn.Module | Tensor) -> None:
    """Make ``value`` the attribute ``path`` of ``root``, and modules on the way to it."""
    *folders, leaf = path.split(".")
    owner = root
    for folder in folders:
        if not hasattr(owner, folder):
            owner.add_module(folder, nn.Module())
        owner = getattr(owner, folder)
    if isinstance(value, nn.Module):
        owner.add_module(leaf, value)
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(leaf, value)
    else:
        owner.register_buffer(leaf, value)
