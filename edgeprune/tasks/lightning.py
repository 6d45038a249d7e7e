"""A task of a LightningModule and a LightningDataModule."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgeprune.batches import as_inputs
from edgeprune.errors import RecipeError, TrainingError
from edgeprune.task import Task


def from_lightning(
    module: nn.Module, datamodule: Any, *, monitor: str = "val_loss", mode: Literal["min", "max"] = "min", **settings: Any
) -> Task:
    """A task of a LightningModule, trained on its own ``training_step`` and scored by what its ``validation_step`` logs.

    ``datamodule``: a LightningDataModule, whose training and validation loaders are used. ``monitor``: the name of a logged value, or of a
    logged torchmetrics metric, and ``mode`` whether less ("min") or more ("max") of it is better. ``settings``: of
    :class:`edgeprune.Task`; with ``loss``, ``unpack`` or ``metric`` among them the steps are not asked for these.

    The example inputs are ``module.example_input_array``, or the first sample of the training data. The pruned model may be a plain
    graph: the steps run on the module that is given here, with the pruned model's outputs in the place of ``self(...)``. So both steps
    must call ``self(...)`` once, and take what they need from its result. Raises :class:`RecipeError` where they do not.
    """
    if not getattr(module, "automatic_optimization", True):
        raise RecipeError(
            f"{type(module).__name__} optimizes by itself (automatic_optimization is False): its training_step cannot be used",
            remedy="Give loss=... and unpack=..., or a task with fit=....",
        )
    steps = Steps(module)
    train, validation = _loaders(datamodule)
    given: dict[str, Any] = {
        "train": train,
        "validation": validation,
        "unpack": steps.unpack,
        "loss": steps.loss,
        "metric": Logged(steps, monitor),
        "metric_name": monitor,
        "higher_is_better": mode == "max",
    }
    example = settings.pop("example_inputs", None)
    if example is None:
        example = _example(module, train, (given | settings)["unpack"])
    return Task(_detached(module), example, **(given | settings))


def _detached(module: nn.Module) -> nn.Module:
    """The same module without its trainer, which would be copied with it; TorchScript reads all attributes, and this one would raise."""
    made: Any = copy.copy(module)
    made._trainer, made._jit_is_scripting = None, True
    plain: nn.Module = made
    return plain


class Steps:
    """Runs the steps of ``module`` on outputs that are given, in the place of those that it would compute."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def unpack(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """What the training step calls the module with; the targets are the batch itself."""
        found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def forward(*args: Any, **kwargs: Any) -> Any:
            found.append((args, kwargs))
            raise _Called

        try:
            self._run("training_step", batch, forward, lambda *_, **__: None)
        except _Called:
            pass
        except Exception as error:
            raise RecipeError(f"training_step of {self.name} raised {type(error).__name__}: {error}", remedy=ONCE) from error
        if not found:
            raise RecipeError(f"training_step of {self.name} does not call self(...)", remedy=ONCE)
        return (*found[0], batch)

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """What the training step makes of the module's ``outputs``."""
        result = self.step("training_step", outputs, batch, lambda *_, **__: None)
        loss = result.get("loss") if isinstance(result, dict) else result
        if not isinstance(loss, Tensor):
            raise TrainingError(f"training_step of {self.name} returned {type(result).__name__}, not a loss", remedy="Return a tensor.")
        return loss

    def step(self, name: str, outputs: Any, batch: Any, log: Callable[..., None]) -> Any:
        """What the step of that name returns when ``self(...)`` gives ``outputs``; ``log`` gets what it logs."""
        calls = 0

        def forward(*_: Any, **__: Any) -> Any:
            nonlocal calls
            calls += 1
            return outputs

        result = self._run(name, batch, forward, log)
        if calls != 1:
            raise RecipeError(f"{name} of {self.name} calls self(...) {calls} times, not once", remedy=ONCE)
        return result

    @property
    def name(self) -> str:
        """The class of the module."""
        return type(self.module).__name__

    def _run(self, name: str, batch: Any, forward: Callable[..., Any], log: Callable[..., None]) -> Any:
        stand_in: Any = self.stand_in(log)
        stand_in.forward = forward
        step = getattr(stand_in, name)
        takes = inspect.signature(step).parameters
        return step(*(batch, 0, 0)[: len(takes)])

    def stand_in(self, log: Callable[..., None]) -> Any:
        """A copy of the module that shares everything with it, and logs to ``log``."""
        made: Any = copy.copy(self.module)
        made.log = log

        def log_dict(values: Any, *_: Any, **__: Any) -> None:
            for name, value in values.items():
                log(name, value)

        made.log_dict = log_dict
        return made


