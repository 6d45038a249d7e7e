"""One optimizer step after another: the loss, its gradient, the learning rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeprune.batches import Batch
from edgeprune.errors import EdgepruneError, TrainingStoppedError
from edgeprune.placement import device_of
from edgeprune.task import Task
from edgeprune.tuning.average import WeightAverage
from edgeprune.tuning.batchnorm import LEAVE_OUT, ONE_SAMPLE
from edgeprune.tuning.compiled import failed_to_compile
from edgeprune.tuning.context import as_float32
from edgeprune.tuning.distill import distance_to, watching
from edgeprune.tuning.engine import Engine
from edgeprune.tuning.layout import laid_out
from edgeprune.tuning.losses import READ_EVERY, Losses
from edgeprune.tuning.memory import Part, Parts, out_of_memory
from edgeprune.tuning.optimizer import OptimizerSettings, smoothed
from edgeprune.tuning.teacher import Teacher

_ELSEWHERE = (
    "A tensor of the model or the loss stays on the CPU: keep it with register_buffer, or make the loss an nn.Module; or use --device cpu."
)


class Trainer:
    """Trains ``model``, where it is, for ``total`` steps, ``length`` an epoch, on ``task``, as ``settings`` say.

    A batch that does not fit into the memory is split, and its parts' gradients are added. ``pieces``: how many parts that takes.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        teacher: Teacher | None,
        settings: OptimizerSettings,
        engine: Engine,
        total: int,
        length: int,
    ) -> None:
        self.model, self.task, self.teacher, self.settings = model, smoothed(task), teacher, settings
        self.engine, self.total, self.length = engine, total, length
        self.device = device_of(model)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = settings.make(self.parameters)
        self.peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.average = WeightAverage(model, settings.ema) if settings.ema else None
        self.losses = Losses(task.name, total, 1 if self.device.type == "cpu" else READ_EVERY, engine.scales, engine.mean)
        self.parts = Parts(self.task, self.device, engine.rank, engine.ranks)
        self._called = engine.prepare(torch.compile(model) if task.compile else model, self.optimizer)  # type: ignore[arg-type]

    @property
    def averages(self) -> dict[str, Tensor] | None:
        """The average of the weights, by name; None where none is kept."""
        return self.average.values if self.average is not None else None

    def finish(self) -> None:
        """After the last step: the model takes the average of its weights."""
        if self.average is not None:
            self.average.apply()

    def rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0): the first group's."""
        return self.settings.rate(step, self.total, self.peaks[0])

    def step(self, batch: Batch, step: int, epoch: int = 0) -> float:
        """One step on one batch; ``step`` and ``epoch`` count from 0. Returns the loss as last read.

        Raises :class:`TrainingError` when a loss or a gradient is not finite (on an accelerator up to ``READ_EVERY`` steps later), or the
        batch fits neither the model nor the memory.
        """
        try:
            loss = self._gradients(batch, step)
            norm = self.engine.clip(self.parameters, self.settings.clip_norm)
        except EdgepruneError:
            raise
        except Exception as error:
            raise TrainingStoppedError(
                f"training {self.task.name} raised {type(error).__name__} at step {step + 1}: {error}",
                remedy=_remedy(error),
            ) from error
        self.losses.add(step, epoch, self.rate(step), loss, norm)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = self.settings.rate(step, self.total, peak)
        self.engine.step()
        if self.average is not None:
            self.average.update(step)
        return self.losses.last

    def _gradients(self, batch: Batch, step: int) -> Tensor:
        """The gradient of the loss of ``batch`` in all parameters; returns the loss."""
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._add_up(batch, step)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                refused = error
            self.parts.split(batch, refused)

    def _add_up(self, batch: Batch, step: int) -> Tensor:
        total: Tensor | None = None
        for part in self.parts.of(batch):
            loss = self._loss(part, step)
            self.engine.backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _loss(self, part: Part, step: int) -> Tensor:
        """What a part of a batch adds to the batch's loss."""
        given = laid_out(self.model, part.batch, training=True)
        with self.engine.autocast(), watching(self.model, self.task.distil_features if self.teacher is not None else ()) as seen:
            outputs = given.call(self._called, loss=True)
        outputs, targets = as_float32(outputs), given.targets
        loss = self.task.loss_of(outputs, targets, f"in training at step {step + 1}")
        share = part.share * part.times
        if part.share != 1.0:
            loss = loss * (self.parts.weight(part.share, outputs, targets) * part.times)
        if self.teacher is None:
            return loss
        distance = distance_to(self.task, outputs, self.teacher(part.batch), given, seen)
        strength = self.task.distillation
        return loss if distance is None else (1 - strength) * loss + strength * share * distance


def _remedy(error: Exception) -> str:
    if failed_to_compile(error):
        return "torch.compile cannot compile this model here: leave --compile out."
    if ONE_SAMPLE in str(error):
        return LEAVE_OUT
    if "same device" in str(error):
        return _ELSEWHERE
    return "Check that the training batches fit the model, and that task.loss takes its outputs and the targets."
