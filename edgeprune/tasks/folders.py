"""Data as they lie in folders: pictures by class, pictures with masks, tables of texts.

Where no part is set aside, every fifth of the samples, in the order of their names, is held out: of pictures by class every fifth of a
class.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgeprune.errors import RecipeError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
HELD_OUT = ("val", "valid", "validation", "test")
"""Names of the folder that is scored on, beside ``train``."""
FIFTH = 5
_SMALLEST = 0.5  # part of the picture that a random crop keeps at least, of its area


@dataclass(frozen=True)
class Data:
    """What a recipe takes of a folder: batches or rows to train on and to score on, the classes' names, and how inputs are made."""

    train: Any
    validation: Any
    classes: list[str]
    preprocessing: dict[str, Any]


def image_folder(
    folder: str | Path,
    size: int,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
    *,
    batch_size: int = 32,
) -> Data:
    """Pictures by class, as torchvision's ``ImageFolder``: ``train/<class>/...`` and ``val/<class>/...`` (or ``valid``, ``validation``,
    ``test``), or ``<class>/...``, of which every fifth of a class is held out.

    Batches are pictures (N, 3, size, size), from 0 to 1, less ``mean``, over ``std``, and class numbers (N,). To train on, a random part of
    half the picture or more, mirrored or not; to score on, the square in the middle. Raises :class:`RecipeError` for a folder without
    pictures, a class that is only scored on, and, while they are read, a file that is no picture, with its place.
    """
    root = existing(folder)
    held_out = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held_out is not None:
        classes, train = _by_class(root / "train")
        others, validation = _by_class(held_out)
        if unknown := [name for name in others if name not in classes]:
            raise RecipeError(f"{held_out} has the class {unknown[0]}, and {root / 'train'} has not", remedy="Remove it, or add pictures.")
        validation = [(path, classes.index(others[label])) for path, label in validation]
    else:
        classes, found = _by_class(root / "train" if (root / "train").is_dir() else root)
        train, validation = split(found, lambda sample: sample[1])
    if not validation:
        raise RecipeError(f"{root} holds too few pictures to hold every fifth out", remedy=f"Give {FIFTH} or more of a class.")
    pictures = [Pictures(samples, size, tuple(mean), tuple(std), augment) for samples, augment in ((train, True), (validation, False))]
    return Data(
        DataLoader(pictures[0], min(batch_size, len(train)), shuffle=True, drop_last=len(train) > batch_size),
        DataLoader(pictures[1], batch_size),
        classes,
        described(size, mean, std),
    )


