"""What a model does in training only: auxiliary outputs, stochastic depth, dropout of whole channels, noise."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.batches import Inputs, call
from edgeprune.graph.twin import hollow, twin


@dataclass(frozen=True)
class Training:
    """``layers``: the modules that act in training only, by name ("" is the model itself). ``outputs``: whether training returns something
    of another structure. ``graph``: what a training step computes, with the parameters under their own names; None where it could not be
    captured, and ``why``."""

    layers: tuple[str, ...]
    outputs: bool
    graph: fx.GraphModule | None = None
    why: str = ""


@dataclass
class _Run:
    """What was seen of one forward pass: (module, function, numbers given to it) for every call, and the structure of the outputs."""

    calls: list[tuple[str, str, tuple[Any, ...]]] = field(default_factory=list)
    outputs: Any = None
    rolled: bool = False
    """Whether Python's or numpy's random numbers were drawn: what they decide is in no graph."""


def look(model: nn.Module, inputs: Inputs) -> Training | None:
    """What ``model`` does in training only, seen by running a twin of it both ways; None where that is nothing but what batch norm and
    dropout modules do.  ``why`` says it where the model does not run in training on inputs alone."""
    try:
        evaluated, trained = _both(model, inputs)
    except Exception as error:  # it asks for targets, or for more samples
        return Training((), False, None, f"it does not run in training on the example inputs: {error}")
    if evaluated.calls == trained.calls and evaluated.outputs == trained.outputs:
        return None
    extra = Counter(trained.calls) - Counter(evaluated.calls)
    layers = tuple(dict.fromkeys(call[0] for call in trained.calls if call in extra))
    why = "it depends on Python's own random numbers" if trained.rolled else ""
    return Training(layers, evaluated.outputs != trained.outputs, None, why)


def _both(model: nn.Module, inputs: Inputs) -> tuple[_Run, _Run]:
    """In evaluation and in training: on shapes alone, or on numbers where the model's code asks for some."""
    try:
        shapes: Any = pytree.tree_map_only(Tensor, lambda value: value.to("meta"), inputs)
        return _run(hollow(model).eval(), shapes), _run(hollow(model).train(), shapes)
    except Exception:
        return _run(twin(model).eval(), inputs), _run(twin(model).train(), inputs)


def _run(model: nn.Module, inputs: Inputs) -> _Run:
    seen = _Run()
    states: tuple[Any, Any] = random.getstate(), np.random.get_state()
    with ExitStack() as stack, torch.no_grad(), torch.random.fork_rng(devices=[]):
        watch = stack.enter_context(_WatchCalls(model.training, seen))
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(watch.entered(name)).remove)
            stack.callback(module.register_forward_hook(watch.left, always_call=True).remove)
        outputs = call(model, inputs)
    seen.outputs = pytree.tree_structure(outputs)
    now: Any = np.random.get_state()
    seen.rolled = random.getstate() != states[0] or now[2] != states[1][2] or not np.array_equal(now[1], states[1][1])
    random.setstate(states[0])
    np.random.set_state(states[1])
    return seen


class _WatchCalls(TorchFunctionMode):
    """Notes every function that computes a floating tensor, with the module that calls it."""

    def __init__(self, training: bool, seen: _Run) -> None:
        super().__init__()
        self.training, self.seen, self.inside = training, seen, [""]

    def entered(self, name: str) -> Callable[..., None]:
        """A hook that runs before the module of that name."""
        return lambda *_: self.inside.append(name)

    def left(self, *_: Any) -> None:
        """A hook that runs after a module."""
        self.inside.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(resolve_name(func) or getattr(func, "__name__", func))
        if func is torch.nn.functional.batch_norm and args[0].is_meta and args[0].numel() > args[0].shape[1]:
            result = torch.empty_like(args[0])  # its shape is known; what PyTorch does instead takes as long as all other operations
        else:
            result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) and value.is_floating_point() for value in pytree.tree_leaves(result)):
            self.seen.calls.append((self.inside[-1], name, self._numbers(name.rpartition(".")[2], args, kwargs or {})))
        return result

    def _numbers(self, name: str, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The numbers given to a function; of dropout and batch norm modules only whether they follow the model's mode, since a graph of an
        inference has modules in their place."""
        numbers = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, (bool, int, float, str))]
        flags = [value for value in numbers if isinstance(value, bool)]
        if name == "batch_norm":
            return ("follows",) if flags == [self.training] or flags == [True] else (*flags,)
        if name == "dropout":
            return (numbers[0], "follows" if flags[:1] == [self.training] else str(flags))
        if "dropout" in name or name in _RANDOM_WITHIN:
            rates = [value for value in numbers if isinstance(value, float)]
            return tuple(rates) if not any(rates) else tuple(numbers)
        return tuple(numbers)


_RANDOM_WITHIN = ("lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")
"""Functions that drop out inside, by a rate among their numbers; at a rate of 0 they compute the same in both modes."""


@contextmanager
def training_structure(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute what it does in training, auxiliary outputs too, with the statistics it has and with nothing dropped by its
    dropout modules; training flags are put back after."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        for module in model.modules():
            if isinstance(module, (_BatchNorm, _DropoutNd)) or type(module).__name__ in ("StochasticDepth", "DropPath"):
                module.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


class Still(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every random number that is drawn inside is one half (bernoulli's too), so that two forms of a model can be compared."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_dropout.default:
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        if func.name().startswith("aten::rrelu_with_noise"):
            return torch.nn.functional.leaky_relu(args[0], sum(args[2:4]) / 2)
        result = func(*args, **(kwargs or {}))
        drawn = func.name().partition("::")[2].partition(".")[0].rstrip("_").removesuffix("_like") in _DRAWN
        if drawn and isinstance(result, Tensor):
            result.fill_(0.5 if result.is_floating_point() else 0)
        return result


_DRAWN = ("rand", "randn", "randint", "normal", "uniform", "bernoulli", "exponential", "geometric", "log_normal", "cauchy", "multinomial")


def still_outputs(model: nn.Module, inputs: Inputs, run: Callable[..., Any] | None = None) -> list[Tensor]:
    """All output tensors of ``model`` in training, with the batch-norm statistics it has and with :class:`Still` random numbers.  ``run``:
    what calls the model, which is changed then; else a twin of it is called."""
    tried = twin(model).train() if run is None else model.train()
    for module in tried.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Still():
        torch.manual_seed(0)
        outputs = call(run or tried, inputs)
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
