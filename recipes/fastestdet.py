"""FastestDet, trained on COCO, as fast as a robot's camera needs it: ``edgeprune prune recipes/fastestdet.py ... --latency 33ms``.

The data folder holds ``weights/fastestdet_coco_352.pth``, and ``grocery/coco_classes_176.{tar,json}``: photos of fruit whose kind is a
class of COCO, and their kind (Apple, Orange, Banana, Carrots). They have no boxes: every second one is scored by whether the strongest of
the four classes anywhere is the right one. The others train, by the dense model's answers alone. Source of the network:
dog-qiuqiu/FastestDet; its parts are in ``_fastestdet.py``.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from _data import Batches, data_folder, no_file
from _fastestdet import COCO, SIDE, STRIDE, FastestDet, scores
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from edgeprune.task import Task

WEIGHTS = "fastestdet_coco_352.pth"
FRUIT = ("Apple", "Orange", "Banana", "Carrots")
PLACES = [COCO.index(name.lower().rstrip("s")) for name in FRUIT]


def photos() -> tuple[Tensor, Tensor]:
    """All photos, uint8 (N, 3, 176, 176) in the order blue, green, red, and their kinds (N,)."""
    folder = data_folder("grocery") / "grocery"
    for name in ("coco_classes_176.json", "coco_classes_176.tar"):
        if not (folder / name).is_file():
            raise no_file(folder / name)
    kinds = json.loads((folder / "coco_classes_176.json").read_text())
    with tarfile.open(folder / "coco_classes_176.tar") as files:
        pixels = [np.asarray(Image.open(files.extractfile(f"{name}.jpg")).convert("RGB"))[..., ::-1] for name in kinds]  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), torch.tensor([FRUIT.index(kind) for kind in kinds.values()])


class Photos(Batches):
    """Batches of photos of 352 x 352, 0 to 1; in training moved, mirrored, and brighter or darker."""

    def made(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        images = F.interpolate(inputs / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
        if not self.shuffle:
            return images
        down, right = torch.randint(-48, 49, (2,), generator=generator).tolist()
        images = images.roll((down, right), (2, 3)) * (0.7 + 0.6 * torch.rand(len(images), 1, 1, 1, generator=generator))
        return (images.flip(3) if torch.rand((), generator=generator) < 0.5 else images).clamp(max=1)


def strongest(outputs: Mapping[str, Tensor]) -> Tensor:
    """The score of each of the four kinds where it is greatest, (N, 4)."""
    return scores(outputs)[..., PLACES].amax(1)


def loss(outputs: Mapping[str, Tensor], kinds: Tensor) -> Tensor:
    """Of the kind alone; with ``distillation=1`` it does not count."""
    return F.nll_loss(strongest(outputs).clamp(min=1e-6).log(), kinds)


def distance(outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
    """From the dense model's answers: of objects everywhere; of classes and boxes (in steps of the grid) where it sees an object."""
    sure = wanted["objects"].sigmoid()
    objects = F.binary_cross_entropy_with_logits(outputs["objects"], sure) - F.binary_cross_entropy_with_logits(wanted["objects"], sure)
    classes = F.kl_div(outputs["logits"].log_softmax(-1), wanted["logits"].log_softmax(-1), reduction="none", log_target=True)
    boxes = F.smooth_l1_loss(outputs["boxes"] / STRIDE, wanted["boxes"] / STRIDE, reduction="none")
    seen = ((classes.sum(-1, keepdim=True) + boxes.sum(-1, keepdim=True)) * sure).sum() / sure.sum().clamp(min=1.0)
    return objects * len(COCO) + seen


def task() -> Task:
    model = FastestDet()
    path = data_folder("fastestdet") / "weights" / WEIGHTS
    if not path.is_file():
        raise no_file(path)
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    images, kinds = photos()
    train, test = Photos(images[1::2], kinds[1::2], 8, shuffle=True), Photos(images[::2], kinds[::2], 11)
    decoding: dict[str, Any] = {
        "kind": "detection",
        "outputs": ["objects", "boxes", "logits"],
        "boxes": "x1, y1, x2, y2 in pixels",
        "image_size": [SIDE, SIDE],
    }
    decoding |= {"strides": [[STRIDE, STRIDE]], "activation": "fastestdet", "score": 0.65, "overlap": 0.45, "most": 100, "first_label": 0}
    about = {"input": "BGR image of 352 x 352 pixels, 0 to 255", "scale": 255, "decoding": decoding}
    ways: dict[str, Any] = {"loss": loss, "distance": distance, "postprocess": strongest, "labels": COCO, "preprocessing": about}
    return Task(model.eval(), (torch.zeros(1, 3, SIDE, SIDE),), train, test, **ways, epochs=4, learning_rate=0.001, distillation=1.0)
