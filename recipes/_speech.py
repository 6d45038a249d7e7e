"""Words as log-mel spectrograms, for the recipes beside this file: 8 kHz, one second, 32 bands of 49 frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

RATE, SECONDS = 8000, 1.0  # Hz; longer recordings lose what is later
WINDOW, HOP, MELS, FRAMES = 256, 160, 32, 49  # samples: 32 ms every 20 ms
MEAN, STD = -8.0, 4.0  # of the logarithms, about

PREPROCESSING: dict[str, Any] = {
    "input": "one second of sound as mel power spectrogram, 1 x bands x frames; inputs are (ln(power + 1e-5) - mean) / std",
    "sample_rate_hz": RATE,
    "window_samples": WINDOW,
    "hop_samples": HOP,
    "mel_bands": MELS,
    "mel_range_hz": [60, 3800],
    "mean": MEAN,
    "std": STD,
}


def decoded(codes: np.ndarray, levels: int) -> np.ndarray:
    """Samples from -1 to 1 of mu-law ``codes`` from 0 to ``levels`` - 1. Source: ITU-T G.711, with mu = 255, as the data are written."""
    signed = 2.0 * codes / (levels - 1) - 1
    return np.sign(signed) * np.expm1(np.abs(signed) * np.log(256)) / 255


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


def changed(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Each word up to 8 frames earlier or later, louder or quieter, and a few bands and frames gone (Park et al., "SpecAugment", 2019)."""
    count, _, bands, frames = inputs.shape
    silence = (np.log(1e-5) - MEAN) / STD
    places = torch.arange(frames) + torch.randint(-8, 9, (count, 1), generator=generator)
    padded = F.pad(inputs, (8, 8), value=silence)
    moved = padded.gather(3, (places + 8).view(count, 1, 1, frames).expand(count, 1, bands, frames))
    moved = (moved + 0.3 * torch.randn(count, 1, 1, 1, generator=generator)).clamp(min=silence)
    for axis, length, widest in ((2, bands, 6), (3, frames, 8)):
        start = torch.randint(0, length, (count, 1), generator=generator)
        width = torch.randint(0, widest + 1, (count, 1), generator=generator)
        gone = (torch.arange(length) >= start) & (torch.arange(length) < start + width)
        moved = moved.masked_fill(gone.view(count, 1, *((length, 1) if axis == 2 else (1, length))), 0.0)
    return moved
