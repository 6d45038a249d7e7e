"""Data sets in the files that their authors distribute, read as arrays: nothing in them is run."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _data import no_file
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


LAYOUTS = ("speech_commands", "SpeechCommands/speech_commands_v0.02", "speech_commands_v0.02")
"""Where Speech Commands may lie in the data folder."""


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
