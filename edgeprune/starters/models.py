"""Recipes for classifiers of torchvision, timm, ONNX files and Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgeprune.errors import InputError, RecipeError, suggest
from edgeprune.starters.fill import LOADED, Starter, constants, downloaded, filled, finish, imports, indented, placed
from edgeprune.tasks import Data, image_folder, text_table

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which nearly all networks are trained with."""
EPOCHS = 5


def library(name: str, package: str = "") -> Any:
    """The module ``name``.  Raises :class:`InputError` that says what to install when it is not here."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        package = package or name.split(".")[0]
        raise InputError(f"{package} is not installed here", remedy=f"pip install {package}") from error


def own_weights(weights: str, model: nn.Module) -> Path | None:
    """The file of a state_dict that ``weights`` names, once it is seen to fit ``model``; None for "default" and "none"."""
    if weights in ("default", "none"):
        return None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file of weights {path}", remedy="--weights is default, none or the path of a state_dict.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:  # whatever a file that is not a state_dict of this model makes torch say
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} is not a state_dict of this network: {' '.join(reason[:2])}",
            remedy="Save it with torch.save(model.state_dict(), FILE).",
        ) from error
    return path


def torchvision(name: str, images: Path, weights: str = "default", size: int | None = None) -> Starter:
    """A recipe for torchvision's classifier ``name`` on the pictures by class in ``images``.

    ``weights``: "default", those that torchvision downloads, "none", or a file. Raises :class:`InputError` for what is not there.
    """
    models = library("torchvision.models", "torchvision")
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classifier {name}", remedy=suggest(name, known, "classifiers"))
    found = models.get_model_weights(name).DEFAULT.transforms()
    side = size or int(found.crop_size[0])
    data = image_folder(images, side, found.mean, found.std)
    classes = len(data.classes)
    sides = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    model = models.get_model(name, weights=None, **sides)
    place, head = last_layer(model, name)
    own = own_weights(weights, models.get_model(name, weights=None, num_classes=classes, **sides)) if weights != "default" else None
    kept = _outputs(head) == classes and weights == "default"
    if weights == "default":
        downloaded(lambda: models.get_model(name, weights="DEFAULT"), name)
        lines = [f'model = models.{name}(weights="DEFAULT")', *([] if kept else [f"{reached(place)} = {new_layer(head)}"])]
    else:
        lines = [f"model = models.{name}(num_classes=classes)", *([LOADED] if own else [])]
    lines += ["model.aux_logits = False  # side outputs are for its first training"] if hasattr(model, "aux_logits") else []
    lines += ["return model"]
    modules = ["import torch", "from torchvision import models"]
    return _of_images(name, images, data, side, (tuple(found.mean), tuple(found.std)), lines, modules, not kept and own is None, own)


def timm(name: str, images: Path, weights: str = "default", size: int | None = None) -> Starter:
    """The same for a classifier of timm."""
    library_ = library("timm")
    if not library_.is_model(name):
        raise InputError(f"timm has no model {name}", remedy=suggest(name, _near(name, library_.list_models()), "models like it"))
    with torch.device("meta"):
        whole = library_.create_model(name, pretrained=False)
    config = library_.data.resolve_model_data_config(whole)
    side = size or int(config["input_size"][-1])
    data = image_folder(images, side, config["mean"], config["std"])
    classes = len(data.classes)
    own = own_weights(weights, library_.create_model(name, pretrained=False, num_classes=classes)) if weights != "default" else None
    if weights == "default":
        downloaded(lambda: library_.create_model(name, pretrained=True, num_classes=classes), name)
    kept = weights == "default" and whole.num_classes == classes
    pretrained = "True" if weights == "default" else "False"
    lines = [
        f'model = timm.create_model("{name}", pretrained={pretrained}, num_classes=classes)',
        *([LOADED] if own else []),
        "return model",
    ]
    statistics = (tuple(config["mean"]), tuple(config["std"]))
    return _of_images(name, images, data, side, statistics, lines, ["import timm", "import torch"], not kept and own is None, own)


def onnx(file: Path, images: Path, size: int | None = None) -> Starter:
    """The same for a trained classifier in an ONNX file, whose scores are those of the classes in ``images``, in the order of names."""
    importers = library("edgeprune.importers", "edgeprune[onnx]")
    model: nn.Module = importers.load(file)
    side = size or _side_of(file)
    data = image_folder(images, side)
    with torch.no_grad():
        scores = model.eval()(torch.zeros(1, 3, side, side))
    if not isinstance(scores, torch.Tensor) or scores.shape != (1, len(data.classes)):
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else f"a {type(scores).__name__}"
        raise InputError(
            f"{file} gives {shape} for a picture, and {images} holds {len(data.classes)} classes", remedy="They have to agree."
        )
    says = "MEAN and STD in it are ImageNet's: write those that the model was trained with."
    lines = ["return importers.load(MODEL)"]
    line = f'MODEL = "{placed(file)}"\n'
    modules = ["import torch", "from edgeprune import importers"]
    return _of_images(file.stem, images, data, side, (MEAN, STD), lines, modules, False, None, line, (says,))


def transformers(model: str, data: Path, weights: str = "default") -> Starter:
    """A recipe for Hugging Face's classifier of texts ``model``, a folder or a name, on the table ``data`` (columns text,label)."""
    hub = library("transformers")
    table = text_table(data)
    remedy = "Name a folder that has config.json, a tokenizer and weights, as save_pretrained writes them."
    what = {"config": hub.AutoConfig, "tokenizer": hub.AutoTokenizer}
    try:
        config, tokenizer = (each.from_pretrained(model) for each in what.values())
    except (OSError, ValueError) as error:
        raise InputError(f"{model} cannot be read: {str(error).strip().splitlines()[0]}", remedy=remedy) from error
    own = [config.id2label[number] for number in sorted(config.id2label)]
    fits = set(table.classes) <= set(own)
    trains = not fits or weights == "none"
    read = "data = text_table(DATA)"
    if weights == "none":
        lines = [
            read,
            "config = AutoConfig.from_pretrained(MODEL, num_labels=len(data.classes))",
            "model = AutoModelForSequenceClassification.from_config(config)",
        ]
    elif fits:
        lines = [
            "model = AutoModelForSequenceClassification.from_pretrained(MODEL)",
            "data = text_table(DATA, model.config.id2label.values())",
        ]
    else:
        call = "AutoModelForSequenceClassification.from_pretrained("
        lines = [read, f"model = {call}", "    MODEL,", "    num_labels=len(data.classes),", "    ignore_mismatched_sizes=True,", ")"]
    if weights != "none":
        downloaded(lambda: hub.AutoModelForSequenceClassification.from_pretrained(model, ignore_mismatched_sizes=True), model)
    names = ["AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer"][weights != "none" :]
    modules = [
        f"from transformers import {', '.join(names)}",
        "import edgeprune",
        "from edgeprune.tasks import from_transformers, text_table",
    ]
    text = filled(
        "texts",
        title=f"{Path(model).name} on the texts in {data.name}",
        imports=imports(modules, trains),
        model=placed(Path(model)) if Path(model).is_dir() else model,
        data=placed(data),
        tokens=_tokens(tokenizer, table, config),
        network=indented(*lines),
        batch=32,
        epochs=3,
        finish=finish(trains),
    )
    return Starter(_identifier(Path(model).name), text, _training(trains))


