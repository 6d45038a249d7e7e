"""Data sets in the files that their authors distribute, read as arrays: nothing in them is run."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _data import no_file
from PIL import Image
from scipy.io import wavfile
from scipy.signal import resample_poly

from edgeprune.errors import RecipeError

_ARRAYS = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
    (f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")
}


class _Arrays(pickle.Unpickler):
    """Reads pickled arrays, texts and numbers only: nothing else is made or called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no array")
        return super().find_class(module, name)


def cifar(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images of ``cifar-10-batches-py``, training before test, as uint8 (60,000, 32, 32, 3), and their labels.

    Source: the format in https://www.cs.toronto.edu/~kriz/cifar.html. Raises :class:`RecipeError` for other files.
    """
    images, labels = [], []
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        path = folder / name
        try:
            with path.open("rb") as file:
                batch = _Arrays(file, encoding="latin1").load()
            images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += list(batch["labels"])
        except FileNotFoundError as error:
            raise no_file(path) from error
        except (pickle.UnpicklingError, KeyError, ValueError, TypeError, EOFError) as error:
            remedy = "Unpack cifar-10-python.tar.gz again."
            raise RecipeError(f"{path} is not a file of CIFAR-10 for Python: {error}", remedy=remedy) from error
    return np.concatenate(images), np.asarray(labels)


def idx(path: Path) -> np.ndarray:
    """The array of bytes in ``path`` (such as ``train-images-idx3-ubyte``), or in ``path`` with ``.gz`` behind it.

    Source: the format in http://yann.lecun.com/exdb/mnist. Raises :class:`RecipeError` for other files.
    """
    packed = path.with_name(path.name + ".gz")
    if path.is_file():
        content = path.read_bytes()
    elif packed.is_file():
        content = gzip.decompress(packed.read_bytes())
    else:
        raise no_file(path)
    dimensions = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content[: 4 + 4 * dimensions], ">u4")[1:].astype(int)
    if dimensions == 0 or len(content) != 4 + 4 * dimensions + shape.prod():
        raise RecipeError(f"{path} is not an IDX file of bytes, or is cut off", remedy="Fetch it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def wav(path: Path, rate: int) -> np.ndarray:
    """Samples from -1 to 1 of the first channel of a WAV file, at ``rate`` a second. Raises :class:`RecipeError` for other files."""
    try:
        own, samples = wavfile.read(path)
    except (ValueError, EOFError, OSError) as error:
        raise RecipeError(f"{path} is not a WAV file: {error}", remedy="Fetch it again, or remove it.") from error
    samples = samples[:, 0] if samples.ndim == 2 else samples
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    divisor = int(np.gcd(own, rate))
    return samples if own == rate else resample_poly(samples, rate // divisor, own // divisor)


def marked_stream(folder: Path, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of a stream in a clone of NAB, and 1 where a value is in a window that is marked as anomalous, else 0."""
    (path,) = [*sorted((folder / "data").glob(f"*/{stream}.csv")), folder / "data/realKnownCause" / f"{stream}.csv"][:1]
    marks = folder / "labels/combined_windows.json"
    for each in (path, marks):
        if not each.is_file():
            raise no_file(each)
    times = np.loadtxt(path, str, delimiter=",", skiprows=1, usecols=0).astype("datetime64[us]")
    values = np.loadtxt(path, float, delimiter=",", skiprows=1, usecols=1)
    spans = [tuple(map(np.datetime64, span)) for span in json.loads(marks.read_text())[f"{path.parent.name}/{path.name}"]]
    return values, np.any([(first <= times) & (times <= last) for first, last in spans], axis=0).astype(np.uint8)


def sounds(folder: Path, labels: tuple[str, ...], rate: int, seconds: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """The clips that ESC-50's ``meta/esc50.csv`` marks as ESC-10, cut or padded to ``seconds``, with their classes and folds."""
    listed = folder / "meta/esc50.csv"
    if not listed.is_file():
        raise no_file(listed)
    with listed.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["esc10"] == "True":
                clip = np.zeros(rate * seconds)
                samples = wav(folder / "audio" / row["filename"], rate)[: len(clip)]
                clip[: len(samples)] = samples
                yield clip, labels.index(row["category"].replace("_", " ")), int(row["fold"])


def cells(folder: Path, side: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """The pictures of BBBC038's ``stage1_train/<id>/``, cut to ``side`` in the middle, and where cells are: uint8 (side, side, 3) and bool.

    Parts are by the place in the order of ids: of ten, two are 2 (test), one is 1 (validation), seven are 0.
    """
    for number, place in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        picture = np.asarray(Image.open(next(iter((place / "images").glob("*.png")))).convert("RGB"))
        mask = np.any([np.asarray(Image.open(path).convert("L")) > 0 for path in sorted((place / "masks").glob("*.png"))], axis=0)
        if min(mask.shape) < side or mask.shape != picture.shape[:2]:
            raise RecipeError(f"{place} has a picture of {picture.shape[:2]} and masks of {mask.shape}, not {side} pixels and more each")
        top, left = ((length - side) // 2 for length in mask.shape)
        cut = slice(top, top + side), slice(left, left + side)
        yield picture[cut], mask[cut], {7: 1, 8: 2, 9: 2}.get(number % 10, 0)


def words(folder: Path, wanted: tuple[str, ...]) -> Iterator[tuple[Path, int, int]]:
    """The recordings of Speech Commands below ``folder``, ``<word>/<speaker>_nohash_<n>.wav``: path, class and part.

    Classes are the places in ``wanted``; the last one, "unknown", is every other word's, of which as many are taken, evenly, as there are
    of a wanted word. Parts are 0 for training, 1 for what ``validation_list.txt`` names, 2 for ``testing_list.txt``.
    """
    listed = {1: folder / "validation_list.txt", 2: folder / "testing_list.txt"}
    part = {name: number for number, path in listed.items() if path.is_file() for name in path.read_text().split()}
    if not part:
        raise no_file(listed[2])
    others: list[Path] = []
    count = 0
    for place in sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("_")):
        recordings = sorted(place.glob("*.wav"))
        if place.name in wanted:
            count += len(recordings)
            yield from ((path, wanted.index(place.name), part.get(f"{place.name}/{path.name}", 0)) for path in recordings)
        else:
            others += recordings
    step = max(1, len(others) * (len(wanted) - 1) // max(count, 1))
    yield from ((path, len(wanted) - 1, part.get(f"{path.parent.name}/{path.name}", 0)) for path in others[::step])
