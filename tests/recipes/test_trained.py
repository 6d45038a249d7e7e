"""Recipes that train their own networks: once; what their data hold; what they say of how inputs are made."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from stand_in_data import SIZES, make_cifar10, make_data

from edgeprune.errors import RecipeError
from edgeprune.task import Task, load_recipe
from edgeprune.tuning import score

RECIPES = Path(__file__).parents[2] / "recipes"
needs_data = pytest.mark.skipif("EDGEPRUNE_DATA" not in os.environ, reason="EDGEPRUNE_DATA names no data folder")

RECIPE = '''
"""A tiny recipe."""
import torch
from _trained import trained
from beside import DRAWN
from edgeprune.task import Task


class Data:
    def __len__(self):
        return 4

    def __iter__(self):
        for index in range(4):
            DRAWN.append(index)
            inputs = torch.randn(32, 3, generator=torch.Generator().manual_seed(index))
            yield inputs, (inputs[:, 0] > 0).long()


def network():
    """Three numbers in."""
    return torch.nn.Linear(3, 2)


def lesson(model):
    return Task(model, (torch.zeros(1, 3),), Data(), epochs=5, learning_rate=0.5)


def task():
    return Task(trained(__file__, network, lesson), (torch.zeros(1, 3),), validation=Data())
'''


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe with helpers beside it, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("_trained", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "_trained.py").write_text((RECIPES / "_trained.py").read_text())
    (tmp_path / "beside.py").write_text("DRAWN = []\n")
    path = tmp_path / "tiny.py"
    path.write_text(RECIPE)
    yield path
    for name in ("_trained", "beside"):
        sys.modules.pop(name, None)


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache/edgeprune/recipes").iterdir())


def test_a_network_is_trained_once_and_kept(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = load_recipe(tiny)
    drawn = sys.modules["beside"].DRAWN
    assert len(drawn) >= 20  # five passes over four batches
    assert score(first.model, first) > 90
    assert not first.model.training
    shown = capsys.readouterr()
    assert "training tiny" in shown.err
    assert "100 %" in shown.err
    assert shown.out == ""
    assert re.fullmatch(r"tiny-[0-9a-f]{12}\.safetensors", *kept(tmp_path))
    drawn.clear()
    second = load_recipe(tiny)
    assert len(drawn) <= 1  # a look at one batch
    assert capsys.readouterr().err == ""
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True))


def test_training_continues_where_it_was_interrupted(tiny: Path, tmp_path: Path) -> None:
    whole = load_recipe(tiny)
    (tmp_path / "cache/edgeprune/recipes" / kept(tmp_path)[0]).unlink()

    class Cut(list):  # type: ignore[type-arg]
        def append(self, value: object) -> None:
            super().append(value)
            if len(self) == 15:
                raise KeyboardInterrupt

    helpers = sys.modules["beside"]
    helpers.DRAWN = Cut()
    with pytest.raises(KeyboardInterrupt):
        load_recipe(tiny)
    assert len(kept(tmp_path)) == 1
    helpers.DRAWN = []
    resumed = load_recipe(tiny)
    assert 1 < len(helpers.DRAWN) < 20
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ('"""A tiny recipe."""', '"""A small recipe."""  # indeed', False),
        ('"""Three numbers in."""', '"""3 in."""', False),
        ("validation=Data())", "validation=Data(), epochs=2)", False),
        ("epochs=5", "epochs=6", True),
        ("torch.nn.Linear(3, 2)", "torch.nn.Linear(3, 2, bias=False)", True),
    ],
)
def test_what_trains_again(tiny: Path, tmp_path: Path, old: str, new: str, again: bool) -> None:
    load_recipe(tiny)
    assert old in RECIPE
    tiny.write_text(RECIPE.replace(old, new))
    load_recipe(tiny)
    assert len(kept(tmp_path)) == (2 if again else 1)


def test_importing_from_beside_ends_with_the_recipe(tiny: Path) -> None:
    before = list(sys.path)
    load_recipe(tiny)
    assert sys.path == before


def test_labels_and_preprocessing_are_checked() -> None:
    made = Task(torch.nn.Linear(1, 2), (torch.zeros(1, 1),), labels=["a", "b"], preprocessing={"scale": 255, "mean": (0.5,)})
    assert list(made.labels) == ["a", "b"]
    with pytest.raises(RecipeError, match=r"task\.labels"):
        Task(torch.nn.Linear(1, 2), (torch.zeros(1, 1),), labels="ab")
    with pytest.raises(RecipeError, match=r"task\.preprocessing is not of JSON's types: .*Tensor"):
        Task(torch.nn.Linear(1, 2), (torch.zeros(1, 1),), preprocessing={"mean": torch.zeros(1)})


# --- the recipes' networks and data ----------------------------------------------------------------------------------


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Import a recipe's module by name."""
    monkeypatch.syspath_prepend(str(RECIPES))

    def load(name: str) -> ModuleType:
        return __import__(name)

    yield load
    for path in RECIPES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        ("har", (3, 1, 52), 3),
        ("fsdd", (1, 32, 49), 10),
        ("ecg", (1, 1, 128), 2),
        ("cifar10_mobilenetv2", (3, 32, 32), 10),
        ("speech_commands_vit", (1, 32, 49), 11),
        ("speech_commands_dscnn", (1, 32, 49), 11),
        ("speech_commands_gru", (1, 32, 49), 11),
        ("speech_commands_lstm", (1, 32, 49), 11),
        ("mnist", (1, 28, 28), 10),
        ("pneumonia", (1, 28, 28), 2),
        ("esc10", (1, 32, 245), 10),
    ],
)
def test_networks_score_their_classes(recipe, name: str, shape: tuple[int, ...], classes: int) -> None:
    assert recipe(name).network().eval()(torch.zeros(2, *shape)).shape == (2, classes)


