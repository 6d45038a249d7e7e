"""Boxes of a detector: how its network's numbers become boxes and back, and which of them are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

SMALLEST = 1e-2
"""Pixels; a side is not taken to be less where boxes become a network's numbers again."""

CLIP = math.log(1000.0 / 16)
"""The largest logarithm of a side relative to the anchor's, as torchvision has it."""


@dataclass(frozen=True)
class Level:
    """Anchors of one feature map: ``cells`` (x1, y1, x2, y2 in pixels) at its first place, repeated every ``step`` (y, x) pixels over a
    ``grid`` of (rows, columns)."""

    grid: tuple[int, int]
    step: tuple[float, float]
    cells: tuple[tuple[float, ...], ...]

    @property
    def count(self) -> int:
        """How many anchors there are."""
        return self.grid[0] * self.grid[1] * len(self.cells)

    def anchors(self) -> Tensor:
        """All of them: (rows x columns x cells, 4), row by row."""
        rows, columns = (torch.arange(size) * step for size, step in zip(self.grid, self.step, strict=True))
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        return (shifts + torch.tensor(self.cells)[None]).reshape(-1, 4)

    @classmethod
    def of(cls, anchors: Tensor, grid: tuple[int, int]) -> Level:
        """Of the anchors of one feature map, (rows x columns x cells, 4)."""
        placed = anchors.reshape(*grid, -1, 4)
        right = float(placed[0, -1, 0, 0] - placed[0, 0, 0, 0]) / (grid[1] - 1) if grid[1] > 1 else 0.0
        down = float(placed[-1, 0, 0, 1] - placed[0, 0, 0, 1]) / (grid[0] - 1) if grid[0] > 1 else 0.0
        return cls(grid, (down, right), tuple(tuple(cell) for cell in placed[0, 0].tolist()))


class Decoder(nn.Module):
    """What a network's numbers say about boxes.

    ``anchors``: (A, 4) corners in pixels. ``form``: "centres" (shifts of the anchor's centre and logarithms of its sides, over
    ``weights``: Girshick et al., "Rich feature hierarchies", 2014, appendix C) or "distances" (to the four sides, in anchors: Tian et al.,
    "FCOS", 2019).
    """

    def __init__(
        self, anchors: Tensor, form: Literal["centres", "distances"] = "centres", weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)
    ) -> None:
        super().__init__()
        self.form, self.weights = form, tuple(weights)
        self.register_buffer("anchors", anchors.clone())
        self.register_buffer("centres", ((anchors[:, :2] + anchors[:, 2:]) / 2)[None])
        self.register_buffer("sizes", (anchors[:, 2:] - anchors[:, :2])[None])
        self.register_buffer("scales", torch.tensor([self.weights]))
        self.anchors: Tensor
        self.centres: Tensor
        self.sizes: Tensor
        self.scales: Tensor

    def forward(self, numbers: Tensor) -> Tensor:
        """Corners x1, y1, x2, y2 in pixels, (N, A, 4), of ``numbers`` (N, A, 4)."""
        first, second = numbers[..., :2], numbers[..., 2:]
        if self.form == "distances":
            return torch.cat([self.centres - first * self.sizes, self.centres + second * self.sizes], -1)
        centres = first / self.scales[:, :2] * self.sizes + self.centres
        half = torch.exp(torch.clamp(second / self.scales[:, 2:], max=CLIP)) * self.sizes * 0.5
        return torch.cat([centres - half, centres + half], -1)

    def encode(self, boxes: Tensor) -> Tensor:
        """The numbers that decode to ``boxes``, (N, A, 4)."""
        centres, sizes, scales = (value.to(boxes.device) for value in (self.centres, self.sizes, self.scales))
        first, second = boxes[..., :2], boxes[..., 2:]
        if self.form == "distances":
            return torch.cat([(centres - first) / sizes, (second - centres) / sizes], -1)
        moved = ((first + second) / 2 - centres) / sizes * scales[:, :2]
        return torch.cat([moved, torch.log((second - first).clamp(min=SMALLEST) / sizes) * scales[:, 2:]], -1)