ONCE = "Let the step call self(inputs) once and use its result; or give from_lightning loss=..., unpack=... and metric=...."


class _Called(Exception):
    """The module was called."""


class Logged:
    """The value of that name that a validation logs: averaged over the batches by their size, or computed by the metric that is logged."""

    def __init__(self, steps: Steps, monitor: str) -> None:
        self.steps, self.monitor = steps, monitor
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self.total, self.count, self.metric, self.seen = 0.0, 0, None, dict[str, Any]()
        for part in self.steps.module.modules():
            if part is not self.steps.module and hasattr(part, "compute") and hasattr(part, "reset"):
                part.reset()  # type: ignore[operator]

    def update(self, outputs: Any, batch: Any) -> None:
        """Run the validation step on one batch."""
        self.steps.step("validation_step", outputs, batch, self._log)
        value = self.seen.get(self.monitor)
        if hasattr(value, "compute"):
            self.metric = value
        elif value is not None:
            size = next((len(one) for one in as_inputs(batch) if isinstance(one, Tensor) and one.dim()), 1)
            self.total, self.count = self.total + size * float(value), self.count + size

    def compute(self) -> float:
        """The value over all batches since the last reset."""
        if self.metric is not None:
            return float(self.metric.compute())
        if self.count:
            return self.total / self.count
        end = getattr(self.steps.stand_in(self._log), "on_validation_epoch_end", None)
        if end is not None:
            end()
        if self.monitor not in self.seen:
            logged = f"it logs {', '.join(self.seen)}" if self.seen else "it logs nothing"
            raise RecipeError(
                f"validation_step of {self.steps.name} does not log {self.monitor}: {logged}", remedy='from_lightning(..., monitor="...").'
            )
        value = self.seen[self.monitor]
        return float(value.compute() if hasattr(value, "compute") else value)

    def _log(self, name: str, value: Any, *_: Any, **__: Any) -> None:
        self.seen[name] = value


def _loaders(datamodule: Any) -> tuple[Any, Any]:
    """The training and the validation loader, after what Lightning does before it asks for them."""
    for hook, arguments in (("prepare_data", ()), ("setup", ("fit",))):
        if hasattr(datamodule, hook):
            getattr(datamodule, hook)(*arguments)
    found = []
    for name in ("train_dataloader", "val_dataloader"):
        try:
            loader = getattr(datamodule, name)()
        except Exception as error:
            raise RecipeError(f"{name} of {type(datamodule).__name__} raised {type(error).__name__}: {error}") from error
        if isinstance(loader, (list, tuple)) and loader and not isinstance(loader[0], (list, tuple, dict, Tensor)):
            if len(loader) > 1:
                raise RecipeError(f"{name} of {type(datamodule).__name__} gives {len(loader)} loaders, not one", remedy="Give one of them.")
            loader = loader[0]
        found.append(loader)
    return found[0], found[1]


def _example(module: nn.Module, train: Any, unpack: Callable[[Any], Any]) -> Any:
    """One inference: of the module's own example, or of the training data."""
    example = getattr(module, "example_input_array", None)
    if example is None:
        args, kwargs, _ = unpack(next(iter(train)))
        example = kwargs if kwargs and not args else args
    elif not isinstance(example, dict):
        example = as_inputs(example)
    return torch.utils._pytree.tree_map_only(Tensor, lambda value: value[:1], example)
