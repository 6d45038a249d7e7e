"""A task of a detector: the network that runs on the device, and what is done with its boxes afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import RecipeError
from edgeprune.graph.twin import hollow
from edgeprune.task import Task
from edgeprune.tasks.average_precision import METRICS, AveragePrecision
from edgeprune.tasks.boxes import Boxes, Decoder, Level, Rules
from edgeprune.tasks.detection_data import DetectionBatches
from edgeprune.tasks.detection_losses import BoxDistance, DenseLoss, Detect, Regions, kind_of
from edgeprune.tasks.networks import DenseNetwork, RegionNetwork, features_of

BACKGROUND = "background"


def detection(
    model: nn.Module,
    *,
    train: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    labels: Sequence[str] = (),
    image_size: int | tuple[int, int] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    postprocess: Callable[[Any], Any] | None = None,
    metric_name: str = "mAP50",
    decode: bool = True,
    **settings: Any,
) -> Task:
    """A task of a detector, pruned as one graph and scored by its mean average precision in percent.

    ``model``: torchvision's SSD, SSDlite, RetinaNet, FCOS or Faster R-CNN, taken apart by itself; or any network of one stage, with its
    ``loss(outputs, targets)`` and its ``postprocess(outputs)``, which returns a dict of "boxes" (n, 4), "scores" (n,) and "labels" (n,) for
    every image. ``train``, ``test``: batches ``(images, targets)``: a tensor (N, 3, H, W) of 0 to 1, or a list of images (3, h, w) of any
    size, which are scaled to ``image_size`` (height, width; one number for a square); and for every image a dict of "boxes" (n, 4), corners
    x1, y1, x2, y2 in pixels, and "labels" (n,); n may be 0. ``labels``: the classes' names, as the model numbers them; the background of
    a torchvision model may be left out. ``metric_name``: "mAP50" or "mAP50:95". ``decode=False``: the network gives the numbers that boxes
    are computed from, which int8 represents better. ``settings``: of :class:`edgeprune.Task`.

    Of Faster R-CNN the backbone, the feature pyramid and the proposals are one static graph, which is pruned. Which regions its heads look
    at depends on the data: they stay as they are, on the host, in ``postprocess``. Raises :class:`RecipeError` for data that no detector
    takes, naming the sample, and for a model that needs more to be given.
    """
    if metric_name not in METRICS:
        raise RecipeError(f"metric_name of a detector is {metric_name!r}", remedy=f"It is one of {', '.join(METRICS)}.")
    kind = kind_of(model)
    size = _size(model, image_size, settings.get("example_inputs"))
    given: dict[str, Any]
    if kind and postprocess is None:
        given, first = _of_torchvision(model, kind, size, decode)
        count = _classes(model, kind)
        names = _with_background(labels, count) if first else list(labels)
        if names and len(names) != count:
            raise RecipeError(f"{len(labels)} labels are given, and the model tells {count - first} classes apart")
    elif loss is None or postprocess is None:
        missing = " and ".join(name for name, value in (("loss", loss), ("postprocess", postprocess)) if value is None)
        raise RecipeError(
            f"{type(model).__name__} is no detector that can be taken apart, and {missing} is not given",
            remedy="Give detection(..., loss=..., postprocess=...), or SSD, RetinaNet, FCOS or Faster R-CNN of torchvision.",
        )
    else:
        given, names, first, count = {"model": model, "postprocess": postprocess}, list(labels), 0, len(labels)
    if loss is not None:
        given["loss"] = loss
    known = range(first, count) if count else None
    given |= {
        "example_inputs": (torch.zeros(1, 3, *size),),
        "train": None if train is None else DetectionBatches(train, "training", size, known),
        "validation": None if test is None else DetectionBatches(test, "validation", size, known),
        "metric": AveragePrecision(dict(enumerate(names)), first),
        "metric_name": metric_name,
        "metric_unit": "%",
        "labels": names,
    }
    image = {"input": f"RGB image of {size[1]} x {size[0]} pixels, 0 to 255", "scale": 255}
    given["preprocessing"] = image | given.pop("decoding", {}) | settings.pop("preprocessing", {})
    return Task(**(given | settings))


def _of_torchvision(detector: nn.Module, kind: str, size: tuple[int, int], decode: bool) -> tuple[dict[str, Any], int]:
    """The network, loss, distance and postprocess of a detector, and the label of its first class."""
    parts: Any = detector
    levels, anchors = _levels(parts, parts.rpn.anchor_generator if kind == "FasterRCNN" else parts.anchor_generator, size)
    if kind == "FasterRCNN":
        boxes = Boxes(Decoder(anchors), True, Rules(score=0.0), size, levels, first=1)
        regions = Regions(hollow(parts.rpn), parts.roi_heads, boxes)
        network: nn.Module = RegionNetwork(detector, boxes.decoder)
        made: dict[str, Any] = {
            "loss": regions,
            "postprocess": Detect(regions),
            "decoding": {"decoding": boxes.described() | {"kind": "proposals"}},
        }
    else:
        form: Any = "distances" if kind == "FCOS" else "centres"
        decoder = Decoder(anchors, form, (1.0,) * 4 if kind == "FCOS" else parts.box_coder.weights)
        boxes = Boxes(decoder, decode, _rules(parts, kind), size, levels, first=int(kind == "SSD"))
        network = DenseNetwork(detector, decoder, decode)
        made = {"loss": DenseLoss(_without_weights(detector), boxes), "postprocess": boxes, "decoding": {"decoding": boxes.described()}}
    return {"model": network.train(detector.training), "distance": BoxDistance(boxes), **made}, boxes.first


def _without_weights(detector: nn.Module) -> nn.Module:
    """What computes losses: no weights are used."""
    empty = hollow(detector)
    empty.backbone = nn.Identity()
    return empty


def _rules(parts: Any, kind: str) -> Rules:
    per: Any = "class" if kind == "SSD" else "level"
    activation: Any = "softmax" if kind == "SSD" else "sigmoid"
    return Rules(activation, parts.score_thresh, parts.nms_thresh, parts.topk_candidates, parts.detections_per_img, per)


def _levels(parts: Any, generator: Any, size: tuple[int, int]) -> tuple[tuple[Level, ...], Tensor]:
    """The anchors of every feature map, as the detector's own generator makes them for an image of ``size``."""
    from torchvision.models.detection.image_list import ImageList

    image, training = torch.zeros(1, 3, *size), parts.training
    with torch.no_grad():
        maps = features_of(parts.backbone.eval()(image))
        parts.backbone.train(training)
        anchors = generator(ImageList(image, [size]), maps)[0].float()
    grids = [(int(value.shape[-2]), int(value.shape[-1])) for value in maps]
    cells = generator.num_anchors_per_location()
    counts = [rows * columns * cell for (rows, columns), cell in zip(grids, cells, strict=True)]
    levels = [Level.of(part, grid) for part, grid in zip(anchors.split(counts), grids, strict=True)]
    return tuple(levels), anchors


def _classes(model: nn.Module, kind: str) -> int:
    """How many classes the logits have, with the background where that is one."""
    parts: Any = model
    if kind == "FasterRCNN":
        return int(parts.roi_heads.box_predictor.cls_score.out_features)
    head = parts.head.classification_head
    return int(head.num_columns if kind == "SSD" else head.num_classes)


def _with_background(labels: Sequence[str], count: int) -> list[str]:
    return [BACKGROUND, *labels] if labels and len(labels) == count - 1 else list(labels)


def _size(model: nn.Module, asked: int | tuple[int, int] | None, example: Any) -> tuple[int, int]:
    """Height and width of the images: as asked for, of the example inputs, or those that the model scales images to."""
    if asked is not None:
        return (asked, asked) if isinstance(asked, int) else (int(asked[0]), int(asked[1]))
    if isinstance(example, (tuple, list)):
        return int(example[0].shape[-2]), int(example[0].shape[-1])
    fixed = getattr(getattr(model, "transform", None), "fixed_size", None)  # width, height
    if fixed is None:
        raise RecipeError("a device's images have one size, and none is given", remedy="detection(..., image_size=(height, width)).")
    return int(fixed[1]), int(fixed[0])
