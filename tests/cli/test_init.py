"""``edgeprune init``: the recipes that it writes run as they are; what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeprune.cli import main
from edgeprune.task import load_recipe

pytest.importorskip("torchvision")


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, beside the data."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def pictures(tmp_path) -> str:
    """Ten pictures of two classes each."""
    random = np.random.default_rng(0)
    for name, grey in (("dark", 60), ("light", 190)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(10):
            pixels = (grey + random.integers(-50, 50, (40, 36, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return str(tmp_path / "pictures")


def formatted(path: Path) -> bool:
    """Whether a formatter would leave the recipe as it is."""
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "120", "--check", str(path)]
    checks = [sys.executable, "-m", "ruff", "check", "--isolated", "--line-length", "200", "--select", "E,F,I", str(path)]
    return all(subprocess.run(each, check=False, capture_output=True).returncode == 0 for each in (command, checks))


def loaded(path: Path):
    """The task of a recipe that trains for a step or two only."""
    path.write_text(path.read_text().replace("epochs=10)", "epochs=0.1)"))
    return load_recipe(path)


def test_a_classifier_of_torchvision_is_trained_once(empty, pictures, capsys):
    assert main(["init", "--torchvision", "mobilenet_v3_small", "--images", pictures, "--weights", "none", "--size", "32"]) == 0
    out = capsys.readouterr().out
    assert "edgeprune prune mobilenet_v3_small.py --profile raspberry-pi-4 --latency 50%" in out
    assert "2 classes: dark, light" in out
    path = empty / "mobilenet_v3_small.py"
    assert formatted(path)
    task = loaded(path)
    assert list(task.labels) == ["dark", "light"]
    inputs, labels = next(iter(task.validation))
    assert (inputs.shape, labels.tolist()) == ((4, 3, 32, 32), [0, 0, 1, 1])
    assert task.model(inputs).shape == (4, 2)
    assert (empty / "mobilenet_v3_small.safetensors").is_file()
    again = load_recipe(path)
    assert all(torch.equal(one, other) for one, other in zip(task.model.parameters(), again.model.parameters(), strict=True))


def test_own_weights_are_read_and_not_trained(empty, pictures, tmp_path):
    from torchvision import models

    model = models.shufflenet_v2_x0_5(num_classes=2)
    torch.save(model.state_dict(), tmp_path / "own.pt")
    arguments = ["--torchvision", "shufflenet_v2_x0_5", "--images", pictures, "--size", "32", "--output", "mine.py"]
    assert main(["init", *arguments, "--weights", str(tmp_path / "own.pt")]) == 0
    assert formatted(empty / "mine.py")
    task = load_recipe(empty / "mine.py")
    assert torch.equal(task.model.fc.weight, model.fc.weight)
    assert not list(empty.glob("*.safetensors"))


def test_weights_of_another_network_are_refused(empty, pictures, tmp_path, capsys):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "own.pt")
    arguments = ["--torchvision", "shufflenet_v2_x0_5", "--images", pictures, "--weights", str(tmp_path / "own.pt")]
    assert main(["init", *arguments]) == 1
    assert "own.pt is not a state_dict of this network" in capsys.readouterr().err
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("mobilenet_v3_small", "model.classifier[3] = torch.nn.Linear(1024, classes)"),
        ("squeezenet1_1", "model.classifier[1] = torch.nn.Conv2d(512, classes, 1)"),
        ("shufflenet_v2_x0_5", "model.fc = torch.nn.Linear(1024, classes)"),
        ("googlenet", "model.aux_logits = False"),
    ],
)
def test_the_head_of_a_pretrained_network_is_replaced(name, head, empty, pictures, monkeypatch):
    """What is downloaded is played: random weights of the whole network."""
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda weights, *_, **__: state)
    from torchvision import models

    state = models.get_model(name, **({"init_weights": False} if name == "googlenet" else {})).state_dict()
    assert main(["init", "--torchvision", name, "--images", pictures, "--size", "64"]) == 0
    text = (empty / f"{name}.py").read_text()
    assert head in text
    assert 'weights="DEFAULT"' in text
    task = loaded(empty / f"{name}.py")
    assert task.model(torch.zeros(1, 3, 64, 64)).shape == (1, 2)


def test_weights_that_cannot_be_downloaded_leave_nothing(empty, pictures, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise OSError("<urlopen error Name or service not known>")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", unreachable)
    assert main(["init", "--torchvision", "mobilenet_v3_small", "--images", pictures]) == 1
    err = capsys.readouterr().err
    assert "the weights of mobilenet_v3_small cannot be downloaded: <urlopen error" in err
    assert "--weights none" in err
    assert list(empty.iterdir()) == []


def test_a_classifier_of_timm(empty, pictures):
    pytest.importorskip("timm")
    assert main(["init", "--timm", "mobilenetv3_small_050", "--images", pictures, "--weights", "none", "--size", "32"]) == 0
    assert formatted(empty / "mobilenetv3_small_050.py")
    assert loaded(empty / "mobilenetv3_small_050.py").model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize("labels", [("no", "yes"), ("LABEL_0", "LABEL_1")], ids=["another head", "its own head"])
def test_a_classifier_of_texts(labels, empty, tmp_path):
    hub = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    known = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "buy", "sell", "please"])}
    words = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hub.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", model_input_names=["input_ids", "attention_mask"])
    config = hub.DistilBertConfig(vocab_size=5, dim=16, n_heads=2, n_layers=1, hidden_dim=16, max_position_embeddings=32)
    model = hub.DistilBertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    rows = [f"please {word},{label}\n" for word, label in zip(("sell", "buy"), labels, strict=True)] * 10
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(rows))
    assert main(["init", "--transformers", str(tmp_path / "bert"), "--data", str(tmp_path / "t.csv")]) == 0
    assert formatted(empty / "bert.py")
    task = loaded(empty / "bert.py")
    assert list(task.labels) == list(labels)
    assert task.example_inputs["input_ids"].shape == (1, 8)
    kept = torch.equal(task.model.classifier.weight, model.classifier.weight)
    assert kept == (labels[0] == "LABEL_0")


def test_a_network_of_segmentation(empty, tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for number in range(6):
        mask = np.zeros((40, 40), np.uint8)
        mask[:20] = number % 3
        Image.fromarray(mask * 80).convert("RGB").save(tmp_path / f"images/{number}.jpg")
        Image.fromarray(mask).save(tmp_path / f"masks/{number}.png")
    arguments = ["--segmentation", "lraspp_mobilenet_v3_large", "--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks")]
    assert main(["init", *arguments, "--weights", "none", "--size", "32"]) == 0
    path = empty / "lraspp_mobilenet_v3_large.py"
    assert formatted(path)
    assert loaded(path).model(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"])
def test_a_detector(name, empty, tmp_path):
    (tmp_path / "street").mkdir()
    text = "<object><name>{}</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>60</xmax><ymax>70</ymax></bndbox></object>"
    for number in range(6):
        Image.new("RGB", (90, 80), (40 * number,) * 3).save(tmp_path / f"street/{number}.png")
        (tmp_path / f"street/{number}.xml").write_text(f"<annotation>{text.format('car' if number % 2 else 'bus')}</annotation>")
    size = [] if name.startswith("ssdlite") else ["--size", "64"]
    assert main(["init", "--detection", name, "--images", str(tmp_path / "street"), "--weights", "none", *size]) == 0
    path = empty / f"{name}.py"
    assert formatted(path)
    text = path.read_text()
    assert "epochs=10)" in text
    path.write_text(text.replace("return train_once(task, kept, epochs=10)", "return task"))
    task = load_recipe(path)
    assert {"car", "bus"} <= set(task.labels)
    images, targets = next(iter(task.batches("validation"))).args[0], next(iter(task.batches("validation"))).targets
    assert images.shape[1:] == (3, 320, 320) if not size else (3, 64, 64)
    assert [target["labels"].tolist() for target in targets] == [[list(task.labels).index("bus")]]
    with torch.no_grad():
        assert torch.isfinite(task.loss_of(task.model.eval()(images), targets, "here"))


def test_a_classifier_in_an_onnx_file(empty, pictures, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    for classes in (5, 2):
        model = torch.nn.Sequential(*layers, torch.nn.Linear(8, classes)).eval()
        torch.onnx.export(model, (torch.zeros(1, 3, 32, 32),), tmp_path / f"net{classes}.onnx", dynamo=True, verbose=False)
    assert main(["init", "--onnx", str(tmp_path / "net5.onnx"), "--images", pictures]) == 1
    assert "gives (1, 5) for a picture" in capsys.readouterr().err
    assert main(["init", "--onnx", str(tmp_path / "net2.onnx"), "--images", pictures]) == 0
    assert formatted(empty / "net2.py")
    task = load_recipe(empty / "net2.py")
    inputs = torch.randn(1, 3, 32, 32)
    assert task.example_inputs[0].shape == (1, 3, 32, 32)
    torch.testing.assert_close(task.model.eval()(inputs), model(inputs), atol=1e-4, rtol=1e-4)


def test_what_is_refused(empty, pictures, tmp_path, capsys, monkeypatch):
    def err(*arguments: str, code: int) -> str:
        assert main(["init", *arguments]) == code
        return capsys.readouterr().err

    assert "Did you mean mobilenet_v2" in err("--torchvision", "mobilenetv2", "--images", pictures, code=1)
    assert "Did you mean ssdlite320" in err("--detection", "ssdlite", "--images", pictures, code=1)
    assert "needs --images too" in err("--torchvision", "resnet18", code=2)
    assert "are two models" in err("--torchvision", "resnet18", "--timm", "resnet18", "--images", pictures, code=2)
    assert "--data says nothing of --torchvision" in err("--torchvision", "resnet18", "--images", pictures, "--data", "x.csv", code=2)
    assert "nowhere is not there" in err("--torchvision", "resnet18", "--images", str(tmp_path / "nowhere"), code=1)
    (empty / "resnet18.py").write_text("mine")
    small = ("--torchvision", "resnet18", "--images", pictures, "--weights", "none")
    assert "resnet18.py is there already" in err(*small, code=1)
    assert (empty / "resnet18.py").read_text() == "mine"
    assert err(*small, "--force", code=0) == ""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert "Name the model, one of --torchvision" in err(code=2)


def test_in_a_terminal_it_asks(empty, pictures, monkeypatch, capsys):
    answers = iter(["torchvision", "shufflenet_v2_x0_5", pictures])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: next(answers))
    assert main(["init", "--weights", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "shufflenet_v2_x0_5.py"
    assert (empty / "shufflenet_v2_x0_5.py").is_file()
