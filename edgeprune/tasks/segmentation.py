"""A task of a model that gives every pixel its class, and of pictures with their masks."""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgeprune.errors import RecipeError
from edgeprune.task import Task

IGNORED: Final = 255
"""The class of pixels that do not count, in the masks of Pascal VOC and of torchvision's references."""


def segmentation(
    model: nn.Module,
    train: Any,
    validation: Any = None,
    *,
    batch_size: int = 16,
    metric: Literal["dice", "iou"] = "iou",
    ignore_index: int = IGNORED,
    **settings: Any,
) -> Task:
    """A task of ``model``, which gives scores (N, classes, height, width), alone or as "out" of a dict, as torchvision's do.

    ``train``, ``validation``: data sets that can be indexed, of pairs of a picture (channels, height, width) and its mask
    (height, width) of class numbers. Pixels of class ``ignore_index`` count neither in the loss, cross entropy, nor in the metric: the
    mean over pictures of the Dice coefficient or of the intersection over the union, in percent, see :class:`Overlap`. A pruned model
    learns from the dense one's answers pixel by pixel (``distillation``). Of a dict's outputs only "out" stays: what torchvision's
    auxiliary heads add in training goes. ``settings``: of :class:`edgeprune.Task`.

    Raises :class:`RecipeError` for empty data, and, while the data are read, for a mask of another size than its picture, a picture
    without pixels, or a class that the model does not score, with the sample's index.
    """
    for what, data in (("training", train), ("validation", validation)):
        if data is not None and len(data) == 0:
            raise RecipeError(f"the {what} data of a segmentation have no samples", remedy="Give pairs of a picture and its mask.")
    example = settings.pop("example_inputs", None)
    if example is None:
        example = (torch.zeros_like(_pair(train[0], 0, "training")[0])[None],)
    plain = Scores(model) if _gives_dict(model, example) else model
    with torch.no_grad():
        classes = _classes(plain.eval()(*example))
    loaders = {
        "train": DataLoader(
            _Checked(train, "training", classes, ignore_index), batch_size, shuffle=True, drop_last=len(train) > batch_size
        ),
        "validation": None if validation is None else DataLoader(_Checked(validation, "validation", classes, ignore_index), batch_size),
    }
    overlap = Overlap(metric, ignore_index)
    given: dict[str, Any] = {
        **loaders,
        "loss": nn.CrossEntropyLoss(ignore_index=ignore_index),
        "metric": overlap,
        "metric_name": {"dice": "Dice", "iou": "IoU"}[metric],
        "metric_unit": "%",
    }
    return Task(plain, example, **(given | settings))


class Scores(nn.Module):
    """``model`` that returns what it calls "out" alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores of every pixel, (N, classes, height, width)."""
        scores: Tensor = self.model(pictures)["out"]
        return scores


class Overlap:
    """How well masks cover those that are right, in percent: Dice, 2 |A and B| / (|A| + |B|), or IoU, |A and B| / |A or B|.

    Called with scores (N, classes, height, width) and masks (N, height, width): the mean over classes but the first, the background, that
    are in the right mask or in the answer of a picture, and then over pictures; a picture where neither has any counts fully.
    Source: Dice, "Measures of the amount of ecologic association between species", 1945; Jaccard, 1912.
    """

    def __init__(self, kind: Literal["dice", "iou"] = "iou", ignore_index: int = IGNORED) -> None:
        if kind not in ("dice", "iou"):
            raise RecipeError(f'metric {kind!r} of a segmentation is not "dice" or "iou"')
        self.kind, self.ignore_index = kind, ignore_index

    def __call__(self, scores: Any, masks: Any) -> float:
        if not isinstance(scores, Tensor) or scores.dim() != 4 or masks.shape != (scores.shape[0], *scores.shape[2:]):
            shapes = [tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}" for value in (scores, masks)]
            raise RecipeError(
                f"{self.kind} takes scores (N, classes, height, width) and masks (N, height, width), not {shapes[0]} and {shapes[1]}"
            )
        counted = masks != self.ignore_index
        found = scores.argmax(1)
        values = [self._one(*pair, scores.shape[1]) for pair in zip(found, masks, counted, strict=True)]
        return 100.0 * sum(values) / len(values)

    def _one(self, found: Tensor, mask: Tensor, counted: Tensor, classes: int) -> float:
        found, mask = found[counted], mask[counted]
        right = torch.bincount(mask[found == mask], minlength=classes)[1:].double()
        both = (torch.bincount(found, minlength=classes) + torch.bincount(mask, minlength=classes))[1:].double()
        seen = both > 0
        if not bool(seen.any()):
            return 1.0
        share = 2 * right / both if self.kind == "dice" else right / (both - right)
        return float(share[seen].mean())


class _Checked(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of ``data``, each checked when it is read."""

    def __init__(self, data: Any, what: str, classes: int, ignore_index: int) -> None:
        self.data, self.what, self.classes, self.ignore_index = data, what, classes, ignore_index

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, mask = _pair(self.data[index], index, self.what)
        where = f"sample {index} of the {self.what} data"
        if picture.dim() != 3 or picture.numel() == 0:
            raise RecipeError(f"the picture of {where} is {tuple(picture.shape)}, not (channels, height, width)")
        if mask.shape != picture.shape[1:]:
            raise RecipeError(
                f"the mask of {where} is {_size(mask)} and its picture {_size(picture[0])}",
                remedy="Scale both to one size; masks by nearest neighbours, so that no class is made up.",
            )
        if mask.is_floating_point():
            raise RecipeError(f"the mask of {where} is {mask.dtype}, not of integers", remedy="Give the number of each pixel's class.")
        known = mask[mask != self.ignore_index]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.classes:
            wrong = int(known.min()) if int(known.min()) < 0 else int(known.max())
            raise RecipeError(
                f"the mask of {where} has class {wrong}, and the model scores {self.classes} classes, from 0",
                remedy=f"Pixels that shall not count have the class ignore_index, here {self.ignore_index}.",
            )
        return picture, mask.long()


def _pair(sample: Any, index: int, what: str) -> tuple[Tensor, Tensor]:
    if isinstance(sample, (tuple, list)) and len(sample) == 2 and all(isinstance(part, Tensor) for part in sample):
        return sample[0], sample[1]
    kind = f"a {type(sample).__name__}" + (f" of {len(sample)}" if isinstance(sample, (tuple, list)) else "")
    raise RecipeError(f"sample {index} of the {what} data is {kind}, not a picture and its mask as two tensors")


def _size(image: Tensor) -> str:
    return " x ".join(map(str, image.shape))


def _gives_dict(model: nn.Module, example: tuple[Tensor, ...]) -> bool:
    with torch.no_grad():
        outputs = model.eval()(*example)
    if isinstance(outputs, dict) and "out" not in outputs:
        raise RecipeError(f'the model returns {", ".join(outputs)}, and none of them is "out"', remedy="Return the scores alone.")
    return isinstance(outputs, dict)


def _classes(outputs: Any) -> int:
    if not isinstance(outputs, Tensor) or outputs.dim() != 4:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise RecipeError(f"the model returns {shape}, not scores (N, classes, height, width)", remedy="A single class needs two scores.")
    return outputs.shape[1]
