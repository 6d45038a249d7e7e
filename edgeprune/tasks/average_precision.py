"""Mean average precision, as COCO counts it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from edgeprune.errors import RecipeError

METRICS: Final = {"mAP50": "map_50", "mAP50:95": "map"}
"""Names here, and in torchmetrics: at an IoU of 0.5, and the mean over IoUs from 0.5 to 0.95 (Lin et al., "Microsoft COCO", 2014)."""

EXTRA = 'Install them: pip install "edgeprune[detection]".'


class AveragePrecision:
    """Both of ``METRICS`` in percent, by torchmetrics, over all samples since the last ``reset``.

    ``names``: of classes, by their labels, from ``first`` on: a class that no box of the data has is warned of once. Answers are a dict of
    "boxes" (n, 4), "scores" (n,) and "labels" (n,) for each image, targets the same without scores.
    """

    def __init__(self, names: Mapping[int, str] | None = None, first: int = 0) -> None:
        self.names = {label: name for label, name in (names or {}).items() if label >= first}
        self._warned = False
        self._metric: Any = None
        self.reset()

    def update(self, answers: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        """Take one more batch.  Raises :class:`RecipeError` where the packages are missing, and what torchmetrics raises."""
        if self._metric is None:
            self._metric = _made()
        self._metric.update(answers, targets)
        self.seen |= {int(label) for target in targets for label in target["labels"]}

    def compute(self) -> dict[str, float]:
        """By name; over the classes that the data have.  Raises :class:`RecipeError` where they have none."""
        if not self.seen:
            raise RecipeError("no image of the validation data has a box: there is no average precision", remedy="Give others.")
        never = [name for label, name in self.names.items() if label not in self.seen]
        if never and not self._warned:
            self._warned = True
            warnings.warn(f"no box of the validation data is {' or '.join(never)}: the mean is over the other classes", stacklevel=2)
        found = self._metric.compute()
        return {name: 100 * float(found[key]) for name, key in METRICS.items()}

    def reset(self) -> None:
        """Begin again."""
        self.seen: set[int] = set()
        if self._metric is not None:
            self._metric.reset()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_metric": None, "seen": set()}


def _made() -> Any:
    try:
        from torchmetrics.detection import MeanAveragePrecision

        metric = MeanAveragePrecision(box_format="xyxy", iou_type="bbox")
    except ImportError as error:
        raise RecipeError(f"mean average precision needs torchmetrics and pycocotools: {error}", remedy=EXTRA) from error
    metric.warn_on_many_detections = False
    return metric
