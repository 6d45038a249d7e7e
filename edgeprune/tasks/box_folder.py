"""Pictures with boxes around things, as COCO and Pascal VOC lay them out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgeprune.errors import RecipeError
from edgeprune.tasks.folders import HELD_OUT, Data, existing, opened, pictures_in, split


@dataclass
class Picture:
    """A file and its boxes: (x1, y1, x2, y2) in pixels, and the name of what is in each."""

    path: Path
    boxes: list[list[float]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


def box_folder(folder: str | Path, *, first: int = 1, batch_size: int = 8) -> Data:
    """Pictures with boxes.

    Boxes are in a COCO file (``*.json`` with "images", "annotations" and "categories", there or in ``annotations/``), or in an XML file of
    Pascal VOC for every picture, beside it or in ``Annotations/``. Where ``train`` and ``val`` (or ``valid``, ``test``) are folders, the
    latter is scored on; else every fifth picture.

    Batches are a list of pictures (3, height, width), from 0 to 1, and a list of dicts of "boxes" (n, 4) and "labels" (n,), numbered from
    ``first`` in the order of the classes' names: as :func:`edgeprune.tasks.detection` takes them. Crowds are left out. Raises
    :class:`RecipeError` for a folder without boxes, and for a file that is damaged.
    """
    root = existing(folder)
    held_out = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
    if (root / "train").is_dir() and held_out is not None:
        train, validation = _pictures(root / "train"), _pictures(held_out)
    else:
        train, validation = split(_pictures(root), lambda _: 0)
    classes = sorted({name for picture in (*train, *validation) for name in picture.names})
    if not classes:
        raise RecipeError(f"{root} holds pictures, and no boxes", remedy="Give a COCO file, or Pascal VOC's XML for every picture.")
    first_part, second_part = (
        DataLoader(Boxes(pictures, classes, first), batch_size, shuffle=shuffle, collate_fn=together)
        for pictures, shuffle in ((train, True), (validation, False))
    )
    return Data(first_part, second_part, classes, {})


class Boxes(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Pictures (3, height, width) from 0 to 1, and a dict of their boxes and labels."""

    def __init__(self, pictures: list[Picture], classes: Sequence[str], first: int) -> None:
        self.pictures, self.numbers = pictures, {name: number for number, name in enumerate(classes, first)}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        picture = self.pictures[index]
        pixels = torch.from_numpy(opened(picture.path, "RGB").copy()).permute(2, 0, 1).float() / 255
        boxes = torch.tensor(np.asarray(picture.boxes, np.float32).reshape(-1, 4))
        return pixels, {"boxes": boxes, "labels": torch.tensor([self.numbers[name] for name in picture.names], dtype=torch.int64)}


def together(samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch of pictures of any sizes."""
    return [picture for picture, _ in samples], [target for _, target in samples]


def _pictures(folder: Path) -> list[Picture]:
    for path in (*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))):
        content = _json(path)
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content):
            return _coco(path, content, {file.name: file for file in pictures_in(folder)})
    written = {path.stem: path for path in (*folder.glob("*.xml"), *folder.rglob("Annotations/*.xml"), *folder.glob("annotations/*.xml"))}
    if not written:
        raise RecipeError(
            f"{folder} holds neither a COCO file nor XML files of Pascal VOC",
            remedy="Give <name>.json with images, annotations and categories, or <picture>.xml for every picture.",
        )
    return [Picture(path, *_voc(written[path.stem])) for path in pictures_in(folder) if path.stem in written]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is not a COCO file: {error}", remedy="Write it again, or remove it.") from error


def _coco(path: Path, content: dict[str, Any], files: dict[str, Path]) -> list[Picture]:
    """Source: https://cocodataset.org/#format-data; a box is x, y, width, height."""
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        listed = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
        if missing := [name for name in listed.values() if name not in files]:
            raise RecipeError(f"{path} names {missing[0]}, which is not in {path.parent}", remedy="Lay the pictures beside the file.")
        pictures = {number: Picture(files[name]) for number, name in listed.items()}
        for each in content["annotations"]:
            if not each.get("iscrowd"):
                x, y, width, height = map(float, each["bbox"])
                pictures[each["image_id"]].boxes.append([x, y, x + width, y + height])
                pictures[each["image_id"]].names.append(names[each["category_id"]])
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{path} is not a COCO file: {type(error).__name__} {error}", remedy="Write it again.") from error
    return sorted(pictures.values(), key=lambda picture: picture.path.name)


def _voc(path: Path) -> tuple[list[list[float]], list[str]]:
    """Source: the development kit of Pascal VOC 2012; corners are numbered from 1."""
    boxes, names = [], []
    try:
        for each in ElementTree.parse(path).getroot().iter("object"):
            corners = [float(each.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
            boxes.append([max(corners[0] - 1, 0.0), max(corners[1] - 1, 0.0), corners[2], corners[3]])
            names.append(str(each.findtext("name", "")).strip())
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise RecipeError(f"{path} is not an annotation of Pascal VOC: {error}", remedy="Write it again, or remove it.") from error
    return boxes, names
