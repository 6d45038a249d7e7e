"""Keywords (Speech Commands, 10 words and unknown ones) as spectrograms, and the task of telling them apart.

The data folder holds ``speech_commands/speech_commands.npz``: ``x`` clips of a second (8 kHz, mu-law codes), ``y`` classes, ``split`` 0 for
training and 1, 2 for validation and test, by speaker. Both of the latter are scored on.
"""

from __future__ import annotations

import numpy as np
import torch
from _data import Batches, data_folder, no_file
from _speech import FRAMES, MELS, PREPROCESSING, changed, decoded, spectrogram
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "unknown")
CODES = 128


def clips(parts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Spectrograms, (N, 1, 32, 49), and classes of the clips of ``parts``."""
    path = data_folder() / "speech_commands" / "speech_commands.npz"
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as data:
        wanted = np.isin(data["split"], parts)
        samples, labels = decoded(data["x"][wanted], CODES), data["y"][wanted]
    return torch.from_numpy(np.stack([spectrogram(one) for one in samples]))[:, None], torch.from_numpy(labels).long()


def make_task(model: nn.Module) -> Task:
    """Telling the words apart, for any ``model`` of 1 x 32 x 49 inputs."""
    train = Batches(*clips((0,)), 64, shuffle=True, change=changed)
    validation = Batches(*clips((1, 2)), 250)
    return Task(model, (torch.zeros(1, 1, MELS, FRAMES),), train, validation, labels=LABELS, preprocessing=PREPROCESSING)
