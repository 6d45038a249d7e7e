"""The recipes that ship: what they load, what their batches hold, what they say when data is missing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from edgeprune.errors import RecipeError
from edgeprune.task import load_recipe
from edgeprune.tuning import score

RECIPES = Path(__file__).parents[2] / "recipes"
needs_data = pytest.mark.skipif("EDGEPRUNE_DATA" not in os.environ, reason="EDGEPRUNE_DATA names no data folder")


@pytest.fixture(scope="module")
def data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipes_data_under_test", RECIPES / "_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def numbered(count: int, side: int = 6) -> torch.Tensor:
    """Images whose every pixel is its own number: (count, side, side, 1)."""
    return torch.arange(count * side * side).view(count, side, side, 1).to(torch.uint8)


# --- batches ---------------------------------------------------------------------------------------------------------


def test_plain_batches_are_normalised_in_order_and_complete(data: ModuleType) -> None:
    images = torch.randint(0, 256, (5, 4, 4, 3), dtype=torch.uint8)
    batches = list(data.ImageBatches(images, torch.arange(5), 2, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)))
    assert [len(inputs) for inputs, _ in batches] == [2, 2, 1]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1, 2, 3, 4]
    inputs = torch.cat([inputs for inputs, _ in batches])
    assert inputs.shape == (5, 3, 4, 4)
    expected = (images[..., 1].double() / 255 - 0.4) / 0.2
    assert torch.allclose(inputs[:, 1].double(), expected, atol=1e-5)


def test_each_epoch_is_its_own_and_repeats(data: ModuleType) -> None:
    batches = data.ImageBatches(numbered(7), torch.arange(7), 2, (0,), (1,), augment=True, crop=2, flip=True, cutout=3)

    def epoch(number: int) -> list[torch.Tensor]:
        batches.set_epoch(number)
        return [part for pair in batches for part in pair]

    assert len(batches) == 3  # the odd one out is left for another epoch's order
    assert len(epoch(0)) == 6
    assert all(torch.equal(a, b) for a, b in zip(epoch(1), epoch(1), strict=True))
    assert not torch.equal(torch.cat(epoch(0)[1::2]), torch.cat(epoch(1)[1::2]))


def test_augmented_images_are_shifted_or_mirrored_copies_of_their_own(data: ModuleType) -> None:
    images = numbered(7)
    batches = data.ImageBatches(images, torch.arange(7), 7, (0,), (1,), augment=True, crop=2, flip=True)
    padded = torch.nn.functional.pad(images[..., 0], (2, 2, 2, 2))
    seen = set()
    for number in range(6):
        batches.set_epoch(number)
        for inputs, labels in batches:
            for image, label in zip((inputs[:, 0] * 255).round().to(torch.uint8), labels.tolist(), strict=True):
                crops = {(row, column): padded[label, row : row + 6, column : column + 6] for row in range(5) for column in range(5)}
                whole = [(*at, flip) for at, crop in crops.items() for flip in (0, 1) if torch.equal(crop.flip(1) if flip else crop, image)]
                assert len(whole) == 1
                seen.update(whole)
    assert len({at[:2] for at in seen}) > 12
    assert {at[2] for at in seen} == {0, 1}


def test_cutout_removes_one_square_to_the_mean(data: ModuleType) -> None:
    images = torch.full((64, 12, 12, 2), 255, dtype=torch.uint8)
    batches = data.ImageBatches(images, torch.zeros(64), 64, (0.25, 0.5), (1, 1), augment=True, cutout=4)
    (inputs, _), *_ = batches
    removed = inputs == 0
    assert torch.equal(removed[:, 0], removed[:, 1])
    assert (removed[:, 0].sum((1, 2)) <= 16).all()
    assert (removed[:, 0].sum((1, 2)) == 16).any()
    assert (inputs[:, 0] == 0.75).any()
    rows, columns = removed[:, 0].any(2).sum(1), removed[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, removed[:, 0].sum((1, 2)))


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_digits_are_learnt_without_any_data_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = load_recipe(RECIPES / "digits.py")
    assert task.name == "digits"
    assert score(task.model, task) >= 97
    assert not task.model.training
    assert task.model(*task.example_inputs).shape == (1, 10)
    assert sum(len(labels) for _, labels in task.validation) == 500


@pytest.mark.parametrize("name", ["cifar10_resnet20", "cifar10_resnet56"])
def test_missing_data_says_what_to_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(RecipeError, match="nowhere does not exist") as caught:
        load_recipe(RECIPES / f"{name}.py")
    assert "EDGEPRUNE_DATA" in caught.value.remedy
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    with pytest.raises(RecipeError, match=rf"weights/resnet{name[-2:]}-.* does not exist"):
        load_recipe(RECIPES / f"{name}.py")


@pytest.mark.parametrize("name", ["har", "fsdd", "snips", "ecg", "speech_commands_vit", "mnist", "pneumonia", "esc10", "nuclei", "nab"])
def test_missing_recordings_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = {"speech_commands_vit": "speech_commands", "pneumonia": "pneumoniamnist"}.get(name, name)
    with pytest.raises(RecipeError, match=rf"{tmp_path}/{folder}.* does not exist") as caught:
        load_recipe(RECIPES / f"{name}.py")
    assert "EDGEPRUNE_DATA" in caught.value.remedy


@needs_data
@pytest.mark.parametrize(("name", "expected"), [("cifar10_resnet20", 91.5), ("cifar10_resnet56", 92.6)])
def test_pretrained_networks_score_as_published_with_the_data(name: str, expected: float) -> None:
    task = load_recipe(RECIPES / f"{name}.py")
    assert score(task.model, task) == pytest.approx(expected, abs=0.01)
    inputs, labels = next(iter(task.train))
    assert inputs.shape == (128, 3, 32, 32)
    assert len(task.train) == 25000 // 128
    with torch.no_grad():
        assert (task.model(inputs).argmax(1) == labels).float().mean() > 0.9