def last_layer(model: nn.Module, name: str) -> tuple[str, nn.Module]:
    """The place and the layer that gives a classifier's scores: the last one that is linear or a convolution."""
    layers = [(place, layer) for place, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    layers = [(place, layer) for place, layer in layers if _outputs(layer) == 1000 and not place.lower().startswith("aux")]
    if not layers:
        raise InputError(
            f"{name} has no last layer that can be replaced", remedy="Give your own weights, --weights FILE, or --weights none."
        )
    return layers[-1]


def reached(place: str) -> str:
    """A module's name as Python says it: ``classifier.3`` is ``model.classifier[3]``."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in place.split("."))


def new_layer(layer: nn.Module) -> str:
    """A layer like ``layer`` for other classes."""
    if isinstance(layer, nn.Conv2d):
        return f"torch.nn.Conv2d({layer.in_channels}, classes, {layer.kernel_size[0]})"
    assert isinstance(layer, nn.Linear)
    return f"torch.nn.Linear({layer.in_features}, classes)"


def _outputs(layer: nn.Module) -> int:
    return int(layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features)  # type: ignore[arg-type]


def _of_images(
    name: str,
    images: Path,
    data: Data,
    side: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    lines: list[str],
    modules: list[str],
    trains: bool,
    own: Path | None,
    line: str = "",
    says: tuple[str, ...] = (),
) -> Starter:
    """The recipe of a classifier of pictures whose ``network`` is ``lines``."""
    text = filled(
        "images",
        title=f"{name} on the pictures in {images.expanduser().resolve().name}",
        imports=imports([*modules, "import edgeprune", "from edgeprune.tasks import image_folder"], trains),
        images=placed(images),
        layout=layout(images),
        constants=line + constants(own),
        size=side,
        mean=statistics[0],
        std=statistics[1],
        network=indented(*lines),
        batch=32,
        epochs=EPOCHS,
        finish=finish(trains),
    )
    return Starter(_identifier(name), text, (f"{len(data.classes)} classes: {', '.join(data.classes[:10])}", *says, *_training(trains)))


def layout(images: Path) -> str:
    """How the pictures are split."""
    apart = (images.expanduser() / "train").is_dir()
    return "train/ and val/ as they are" if apart else "every fifth of a class is scored on"


def _training(trains: bool) -> tuple[str, ...]:
    return ("What is new in the network is trained when the recipe is first run, and kept beside it.",) if trains else ()


def _identifier(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_") or "recipe"


def _near(name: str, known: list[str]) -> Iterator[str]:
    """The names that share most with ``name``: timm has more than a thousand."""
    import difflib

    yield from difflib.get_close_matches(name, known, n=8, cutoff=0.5)


def _side_of(file: Path) -> int:
    """The height of the first input of an ONNX file."""
    model = library("onnx").load(str(file), load_external_data=False)
    weights = {each.name for each in model.graph.initializer}
    shapes = [[each.dim_value for each in value.type.tensor_type.shape.dim] for value in model.graph.input if value.name not in weights]
    if not shapes or len(shapes[0]) != 4 or shapes[0][2] < 1 or shapes[0][2] != shapes[0][3]:
        raise RecipeError(f"{file} takes {shapes}, and not one picture of a fixed size", remedy="Say its side in pixels: --size 224.")
    return int(shapes[0][2])


def _tokens(tokenizer: Any, table: Data, config: Any) -> int:
    """The length of the longest of 500 texts, up to a multiple of 8, and 128 or what the model takes at most."""
    longest = max(len(tokenizer(row["text"])["input_ids"]) for row in table.train[:500])
    return min(-(-longest // 8) * 8, 128, int(getattr(config, "max_position_embeddings", 128) or 128))
