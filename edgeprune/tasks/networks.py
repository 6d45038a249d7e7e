"""The part of a torchvision detector that is one static graph: what runs on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.tasks.boxes import Decoder


class Normalised(nn.Module):
    """Images of 0 to 1, (N, 3, H, W), less the detector's means, over its deviations."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.mean: Tensor
        self.std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """The same, normalised."""
        return (images - self.mean) / self.std


class DenseNetwork(nn.Module):
    """Normalisation, backbone, neck, heads and decoded boxes of a single-stage detector (SSD, RetinaNet, FCOS).

    Images of 0 to 1, (N, 3, H, W), in; "boxes" (N, A, 4) (see :class:`Decoder`; ``decode=False``: its numbers), "logits" (N, A, classes)
    and, of FCOS, "centerness" (N, A, 1) out. The modules are the detector's own.
    """

    def __init__(self, detector: nn.Module, decoder: Decoder, decode: bool = True) -> None:
        super().__init__()
        parts: Any = detector
        self.normalised = Normalised(parts.transform.image_mean, parts.transform.image_std)
        self.backbone: nn.Module = parts.backbone
        self.head: nn.Module = parts.head
        self.decoder = decoder if decode else None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See above."""
        found = self.head(features_of(self.backbone(self.normalised(images))))
        numbers = found["bbox_regression"]
        outputs = {"boxes": numbers if self.decoder is None else self.decoder(numbers), "logits": found["cls_logits"]}
        if "bbox_ctrness" in found:
            outputs["centerness"] = found["bbox_ctrness"]
        return outputs


class RegionNetwork(nn.Module):
    """Normalisation, backbone, feature pyramid and region proposals of Faster R-CNN.

    Images of 0 to 1, (N, 3, H, W), in; proposals as "boxes" (N, A, 4), their "logits" (N, A, 1) and the feature maps "feature_<name>" out.
    Which proposals are looked at depends on the data: the heads that do it are no part of a static graph.
    """

    def __init__(self, detector: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        parts: Any = detector
        self.normalised = Normalised(parts.transform.image_mean, parts.transform.image_std)
        self.backbone: nn.Module = parts.backbone
        self.head: nn.Module = parts.rpn.head
        self.decoder = decoder
        self.wanted = tuple(parts.roi_heads.box_roi_pool.featmap_names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """See above."""
        maps = self.backbone(self.normalised(images))
        maps = maps if isinstance(maps, Mapping) else {"0": maps}
        logits, numbers = self.head(list(maps.values()))
        outputs = {"boxes": self.decoder(by_place(numbers, 4)), "logits": by_place(logits, 1)}
        return outputs | {f"feature_{name}": value for name, value in maps.items() if name in self.wanted}


def features_of(found: Any) -> list[Tensor]:
    """A backbone's feature maps, largest first."""
    return list(found.values()) if isinstance(found, Mapping) else [found]


def by_place(maps: Sequence[Tensor], numbers: int) -> Tensor:
    """Maps (N, anchors x numbers, rows, columns) as one (N, A, numbers), place by place."""
    parts = [torch.unflatten(value, 1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3) for value in maps]
    return torch.cat(parts, 1)
