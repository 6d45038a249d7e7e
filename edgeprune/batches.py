"""How a model is called: with positional inputs or keywords, on one inference or on a batch with its targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.errors import InputError, RecipeError

Inputs = tuple[Any, ...] | dict[str, Any]
"""The inputs of a call: positional ones in a tuple, or keyword arguments in a dict."""

LABELS = ("labels", "label", "targets", "target")
"""The keys of a dict batch that hold its targets."""


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """What ``model`` returns for ``inputs``."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def as_inputs(inputs: Any) -> tuple[Any, ...]:
    """A batch's inputs as a tuple of positional arguments."""
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors in nested ``values``, in order."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch as the model and the loss take it.

    ``args``, ``kwargs``: of the model's call, arranged as the task's example inputs are. ``targets``: what the loss and the metric compare
    the outputs with. ``labels``: the keyword arguments by which a model that computes its own loss is given its targets.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any
    labels: dict[str, Any] = field(default_factory=dict)

    def call(self, model: Callable[..., Any], loss: bool = False) -> Any:
        """What ``model`` returns; with ``loss``, its own loss too, if it computes one."""
        return model(*self.args, **self.kwargs, **(self.labels if loss else {}))

    @property
    def inputs(self) -> Inputs:
        """The inputs alone: a dict where all of them are keyword arguments."""
        return self.kwargs if self.kwargs and not self.args else (*self.args, *self.kwargs.values())

    @property
    def leaves(self) -> list[Any]:
        """The inputs, flat."""
        leaves: list[Any] = pytree.tree_leaves((self.args, self.kwargs))
        return leaves

    @property
    def size(self) -> int:
        """The number of samples: the first dimension of the first tensor, targets first; of a list of targets, with one entry a sample, its
        length."""
        if isinstance(self.targets, list) and any(isinstance(one, Mapping) for one in self.targets):
            return len(self.targets)
        for value in (*tensors_of(self.targets)[:1], *self.leaves):
            if isinstance(value, Tensor) and value.dim() > 0:
                return int(value.shape[0])
        return len(self.targets)

    @property
    def samples(self) -> int | None:
        """How many samples inputs and targets hold: the first dimension that all of their tensors share; None where they do not."""
        if isinstance(self.targets, list):  # of one entry a sample
            return None
        leaves = pytree.tree_leaves((self.args, self.kwargs, self.targets, self.labels))
        sizes = {value.shape[0] if isinstance(value, Tensor) and value.dim() else None for value in leaves}
        return sizes.pop() if len(sizes) == 1 else None

    def mapped(self, function: Callable[[Tensor], Any], targets: bool = True) -> Batch:
        """A batch with ``function`` of every tensor; with ``targets=False``, of those that the model is called with."""
        args, kwargs = pytree.tree_map_only(Tensor, function, (self.args, self.kwargs))
        if not targets:
            return replace(self, args=args, kwargs=kwargs)
        wanted, labels = pytree.tree_map_only(Tensor, function, (self.targets, self.labels))
        return Batch(args, kwargs, wanted, labels)

    def sliced(self, start: int, end: int) -> Batch:
        """The samples from ``start`` on, up to ``end``."""
        return self.mapped(lambda value: value[start:end])

    def to(self, device: Any) -> Batch:
        """The batch with all its tensors on ``device``."""
        return self.mapped(lambda value: value.to(device, non_blocking=torch.device(device).type != "cpu"))


def as_batch(value: Any) -> Batch:
    """A :class:`Batch`, or the one of a pair ``(inputs, targets)`` of positional inputs.  Raises :class:`InputError` for anything else."""
    if isinstance(value, Batch):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return Batch(as_inputs(value[0]), {}, value[1])
    raise InputError(f"a batch is {held(value)}, not (inputs, targets)", remedy="Take batches from task.batches().")


def held(value: Any) -> str:
    """What a batch holds, for messages."""
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}" + (f" ({', '.join(_brief(one) for one in value)})" if 0 < len(value) < 6 else "")
    return _brief(value)


