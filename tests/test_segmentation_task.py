"""Tasks of models that mark every pixel: torchvision's, which return a dict, and others; what their data may not be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgeprune import analyze
from edgeprune.errors import RecipeError
from edgeprune.importance import score as saliency_of
from edgeprune.surgery import apply, plan_from_saliency
from edgeprune.tasks import segmentation
from edgeprune.tasks.segmentation import Overlap
from edgeprune.tuning import finetune, score, score_with_error

SIDE = 16


class Marks(nn.Module):
    """Scores of two classes, in a dict as torchvision's models give them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 2, 1))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        scores = self.layers(pictures)
        return {"out": scores, "aux": scores.mean()}


def samples(count: int = 24, seed: int = 0) -> TensorDataset:
    """Bright squares on noise, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    pictures, masks = 0.3 * torch.randn(count, 3, SIDE, SIDE, generator=generator), torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for at in range(count):
        row, column = torch.randint(0, SIDE - 6, (2,), generator=generator).tolist()
        masks[at, row : row + 6, column : column + 6] = 1
    return TensorDataset(pictures + masks[:, None], masks)


def test_overlaps_are_those_of_their_formulas() -> None:
    right = torch.tensor([[[1, 1], [0, 0]]])
    scores = torch.tensor([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])[None]  # the left column is class 1
    assert Overlap("dice")(scores, right) == pytest.approx(50.0)
    assert Overlap("iou")(scores, right) == pytest.approx(100 / 3)
    ignored = torch.tensor([[[1, 255], [255, 0]]])
    assert Overlap("iou")(scores, torch.tensor([[[1, 255], [255, 0]]])) == 100.0
    assert Overlap("dice")(scores, ignored) == 100.0
    nothing = torch.stack([torch.ones(1, 2, 2), torch.zeros(1, 2, 2)], 1)
    assert Overlap("dice")(nothing, torch.zeros(1, 2, 2, dtype=torch.long)) == 100.0
    with pytest.raises(RecipeError, match=r"iou takes scores .* not \(1, 2, 2, 2\) and \(1, 3, 3\)"):
        Overlap("iou")(scores, torch.zeros(1, 3, 3))


def test_a_model_with_a_dict_of_outputs_is_pruned_and_learns_from_the_dense_one_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    task = segmentation(Marks(), samples(), samples(12, 1), metric="dice", batch_size=8, epochs=6, learning_rate=0.1)
    finetune(task.model, task)
    dense = score_with_error(task.model, task)
    assert dense.value > 60
    assert dense.how == "of the mean, 12 samples"
    analysis = analyze(task.model, task.example_inputs)
    halves = {group.name: group.size // 2 for group in analysis.groups}
    pruned = apply(task.model, analysis, plan_from_saliency(analysis, saliency_of(task, analysis, "taylor"), halves)).model
    assert sum(value.numel() for value in pruned.parameters()) < 0.6 * sum(value.numel() for value in task.model.parameters())
    finetune(pruned, task, teacher=task.model)
    assert score(pruned, task) > dense.value - 10


Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Changed(TensorDataset):
    """``samples()``, the fourth of them ``change``d."""

    change: Change

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        picture, mask = super().__getitem__(index)
        return self.change(picture, mask) if index == 3 else (picture, mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda picture, mask: (picture, mask[:12]), r"the mask of sample 3 of the validation data is 12 x 16 and its picture 16 x 16"),
        (lambda picture, mask: (picture, mask + 7), r"sample 3 of the validation data has class 8, and the model scores 2 classes"),
        (lambda picture, mask: (picture, mask - 1), r"sample 3 of the validation data has class -1"),
        (lambda picture, mask: (picture[:, :0], mask[:0]), r"the picture of sample 3 of the validation data is \(3, 0, 16\)"),
        (lambda picture, mask: (picture, mask.float()), r"the mask of sample 3 of the validation data is torch.float32"),
        (lambda picture, mask: (picture,), r"sample 3 of the validation data is a tuple of 1, not a picture and its mask"),
    ],
    ids=["other size", "unknown class", "negative class", "no pixels", "real numbers", "no mask"],
)
def test_bad_samples_are_named(change: Change, message: str) -> None:
    bad = Changed(*samples(6).tensors)
    bad.change = change
    task = segmentation(Marks(), samples(), bad)
    with pytest.raises(RecipeError, match=message):
        score(task.model, task)


def test_bad_models_and_empty_data_are_refused() -> None:
    with pytest.raises(RecipeError, match="the training data of a segmentation have no samples"):
        segmentation(Marks(), [])
    with pytest.raises(RecipeError, match=r"the model returns \(1, 2\), not scores"):
        segmentation(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2)), samples())