@dataclass(frozen=True)
class Rules:
    """Which boxes are kept.

    ``activation``: what makes scores of logits: "softmax" over classes, of which the first is the background, or "sigmoid". ``score``: the
    least that counts. ``overlap``: the IoU above which the weaker of two boxes of a class goes. ``candidates``: boxes that go into this,
    of each ``per`` class or level. ``most``: boxes of an image in the end.
    """

    activation: Literal["softmax", "sigmoid"] = "sigmoid"
    score: float = 0.05
    overlap: float = 0.5
    candidates: int = 400
    most: int = 100
    per: Literal["class", "level"] = "class"

    def scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The classes' scores, (N, A, classes), without the background; of FCOS the geometric mean with the centerness."""
        logits = outputs["logits"]
        if self.activation == "softmax":
            return logits.softmax(-1)[..., 1:]
        scores = logits.sigmoid()
        return (scores * outputs["centerness"].sigmoid()).sqrt() if "centerness" in outputs else scores


def kept(boxes: Tensor, scores: Tensor, rules: Rules, size: tuple[int, int], levels: Sequence[int] = ()) -> dict[str, Tensor]:
    """The boxes of one image that ``rules`` keep, best first: ``boxes`` (n, 4), ``scores`` and ``labels`` (n,) from 0 on.

    ``boxes``: (A, 4) in pixels of an image of ``size`` (height, width); ``scores``: (A, classes). ``levels``: anchors of each level.
    """
    from torchvision.ops import batched_nms, clip_boxes_to_image

    places, labels = _candidates(scores, rules, levels)
    values, chosen = scores[places, labels], clip_boxes_to_image(boxes[places], list(size))  # type: ignore[arg-type]
    best = batched_nms(chosen, values, labels, rules.overlap)[: rules.most]
    return {"boxes": chosen[best], "scores": values[best], "labels": labels[best]}


def _candidates(scores: Tensor, rules: Rules, levels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The places and classes of what is scored well enough, the best of each class or level."""
    if rules.per == "class":
        parts = [(0, label, scores[:, label : label + 1]) for label in range(scores.shape[1])]
    else:
        counts = list(levels) or [len(scores)]
        starts = [sum(counts[:place]) for place in range(len(counts))]
        parts = [(start, 0, scores[start : start + count]) for start, count in zip(starts, counts, strict=True)]
    places, labels = [], []
    for start, first, part in parts:
        row, column = torch.where(part > rules.score)
        best = part[row, column].topk(min(len(row), rules.candidates)).indices
        places.append(row[best] + start)
        labels.append(column[best] + first)
    return torch.cat(places), torch.cat(labels)


@dataclass(frozen=True)
class Boxes:
    """The box filtering of a detector with anchors, outside of its network: a task's ``postprocess``.

    ``decoder``: of what the network gives as "boxes" unless these are ``decoded``. ``first``: the label of the first class in the answers.
    Returns a dict of ``boxes`` (n, 4), ``scores`` and ``labels`` (n,) for each image.
    """

    decoder: Decoder
    decoded: bool
    rules: Rules
    size: tuple[int, int]
    levels: tuple[Level, ...]
    first: int = 0

    def __call__(self, outputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        boxes = outputs["boxes"].float()
        if not self.decoded:
            boxes = self.decoder.to(boxes.device)(boxes)
        scores, counts = self.rules.scores(outputs).float(), [level.count for level in self.levels]
        found = [kept(*image, self.rules, self.size, counts) for image in zip(boxes, scores, strict=True)]
        return [one | {"labels": one["labels"] + self.first} for one in found]

    def described(self) -> dict[str, Any]:
        """For the metadata of exported files: all that decoding and filtering need."""
        found: dict[str, Any] = {
            "kind": "detection",
            "outputs": ["boxes", "logits", *(["centerness"] if self.decoder.form == "distances" else [])],
            "boxes": "x1, y1, x2, y2 in pixels" if self.decoded else "encoded",
            "image_size": list(self.size),
            **asdict(self.rules),
            "first_label": self.first,
            "strides": [list(level.step) for level in self.levels],
            "level_sizes": [level.count for level in self.levels],
        }
        if not self.decoded:
            found["coder"] = {"form": self.decoder.form, "weights": list(self.decoder.weights), "clip": CLIP}
            found["anchors"] = [asdict(level) for level in self.levels]
        return found
