"""How well scores tell two classes apart, for recipes of rare findings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPECIFICITY = 0.9
"""At which the sensitivity is told."""


def area(scores: Tensor, found: Tensor) -> float:
    """The area under the ROC curve in percent: how often a positive scores higher than a negative; ties count one half.

    ``scores``: (N,); ``found``: (N,), 1 for a positive. Both must occur. Source: Hanley & McNeil, 1982 (the Mann-Whitney statistic).
    """
    positive, negative = scores[found == 1], scores[found == 0].sort().values
    below, upto = torch.searchsorted(negative, positive), torch.searchsorted(negative, positive, right=True)
    return 50.0 * (below + upto).double().mean().item() / len(negative)


def sensitivity(scores: Tensor, found: Tensor, specificity: float = SPECIFICITY) -> float:
    """The share of positives, in percent, above the lowest threshold that at least ``specificity`` of the negatives do not exceed."""
    negative = scores[found == 0].sort().values
    threshold = negative[max(0, math.ceil(specificity * len(negative)) - 1)]
    return 100.0 * (scores[found == 1] > threshold).double().mean().item()


class Screening:
    """Both of them over all batches, by name. ``outputs``: (N, 2) scores of the classes negative and positive; ``targets``: (N,)."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.scores, self.found = list[Tensor](), list[Tensor]()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take one more batch."""
        self.scores.append(outputs[:, 1] - outputs[:, 0])
        self.found.append(targets)

    def compute(self) -> dict[str, float]:
        """ "AUC" and "sensitivity", NaN unless both classes occurred."""
        scores, found = torch.cat(self.scores), torch.cat(self.found)
        if len(found.unique()) < 2:
            return {"AUC": float("nan"), "sensitivity": float("nan")}
        return {"AUC": area(scores, found), "sensitivity": sensitivity(scores, found)}
