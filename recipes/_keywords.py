"""Keywords (Speech Commands, 10 words and unknown ones) as spectrograms, and the task of telling them apart.

The data folder holds ``speech_commands/``: what http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz unpacks to, a folder of
wav files a word (or ``SpeechCommands/`` as torchaudio fetches it); or ``speech_commands.npz``: ``x`` clips of a second (8 kHz, mu-law
codes), ``y`` classes, ``split`` 0 for training and 1, 2 for validation and test, by speaker. Both of the latter are scored on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from _data import Batches, data_set, no_file
from _originals import wav, words
from _speech import FRAMES, MELS, PREPROCESSING, RATE, changed, decoded, spectrogram
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "unknown")
CODES = 128


def clips(parts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Spectrograms, (N, 1, 32, 49), and classes of the clips of ``parts``."""
    folder = data_set("speech_commands", "speech_commands", "SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02")
    if (folder / "testing_list.txt").is_file():
        return recorded(folder, parts)
    path = folder / "speech_commands.npz"
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as data:
        wanted = np.isin(data["split"], parts)
        samples, labels = decoded(data["x"][wanted], CODES), data["y"][wanted]
    return torch.from_numpy(np.stack([spectrogram(one) for one in samples]))[:, None], torch.from_numpy(labels).long()


def recorded(folder: Path, parts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The same of the recordings in the original's folders of words."""
    found = [(spectrogram(wav(path, RATE)), label) for path, label, part in words(folder, LABELS) if part in parts]
    return torch.from_numpy(np.stack([one for one, _ in found]))[:, None], torch.tensor([label for _, label in found])


def make_task(model: nn.Module) -> Task:
    """Telling the words apart, for any ``model`` of 1 x 32 x 49 inputs."""
    train = Batches(*clips((0,)), 64, shuffle=True, change=changed)
    validation = Batches(*clips((1, 2)), 250)
    return Task(model, (torch.zeros(1, 1, MELS, FRAMES),), train, validation, labels=LABELS, preprocessing=PREPROCESSING)
