"""The recipes' data, but few and random, in the same files and layouts.  Where ``EDGEPRUNE_DATA`` is set, the real ones are used too."""

from __future__ import annotations

import io
import json
import tarfile
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
    "speech_commands_dscnn": (11 * 8, 11 * 5),
    "speech_commands_gru": (11 * 8, 11 * 5),
    "speech_commands_lstm": (11 * 8, 11 * 5),
    "mnist": (7 * 3000, 3000),
    "pneumonia": (80, 20 + 30),
    "esc10": (4 * 20, 20),
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
    _mnist(folder / "mnist")
    _pneumonia(folder / "pneumoniamnist", random)
    _esc10(folder / "esc10", random)
    _nuclei(folder / "nuclei", random)
    _nab(folder / "nab", random)
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


def _mnist(folder: Path) -> None:
    """Black digits but for a pixel; every file has them all."""
    folder.mkdir(parents=True)
    pixels = np.zeros((3000, 784), np.uint8)
    pixels[np.arange(3000), np.arange(3000) % 10] = 255
    for number in (*range(7), 20):
        Image.fromarray(pixels).save(folder / f"batch_{number}.png", compress_level=1)
    (folder / "labels.json").write_text(json.dumps({"labels": [at % 10 for at in range(63_000)]}))


def _pneumonia(folder: Path, random: np.random.Generator) -> None:
    """As many with pneumonia as without."""
    folder.mkdir(parents=True)
    arrays = {}
    for part, count in (("train", 80), ("val", 20), ("test", 30)):
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)
        arrays[f"{part}_images"] = random.integers(0, 128, (count, 28, 28)).astype(np.uint8) + 100 * arrays[f"{part}_labels"][:, None, None]
    np.savez(folder / "pneumoniamnist.npz", **arrays)


def _esc10(folder: Path, random: np.random.Generator) -> None:
    """Two clips a class in every fold."""
    folder.mkdir(parents=True)
    fold = np.repeat(np.arange(1, 6), 20).astype(np.uint8)
    x = random.integers(0, 256, (100, 40_000)).astype(np.uint8)
    np.savez(folder / "esc10.npz", x=x, y=(np.arange(100) % 10).astype(np.uint8), fold=fold)


def _nuclei(folder: Path, random: np.random.Generator) -> None:
    """Bright squares on noise: ten pictures for training, three for validation and five for the test."""
    folder.mkdir(parents=True)
    split = np.repeat([0, 1, 2], [10, 3, 5]).astype(np.uint8)
    instance = np.zeros((18, 160, 160), np.uint16)
    with tarfile.open(folder / "images.tar", "w") as files:
        for number in range(18):
            for nucleus, (row, column) in enumerate(random.integers(0, 130, (5, 2)), 1):
                instance[number, row : row + 24, column : column + 24] = nucleus
            pixels = random.integers(0, 60, (160, 160, 3)) + 180 * (instance[number] > 0)[:, :, None]
            packed = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(packed, "JPEG", quality=95)
            entry = tarfile.TarInfo(f"{number:03}.jpg")
            entry.size = len(packed.getvalue())
            files.addfile(entry, io.BytesIO(packed.getvalue()))
    np.savez(folder / "masks.npz", instance=instance, split=split)


def _nab(folder: Path, random: np.random.Generator) -> None:
    """A daily wave that is marked where it has a step."""
    folder.mkdir(parents=True)
    marked = np.zeros(2000, np.uint8)
    marked[1200:1300] = 1
    values = 80 + 5 * np.sin(np.arange(2000) / 20) + random.normal(0, 0.3, 2000) + 9 * marked
    name = "machine_temperature_system_failure"
    np.savez(folder / "nab.npz", **{f"x_{name}": values.astype(np.float32), f"y_{name}": marked})


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
