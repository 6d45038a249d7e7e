"""Sounds around (ESC-10: dog, rain, chainsaw and others): a CNN on log-mel spectrograms of five seconds, trained here in minutes.

The data folder holds ``ESC-50-master/`` of https://github.com/karolpiczak/ESC-50, or ``esc10/esc10.npz``: ``x`` clips of five seconds (8
kHz, mu-law codes), ``y``, ``fold`` 1 to 5, ``classes``. Clips of one recording are in one fold; the fifth is scored on. The layers are
those of ``fsdd.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from _data import Batches, data_set, no_file
from _originals import sounds
from _speech import FRAMES, MELS, PREPROCESSING, RATE, changed, decoded, spectrogram
from _trained import trained_task
from fsdd import convolution, separable
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("dog", "rooster", "rain", "sea waves", "crackling fire", "crying baby", "sneezing", "clock tick", "helicopter", "chainsaw")
SECONDS = 5


def network() -> nn.Sequential:
    """Spectrograms of 1 x 32 x 245 (bands, frames) in, scores of 10 classes out."""
    return nn.Sequential(
        convolution(1, 32, 5, stride=2),
        separable(32, 64, stride=2),
        separable(64, 64),
        separable(64, 128, stride=2),
        separable(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, len(LABELS)),
    )


def clips(held_out: bool) -> tuple[Tensor, Tensor]:
    """Spectrograms, (N, 1, 32, 245), and classes of the fifth fold or of the others."""
    folder = data_set("esc10", "esc10", "ESC-50-master", "ESC-50")
    if (folder / "meta").is_dir():
        found = [(clip, label) for clip, label, fold in sounds(folder, LABELS, RATE, SECONDS) if (fold == 5) == held_out]
        samples, classes = np.stack([clip for clip, _ in found]), np.array([label for _, label in found])
    else:
        samples, classes = packed(folder / "esc10.npz", held_out)
    seconds = [np.concatenate([spectrogram(part) for part in clip.reshape(SECONDS, RATE)], 1) for clip in samples]
    return torch.from_numpy(np.stack(seconds))[:, None], torch.from_numpy(classes).long()


def packed(path: Path, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Samples from -1 to 1, (N, 40000), and classes."""
    if not path.is_file():
        raise no_file(path)
    with np.load(path) as data:
        wanted = (data["fold"] == 5) == held_out
        return decoded(data["x"][wanted], 256), data["y"][wanted]


def later(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Clips that begin somewhere else in themselves, and changed as words are."""
    count, _, _, frames = inputs.shape
    places = (torch.arange(frames) + torch.randint(0, frames, (count, 1, 1, 1), generator=generator)) % frames
    return changed(inputs.gather(3, places.expand_as(inputs)), generator)


def make_task(model: nn.Module) -> Task:
    """Telling the sounds apart, for any ``model`` of 1 x 32 x 245 inputs."""
    train = Batches(*clips(held_out=False), 32, shuffle=True, change=later)
    validation = Batches(*clips(held_out=True), 39)
    preprocessing = PREPROCESSING | {
        "input": "five seconds of sound, one after the other as mel power spectrograms: " + PREPROCESSING["input"]
    }
    return Task(model, (torch.zeros(1, 1, MELS, SECONDS * FRAMES),), train, validation, labels=LABELS, preprocessing=preprocessing)


LESSON = {"epochs": 60, "learning_rate": 0.05}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, network, make_task, LESSON, epochs=20, learning_rate=0.02, distillation=0.5)