def _brief(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


class Signature:
    """The names of what ``model.forward`` takes.  A forward that cannot be inspected takes anything."""

    def __init__(self, model: nn.Module) -> None:
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):
            parameters = [inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD)]
        self.of = type(model).__name__
        self.positional = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        self.names = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        self.any = any(one.kind == one.VAR_KEYWORD for one in parameters)

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are not keyword arguments."""
        return [] if self.any else [name for name in names if name not in self.names]

    def refuse_unknown(self, names: Sequence[str], where: str) -> None:
        """Raise :class:`RecipeError` when one of ``names`` is not a keyword argument."""
        if unknown := self.unknown(names):
            raise RecipeError(
                f"{where} names {', '.join(unknown)}, which forward of {self.of} does not take",
                remedy=f"It takes {', '.join(self.names) or 'no keyword arguments'}.",
            )


class Unpacker:
    """Makes a :class:`Batch` of what a loader gives.

    ``example``: the task's example inputs, whose arrangement every batch gets: positional or by keyword, in the same order. ``unpack``: the
    user's own, of a batch to ``(args, kwargs, targets)``. ``own_loss``: the model computes the loss itself, from keyword arguments.
    """

    def __init__(self, model: nn.Module, example: Inputs, unpack: Callable[[Any], Any] | None, own_loss: bool) -> None:
        self.signature, self.example, self.unpack, self.own_loss = Signature(model), example, unpack, own_loss
        self.names = list(example) if isinstance(example, dict) else self.signature.positional[: len(example)]

    def __call__(self, batch: Any, what: str) -> Batch:
        """``batch`` of ``what`` (the training data of a task, say).  Raises :class:`RecipeError` when it cannot be taken."""
        if isinstance(batch, Batch):
            return batch
        args, kwargs, targets = self._by_user(batch, what) if self.unpack is not None else self._by_kind(batch, what)
        return self._arranged(args, kwargs, targets, what)

    def _by_user(self, batch: Any, what: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        assert self.unpack is not None
        try:
            found = self.unpack(batch)
        except RecipeError:
            raise
        except Exception as error:
            raise RecipeError(
                f"task.unpack raised {type(error).__name__} on a batch of {what}, which is {held(batch)}: {error}",
                remedy="It takes a batch as the data give it and returns (args, kwargs, targets).",
            ) from error
        if not (isinstance(found, tuple) and len(found) == 3 and isinstance(found[1] or {}, Mapping)):
            raise RecipeError(
                f"task.unpack returned {held(found)} for a batch of {what}, not (args, kwargs, targets)",
                remedy="args is a tuple of positional inputs, kwargs a dict of keyword arguments; both may be empty.",
            )
        args, kwargs, targets = found
        kwargs = dict(kwargs or {})
        self.signature.refuse_unknown(list(kwargs), "task.unpack")
        return as_inputs(args), kwargs, targets

    def _by_kind(self, batch: Any, what: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """A dict with its labels in it, or ``(inputs, targets)``."""
        if isinstance(batch, Mapping):
            return self._of_dict(dict(batch), what)
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            several = isinstance(batch, (tuple, list)) and len(batch) > 2
            raise RecipeError(
                f"a batch of {what} is {held(batch)}, not (inputs, targets) and not a dict with labels",
                remedy=("Several inputs go into a tuple: ((first, second), targets). " if several else "")
                + "Or give the task unpack(batch) -> (args, kwargs, targets).",
            )
        inputs, targets = batch
        if isinstance(inputs, Mapping) and not (len(self.example) == 1 and isinstance(next(iter(_values(self.example))), Mapping)):
            return (), self._named(dict(inputs), f"the inputs of a batch of {what}"), targets
        return as_inputs(inputs), {}, targets

    def _of_dict(self, batch: dict[str, Any], what: str) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        key = next((name for name in LABELS if name in batch and name not in self.names), None)
        kwargs = self._named({name: value for name, value in batch.items() if name != key}, f"a batch of {what}")
        if self.own_loss:
            labels = {name: value for name, value in batch.items() if name in self.signature.names and name not in self.names}
            if key is not None and key not in labels:
                labels[self._label_name()] = batch[key]
            if labels:
                return (), kwargs | labels, batch[key] if key is not None else labels
        if key is None:
            raise RecipeError(
                f"a batch of {what} is {held(batch)}: none of them holds the targets",
                remedy=f"Name them {' or '.join(LABELS[:2])}, or give the task unpack(batch) -> (args, kwargs, targets).",
            )
        return (), kwargs, batch[key]

    def _named(self, values: dict[str, Any], where: str) -> dict[str, Any]:
        """The keyword arguments of the example inputs; other entries that ``forward`` does not take are left out."""
        if lacking := [name for name in self.names if name not in values]:
            raise RecipeError(
                f"{where} holds {', '.join(values) or 'nothing'}, and not {', '.join(lacking)}, which the example inputs have",
                remedy="Name the entries as forward names its arguments, or give the task unpack(batch) -> (args, kwargs, targets).",
            )
        more = [name for name in values if name in self.signature.names and name not in self.names]
        if more and not self.own_loss:
            raise RecipeError(
                f"{where} holds {', '.join(more)}, which forward of {self.signature.of} takes and the example inputs do not have",
                remedy="Add it to task.example_inputs, or remove it from the batches.",
            )
        return {name: values[name] for name in self.names}

    def _label_name(self) -> str:
        return next((name for name in LABELS if name in self.signature.names), LABELS[0])

    def _arranged(self, args: tuple[Any, ...], kwargs: dict[str, Any], targets: Any, what: str) -> Batch:
        labels = {}
        if self.own_loss:
            labels = {name: kwargs.pop(name) for name in [*kwargs] if name not in self.names}
            labels = labels or {self._label_name(): targets}
            self.signature.refuse_unknown(list(labels), f'a batch of {what}, for loss="model",')
        if isinstance(self.example, dict):
            if len(args) > len(self.signature.positional):
                raise RecipeError(
                    f"a batch of {what} has {len(args)} positional inputs, and the example inputs name {', '.join(self.names)}",
                    remedy="Give the inputs as a dict, or the task unpack(batch) -> (args, kwargs, targets).",
                )
            kwargs = dict(zip(self.signature.positional, args, strict=False)) | kwargs
            order = [*(name for name in self.names if name in kwargs), *(name for name in kwargs if name not in self.names)]
            return Batch((), {name: kwargs[name] for name in order}, targets, labels)
        given = list(args)
        for name in self.names[len(args) :]:
            if name not in kwargs:
                break
            given.append(kwargs.pop(name))
        return Batch(tuple(given), kwargs, targets, labels)


def _values(inputs: Inputs) -> list[Any]:
    return list(inputs.values() if isinstance(inputs, dict) else inputs)
