"""The rules by which single weights and connections stay: worked examples, with what lies at the limit."""

from __future__ import annotations

import pytest
import torch

from edgeprune.errors import InputError
from edgeprune.importance.unstructured import apply_masks, importance_masks, threshold_masks


def test_weights_below_the_threshold_go_and_one_at_it_stays() -> None:
    weights = {"layer": torch.tensor([[0.05, 0.2, 0.3], [0.1, 0.4, 0.5]])}
    masks = threshold_masks(weights, 0.1)
    apply_masks(weights, masks)
    torch.testing.assert_close(weights["layer"], torch.tensor([[0.0, 0.2, 0.3], [0.1, 0.4, 0.5]]))


def test_a_threshold_is_of_magnitudes() -> None:
    masks = threshold_masks({"layer": torch.tensor([[-0.05, -0.2], [0.05, 0.2]])}, 0.1)
    assert masks["layer"].int().tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("importance", "kept"),
    [
        ([[0.3, 0.6, 0.9], [0.4, 0.7, 0.8]], [[0, 1, 1], [0, 1, 1]]),
        ([[0.2, 0.5, 0.9], [0.3, 0.6, 0.8], [0.4, 0.7, 0.9]], [[0, 0, 1], [0, 1, 1], [0, 1, 1]]),  # 0.5 is not more than 0.5
    ],
    ids=["weights", "connections between layers"],
)
def test_what_is_more_important_than_the_limit_stays(importance: list[list[float]], kept: list[list[int]]) -> None:
    assert importance_masks({"layer": torch.tensor(importance)}, 0.5)["layer"].int().tolist() == kept


def test_the_most_important_stays_where_nothing_exceeds_the_limit() -> None:
    assert importance_masks({"layer": torch.tensor([0.1, 0.4, 0.2])}, 0.5)["layer"].tolist() == [False, True, False]
    with pytest.raises(InputError, match=r"gamma -1 must be zero or more"):
        importance_masks({"layer": torch.tensor([0.1])}, -1)
