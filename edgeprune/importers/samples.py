"""Inputs for a model that came as a file: a folder of images, or an ``.npz`` file of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgeprune.errors import InputError

IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FEWEST = 8
"""Samples that a model can be judged on, and learn from."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's colours, as torchvision's models have them: the default of three channels."""

GRAY = ((0.5,), (0.5,))


@dataclass(frozen=True)
class Wanted:
    """An input that samples are for: its name, its sizes for one inference, its type, the dimension that holds the samples, if any."""

    name: str
    sizes: tuple[int, ...]
    dtype: torch.dtype
    samples: int | None


def from_images(folder: Path, inputs: Sequence[Wanted], mean: Sequence[float], std: Sequence[float]) -> tuple[list[Tensor], dict[str, Any]]:
    """All images below ``folder`` as samples (S, ...) of the only input, and how they were made: resized to the input's height and width,
    divided by 255, less ``mean``, divided by ``std`` (default: ImageNet's for three channels, 0.5 for one).

    Raises :class:`InputError` for too few images, one that cannot be read, or a model that takes no image.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", remedy="Give a folder of images.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if len(paths) < FEWEST:
        raise InputError(
            f"{folder} holds {len(paths)} images, and {FEWEST} are the fewest", remedy=f"Images end in {', '.join(sorted(IMAGES))}."
        )
    one, channels, last = _image_input(inputs)
    height, width = one.sizes[1:3] if last else one.sizes[2:4]
    usual = IMAGENET if channels == 3 else GRAY
    means, stds = (np.asarray(given or default, np.float32) for given, default in zip((mean, std), usual, strict=True))
    for name, values in (("--mean", means), ("--std", stds)):
        if values.size not in (1, channels):
            raise InputError(
                f"{name} has {values.size} numbers, and the images {channels} channels", remedy="Give one for all, or one for each."
            )
    arrays = [(_read(path, channels, (width, height)) / 255.0 - means) / stds for path in paths]
    stacked = torch.from_numpy(np.stack(arrays).astype(np.float32))
    made = {
        "input": f"{'RGB' if channels == 3 else 'grey'} image of {width} x {height}",
        "scale": 255,
        "mean": means.tolist(),
        "std": stds.tolist(),
    }
    return [stacked if last else stacked.movedim(-1, 1).contiguous()], made


def _image_input(inputs: Sequence[Wanted]) -> tuple[Wanted, int, bool]:
    """The input, its channels, and whether they come last."""
    one = inputs[0]
    if len(inputs) == 1 and len(one.sizes) == 4 and one.dtype == torch.float32 and one.sizes[0] == 1:
        if one.sizes[1] in (1, 3):
            return one, one.sizes[1], False
        if one.sizes[3] in (1, 3):
            return one, one.sizes[3], True
    text = ", ".join(f"{one.name} {'x'.join(map(str, one.sizes))}" for one in inputs)
    raise InputError(
        f"the model takes {text}, not one image of floating-point numbers", remedy="Give its inputs as arrays: --samples FILE.npz."
    )


def _read(path: Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(
            f"images are read by the package pillow, which cannot be imported: {error}", remedy="pip install pillow"
        ) from error
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB" if channels == 3 else "L").resize(size, Image.Resampling.BILINEAR)
            return np.asarray(resized, np.float32).reshape(size[1], size[0], channels)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"the image {path} cannot be read: {error}", remedy="Remove it, or replace it.") from error


def from_npz(path: Path, inputs: Sequence[Wanted]) -> list[Tensor]:
    """The arrays of an ``.npz`` file as samples of each input: (S, ...) without the dimension of size 1 that holds the samples; or, of an
    input that holds them elsewhere or not at all, (S, *sizes).

    Raises :class:`InputError` for a file that cannot be read, or arrays that do not fit.
    """
    arrays = _arrays(path)
    if len(arrays) == len(inputs) == 1:
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    if missing := [one.name for one in inputs if one.name not in arrays]:
        raise InputError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, and not {', '.join(missing)}",
            remedy="Save the arrays under the names of the model's inputs: numpy.savez(path, **{name: array}).",
        )
    joined = all(one.samples == 0 for one in inputs)
    found = []
    for one in inputs:
        value = torch.from_numpy(np.ascontiguousarray(arrays[one.name]))
        sizes = one.sizes[1:] if joined else one.sizes
        if tuple(value.shape[1:]) != sizes:
            shape = "x".join(["S", *map(str, sizes)])
            raise InputError(f"{one.name} in {path} is {tuple(value.shape)}, not {shape}", remedy="S is the number of samples.")
        found.append(value.to(one.dtype))
    counts = {len(value) for value in found}
    if len(counts) > 1 or min(counts) < FEWEST:
        raise InputError(
            f"{path} holds {', '.join(map(str, sorted(counts)))} samples", remedy=f"All inputs need as many, at least {FEWEST}."
        )
    return found


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if isinstance(stored, np.ndarray):
                return {"": stored}
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as a file of arrays: {error}", remedy="Write it by numpy.savez(path, **{name: array})."
        ) from error