def test_strided_depthwise_convolutions_train_as_they_infer(recipe) -> None:
    layer = recipe("cifar10_mobilenetv2").Depthwise(8, 2)
    inputs = torch.randn(2, 8, 9, 8)
    assert torch.allclose(layer.train()(inputs), layer.eval()(inputs), atol=1e-6)


def test_a_tone_sounds_in_the_band_of_its_frequency(recipe) -> None:
    fsdd = recipe("fsdd")
    edges = 700 * (10 ** (np.linspace(2595 * np.log10(1 + 60 / 700), 2595 * np.log10(1 + 3800 / 700), 34) / 2595) - 1)
    for hertz in (500.0, 1000.0, 2500.0):
        shown = fsdd.spectrogram(0.5 * np.sin(2 * np.pi * hertz * np.arange(4000) / 8000))
        assert shown.shape == (32, 49)
        band = int(shown[:, 10].argmax())
        assert edges[band] < hertz < edges[band + 2]
        assert np.allclose(shown[:, 30:], (np.log(1e-5) + 8) / 4)  # half a second of it, then silence


def test_turning_keeps_the_length_of_what_is_felt(recipe) -> None:
    inputs = torch.zeros(64, 3, 1, 52)
    inputs[:, 2] = 1.0
    turned = recipe("har").turned(inputs, torch.Generator().manual_seed(0))
    assert turned.shape == inputs.shape
    lengths = turned.mean(3).norm(dim=1)
    assert (lengths > 0.85).all()
    assert (lengths < 1.15).all()
    assert turned[:, 0].mean((1, 2)).std() > 0.2


WORDS = (2923, 961)
REAL = {
    "har": (70 * 37, 22 * 37),
    "fsdd": (2250, 250),
    "ecg": (1800, 1200),
    "snips": (13784, 700),
    "speech_commands_vit": WORDS,
    "speech_commands_dscnn": WORDS,
    "speech_commands_gru": WORDS,
    "speech_commands_lstm": WORDS,
    "mnist": (21_000, 3000),
    "pneumonia": (4707, 524 + 312),
    "esc10": (318, 80),
}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=needs_data)], ids=["stand-ins", "real"])
@pytest.mark.parametrize("name", REAL)
def test_the_data_are_split_as_said(recipe, name: str, real: bool, stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not real:
        monkeypatch.setenv("EDGEPRUNE_DATA", str(stand_ins))
    train, validation = (REAL if real else SIZES)[name]
    module = recipe(name)
    network = module.Network() if name == "snips" else module.network()
    job = module.make_task(network.eval())
    counts = [sum(len(labels) for _, labels in batches) for batches in (job.train, job.validation)]
    assert counts[0] == train - train % job.train.batch
    assert counts[1] == validation
    inputs, _ = next(iter(job.validation))
    assert inputs.shape[1:] == job.example_inputs[0].shape[1:]
    assert inputs.dtype == job.example_inputs[0].dtype == (torch.int32 if name == "snips" else torch.float32)
    assert network(inputs).shape == (len(inputs), len(job.labels))
    seen = torch.cat([labels for _, labels in job.validation])
    assert seen.unique().tolist() == list(range(len(job.labels)))


def test_images_and_weights_are_read_from_their_files(recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPRUNE_DATA", str(tmp_path))
    torch.manual_seed(0)
    wanted = recipe("_cifar10").ResNet(20)
    make_cifar10(tmp_path, 20, wanted)
    task = load_recipe(RECIPES / "cifar10_resnet20.py")
    assert all(torch.equal(mine, other) for mine, other in zip(task.model.state_dict().values(), wanted.state_dict().values(), strict=True))
    assert len(task.train) == 25000 // 128
    inputs, labels = next(iter(task.validation))
    assert inputs.shape == (250, 3, 32, 32)
    assert labels.tolist() == [at % 10 for at in range(250)]
    torch.testing.assert_close(inputs[:, 0, 0, 0], torch.full((250,), (50 / 255 - 0.485) / 0.229))  # the batch's number
    assert task.train.inputs[:, 0, 0, 0].unique().tolist() == list(range(25))


LEAST = {"har": 95, "fsdd": 97, "ecg": 90, "snips": 96, "speech_commands_vit": 75, "mnist": 97, "pneumonia": 95}


@needs_data
@pytest.mark.soak
@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_networks_learn_what_the_documentation_says(name: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    task = load_recipe(RECIPES / f"{name}.py")
    assert score(task.model, task) >= least
    assert task.preprocessing["input"]
