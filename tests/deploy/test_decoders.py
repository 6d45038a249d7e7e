"""What the example program makes of a detector's and a segmentation's outputs, with NumPy alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectors import KINDS, SIZE, detector, squares

from deploy.consumer import detected, segmented, suppressed
from edgeprune.tasks import detection

pytest.importorskip("torchmetrics", reason="the metric of detectors needs torchmetrics")


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "FasterRCNN"])
def test_boxes_are_those_of_torchvision(kind: str, decode: bool) -> None:
    model, (images, _) = detector(kind), squares(1, 5)
    if kind == "RetinaNet":  # its scores are nearly the same all over, and its boxes the anchors
        for value in model.head.parameters():
            value.data *= 8 if value.dim() > 1 else 1
    task = detection(model, image_size=SIZE, decode=decode)
    with torch.no_grad():
        outputs, (wanted,) = task.model(images), model(list(images))
    found = detected([value.numpy() for value in outputs.values()], task.preprocessing["decoding"])
    assert len(found) == len(wanted["boxes"])
    assert len(found) > 5
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)
    assert np.allclose(scores, wanted["scores"], atol=1e-5)
    sure = [
        place for place in range(1, len(scores) - 1) if min(scores[place - 1] - scores[place], scores[place] - scores[place + 1]) > 1e-5
    ]
    assert len(sure) > 2, "others may change places"
    for place in sure:
        assert found[place]["class"] == int(wanted["labels"][place])
        assert np.allclose(found[place]["box"], wanted["boxes"][place], atol=1e-3)


def test_the_weaker_of_two_boxes_goes() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 4]], float)
    assert suppressed(boxes, np.array([0.5, 0.9, 0.1, 0.2]), 0.5) == [1, 3, 2]
    assert suppressed(boxes[:0], np.array([]), 0.5) == []


def test_every_pixel_has_its_class() -> None:
    scores = np.zeros((1, 3, 4, 5), np.float32)
    scores[0, 2, :2] = 1
    labels, counts = segmented(scores)
    assert labels.shape == (4, 5)
    assert counts == {0: 10, 2: 10}
