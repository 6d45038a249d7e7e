"""Data as they lie in folders: pictures by class, with masks, with boxes; tables of texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.errors import RecipeError
from edgeprune.tasks import box_folder, image_folder, mask_folder, text_table


def picture(path: Path, grey: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


@pytest.mark.parametrize("held_out", ["val", "valid", "test"])
def test_parts_are_used_as_they_are(tmp_path, held_out):
    for part, count in (("train", 3), (held_out, 2)):
        for name, grey in (("cat", 51), ("dog", 204)):
            for number in range(count):
                picture(tmp_path / part / name / f"{number}.jpg", grey)
    data = image_folder(tmp_path, 8, (0.2,) * 3, (0.5,) * 3)
    assert data.classes == ["cat", "dog"]
    inputs, labels = next(iter(data.validation))
    assert labels.tolist() == [0, 0, 1, 1]
    assert torch.allclose(inputs[:, 0, 0, 0], torch.tensor([0.0, 0.0, 1.2, 1.2]), atol=0.02)
    assert next(iter(data.train))[0].shape == (6, 3, 8, 8)
    assert data.preprocessing["mean"] == [0.2] * 3


def test_every_fifth_of_a_class_is_held_out(tmp_path):
    for name in ("a", "b"):
        for number in range(11):
            picture(tmp_path / name / f"{number:02}.png")
    data = image_folder(tmp_path, 8)
    assert [path.name for path, _ in data.validation.dataset.samples] == ["04.png", "09.png"] * 2
    assert len(data.train.dataset) == 18


def test_what_no_pictures_of_classes_are(tmp_path):
    with pytest.raises(RecipeError, match="nowhere is not there"):
        image_folder(tmp_path / "nowhere", 8)
    with pytest.raises(RecipeError, match="holds no folders with pictures"):
        image_folder(tmp_path, 8)
    picture(tmp_path / "a/1.png")
    with pytest.raises(RecipeError, match="holds pictures of 1 class, in a"):
        image_folder(tmp_path, 8)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/broken.png").write_bytes(b"no picture")
    data = image_folder(tmp_path, 8)
    with pytest.raises(RecipeError, match=r"broken\.png is not a picture"):
        list(data.train.dataset) and list(data.validation.dataset)


def test_a_class_that_is_only_scored_on_is_named(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/c/1.png"):
        picture(tmp_path / name)
    with pytest.raises(RecipeError, match="has the class c"):
        image_folder(tmp_path, 8)


@pytest.mark.parametrize("binary", [False, True])
def test_masks_number_classes_or_mark_one(tmp_path, binary):
    for number in range(5):
        picture(tmp_path / f"images/{number}.jpg", 128, (8, 8))
        mask = np.zeros((8, 8), np.uint8)
        mask[:4] = 255 if binary else 2
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    data = mask_folder(tmp_path / "images", tmp_path / "masks", 4)
    assert data.classes == (["background", "class 1"] if binary else ["background", "class 1", "class 2"])
    assert (len(data.train), len(data.validation)) == (4, 1)
    inputs, mask = data.train[0]
    assert inputs.shape == (3, 4, 4)
    assert mask.tolist() == [[1 if binary else 2] * 4] * 2 + [[0] * 4] * 2


def test_a_mask_that_is_missing_or_of_another_size_is_named(tmp_path):
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "masks").mkdir()
    with pytest.raises(RecipeError, match=r"a\.jpg has no mask"):
        mask_folder(tmp_path / "images", tmp_path / "masks", 4)
    picture(tmp_path / "masks/a.png", 1, (5, 5))
    data = mask_folder(tmp_path / "images", tmp_path / "masks", 4)
    with pytest.raises(RecipeError, match=r"sample 0: .*a\.png is 5 x 5, and a\.jpg 20 x 16"):
        data.train[0]


def coco(folder: Path) -> None:
    images = [{"id": 10 + number, "file_name": f"{number}.jpg"} for number in range(5)]
    boxes = [
        {"image_id": 10, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"image_id": 10, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    categories = [{"id": 3, "name": "zebra"}, {"id": 7, "name": "ant"}]
    boxes.append({"image_id": 11, "category_id": 3, "bbox": [0, 0, 2, 2]})
    (folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def voc(folder: Path) -> None:
    for number in range(5):
        named = {0: ("ant", 2, 3, 4, 6), 1: ("zebra", 1, 1, 2, 2)}.get(number)
        text = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
        (folder / f"{number}.xml").write_text(f"<annotation>{text.format(*named) if named else ''}</annotation>")


@pytest.mark.parametrize("written", [coco, voc])
def test_boxes_of_coco_and_of_voc_are_the_same(tmp_path, written):
    for number in range(5):
        picture(tmp_path / f"{number}.jpg", 255)
    written(tmp_path)
    data = box_folder(tmp_path, first=1)
    assert data.classes == ["ant", "zebra"]
    image, target = data.train.dataset[0]
    assert image.shape == (3, 16, 20)
    assert float(image.max()) == 1.0
    assert target["boxes"].tolist() == [[1, 2, 4, 6]]
    assert target["labels"].tolist() == [1]
    assert data.train.dataset[1][1]["labels"].tolist() == [2]
    pictures, targets = next(iter(data.validation))
    assert (len(pictures), targets[0]["boxes"].shape) == (1, (0, 4))


def test_boxes_that_are_not_there_or_damaged(tmp_path):
    picture(tmp_path / "0.jpg")
    with pytest.raises(RecipeError, match="neither a COCO file nor XML files"):
        box_folder(tmp_path)
    (tmp_path / "0.xml").write_text("<annotation><object>")
    with pytest.raises(RecipeError, match=r"0\.xml is not an annotation of Pascal VOC"):
        box_folder(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [], "categories": []}))
    with pytest.raises(RecipeError, match=r"names x\.jpg, which is not in"):
        box_folder(tmp_path)


def test_a_table_of_texts(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f'"say, {number}",{"no" if number % 2 else "yes"}\n' for number in range(10)))
    data = text_table(path)
    assert data.classes == ["no", "yes"]
    assert data.validation == [{"text": "say, 4", "label": 1}, {"text": "say, 9", "label": 0}]
    assert text_table(path, ["yes", "no"]).validation[0]["label"] == 0
    with pytest.raises(RecipeError, match=r"row 2 of .*t\.csv has the label 'yes'"):
        text_table(path, ["no"])
    path.write_text("sentence\nx\n")
    with pytest.raises(RecipeError, match="has the columns sentence"):
        text_table(path)
