"""Photos with boxes: packed as ``<name>/boxes.json`` and ``<name>/images.tar``, or in the folders of Pascal VOC.

``boxes.json``: ``classes``, and for every image its ``split`` ("train", "val", "test") and ``boxes``: class, x1, y1, x2, y2 in pixels. A
VOC folder has ``Annotations/*.xml``, ``JPEGImages/*.jpg`` and ``ImageSets/Main/<split>.txt``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
import torch
from _data import no_file
from PIL import Image
from torch import Tensor

Sample = tuple[Tensor, dict[str, Tensor]]


def photos(folder: Path, classes: Sequence[str], size: tuple[int, int], parts: Sequence[str], first: int = 1) -> list[Sample]:
    """The photos of ``parts`` of the data set in ``folder``, scaled to ``size`` (height, width): uint8 (3, height, width), and their boxes
    with labels from ``first`` on, in the order of ``classes``.  Raises :class:`RecipeError` where a file is missing."""
    read = voc if (folder / "Annotations").is_dir() else packed
    return [scaled(image, boxes, [first + label for label in labels], size) for image, boxes, labels in read(folder, classes, parts)]


def packed(folder: Path, classes: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[Image.Image, list[list[float]], list[int]]]:
    """Image, boxes and labels of every photo."""
    for file in ("boxes.json", "images.tar"):
        if not (folder / file).is_file():
            raise no_file(folder / file)
    images = json.loads((folder / "boxes.json").read_text())["images"]
    with tarfile.open(folder / "images.tar") as files:
        for name, about in images.items():
            if about["split"] in parts:
                file = files.extractfile(f"{name}.jpg")
                yield opened(file), [box[1:] for box in about["boxes"]], [int(box[0]) for box in about["boxes"]]


def voc(folder: Path, classes: Sequence[str], parts: Sequence[str]) -> Iterator[tuple[Image.Image, list[list[float]], list[int]]]:
    """The same of a VOC folder; boxes without an extent, of which some annotations have one, are left out."""
    for part in parts:
        listed = folder / "ImageSets/Main" / f"{part}.txt"
        if not listed.is_file():
            raise no_file(listed)
        for name in listed.read_text().split():
            boxes, labels = [], []
            for found in ElementTree.parse(folder / f"Annotations/{name}.xml").iter("object"):
                box = [float(found.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
                if box[2] > box[0] and box[3] > box[1]:
                    boxes.append(box)
                    labels.append(list(classes).index(str(found.findtext("name"))))
            yield opened(folder / f"JPEGImages/{name}.jpg"), boxes, labels


def opened(file: Path | IO[bytes] | None) -> Image.Image:
    """A photo in RGB."""
    assert file is not None
    return Image.open(file).convert("RGB")


def scaled(image: Image.Image, boxes: list[list[float]], labels: list[int], size: tuple[int, int]) -> Sample:
    """A photo of ``size`` (height, width) with its boxes."""
    ratio = torch.tensor([size[1] / image.width, size[0] / image.height] * 2)
    pixels = torch.from_numpy(np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)).copy()).permute(2, 0, 1)
    return pixels, {"boxes": torch.tensor(boxes).reshape(-1, 4) * ratio, "labels": torch.tensor(labels).long()}


class Photos:
    """Batches of photos, 0 to 1, with their boxes.  ``augment``: in another order every pass, moved, brighter or darker; ``flip``: mirrored
    as well."""

    def __init__(self, samples: Sequence[Sample], batch: int, *, augment: bool = False, flip: bool = False) -> None:
        self.samples, self.batch, self.augment, self.flip, self.epoch = samples, batch, augment, flip, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the changes of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.samples) // self.batch if self.augment else -(-len(self.samples) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.samples), generator=generator).tolist() if self.augment else list(range(len(self.samples)))
        for at in range(len(self)):
            chosen = [self.samples[number] for number in order[at * self.batch : (at + 1) * self.batch]]
            made = [self._changed(*sample, generator) for sample in chosen] if self.augment else chosen
            yield torch.stack([image for image, _ in made]) / 255, [target for _, target in made]

    def _changed(self, image: Tensor, target: dict[str, Tensor], generator: torch.Generator) -> Sample:
        drawn: Any = torch.rand(5, generator=generator).tolist()
        boxes, (height, width) = target["boxes"], image.shape[1:]
        down, right = int(height * (drawn[0] - 0.5) / 4), int(width * (drawn[1] - 0.5) / 4)
        image = image.float().roll((down, right), (1, 2))
        image[:, : max(down, 0)], image[:, height + min(down, 0) :] = 128, 128
        image[:, :, : max(right, 0)], image[:, :, width + min(right, 0) :] = 128, 128
        limit = torch.tensor([width, height] * 2)
        boxes = (boxes + torch.tensor([right, down] * 2)).clamp(min=0).minimum(limit)
        seen = (boxes[:, 2:] - boxes[:, :2]).prod(1) > 0.4 * (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1)
        boxes, labels = boxes[seen], target["labels"][seen]
        if self.flip and drawn[2] < 0.5:
            image, boxes = image.flip(2), torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        if self.flip and drawn[3] < 0.5:
            image, boxes = image.flip(1), torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
        return (image * (0.8 + 0.4 * drawn[4])).clamp(max=255), {"boxes": boxes, "labels": labels}
