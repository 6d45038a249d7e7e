"""What the user brings: a model, example inputs, data, and how to fit and score it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeprune.batches import Batch, Inputs, Signature, Unpacker
from edgeprune.errors import EdgepruneError, RecipeError, TrainingError
from edgeprune.parametrization import folded
from edgeprune.placement import CPU, move, placed, resolve, to_cpu
from edgeprune.recipes import expected, run_recipe

Batches = Iterable[Any]
"""What can be iterated again and again: batches as a loader gives them, or :class:`Batch`."""


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Top-1 accuracy in percent. ``outputs``: (N, classes); ``targets``: (N,) class indices.

    Raises :class:`RecipeError` when these are not outputs and targets of a classification.
    """
    fits = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.dim() == 2 and targets.shape == outputs.shape[:1]
    if not fits or targets.is_floating_point():
        raise RecipeError(
            f"accuracy, the default metric, takes outputs (N, classes) and class indices (N,), not {_shape(outputs)} and {_shape(targets)}",
            remedy="Give the task a metric of its own, metric=..., with its metric_name and, for errors, higher_is_better=False.",
        )
    return 100.0 * (outputs.argmax(1) == targets).float().mean().item()


def has_state(metric: Any) -> bool:
    """Whether a metric gathers batches (``update``, ``compute``, ``reset``) rather than being a function of one."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def _shape(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


@dataclass
class Task:
    """A trained model and everything that is needed to prune it.

    ``model``: in its trained state. If it computes weights from others (weight norm, pruning masks), a copy that stores them is used.
    ``example_inputs``: the inputs of one inference (batch of 1), as the device will see them: a tuple of positional ones, or a dict of
    keyword arguments. ``train``/``validation``: iterables of batches that can be iterated repeatedly (a ``DataLoader``). A batch is
    ``(inputs, targets)``, where ``inputs`` is a tensor, a tuple of positional inputs or a dict of keyword arguments; or it is a dict of
    both, with the targets under "labels" or "label". ``unpack(batch) -> (args, kwargs, targets)`` takes any other batch apart.
    ``loss(outputs, targets)``: a scalar tensor; "model" where the model computes it, from labels that it is given by keyword, and
    returns it as ``outputs.loss``. ``metric(outputs, targets)``: a float, averaged over validation batches by their size; the default is
    accuracy in percent. Or an object with ``update(outputs, targets)``, ``compute()`` and ``reset()``, as those of torchmetrics, which are
    given ``outputs.logits`` where a model returns these. ``metric_unit``: shown behind the metric. ``higher_is_better``: False for errors
    and losses.
    ``fit(model)`` and ``evaluate(model) -> float`` replace the built-in training and scoring. ``epochs``, ``distillation``: length of the
    fine-tuning, and the weight of the dense model's answers in it. ``protect``: names of modules whose output channels stay.
    ``attention``: attention layers lose whole "heads", or the same number of "dimensions" in every head. ``labels``: the classes' names,
    in the order of the outputs. ``preprocessing``: how raw data become the model's inputs, in JSON's types, for users of the exported
    files: usually ``input`` (what a sample is), ``scale``, ``mean`` and ``std`` (inputs are (raw / scale - mean) / std), and anything else
    that they need. ``unfreeze``: train the parameters that pruning changes, even if they are frozen (``requires_grad=False``).
    ``steps_per_epoch``: number of training batches in an epoch, for data without a length. ``temperature``: by which class scores are
    softened where a pruned model learns from the dense one's. ``distil_features``: names of modules whose outputs it learns from too.
    ``input_names``, ``output_names``: in exported files; unless given, those of ``forward``'s parameters and of the keys of its output.
    ``inferences_per_day``, ``battery_mwh``: how often a device infers, and what its battery holds (milliwatt-hours; the profile's unless
    given): a report then says what a day takes of the battery.

    How it is trained: ``optimizer``: "auto", "sgd" (with Nesterov momentum), "adamw", or a function of the list of parameters that returns
    a ``torch.optim.Optimizer``. ``learning_rate`` (the peak), ``weight_decay``, ``warmup`` (a share of all steps) and ``clip_norm`` (of the
    whole gradient; 0 clips nothing): None means what suits the kind of network. ``lr_schedule``: "cosine", "linear", "constant", or a
    function of the part done (0 to 1) that returns a share of the peak. ``label_smoothing``: of cross-entropy. ``ema``: decay of an average
    of the weights, which the training ends with; None keeps none. ``device``: "auto" (the best there is), "cpu", "cuda", "cuda:1", "mps";
    several, "cuda:0,cuda:1" or "cpu:2", share one tuning. ``mixed_precision``: compute in half precision where the device is good at it.
    ``compile``: train through ``torch.compile``.

    ``postprocess(outputs)``: what the device's program does with the outputs of a batch (a detector's filtering of boxes), applied before
    the metric, of the exported files too. ``distance(outputs, wanted)``: how far outputs are from the dense model's, a scalar tensor; None
    compares each kind of output in its own way.
    """

    model: nn.Module
    example_inputs: Inputs
    train: Batches | None = None
    validation: Batches | None = None
    loss: Callable[[Any, Any], Tensor] | Literal["model"] = nn.functional.cross_entropy
    metric: Any = accuracy
    metric_name: str = "accuracy"
    higher_is_better: bool = True
    fit: Callable[[nn.Module], None] | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    epochs: float = 5.0
    learning_rate: float | None = None
    weight_decay: float | None = None
    distillation: float = 0.5
    protect: Sequence[str] = field(default_factory=tuple)
    attention: Literal["heads", "dimensions"] = "heads"
    labels: Sequence[str] = field(default_factory=tuple)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    name: str = "model"
    unfreeze: bool = False
    steps_per_epoch: int | None = None
    unpack: Callable[[Any], Any] | None = None
    metric_unit: str = ""
    optimizer: str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = "auto"
    lr_schedule: str | Callable[[float], float] = "cosine"
    warmup: float | None = None
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    ema: float | None = None
    device: str = "auto"
    mixed_precision: bool = True
    compile: bool = False
    temperature: float = 4.0
    distil_features: Sequence[str] = field(default_factory=tuple)
    input_names: Sequence[str] = field(default_factory=tuple)
    output_names: Sequence[str] = field(default_factory=tuple)
    inferences_per_day: float | None = None
    battery_mwh: float | None = None
    postprocess: Callable[[Any], Any] | None = None
    distance: Callable[[Any, Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise RecipeError(f"task.model is a {type(self.model).__name__}, not a torch.nn.Module")
        self.model = _on_cpu(folded(self.model))
        if isinstance(self.example_inputs, Tensor):
            self.example_inputs = (self.example_inputs,)
        if isinstance(self.example_inputs, Mapping):
            self.example_inputs = dict(self.example_inputs)
            Signature(self.model).refuse_unknown(list(self.example_inputs), "task.example_inputs")
        self.example_inputs = to_cpu(self.example_inputs)
        if not any(isinstance(value, Tensor) for value in pytree.tree_leaves(self.example_inputs)):
            raise RecipeError(
                "task.example_inputs must be a tuple of tensors, the positional inputs of one inference, or a dict of keyword arguments"
            )
        if self.loss != "model" and not callable(self.loss):
            raise RecipeError(f'task.loss is {self.loss!r}, not a function (outputs, targets) -> Tensor and not "model"')
        if not has_state(self.metric) and not callable(self.metric):
            raise RecipeError(
                f"task.metric is a {type(self.metric).__name__}, not a function (outputs, targets) -> float",
                remedy="Or give an object with update, compute and reset, as those of torchmetrics.",
            )
        if self.metric_name == "accuracy" and has_state(self.metric):
            self.metric_name = type(self.metric).__name__
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise RecipeError(f"task.temperature is {self.temperature}, not greater than zero")
        for what, value in (("inferences_per_day", self.inferences_per_day), ("battery_mwh", self.battery_mwh)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise RecipeError(f"task.{what} is {value}, not greater than zero")
        self._check_features()
        if self.metric is accuracy:
            self.metric_unit = self.metric_unit or "%"
        if self.attention not in ("heads", "dimensions"):
            raise RecipeError(f'task.attention is {self.attention!r}, not "heads" or "dimensions"')
        for what in ("train", "validation"):
            _check_repeatable(getattr(self, what), what, self.name)
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise RecipeError(f"task.steps_per_epoch is {self.steps_per_epoch}, not one or more")
        if isinstance(self.labels, str) or not all(isinstance(label, str) for label in self.labels):
            raise RecipeError("task.labels must be a list of texts: the classes' names in the order of the outputs")
        for name in ("postprocess", "distance"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise RecipeError(f"task.{name} is a {type(getattr(self, name)).__name__}, not a function")
        try:
            json.dumps(self.preprocessing, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"task.preprocessing is not of JSON's types: {error}", remedy="Use texts, numbers, lists and dicts."
            ) from error

    @contextmanager
    def on_device(self, *models: nn.Module | None) -> Iterator[torch.device]:
        """Hold ``models``, and a loss that has weights, on the task's device inside; they are back where they were afterwards.  Raises
        :class:`InputError` where there is no such device."""
        device = resolve(self.device).device
        with placed(device, *models, self.loss if isinstance(self.loss, nn.Module) else None):
            yield device

    def _check_features(self) -> None:
        names = [name for name, _ in self.model.named_modules() if name]
        if isinstance(self.distil_features, str):
            raise RecipeError(f"task.distil_features is the text {self.distil_features!r}, not a list of modules' names")
        if unknown := [str(name) for name in self.distil_features if name not in names]:
            raise RecipeError(
                f"task.distil_features names {', '.join(unknown)}, and the model has no such module",
                remedy=f"Its modules are {', '.join(names[:10])}{' and more' if len(names) > 10 else ''}.",
            )

    def drop(self, before: float, after: float) -> float:
        """By how much the metric is worse ``after``; negative when it is better."""
        return before - after if self.higher_is_better else after - before

    def unpacker(self) -> Unpacker:
        """What takes the batches of the data apart."""
        return Unpacker(self.model, self.example_inputs, self.unpack, self.loss == "model")

    def batches(self, data: Literal["train", "validation"]) -> Iterator[Batch]:
        """The batches of one pass through the training or validation data.

        Raises :class:`RecipeError` for what the data raises (in workers too), for a batch that cannot be taken apart,
        and for data without a length that has not ended after ``MOST_BATCHES``.
        """
        source, count, unpack = getattr(self, data), 0, self.unpacker()
        what = f"the {NAMED[data]} data of task {self.name}"
        most = None if _length(source) is not None else MOST_BATCHES
        try:
            batches = iter(source)
            for count, batch in enumerate(batches, 1):
                taken = unpack(batch, what)
                if most is not None and count > most:
                    raise RecipeError(f"{what} have no length and have not ended after {most:,} batches", remedy=ENDLESS[data])
                yield taken
        except (RecipeError, GeneratorExit):
            raise
        except Exception as error:
            raise RecipeError(
                f"{what} raised {type(error).__name__} at batch {count + 1}: {_last_line(error)}",
                remedy="Read all of the data once by itself: for inputs, targets in data: pass.",
            ) from error

    def loss_of(self, outputs: Any, targets: Any, when: str) -> Tensor:
        """``loss(outputs, targets)`` of what the model returns ``when``; where the model computes it, the loss among the outputs.

        Raises :class:`TrainingError` that says what the loss was given when it raises, or returns something else than one number.
        """
        try:
            loss = _own_loss(outputs) if isinstance(self.loss, str) else self.loss(outputs, targets)
        except EdgepruneError:
            raise
        except Exception as error:
            several = not isinstance(outputs, Tensor)
            raise TrainingError(
                f"the loss of {self.name} raised {type(error).__name__} on what the model returns {when}, {_described(outputs)}: {error}",
                remedy="Give the task a loss that takes all of these outputs." if several else "Check task.loss and the targets.",
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TrainingError(f"the loss of {self.name} is {_described(loss)}, not one number", remedy="Let task.loss return a mean.")
        return loss

    def epochs_of(self, asked: float | None) -> float:
        """How many epochs it trains for where ``asked`` were asked for: its own number for None."""
        return self.epochs if asked is None else asked

    def epoch_length(self) -> int:
        """How many training batches an epoch has: ``steps_per_epoch``, the data's length, or else they are counted.

        Raises :class:`RecipeError` when there are none, and what :meth:`batches` raises.
        """
        known = _length(self.train) if self.steps_per_epoch is None else self.steps_per_epoch
        count = sum(1 for _ in self.batches("train")) if known is None else known
        if count < 1:
            raise no_batches(self)
        return count

    @property
    def scores(self) -> bool:
        """Whether the task can say how good a model is."""
        return self.evaluate is not None or self.validation is not None


def _own_loss(outputs: Any) -> Any:
    """The loss that a model computed itself."""
    found = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if found is None:
        raise TrainingError(
            f'the loss is "model", and the model returned none: {_described(outputs)}',
            remedy="A model that computes its loss returns it as outputs.loss when it is given labels; or give the task a loss function.",
        )
    return found


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    names = f" ({', '.join(map(str, value))})" if isinstance(value, dict) else f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"a {type(value).__name__}{names}"


NOWHERE = torch.device("meta")
"""Where weights are that were never loaded."""


def _on_cpu(model: nn.Module) -> nn.Module:
    """``model``, where it is on an accelerator a copy: models are analysed and cut on the CPU."""
    places = {value.device for value in (*model.parameters(), *model.buffers())}
    if places <= {CPU}:
        return model
    if len(places) > 1 or NOWHERE in places:
        raise RecipeError(
            f"the weights of task.model are on {', '.join(sorted(map(str, places)))}",
            remedy="Load them on one device, without device_map: edgeprune moves the model where task.device says.",
        )
    copied = copy.deepcopy(model)
    move(copied, CPU)
    return copied


MOST_BATCHES = 100_000
"""Data that has no length and more batches than this is taken to be endless."""

NAMED = {"train": "training", "validation": "validation"}

ENDLESS = {
    "train": "Give the task steps_per_epoch=..., or data with a length.",
    "validation": "Give data that end, or data with a length.",
}


def no_batches(task: Task) -> RecipeError:
    """The error for training data that are empty, or empty the second time."""
    return RecipeError(
        f"the training data of task {task.name} has no batches",
        remedy="Give batches that can be iterated again and again: a DataLoader or a list.",
    )


def _length(source: Any) -> int | None:
    """How many batches there are; None where that is not known (a loader of a stream has ``len``, which raises)."""
    try:
        return len(source)
    except TypeError:
        return None


def _check_repeatable(source: Any, what: str, name: str) -> None:
    if source is None:
        return
    if isinstance(source, Iterator) and type(source).__module__ in ("builtins", "itertools"):
        raise RecipeError(
            f"the {NAMED[what]} data of task {name} is a {type(source).__name__}, which can be read only once",
            remedy="Give a DataLoader, a list, or an object whose __iter__ starts again; list(...) makes a list of it.",
        )
    if not isinstance(source, Iterable) and not hasattr(source, "__getitem__"):
        raise RecipeError(f"the {NAMED[what]} data of task {name} is a {type(source).__name__}, which cannot be iterated")


def _last_line(error: Exception) -> str:
    """What an error says, without the traceback that a worker process puts before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix(f"{type(error).__name__}: ") if lines else type(error).__name__


def load_recipe(path: str | Path, function: str = "task") -> Task:
    """Run the recipe file ``path`` and return the task its ``function`` makes. It may import files beside it, as when it is run by itself.

    Raises :class:`RecipeError` when the file is missing, raises, or does not return a :class:`Task`.
    """
    task = run_recipe(path, function)
    if not isinstance(task, Task):
        raise RecipeError(
            f"{function}() of recipe {path} returned a {type(task).__name__}, not an edgeprune.Task", remedy=expected(function)
        )
    if task.name == "model":
        task.name = Path(path).stem
    return task


def device_inputs(example_inputs: Inputs, seed: int = 0) -> Any:
    """Seeded inputs of the same shapes and dtypes: the ones outputs are compared on. Integers repeat the example's values."""
    generator = torch.Generator().manual_seed(seed)

    def random(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=generator).to(value.dtype) if value.is_floating_point() else value.clone()

    return pytree.tree_map_only(Tensor, random, example_inputs if isinstance(example_inputs, dict) else tuple(example_inputs))
