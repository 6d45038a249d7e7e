"""Spoken digits (FSDD): a depthwise-separable CNN on log-mel spectrograms, trained here in under a minute.

The data folder holds ``fsdd/<digit>_<speaker>_<n>.wav``: 8 kHz, 16 bits, one word each. The test is the data set's own: recordings
with n below 5. The network is a small DS-CNN of Zhang et al., "Hello Edge", 2017.
"""

from __future__ import annotations

import numpy as np
import torch
from _data import Batches, data_folder, no_file
from _trained import trained_task
from scipy.io import wavfile
from torch import Tensor, nn

from edgeprune.task import Task

LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
RATE, SECONDS = 8000, 1.0  # Hz; longer recordings lose what is later
WINDOW, HOP, MELS = 256, 160, 32  # samples: 32 ms every 20 ms
MEAN, STD = -8.0, 4.0  # of the logarithms, about


def convolution(width_in: int, width: int, window: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(width_in, width, window, stride, window // 2, groups=groups, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def separable(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 depthwise and a 1 x 1 convolution."""
    return nn.Sequential(convolution(width_in, width_in, 3, stride, groups=width_in), convolution(width_in, width, 1))


def network() -> nn.Sequential:
    """Spectrograms of 1 x 32 x 49 (bands, frames) in, scores of 10 digits out; 7 million multiplications."""
    return nn.Sequential(
        convolution(1, 64, 5, stride=2),
        separable(64, 64),
        separable(64, 128, stride=2),
        separable(128, 128),
        separable(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, len(LABELS)),
    )


def mel_filters() -> np.ndarray:
    """Triangles equally wide on the mel scale (HTK's, 2595 log10(1 + f / 700)) from 60 Hz to 3.8 kHz: (frequencies, bands)."""
    edges = 700 * (10 ** (np.linspace(*2595 * np.log10(1 + np.array([60.0, 3800.0]) / 700), MELS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return np.clip(np.minimum((frequencies - low) / (centre - low), (high - frequencies) / (high - centre)), 0, None)


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Logarithms of the power in each mel band, normalised: (bands, frames), of ``samples`` from -1 to 1 cut or padded to a second."""
    second = np.zeros(int(RATE * SECONDS))
    second[: len(samples)] = samples[: len(second)]
    frames = np.lib.stride_tricks.sliding_window_view(second, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters()
    return ((np.log(power.T + 1e-5) - MEAN) / STD).astype(np.float32)


def recordings(held_out: bool) -> tuple[Tensor, Tensor]:
    """Spectrograms, (N, 1, 32, 49), and digits of the test recordings or of the others."""
    paths = sorted((data_folder() / "fsdd").glob("*_*_*.wav"))
    if not paths:
        raise no_file(data_folder() / "fsdd" / "*.wav")
    wanted = [path for path in paths if (int(path.stem.split("_")[2]) < 5) == held_out]
    spectrograms = [spectrogram(wavfile.read(path)[1] / 2.0**15) for path in wanted]
    return torch.from_numpy(np.stack(spectrograms))[:, None], torch.tensor([int(path.stem[0]) for path in wanted])


def changed(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each word up to 8 frames earlier or later, louder or quieter, and a few bands and frames gone (Park et al., "SpecAugment", 2019)."""
    count, _, bands, frames = inputs.shape
    silence = (np.log(1e-5) - MEAN) / STD
    places = torch.arange(frames) + torch.randint(-8, 9, (count, 1), generator=generator)
    padded = torch.nn.functional.pad(inputs, (8, 8), value=silence)
    moved = padded.gather(3, (places + 8).view(count, 1, 1, frames).expand(count, 1, bands, frames))
    moved = (moved + 0.3 * torch.randn(count, 1, 1, 1, generator=generator)).clamp(min=silence)
    for axis, length, widest in ((2, bands, 6), (3, frames, 8)):
        start = torch.randint(0, length, (count, 1), generator=generator)
        width = torch.randint(0, widest + 1, (count, 1), generator=generator)
        gone = (torch.arange(length) >= start) & (torch.arange(length) < start + width)
        moved = moved.masked_fill(gone.view(count, 1, *((length, 1) if axis == 2 else (1, length))), 0.0)
    return moved


def make_task(model: nn.Module) -> Task:
    """Telling the digits apart, for any ``model`` of 1 x 32 x 49 inputs."""
    train = Batches(*recordings(held_out=False), 64, shuffle=True, change=changed)
    validation = Batches(*recordings(held_out=True), 250)
    return Task(model, (torch.zeros(1, 1, MELS, 49),), train, validation, labels=LABELS)


LESSON = {"epochs": 12, "learning_rate": 0.1}
"""How the network is trained."""


def task() -> Task:
    preprocessing = {
        "input": "one second of sound as mel power spectrogram, 1 x bands x frames; inputs are (ln(power + 1e-5) - mean) / std",
        "sample_rate_hz": RATE,
        "window_samples": WINDOW,
        "hop_samples": HOP,
        "mel_bands": MELS,
        "mel_range_hz": [60, 3800],
        "mean": MEAN,
        "std": STD,
    }
    return trained_task(__file__, network, make_task, LESSON, epochs=6, learning_rate=0.05, distillation=0.5, preprocessing=preprocessing)
