"""Images and boxes, checked sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.errors import RecipeError

OUTSIDE = 1.0
"""Pixels by which a box may lie outside of its picture: rounding. It is cut to the picture."""


class DetectionBatches:
    """Batches of ``(images, targets)`` as the network and its loss take them: images (N, 3, *size), a dict of boxes and labels for each.

    ``source``: batches of images (N, 3, h, w), or of lists of images, with their targets. ``size``: (height, width), which images are
    scaled to, and their boxes with them. ``known``: the labels that a box may have. Iterating raises :class:`RecipeError` for a sample
    that is wrong, by its number in the order that samples come in.
    """

    def __init__(self, source: Iterable[Any], what: str, size: tuple[int, int], known: range | None = None) -> None:
        self.source, self.what, self.size, self.known = source, what, size, known

    def set_epoch(self, epoch: int) -> None:
        """Tell the data, and a sampler of theirs, which pass comes."""
        for owner in (self.source, getattr(self.source, "sampler", None)):
            if callable(function := getattr(owner, "set_epoch", None)):
                function(epoch)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
        seen = 0
        for batch in self.source:
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2 and len(batch[0]) == len(batch[1])):
                raise RecipeError(
                    f"a batch of the {self.what} data is not (images, targets), with a dict of boxes and labels for every image",
                    remedy="Give a DataLoader with collate_fn=lambda rows: tuple(zip(*rows)), say.",
                )
            made = [self._sample(image, target, seen + place) for place, (image, target) in enumerate(zip(*batch, strict=True))]
            seen += len(made)
            yield torch.stack([image for image, _ in made]), [target for _, target in made]

    def _sample(self, image: Any, target: Any, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        name = f"sample {number} of the {self.what} data"
        if not (isinstance(image, Tensor) and image.dim() == 3):
            raise RecipeError(f"{name}: the image is {_said(image)}, not a tensor (channels, height, width)")
        if not isinstance(target, Mapping) or not {"boxes", "labels"} <= set(target):
            raise RecipeError(f"{name}: the target is {_said(target)}, not a dict of boxes and labels")
        height, width = image.shape[-2:]
        boxes, labels = self._checked(target, name, int(height), int(width))
        if (height, width) != self.size:
            image = F.interpolate(image[None], self.size, mode="bilinear", antialias=True)[0]
            boxes = boxes * torch.tensor([self.size[1] / width, self.size[0] / height] * 2)
        return image, {"boxes": boxes, "labels": labels}

    def _checked(self, target: Mapping[str, Any], name: str, height: int, width: int) -> tuple[Tensor, Tensor]:
        boxes, labels = torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])
        if not boxes.numel():  # an image with nothing on it
            boxes = boxes.reshape(0, 4)
        if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise RecipeError(
                f"{name}: boxes are {_said(boxes)} and labels {_said(labels)}",
                remedy="They are (n, 4) and (n,); n is 0 for an empty image.",
            )
        boxes = boxes.float()
        wrong = ~(boxes[:, 2:] > boxes[:, :2]).all(1) | ~boxes.isfinite().all(1)
        limit = torch.tensor([width, height] * 2)
        outside = ((boxes < -OUTSIDE) | (boxes > limit + OUTSIDE)).any(1)
        for bad, why in ((wrong, "is no box x1, y1, x2, y2"), (outside, f"is outside of the picture of {width} x {height}")):
            if bad.any():
                place = int(bad.int().argmax())
                numbers = ", ".join(f"{value:g}" for value in boxes[place].tolist())
                raise RecipeError(f"{name}: box {place} ({numbers}) {why}", remedy="Correct the box, or leave it out.")
        if self.known is not None and len(labels):
            strange = [int(label) for label in labels if int(label) not in self.known]
            if strange:
                raise RecipeError(f"{name}: label {strange[0]} is none of {self.known.start} to {self.known.stop - 1}")
        return boxes.clamp(min=0).minimum(limit), labels.long()


def _said(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
