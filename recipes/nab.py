"""Something is wrong (Numenta's NAB): an autoencoder of a machine's temperature, trained here in seconds on what came first.

The data folder holds ``NAB/``, a clone of https://github.com/numenta/NAB, or ``nab/nab.npz``: ``x_<stream>`` values and ``y_<stream>``, 1
inside the windows that NAB marks as anomalous. The first 15 % of the stream, all normal, are learnt from, the rest is scored: windows that
the network reproduces badly are called anomalous, and the metric is the area under the ROC curve of that error.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from _data import Batches, data_set, no_file
from _originals import marked_stream
from _scores import area
from _trained import trained_task
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task

STREAM, WINDOW, STEP, LEARNT = "machine_temperature_system_failure", 128, 4, 0.15


def network() -> nn.Sequential:
    """Windows of 128 values in and out, through 8 numbers."""
    widths = (WINDOW, 512, 256, 8, 256, 512, WINDOW)
    layers = [layer for before, after in itertools.pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def stream() -> tuple[np.ndarray, np.ndarray]:
    """All values, and 1 where they are marked."""
    folder = data_set("nab", "nab", "NAB")
    if (folder / "labels").is_dir():
        return marked_stream(folder, STREAM)
    path = folder / "nab.npz"
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as data:
        return data[f"x_{STREAM}"], data[f"y_{STREAM}"]


def windows(scored: bool) -> tuple[Tensor, Tensor]:
    """Windows less the mean and over the deviation of what is learnt from, (N, 128); and 1 where their last value is marked, else 0."""
    values, marked = stream()
    first = int(LEARNT * len(values))
    values = ((values - values[:first].mean()) / values[:first].std()).astype(np.float32)
    part = slice(first, None) if scored else slice(0, first)
    cut = np.lib.stride_tricks.sliding_window_view(values[part], WINDOW)[:: STEP if scored else 1]
    return torch.from_numpy(cut.copy()), torch.from_numpy(marked[part][WINDOW - 1 :: STEP if scored else 1].astype(np.float32))


class Reproduced(Batches):
    """:class:`Batches` whose targets are the windows themselves, and whether they are anomalous."""

    def __iter__(self):
        for inputs, marked in super().__iter__():
            yield inputs, (inputs, marked)


def error(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """The mean squared error."""
    return F.mse_loss(outputs, targets[0])


class Separation:
    """The area under the ROC curve of the windows' errors."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.errors, self.marked = list[Tensor](), list[Tensor]()

    def update(self, outputs: Tensor, targets: tuple[Tensor, Tensor]) -> None:
        """Take one more batch."""
        self.errors.append((outputs - targets[0]).square().mean(1))
        self.marked.append(targets[1])

    def compute(self) -> float:
        """In percent; NaN unless some windows are marked and some are not."""
        marked = torch.cat(self.marked)
        return area(torch.cat(self.errors), marked) if 0 < marked.sum() < len(marked) else float("nan")


def make_task(model: nn.Module) -> Task:
    """Reproducing windows, for any ``model`` of 128 values."""
    train, validation = Reproduced(*windows(scored=False), 64, shuffle=True), Reproduced(*windows(scored=True), 256)
    preprocessing = {"input": "128 temperatures of a machine, one in 5 minutes, less the mean and over the deviation of its normal ones"}
    scoring = {"loss": error, "metric": Separation(), "metric_name": "AUC", "metric_unit": "%"}
    return Task(model, (torch.zeros(1, WINDOW),), train, validation, **scoring, preprocessing=preprocessing)


LESSON = {"epochs": 30, "learning_rate": 0.002, "optimizer": "adamw"}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=15, learning_rate=0.001, optimizer="adamw", distillation=0.5)
