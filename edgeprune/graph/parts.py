"""A model captured by submodule: the graphs of its parts side by side in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Inputs, call
from edgeprune.graph.batch import SIZES, batch_of, resized
from edgeprune.graph.nodes import argument, store, with_values


@dataclass(frozen=True)
class Part:
    """A submodule and its arguments the first time the model called it."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    codegen: Any = None
    """How its graph takes and gives nested values."""
    follows: tuple[tuple[int, ...], ...] | None = None
    """For every argument, flat, the dimensions whose size follows the batch size; None where that is not known."""
    shared: dict[str, str] = field(default_factory=dict)
    """Of its parameters that an earlier part has too, their names in the model by that part's name of them."""

    @property
    def leaves(self) -> list[Any]:
        """The arguments, flat."""
        return pytree.tree_leaves((self.args, self.kwargs))

    def call(self, model: nn.Module, leaves: list[Any]) -> Any:
        """The part of ``model`` called on other values in the places of ``leaves``."""
        args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((self.args, self.kwargs)))
        return model.get_submodule(self.name)(*args, **kwargs)


class Parts(nn.Module):
    """Takes the arguments of all parts, flat, and returns all their results."""

    def __init__(self, model: nn.Module, parts: tuple[Part, ...]) -> None:
        super().__init__()
        self.model, self.parts = model, parts

    def forward(self, *leaves: Any) -> list[Any]:
        """One result a part."""
        results, given = [], list(leaves)
        for part in self.parts:
            count = len(part.leaves)
            results.append(part.call(self.model, given[:count]))
            given = given[count:]
        return results


def record_calls(model: nn.Module, names: list[str], example_inputs: Inputs) -> dict[str, Part]:
    """The first call of these submodules while ``model`` runs on the examples, its tensors as they were then."""
    calls: dict[str, Part] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in calls:
                calls[name] = Part(name, *pytree.tree_map_only(Tensor, _kept, (args, kwargs)))

        return keep

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad():
            call(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def record_any_batch(model: nn.Module, names: list[str], example_inputs: Inputs) -> dict[str, Part]:
    """:func:`record_calls` with a batch of 2, and which sizes follow it; without the submodules of which that cannot be said."""
    if not batch_of(example_inputs):
        return {}
    try:
        two, three = (record_calls(model, names, resized(example_inputs, count)) for count in SIZES)
    except Exception:  # its inputs are not batches
        return {}
    found = {name: _following(part, three[name]) for name, part in two.items() if name in three}
    return {name: part for name, part in found.items() if part is not None}


def _following(two: Part, three: Part) -> Part | None:
    """``two`` with the dimensions that are longer in ``three`` as its batch is; None where they differ in another way."""
    if pytree.tree_structure((two.args, two.kwargs)) != pytree.tree_structure((three.args, three.kwargs)):
        return None
    follows = []
    for value, other in zip(two.leaves, three.leaves, strict=True):
        shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else () for leaf in (value, other)]
        dims = tuple(dim for dim, (size, its) in enumerate(zip(*shapes, strict=False)) if size != its)
        if len(shapes[0]) != len(shapes[1]) or any(shapes[0][dim] * SIZES[1] != shapes[1][dim] * SIZES[0] for dim in dims):
            return None
        follows.append(dims)
    return replace(two, follows=tuple(follows))


def _kept(value: Tensor) -> Tensor:
    """A copy; where there was nothing (no box was found) two random ones."""
    return value.detach().clone() if value.numel() else torch.randn([size or 2 for size in value.shape]).to(value.dtype)


def with_shared(found: list[tuple[Part, fx.GraphModule]]) -> list[tuple[Part, fx.GraphModule]]:
    """The parts, knowing which parameters they share with earlier ones."""
    names, result = dict[int, str](), []
    for part, module in found:
        own = {f"{part.name}.{name}": parameter for name, parameter in module.named_parameters()}
        shared = {names[id(parameter)]: name for name, parameter in own.items() if id(parameter) in names}
        names = {id(parameter): name for name, parameter in own.items()} | names
        result.append((replace(part, shared=shared), module))
    return result


