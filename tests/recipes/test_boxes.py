"""Recipes of detection, on stand-ins for their photos, in both layouts."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.errors import RecipeError
from edgeprune.task import load_recipe
from edgeprune.tuning import score

RECIPES = Path(__file__).parents[2] / "recipes"
SPLITS = ("train",) * 8 + ("val",) * 2 + ("test",) * 4
needs_data = pytest.mark.skipif("EDGEPRUNE_DATA" not in os.environ, reason="EDGEPRUNE_DATA names no data folder")
Load = Callable[[str], ModuleType]


def jpeg(seed: int, width: int, height: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def packed(folder: Path, classes: int, width: int, height: int) -> None:
    """Every photo has a box of each class, but the last, which has none."""
    folder.mkdir(parents=True)
    images = {}
    with tarfile.open(folder / "images.tar", "w") as files:
        for number, split in enumerate(SPLITS):
            boxes = [[kind, 10 + 5 * kind, 20, 60 + 5 * kind, 80] for kind in range(classes)] if number + 1 < len(SPLITS) else []
            images[f"photo_{number}"] = {"split": split, "boxes": boxes}
            content = jpeg(number, width, height)
            about = tarfile.TarInfo(f"photo_{number}.jpg")
            about.size = len(content)
            files.addfile(about, io.BytesIO(content))
    (folder / "boxes.json").write_text(json.dumps({"images": images}))


def voc(folder: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"ImageSets/Main/{split}.txt").write_text(f"{split}_0\n{split}_1\n")
        for number in range(2):
            (folder / f"JPEGImages/{split}_{number}.jpg").write_bytes(jpeg(number, 640, 480))
            sides = (f"<xmin>{80 if number else 40}</xmin><ymin>40</ymin><xmax>80</xmax><ymax>120</ymax>",)
            objects = "".join(f"<object><name>WBC</name><bndbox>{box}</bndbox></object>" for box in sides)
            (folder / f"Annotations/{split}_{number}.xml").write_text(f"<annotation>{objects}</annotation>")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Load]:
    """Import a recipe's module by name; its data are in ``tmp_path``."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    yield __import__
    for path in RECIPES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(("name", "classes", "width", "height"), [("bccd", 3, 320, 240), ("cards", 6, 240, 320)])
def test_boxes_and_photos_are_scaled_and_trained_on(recipe: Load, tmp_path: Path, name: str, classes: int, width: int, height: int) -> None:
    packed(tmp_path / name, classes, width, height)
    module = recipe(name)
    network = module.network()
    task = module.make_task(network)
    assert {id(value) for value in task.model.parameters()} == {id(value) for value in network.parameters()}
    (batch,) = task.batches("train")
    assert batch.args[0].shape == (8, 3, *module.SIZE)
    task.loss(batch.call(network.train()), batch.targets).backward()
    assert all(value.grad is not None for value in network.parameters())
    held = [target for batch in task.batches("validation") for target in batch.targets]
    assert [len(target["boxes"]) for target in held] == [classes] * 3 + [0]
    assert held[0]["boxes"][0].tolist() == [5, 10, 30, 40]
    assert score(network, task) >= 0


def test_a_voc_folder_is_read_too(recipe: Load, tmp_path: Path) -> None:
    voc(tmp_path / "BCCD_Dataset/BCCD")
    module = recipe("bccd")
    task = module.make_task(module.network())
    (batch,) = task.batches("validation")
    assert [target["boxes"].tolist() for target in batch.targets] == [[[10, 10, 20, 30]], []], "a box without an extent is left out"
    assert batch.targets[0]["labels"].tolist() == [1]


@pytest.mark.parametrize(("name", "lacks"), [("bccd", "bccd/boxes.json"), ("cards", "cards/boxes.json"), ("fastestdet", "fastestdet_coco")])
def test_missing_photos_are_named(name: str, lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RecipeError, match=f"{lacks}.* does not exist") as caught:
        load_recipe(RECIPES / f"{name}.py")
    assert "EDGEPRUNE_DATA" in caught.value.remedy


def test_fastestdet_gives_boxes_of_every_place(recipe: Load) -> None:
    module = recipe("_fastestdet")
    network = module.FastestDet().eval()
    with torch.no_grad():
        outputs = network(torch.rand(1, 3, 352, 352))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "objects": (1, 484, 1),
        "boxes": (1, 484, 4),
        "logits": (1, 484, 80),
    }
    assert len(module.COCO) == 80
    assert (outputs["boxes"][..., 2:] > outputs["boxes"][..., :2]).all()


@needs_data
def test_fastestdet_tells_apples_from_others_as_published() -> None:
    task = load_recipe(RECIPES / "fastestdet.py")
    assert score(task.model, task) == pytest.approx(96.2, abs=0.1)
