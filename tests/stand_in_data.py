"""The recipes' data, but few and random, in the same files and layouts.  Where ``EDGEPRUNE_DATA`` is set, the real ones are used too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile

INTENTS = ("AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic", "RateBook", "SearchCreativeWork", "SearchScreeningEvent")
SIZES = {
    "har": (3 * 6 * 37, 3 * 2 * 37),
    "fsdd": (100, 50),
    "ecg": (160, 40),
    "snips": (7 * 12, 7 * 5),
    "speech_commands_vit": (11 * 8, 11 * 5),
}
"""Numbers of examples for training and for validation, by data set."""


def make_data(folder: Path) -> Path:
    """Write all of them into ``folder``."""
    random = np.random.default_rng(0)
    _har(folder / "har", random)
    _fsdd(folder / "fsdd", random)
    _ecg(folder / "ecg", random)
    _snips(folder / "snips")
    _speech_commands(folder / "speech_commands", random)
    return folder


def _har(folder: Path, random: np.random.Generator) -> None:
    """Recordings of 1000 samples of three axes; every fourth is held out."""
    for name in ("stationary", "walking", "running"):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            np.savetxt(folder / name / f"{name}_{number:02}.csv", random.integers(-2000, 2000, (1000, 3)), "%d", ",")


def _fsdd(folder: Path, random: np.random.Generator) -> None:
    """Fifteen words a digit; the first five are the test's."""
    folder.mkdir(parents=True)
    for digit in range(10):
        for number in range(15):
            wavfile.write(folder / f"{digit}_anyone_{number}.wav", 8000, random.integers(-9000, 9000, 2000).astype(np.int16))


def _ecg(folder: Path, random: np.random.Generator) -> None:
    """Beats of three classes, of which the second is left out."""
    folder.mkdir(parents=True)
    arrays = {}
    for part, count in (("tr", 80), ("te", 20)):
        arrays[f"x{part}"] = random.integers(-500, 500, (3 * count, 128)).astype(np.int16)
        arrays[f"y{part}"] = np.arange(3 * count) % 3
    np.savez(folder / "ecg_nsv.npz", **arrays)


def _snips(folder: Path) -> None:
    folder.mkdir(parents=True)
    for intent in INTENTS:
        for part, count in (("train", 12), ("validate", 5)):
            requests = [{"data": [{"text": f"please {intent} "}, {"text": f"number {at}", "entity": "x"}]} for at in range(count)]
            (folder / f"{part}_{intent}.json").write_text(json.dumps({intent: requests}))


def _speech_commands(folder: Path, random: np.random.Generator) -> None:
    """Eight clips a class for training, two for validation and three for the test."""
    folder.mkdir(parents=True)
    split = np.repeat([0, 1, 2], [8 * 11, 2 * 11, 3 * 11]).astype(np.uint8)
    classes = (np.arange(len(split)) % 11).astype(np.uint8)
    np.savez(folder / "speech_commands.npz", x=random.integers(0, 128, (len(split), 8000)).astype(np.uint8), y=classes, split=split)


def make_cifar10(folder: Path, depth: int, network: torch.nn.Module) -> Path:
    """Black images but for a pixel in the colour of their number, and ``network``'s weights as those of a ResNet of ``depth`` layers."""
    (folder / "cifar10").mkdir(parents=True)
    (folder / "weights").mkdir()
    for number in (*range(25), 50):
        pixels = np.zeros((1000, 1024, 3), np.uint8)
        pixels[:, 0, 0] = number
        Image.fromarray(pixels).save(folder / f"cifar10/batch_{number}.png", compress_level=1)
    (folder / "cifar10/labels.json").write_text(json.dumps({"labels": [at % 10 for at in range(51_000)]}))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / f"weights/resnet{depth}-0.th")
    return folder