def joined(found: list[tuple[Part, fx.GraphModule]]) -> fx.GraphModule:
    """One graph: the inputs of all parts, and all their results.  Attributes have the names they have in the model; a parameter that
    several parts share has that of the first."""
    root, graph = nn.Module(), fx.Graph()
    places: list[dict[fx.Node, fx.Node]] = []
    for number, (part, module) in enumerate(found):
        _mount(root, part.name, module)
        places.append({})
        for node in module.graph.nodes:
            if node.op == "placeholder":
                places[-1][node] = graph.placeholder(f"part{number}_{node.name}")
                places[-1][node].meta = dict(node.meta)
    results = []
    for (part, module), values in zip(found, places, strict=True):
        first = {own: name for name, own in part.shared.items()}
        for node in module.graph.nodes:
            if node.op == "output":
                results.append(fx.map_arg(node.args[0], values.__getitem__))
            elif node.op != "placeholder":
                new = graph.node_copy(node, values.__getitem__)
                new.meta = dict(node.meta)
                if node.op == "get_attr":
                    name = f"{part.name}.{node.target}"
                    new.target = first.get(name, name)
                values[node] = new
    graph.output(tuple(results))
    return fx.GraphModule(root, graph)


def split(module: fx.GraphModule, parts: tuple[Part, ...]) -> dict[str, fx.GraphModule]:
    """The reverse of :func:`joined`, on a graph that was changed since: every part's own graph, to be called as the part is.  Parts still
    share the parameters that they shared."""
    owner = _owners(module, parts)
    output = next(node for node in module.graph.nodes if node.op == "output")
    result = {}
    for number, part in enumerate(parts):
        root, graph, values = _submodule(module, part.name), fx.Graph(), dict[fx.Node, fx.Node]()
        for node in module.graph.nodes:
            if owner.get(node) == number:
                values[node] = graph.node_copy(node, values.__getitem__)
                if node.op in ("get_attr", "call_module"):
                    values[node].target = _moved(module, root, str(node.target), part)
        graph.output(with_values(argument(output, 0)[number], values.__getitem__))
        graph.set_codegen(part.codegen)
        result[part.name] = fx.GraphModule(root, graph)
    return result


def _submodule(module: nn.Module, name: str) -> nn.Module:
    """That submodule; an empty one where a part has nothing of its own."""
    try:
        return module.get_submodule(name)
    except AttributeError:
        return nn.Module()


def _owners(module: fx.GraphModule, parts: tuple[Part, ...]) -> dict[fx.Node, int]:
    """The part that every node belongs to: that of what it reads, or else of what reads it."""
    nodes = [node for node in module.graph.nodes if node.op != "output"]
    placeholders = [node for node in nodes if node.op == "placeholder"]
    numbers = [number for number, part in enumerate(parts) for _ in part.leaves]
    owner = dict(zip(placeholders, numbers, strict=True))
    for node in nodes:
        known = [owner[part] for part in node.all_input_nodes if part in owner]
        if known:
            owner.setdefault(node, known[0])
    for node in reversed(nodes):
        known = [owner[user] for user in node.users if user in owner]
        if known:
            owner.setdefault(node, known[0])
    return owner


def _moved(module: nn.Module, root: nn.Module, name: str, part: Part) -> str:
    """The name in ``root`` of what is ``name`` in ``module``; what was added at the top or is in an earlier part is put there first."""
    prefix = part.name + "."
    if name in part.shared:
        own = part.shared[name].removeprefix(prefix)
        set_tensor(root, own, module.get_parameter(name))
        return own
    if name.startswith(prefix):
        return name.removeprefix(prefix)
    value = getattr(module, name)
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    else:
        root.register_buffer(name, value)
    return name


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Let ``module`` have a parameter or buffer of that dotted name."""
    owner, _, leaf = name.rpartition(".")
    for step in filter(None, owner.split(".")):
        if not hasattr(module, step):
            module.add_module(step, nn.Module())
        module = getattr(module, step)
    store(module, leaf, tensor)


def _mount(root: nn.Module, name: str, module: nn.Module) -> None:
    owner = root
    *path, leaf = name.split(".")
    for step in path:
        if not hasattr(owner, step):
            owner.add_module(step, nn.Module())
        owner = getattr(owner, step)
    owner.add_module(leaf, module)
