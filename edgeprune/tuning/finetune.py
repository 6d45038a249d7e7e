"""Fine-tuning: the task's loss together with the dense model's answers, resumable after every epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from torch import nn

from edgeprune.batches import Batch
from edgeprune.errors import EdgepruneError, RecipeError, TrainingError
from edgeprune.task import Batches, Task, no_batches
from edgeprune.tuning.batchnorm import recalibrate
from edgeprune.tuning.checkpoint import Progress, load_checkpoint, save_checkpoint
from edgeprune.tuning.context import is_image, preserved_modes, seeded
from edgeprune.tuning.layout import channels_last, takes_channels_last
from edgeprune.tuning.scoring import score
from edgeprune.tuning.trainer import Trainer, learning_rate

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

    SGD with Nesterov momentum, linear warm-up and cosine decay to zero; no weight decay on biases and norms; gradients clipped.
    The loss is ``(1 - d) * task.loss + d * distillation`` with ``d = task.distillation`` when there is a ``teacher`` (the dense model)
    whose answers can be compared, else ``task.loss``. Images train channels-last, and in bfloat16 where the CPU has it.
    ``task.fit`` replaces all this. Training data with a ``set_epoch(n)`` method gets the epoch; global random states are seeded inside
    and given back.

    ``on_progress(done, total, loss)`` is called after every step, and ``on_epoch`` after every epoch, once it is written to the checkpoint,
    with its entry of :attr:`TuneResult.history`. With ``checkpoint``, every epoch is written to that file, and a
    call that finds it continues there and ends with the same result. Raises :class:`TrainingError` when the loss or a gradient is not
    finite or the data does not fit, :class:`RecipeError` when there is nothing to train on, :class:`CheckpointError` when the
    checkpoint is damaged or of another job.
    """
    path = Path(checkpoint) if checkpoint is not None else None
    if task.fit is not None:
        return _user_fit(model, task, task.fit, path, seed)
    train = _training_data(task)
    wanted = task.epochs if epochs is None else epochs
    if not (math.isfinite(wanted) and wanted >= 0):
        raise RecipeError(f"epochs of task {task.name} is {wanted}, not zero or more")
    with seeded(seed):
        length, first = _survey(task)
    images = any(map(is_image, first.leaves))
    trainable = any(parameter.requires_grad for parameter in model.parameters())
    if wanted and not trainable:
        warnings.warn(f"all parameters of {task.name} are frozen (requires_grad=False): nothing is trained", stacklevel=2)
    with preserved_modes(model), channels_last(model, takes_channels_last(model, first, training=True)):
        trainer = Trainer(model, task, teacher, math.ceil(wanted * length) if trainable else 0, images, length)
        settings = _settings(trainer, seed)
        progress = (load_checkpoint(path, model, trainer.optimizer, settings) if path else None) or Progress(settings)
        if not progress.history:
            _record(progress, None, model, task)
        _train(trainer, train, progress, on_progress, on_epoch, seed, path)
        if trainer.total == 0:
            recalibrate(model, task.batches("train"))
            _record(progress, None, model, task)
    return _result(progress)


def _train(
    trainer: Trainer,
    train: Batches,
    progress: Progress,
    on_progress: ProgressCallback | None,
    on_epoch: EpochCallback | None,
    seed: int,
    path: Path | None,
) -> None:
    """Train the epochs that are left, writing each to ``path``; what breaks it off says what ``path`` holds."""
    kept = progress.epochs if path else 0
    try:
        while progress.steps < trainer.total:
            _epoch(trainer, train, progress, on_progress, seed)
            if path:
                save_checkpoint(path, trainer.model, trainer.optimizer, progress)
                kept = progress.epochs
            if on_epoch is not None:
                on_epoch(dict(progress.history[-1]))
    except BaseException as error:
        if kept:
            error.add_note(f"{path} holds the state after epoch {kept}.")
        raise


def _epoch(trainer: Trainer, train: Batches, progress: Progress, on_progress: ProgressCallback | None, seed: int) -> None:
    """Train one epoch, or what is left of the last; after the last step recalibrate. ``progress`` moves on."""
    losses: list[float] = []
    steps = progress.steps
    trainer.model.train()
    with seeded(seed + progress.epochs):
        _tell_epoch(train, progress.epochs)
        for batch in islice(trainer.task.batches("train"), min(trainer.length, trainer.total - steps)):
            losses.append(trainer.step(batch, steps, progress.epochs))
            steps += 1
            if on_progress is not None:
                on_progress(steps, trainer.total, losses[-1])
    if not losses:
        raise no_batches(trainer.task)
    if steps == trainer.total:
        _tell_epoch(train, 0)
        recalibrate(trainer.model, trainer.task.batches("train"))
    progress.epochs, progress.steps = progress.epochs + 1, steps
    _record(progress, math.fsum(losses) / len(losses), trainer.model, trainer.task)


def _user_fit(model: nn.Module, task: Task, fit: Callable[[nn.Module], None], path: Path | None, seed: int) -> TuneResult:
    settings = {"task": task.name, "fit": "task.fit", "seed": seed}
    progress = load_checkpoint(path, model, None, settings) if path else None
    if progress is None:
        progress = Progress(settings)
        _record(progress, None, model, task)
        with preserved_modes(model), seeded(seed):
            model.train()
            try:
                fit(model)
            except EdgepruneError:
                raise
            except Exception as error:
                raise TrainingError(f"fit of task {task.name} raised {type(error).__name__}: {error}") from error
        progress.epochs = 1
        _record(progress, None, model, task)
        if path:
            save_checkpoint(path, model, None, progress)
    return _result(progress)


def _training_data(task: Task) -> Batches:
    if task.train is None:
        raise RecipeError(f"task {task.name} has no training data", remedy="Give it `train` batches, or `fit(model)`.")
    if not 0 <= task.distillation <= 1:
        raise RecipeError(f"distillation of task {task.name} is {task.distillation}, not between 0 and 1")
    return task.train


def _survey(task: Task) -> tuple[int, Batch]:
    """The number of batches in an epoch, and the first."""
    first = next(task.batches("train"), None)
    if first is None:
        raise no_batches(task)
    return task.epoch_length(), first


def _tell_epoch(train: Batches, epoch: int) -> None:
    set_epoch = getattr(train, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


def _settings(trainer: Trainer, seed: int) -> dict[str, object]:
    task = trainer.task
    return {
        "task": task.name,
        "total_steps": trainer.total,
        "learning_rate": task.learning_rate,
        "weight_decay": task.weight_decay,
        "distillation": task.distillation if trainer.teacher is not None else 0.0,
        "seed": seed,
    }


def _record(progress: Progress, loss: float | None, model: nn.Module, task: Task) -> None:
    settings = progress.settings
    rate = None if loss is None else learning_rate(progress.steps - 1, settings["total_steps"], settings["learning_rate"])
    progress.history.append(
        {
            "epoch": progress.epochs,
            "step": progress.steps,
            "loss": loss,
            "learning_rate": rate,
            "score": score(model, task) if task.scores else None,
        }
    )


def _result(progress: Progress) -> TuneResult:
    first, last = progress.history[0], progress.history[-1]
    return TuneResult(first["score"], last["score"], progress.steps, list(progress.history))
