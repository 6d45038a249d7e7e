"""Losses of detectors on their networks' outputs: torchvision's own, and how far a student is from its teacher."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.tasks.boxes import Boxes

Targets = list[dict[str, Tensor]]


@dataclass(frozen=True)
class DenseLoss:
    """The loss of a torchvision detector of one stage, by its own matching of boxes and its heads' ``compute_loss``.

    ``detector``: without weights, which no loss needs. ``boxes``: how its network's outputs are read.
    """

    detector: nn.Module
    boxes: Boxes

    def __call__(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        found = {"cls_logits": outputs["logits"], "bbox_regression": numbers_of(self.boxes, outputs)}
        if "centerness" in outputs:
            found["bbox_ctrness"] = outputs["centerness"]
        anchors = self.boxes.decoder.anchors.to(outputs["logits"].device)
        each: Any = [anchors] * len(targets)
        detector: Any = self.detector
        name = kind_of(self.detector)
        if name == "SSD":
            losses = detector.compute_loss(targets, found, each, [self._matched(anchors, one["boxes"]) for one in targets])
        elif name == "FCOS":
            losses = detector.compute_loss(targets, found, each, [level.count for level in self.boxes.levels])
        else:
            losses = detector.compute_loss(targets, found, each)
        return torch.stack(list(losses.values())).sum()

    def _matched(self, anchors: Tensor, boxes: Tensor) -> Tensor:
        from torchvision.ops import box_iou

        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        detector: Any = self.detector
        matched: Tensor = detector.proposal_matcher(box_iou(boxes, anchors))
        return matched


class Regions(nn.Module):
    """What Faster R-CNN does with its regions, on the host: the heads of regions with their weights, which are frozen.

    ``rpn``: the proposal network, whose weights are not used. The loss (``forward``) is that of proposals and of regions, as torchvision
    has it; the heads of regions teach the features that they read.
    """

    def __init__(self, rpn: nn.Module, heads: nn.Module, boxes: Boxes) -> None:
        super().__init__()
        self._rpn, self.boxes = (rpn,), boxes  # in a tuple: it has no weights to be moved
        self.heads = heads.requires_grad_(False)

    def forward(self, outputs: Mapping[str, Tensor], targets: Targets) -> Tensor:
        """The loss of a batch."""
        rpn: Any = self._rpn[0]
        anchors: Any = [self.boxes.decoder.anchors.to(outputs["boxes"].device)] * len(targets)
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        numbers = numbers_of(self.boxes, outputs).flatten(0, 1)
        losses = list(rpn.compute_loss(outputs["logits"].flatten(0, 1), numbers, labels, rpn.box_coder.encode(matched, anchors)))
        losses += self._run(outputs, targets)[1].values()
        return torch.stack(losses).sum()

    def detect(self, outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """The boxes of every image: the task's ``postprocess``."""
        with torch.no_grad():
            found: list[dict[str, Tensor]] = self._run(outputs, None)[0]
        return found

    def _run(self, outputs: Mapping[str, Tensor], targets: Targets | None) -> Any:
        rpn: Any = self._rpn[0].train(targets is not None)
        self.train(targets is not None).to(outputs["boxes"].device)
        sizes = [self.boxes.size] * len(outputs["boxes"])
        counts = [level.count for level in self.boxes.levels]
        proposals, _ = rpn.filter_proposals(outputs["boxes"].detach(), outputs["logits"], sizes, counts)
        features = OrderedDict((name.removeprefix("feature_"), value) for name, value in outputs.items() if name.startswith("feature_"))
        return self.heads(features, proposals, sizes, targets)


@dataclass(frozen=True)
class Detect:
    """The ``postprocess`` of Faster R-CNN."""

    regions: Regions

    def __call__(self, outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        return self.regions.detect(outputs)


@dataclass(frozen=True)
class BoxDistance:
    """How far a detector's outputs are from a teacher's: a task's ``distance``.

    Of classes the divergence of the distributions (softmax), or of every class by itself (sigmoid), of boxes the smooth L1 distance of the
    network's numbers, each weighted by how sure the teacher is that there is something: most anchors say nothing about boxes. Feature maps
    among the outputs are compared by their mean squared error, as a share of the teacher's. Source of the weighting: Wang et al.,
    "Distilling Object Detectors with Fine-grained Feature Imitation", 2019.
    """

    boxes: Boxes

    def __call__(self, outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        sure = self.boxes.rules.scores(wanted).amax(-1)
        count = sure.sum().clamp(min=1.0)
        parts = [self._classes(outputs["logits"], wanted["logits"]) / count]
        numbers, asked = (numbers_of(self.boxes, one) for one in (outputs, wanted))
        parts.append((F.smooth_l1_loss(numbers, asked, reduction="none").sum(-1) * sure).sum() / count)
        if "centerness" in outputs:
            parts.append((_apart(outputs["centerness"], wanted["centerness"]).sum(-1) * sure).sum() / count)
        for name in outputs:
            if name.startswith("feature_"):
                parts.append(F.mse_loss(outputs[name], wanted[name]) / wanted[name].square().mean().clamp(min=1e-12))
        return torch.stack(parts).sum()

    def _classes(self, logits: Tensor, wanted: Tensor) -> Tensor:
        if self.boxes.rules.activation == "softmax":
            return F.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="sum", log_target=True)
        return _apart(logits, wanted).sum()


def numbers_of(boxes: Boxes, outputs: Mapping[str, Tensor]) -> Tensor:
    """The numbers that the network's boxes were decoded from."""
    return boxes.decoder.encode(outputs["boxes"]) if boxes.decoded else outputs["boxes"]


def _apart(logits: Tensor, wanted: Tensor) -> Tensor:
    """The divergence of one-or-nothing distributions given by their logits."""
    share = wanted.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, share, reduction="none") - F.binary_cross_entropy_with_logits(
        wanted, share, reduction="none"
    )


def kind_of(model: nn.Module) -> str:
    """Which of torchvision's detectors a model is: "SSD", "RetinaNet", "FCOS" or "FasterRCNN"; empty for any other."""
    names = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("torchvision.models.detection")]
    return next((name for name in names if name in ("SSD", "RetinaNet", "FCOS", "FasterRCNN")), "")
