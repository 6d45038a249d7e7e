"""Fine-tuning: the task's loss together with the dense model's answers, resumable after every epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.batches import Batch
from edgeprune.errors import EdgepruneError, RecipeError, TrainingStoppedError
from edgeprune.placement import Placement, device_of, placed, resolve
from edgeprune.task import Task, no_batches
from edgeprune.tuning.allocator import kept_memory
from edgeprune.tuning.batchnorm import recalibrate
from edgeprune.tuning.checkpoint import Progress, load_checkpoint, save_checkpoint
from edgeprune.tuning.compiled import check_compile, compiling
from edgeprune.tuning.context import is_image, preserved_modes, reduced_precision, seeded
from edgeprune.tuning.distill import teaching
from edgeprune.tuning.engine import engine, shared, summed
from edgeprune.tuning.frozen import trains
from edgeprune.tuning.gates import GatedModel
from edgeprune.tuning.layout import channels_last, slices_keep_layout, takes_channels_last
from edgeprune.tuning.norms import quick_norms
from edgeprune.tuning.optimizer import settings_for
from edgeprune.tuning.ranks import run_ranks
from edgeprune.tuning.scoring import score
from edgeprune.tuning.teacher import Teacher
from edgeprune.tuning.trainer import Trainer

ProgressCallback = Callable[[int, int, float], None]
EpochCallback = Callable[[dict[str, float | None]], None]


@dataclass
class TuneResult:
    """What fine-tuning did.

    ``before`` and ``score``: the task's metric before and at the end, ``None`` when the task cannot score. ``steps``: optimizer steps in
    all, those of an earlier, resumed call included. ``history``: one entry an epoch, from epoch 0 (before): ``epoch``, ``step``, ``loss``
    (the epoch's mean), ``learning_rate`` (its last) and ``score``.
    """

    before: float | None
    score: float | None
    steps: int
    history: list[dict[str, float | None]] = field(default_factory=list)


def finetune(
    model: nn.Module,
    task: Task,
    *,
    teacher: nn.Module | None = None,
    epochs: float | None = None,
    on_progress: ProgressCallback | None = None,
    on_epoch: EpochCallback | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> TuneResult:
    """Train ``model`` in place on the task for ``epochs`` (``task.epochs`` unless given; fractions allowed), then recalibrate batch norm.

    The optimizer, its rate and schedule are the task's, or what suits the network (:func:`edgeprune.tuning.optimizer.settings_for`); no
    weight decay on biases and norms. The loss is ``(1 - d) * task.loss + d * distillation`` with ``d = task.distillation`` when there is a
    ``teacher`` (the dense model) whose answers can be compared, else ``task.loss``. All of it runs on ``task.device``, in half precision
    where that is native there (on a CPU, for images only), and the model is back where it was afterwards; images train channels-last.
    ``task.fit`` replaces all this, and is given the model where it is. Training data with a ``set_epoch(n)`` method gets the epoch; global
    random states are seeded inside and given back.

    ``on_progress(done, total, loss)`` is called after every step (on an accelerator the loss is read every few steps), and ``on_epoch``
    after every epoch, once it is written to the checkpoint, with its entry of :attr:`TuneResult.history`. With ``checkpoint``, every epoch
    is written to that file, and a call that finds it continues there, on whatever device, and ends with the same result. Raises
    :class:`TrainingError` when the loss or a gradient is not finite, or the data does not fit the model or the memory,
    :class:`RecipeError` when there is nothing to train on, :class:`InputError` for a device that is not there, and
    :class:`CheckpointError` when the checkpoint is damaged or of another job.
    """
    return tune(Tuning(model, task, teacher, epochs, Path(checkpoint) if checkpoint is not None else None, seed), on_progress, on_epoch)


@dataclass
class Tuning:
    """A fine-tuning that is asked for, see :func:`finetune`.  ``after_step(done, total)`` is called in every process after its step."""

    model: nn.Module
    task: Task
    teacher: nn.Module | None = None
    epochs: float | None = None
    path: Path | None = None
    seed: int = 0
    after_step: Callable[[int, int], None] | None = None


def tune(asked: Tuning, on_progress: ProgressCallback | None, on_epoch: EpochCallback | None = None) -> TuneResult:
    """Do what is asked, in this process or in several."""
    task = asked.task
    if task.fit is not None:
        return _user_fit(asked.model, task, task.fit, asked.path, asked.seed)
    _training_data(task)
    wanted = task.epochs_of(asked.epochs)
    if not (math.isfinite(wanted) and wanted >= 0):
        raise RecipeError(f"epochs of task {task.name} is {wanted}, not zero or more")
    placement = resolve(task.device)
    check_compile(task)
    if wanted and not trains(asked.model):
        warnings.warn(f"all parameters of {task.name} are frozen (requires_grad=False): nothing is trained", stacklevel=3)
    asked = replace(asked, epochs=wanted)
    if placement.ranks == 1 or not wanted or not trains(asked.model):
        return train_on(placement.device, asked, on_progress, on_epoch)
    if not isinstance(asked.model, GatedModel):
        return _in_ranks(placement, asked, on_progress, on_epoch)
    warnings.warn(f"gates learn from whole batches: {task.name} trains on {placement.device} alone", stacklevel=3)
    return train_on(placement.device, asked, on_progress, on_epoch)


def _in_ranks(placement: Placement, asked: Tuning, on_progress: ProgressCallback | None, on_epoch: EpochCallback | None) -> TuneResult:
    def heard(report: dict[str, Any]) -> None:
        if "step" in report and on_progress is not None:
            on_progress(*report["step"])
        if "epoch" in report and on_epoch is not None:
            on_epoch(report["epoch"])

    history = run_ranks(placement, asked, asked.model, heard)
    return TuneResult(history[0]["score"], history[-1]["score"], int(history[-1]["step"] or 0), history)


def train_on(device: torch.device, asked: Tuning, on_progress: ProgressCallback | None, on_epoch: EpochCallback | None) -> TuneResult:
    """Train on one device; as one of several ranks where ``torch.distributed`` is initialised."""
    model, path, seed = asked.model, asked.path, asked.seed
    task = replace(asked.task, device=str(device)) if shared() else asked.task
    assert asked.epochs is not None
    with seeded(seed):
        length, first = _survey(task)
    total = math.ceil(asked.epochs * length) if trains(model) else 0
    with _made_ready(model, task, first, device):
        dtype = reduced_precision(device, any(map(is_image, first.leaves))) if task.mixed_precision else None
        teacher = None
        if asked.teacher is not None and task.distillation > 0 and total:
            teacher = Teacher(teaching(asked.teacher, task), first, device, dtype, remember=device.type == "cpu" and total > length)
        with engine(device, dtype) as running:
            trainer = Trainer(model, task, teacher, settings_for(model, task), running, total, length)
            settings = _settings(trainer, asked.teacher is not None and task.distillation > 0, seed)
            progress = Progress(settings)
            if path:
                progress = load_checkpoint(path, model, trainer.optimizer, settings, trainer.averages) or progress
            if not progress.history:
                _record(progress, None, trainer)
            _train(trainer, progress, asked, on_progress, on_epoch)
            if trainer.total == 0:
                recalibrate(model, task.batches("train"))
                _record(progress, None, trainer)
    return _result(progress)


@contextmanager
def _made_ready(model: nn.Module, task: Task, first: Batch, device: torch.device) -> Iterator[None]:
    """``model`` on the device, laid out for its batches; all is put back."""
    with ExitStack() as stack:
        stack.enter_context(task.on_device(model))
        stack.enter_context(preserved_modes(model))
        stack.enter_context(channels_last(model, takes_channels_last(model, first, training=True)))
        stack.enter_context(compiling(task))
        if device.type == "cpu":
            stack.enter_context(kept_memory())
            if not task.compile:
                stack.enter_context(quick_norms(model, summed if shared() else None))
                stack.enter_context(slices_keep_layout())
        yield


def _train(
    trainer: Trainer, progress: Progress, asked: Tuning, on_progress: ProgressCallback | None, on_epoch: EpochCallback | None
) -> None:
    """Train the epochs that are left, writing each to the checkpoint; what breaks it off says what that holds."""
    path = asked.path
    kept = progress.epochs if path else 0
    try:
        while progress.steps < trainer.total:
            _epoch(trainer, progress, asked, on_progress)
            if path and trainer.engine.rank == 0:
                save_checkpoint(path, trainer.model, trainer.optimizer, progress, trainer.averages)
                kept = progress.epochs
            if on_epoch is not None:
                on_epoch(dict(progress.history[-1]))
    except BaseException as error:
        if kept:
            error.add_note(f"{path} holds the state after epoch {kept}.")
        raise


def _epoch(trainer: Trainer, progress: Progress, asked: Tuning, on_progress: ProgressCallback | None) -> None:
    """Train one epoch, or what is left of the last; after the last step recalibrate. ``progress`` moves on."""
    task, seed, first = trainer.task, asked.seed, progress.steps
    steps = first
    trainer.model.train()
    with seeded(seed + progress.epochs):
        _tell_epoch(task, progress.epochs)
        for batch in islice(task.batches("train"), min(trainer.length, trainer.total - steps)):
            loss = trainer.step(batch, steps, progress.epochs)
            steps += 1
            if asked.after_step is not None:
                asked.after_step(steps, trainer.total)
            if on_progress is not None:
                on_progress(steps, trainer.total, loss)
    losses = trainer.losses.taken()
    if not losses:
        raise no_batches(task)
    if trainer.teacher is not None:
        trainer.teacher.epoch_ends()
    if steps == trainer.total:
        trainer.finish()
        _tell_epoch(task, 0)
        recalibrate(trainer.model, task.batches("train"))
    progress.epochs, progress.steps = progress.epochs + 1, steps
    _record(progress, math.fsum(losses) / len(losses), trainer)


def _user_fit(model: nn.Module, task: Task, fit: Callable[[nn.Module], None], path: Path | None, seed: int) -> TuneResult:
    settings = {"task": task.name, "fit": "task.fit", "seed": seed}
    progress = load_checkpoint(path, model, None, settings) if path else None
    if progress is None:
        progress = Progress(settings)
        _note(progress, None, None, model, task)
        with placed(device_of(model), model), preserved_modes(model), seeded(seed):
            model.train()
            try:
                fit(model)
            except EdgepruneError:
                raise
            except Exception as error:
                raise TrainingStoppedError(f"fit of task {task.name} raised {type(error).__name__}: {error}") from error
        progress.epochs = 1
        _note(progress, None, None, model, task)
        if path:
            save_checkpoint(path, model, None, progress)
    return _result(progress)


def _training_data(task: Task) -> None:
    if task.train is None:
        raise RecipeError(f"task {task.name} has no training data", remedy="Give it `train` batches, or `fit(model)`.")
    if not 0 <= task.distillation <= 1:
        raise RecipeError(f"distillation of task {task.name} is {task.distillation}, not between 0 and 1")


def _survey(task: Task) -> tuple[int, Batch]:
    """The number of batches in an epoch, and the first."""
    first = next(task.batches("train"), None)
    if first is None:
        raise no_batches(task)
    return task.epoch_length(), first


def _tell_epoch(task: Task, epoch: int) -> None:
    set_epoch = getattr(task.train, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


def _settings(trainer: Trainer, distils: bool, seed: int) -> dict[str, object]:
    task, settings = trainer.task, trainer.settings
    return {
        "task": task.name,
        "total_steps": trainer.total,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "distillation": task.distillation if distils else 0.0,
        "temperature": task.temperature,
        "distil_features": list(task.distil_features),
        "seed": seed,
    } | settings.identity


def _record(progress: Progress, loss: float | None, trainer: Trainer) -> None:
    rate = None if loss is None else trainer.rate(progress.steps - 1)
    _note(progress, loss, rate, trainer.model, trainer.task if trainer.engine.rank == 0 else None)


def _note(progress: Progress, loss: float | None, rate: float | None, model: nn.Module, task: Task | None) -> None:
    """Add to the history; without a task nothing is scored."""
    progress.history.append(
        {
            "epoch": progress.epochs,
            "step": progress.steps,
            "loss": loss,
            "learning_rate": rate,
            "score": score(model, task) if task is not None and task.scores else None,
        }
    )


def _result(progress: Progress) -> TuneResult:
    first, last = progress.history[0], progress.history[-1]
    return TuneResult(first["score"], last["score"], progress.steps, list(progress.history))