def mask_folder(
    images: str | Path,
    masks: str | Path,
    size: int,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> Data:
    """Pictures and their masks, files of the same name but for the suffix; every fifth is held out. ``train`` and ``validation`` are data
    sets of (3, size, size) and (size, size), as :func:`edgeprune.tasks.segmentation` takes them.

    Masks are grey or palette pictures of class numbers, 0 the background and 255 what does not count; where all are 0 or 255, 255 is
    class 1. Raises :class:`RecipeError` for a picture without a mask, and for a mask of another size, by its place.
    """
    found = {path.stem: path for path in pictures_in(existing(masks))}
    pictures = pictures_in(existing(images))
    if not pictures:
        raise RecipeError(f"{images} holds no pictures", remedy=f"Their names end in {', '.join(SUFFIXES)}.")
    if missing := [path for path in pictures if path.stem not in found]:
        raise RecipeError(f"{missing[0]} has no mask in {masks}", remedy="A mask has its picture's name, but for the suffix.")
    samples = [(path, found[path.stem]) for path in pictures]
    values = sorted({int(value) for _, mask in samples for value in np.unique(opened(mask, None))})
    binary = values == [0, 255]
    count = 2 if binary else max([value for value in values if value != 255] or [0]) + 1
    if count < 2:
        raise RecipeError(f"the masks in {masks} mark nothing: their pixels are {values}", remedy="Number the classes from 1; 0 is none.")
    train, validation = split(samples, lambda _: 0)
    first, second = (Masked(part, size, tuple(mean), tuple(std), binary) for part in (train, validation))
    return Data(first, second, ["background", *(f"class {number}" for number in range(1, count))], described(size, mean, std))


def text_table(path: str | Path, classes: Iterable[str] | None = None) -> Data:
    """The rows of a CSV file with the columns ``text`` and ``label`` (or ``category``, ``class``), every fifth of which is held out.

    ``classes``: the labels' names in the model's order; those of the file, sorted, unless given. Rows are dicts of "text" and "label", a
    number, as :func:`edgeprune.tasks.from_transformers` takes them. Raises :class:`RecipeError` for a file without these, and a label that
    is none of ``classes``, with its line.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecipeError(f"{path} cannot be read: {error}", remedy="Give a CSV file in UTF-8 with the columns text,label.") from error
    columns = list(rows[0]) if rows else []
    label = next((name for name in ("label", "category", "class", "intent") if name in columns), None)
    if "text" not in columns or label is None:
        raise RecipeError(f"{path} has the columns {', '.join(map(str, columns)) or 'of no row'}", remedy="Name them text,label.")
    names = list(classes) if classes is not None else sorted({row[label] for row in rows})
    known = {name: number for number, name in enumerate(names)}
    for line, row in enumerate(rows, 2):
        if row["text"] is None or row[label] not in known:
            raise RecipeError(f"row {line} of {path} has the label {row[label]!r}", remedy=f"Known labels: {', '.join(names[:20])}.")
    samples = [{"text": row["text"], "label": known[row[label]]} for row in rows]
    train, validation = split(samples, lambda _: 0)
    return Data(train, validation, names, {})


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures and their classes, see :func:`image_folder`."""

    def __init__(self, samples: list[tuple[Path, int]], size: int, mean: Sequence[float], std: Sequence[float], augment: bool) -> None:
        self.samples, self.size, self.mean, self.std, self.augment = samples, size, mean, std, augment

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        image = opened(path, "RGB", raw=True)
        box = _random_box(*image.size) if self.augment else _middle(*image.size)
        pixels = torch.from_numpy(np.asarray(image.resize((self.size, self.size), box=box)).copy())
        if self.augment and bool(torch.rand(()) < 0.5):
            pixels = pixels.flip(1)
        return _normalised(pixels, self.mean, self.std), label


class Masked(Dataset[tuple[Tensor, Tensor]]):
    """Pictures and their masks, see :func:`mask_folder`."""

    def __init__(self, samples: list[tuple[Path, Path]], size: int, mean: Sequence[float], std: Sequence[float], binary: bool) -> None:
        self.samples, self.size, self.mean, self.std, self.binary = samples, size, mean, std, binary

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from PIL import Image

        path, masked = self.samples[index]
        image, mask = opened(path, "RGB", raw=True), opened(masked, None, raw=True)
        if image.size != mask.size:
            raise RecipeError(
                f"sample {index}: {masked} is {mask.size[0]} x {mask.size[1]}, and {path.name} {image.size[0]} x {image.size[1]}",
                remedy="Give a mask of its picture's size.",
            )
        pixels = torch.from_numpy(np.asarray(image.resize((self.size, self.size))).copy())
        numbers = torch.from_numpy(np.asarray(mask.resize((self.size, self.size), Image.Resampling.NEAREST)).astype(np.int64))
        return _normalised(pixels, self.mean, self.std), (numbers > 0).long() if self.binary else numbers


def described(size: int, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """How pictures become inputs, as a task's ``preprocessing``."""
    return {"input": f"RGB image of {size} x {size} pixels, 0 to 255", "scale": 255, "mean": list(mean), "std": list(std)}


def existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.is_dir():
        raise RecipeError(
            f"{path} is {'not a folder' if path.exists() else 'not there'}", remedy="Name the folder that holds the pictures."
        )
    return path


def pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _by_class(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and pictures_in(path))
    if len(classes) < 2:
        what = f"pictures of {len(classes)} class, in {classes[0]}" if classes else "no folders with pictures"
        raise RecipeError(f"{folder} holds {what}", remedy="Lay the pictures out as <class>/<picture>, a folder a class, two or more.")
    return classes, [(path, label) for label, name in enumerate(classes) for path in pictures_in(folder / name)]


def split(samples: list[Any], group: Callable[[Any], Any]) -> tuple[list[Any], list[Any]]:
    """All but every fifth of a group, and these."""
    train: list[Any] = []
    held_out: list[Any] = []
    counts: dict[Any, int] = {}
    for sample in samples:
        count = counts[group(sample)] = counts.get(group(sample), 0) + 1
        (held_out if count % FIFTH == 0 else train).append(sample)
    if not held_out and len(train) > 1:
        held_out.append(train.pop())
    return train, held_out


def opened(path: Path, mode: str | None, raw: bool = False) -> Any:
    """A picture in PIL's ``mode`` (None: grey or a palette's numbers): its array, or with ``raw`` PIL's own."""
    try:
        from PIL import Image
    except ImportError as error:
        raise RecipeError("pillow, which reads pictures, is not installed", remedy="pip install pillow") from error
    try:
        with Image.open(path) as file:
            image = file.convert(mode) if mode else file.copy() if file.mode in ("L", "P", "I", "1") else file.convert("L")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RecipeError(f"{path} is not a picture that can be read: {error}", remedy="Remove it, or save it again.") from error
    return image if raw else np.asarray(image)


def _random_box(width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a random part with the picture's own proportions."""
    side = float(_SMALLEST + (1 - _SMALLEST) * torch.rand(())) ** 0.5
    left, top = (float(torch.rand(())) * (1 - side) * length for length in (width, height))
    return left, top, left + side * width, top + side * height


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _normalised(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, height, width) of uint8 (height, width, 3)."""
    return ((pixels.float() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1).contiguous()
