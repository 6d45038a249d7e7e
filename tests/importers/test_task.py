"""Tasks of model files: with a recipe's data, or from the model's own answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from importers.onnx_files import exported, file_of
from onnx import helper
from PIL import Image
from torch import nn

from edgeprune.errors import EdgepruneError, InputError, RecipeError
from edgeprune.graph import analyze
from edgeprune.importers.answers import Agreement, AnswerLoss, kinds_of, relative_error
from edgeprune.importers.task import FileOptions, task_of


def small(outputs: int = 4, softmax: bool = False) -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs)]
    return nn.Sequential(*layers, *([nn.Softmax(-1)] if softmax else []))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    return exported(tmp_path / "small.onnx", small(), (torch.randn(1, 3, 16, 12),))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for place in range(10):
        pixels = np.random.default_rng(place).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if place % 2 else ".") / f"{place}.png")
    return folder


def test_images_are_resized_and_normalised_as_is_said(model, images):
    task = task_of(model, FileOptions(images=str(images), mean=[0.5], std=[0.25]))
    assert (task.metric_name, task.higher_is_better, task.name) == ("agreement", True, "small")
    assert task.preprocessing == {"input": "RGB image of 12 x 16", "scale": 255, "mean": [0.5], "std": [0.25]}
    (batch,) = task.batches("validation")
    assert batch.args[0].shape == (2, 3, 16, 12)
    assert float(batch.args[0].min()) >= -2
    assert float(batch.args[0].max()) <= 2
    assert sum(batch.size for batch in task.batches("train")) == 8


def test_the_default_normalisation_of_three_channels_is_imagenets(model, images):
    assert task_of(model, FileOptions(images=str(images))).preprocessing["mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_the_original_agrees_with_itself_and_its_loss_has_a_gradient(model, images):
    task = task_of(model, FileOptions(images=str(images)))
    (batch,) = task.batches("validation")
    outputs = task.model(*batch.args)
    assert task.metric(outputs, batch.targets) == 100.0
    task.loss(outputs, batch.targets).backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in task.model.parameters())


@pytest.mark.parametrize(("made", "kind"), [(lambda: small(), "scores"), (lambda: small(4, True), "shares"), (lambda: small(1), "values")])
def test_outputs_are_told_apart(made, kind):
    torch.manual_seed(0)
    model = made()
    answers = model(torch.randn(6, 3, 16, 12)).detach()
    assert kinds_of([answers]) == [kind]
    loss = AnswerLoss((kind,))
    other = answers.roll(1, -1) if kind != "values" else answers + 0.1
    assert float(loss(other, answers)) > float(loss(answers, answers))


def test_metrics_say_how_far_outputs_are():
    wanted = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert Agreement(0)(torch.tensor([[2.0, 1.0], [5.0, 3.0]]), wanted) == 50.0
    assert relative_error(1.1 * wanted, wanted) == pytest.approx(10.0)


def test_arrays_by_the_names_of_the_inputs(tmp_path, model):
    path = tmp_path / "s.npz"
    np.savez(path, input0=np.random.default_rng(0).standard_normal((9, 3, 16, 12)).astype(np.float32))
    task = task_of(model, FileOptions(samples=str(path)))
    assert next(iter(task.batches("train"))).args[0].shape == (8, 3, 16, 12)
    np.savez(path, a=np.zeros((9, 3, 16, 12)), b=np.zeros(3))
    with pytest.raises(InputError, match="holds a, b, and not input0"):
        task_of(model, FileOptions(samples=str(path)))
    np.savez(path, input0=np.zeros((9, 3, 8, 8)))
    with pytest.raises(InputError, match="not Sx3x16x12"):
        task_of(model, FileOptions(samples=str(path)))
    path.write_text("no arrays")
    with pytest.raises(InputError, match="cannot be read"):
        task_of(model, FileOptions(samples=str(path)))


def test_a_state_beside_the_samples_makes_every_sample_a_batch(tmp_path):
    names = {"W": (1, 20, 3), "R": (1, 20, 5), "B": (1, 40)}
    constants = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name, shape in names.items()}
    node = helper.make_node("LSTM", ["x", *constants, "", "h", "c"], ["y", "hn", "cn"], hidden_size=5)
    sizes = {"x": [4, 1, 3], "h": [1, 1, 5], "c": [1, 1, 5]}
    path = file_of(tmp_path / "m.onnx", [node], sizes, ["y", "hn", "cn"], constants)
    random = np.random.default_rng(1)
    np.savez(tmp_path / "s.npz", **{name: random.standard_normal((10, *shape)).astype(np.float32) for name, shape in sizes.items()})
    task = task_of(path, FileOptions(samples=str(tmp_path / "s.npz")))
    assert task.metric_name == "relative error"
    assert list(task.output_names) == ["y", "hn", "cn"]
    batches = list(task.batches("validation"))
    assert len(batches) == 2
    assert task.metric(task.model(*batches[0].args), batches[0].targets) == pytest.approx(0, abs=1e-4)


RECIPE = """
import torch
from torch import nn
import edgeprune
def task({argument}):
    data = [(torch.randn(4, 3, 16, 12), torch.zeros(4, dtype=torch.int64))]
    return edgeprune.Task({model}, (torch.zeros(1, 3, 16, 12),), train=data, validation=data, protect=["own"] if "{argument}" else ())
"""


@pytest.mark.parametrize(("argument", "its_model"), [("model", "model"), ("", "nn.Flatten()")])
def test_a_recipe_gives_data_loss_and_metric_to_the_files_model(tmp_path, model, argument, its_model):
    recipe = tmp_path / "data.py"
    recipe.write_text(RECIPE.format(argument=argument, model=its_model))
    task = task_of(model, FileOptions(data=str(recipe)))
    assert sum(isinstance(module, nn.Conv2d) for module in task.model.modules()) == 1
    assert task.metric_name == "accuracy"
    assert list(task.input_names) == ["input0"]
    assert bool(task.protect) == bool(argument)
    recipe.write_text("def task(): return 1")
    with pytest.raises(RecipeError, match="returned a int"):
        task_of(model, FileOptions(data=str(recipe)))


def test_slips_are_refused(tmp_path, model, images):
    with pytest.raises(InputError, match="both given"):
        FileOptions(images="a", samples="b")
    with pytest.raises(InputError, match="of images"):
        FileOptions(mean=[0.5])
    for folder, text in ((tmp_path / "none", "not a folder"), (images / "more", "holds 5 images")):
        with pytest.raises(EdgepruneError, match=text):
            task_of(model, FileOptions(images=str(folder)))
    (images / "bad.png").write_text("no image")
    with pytest.raises(InputError, match=r"bad\.png cannot be read"):
        task_of(model, FileOptions(images=str(images)))


def test_what_is_imported_trains_exports_and_is_analysed(model):
    task = task_of(model)
    analysis = analyze(task.model, task.example_inputs)
    assert [group.rows.shape for group in analysis.groups] == [(1, 8)]
    torch.export.export(task.model, task.example_inputs)
    assert sorted(task.model.state_dict()) == ["0.bias", "0.weight", "4.bias", "4.weight"]
