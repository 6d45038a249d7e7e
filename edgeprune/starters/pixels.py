"""Recipes for torchvision's detectors and networks of segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeprune.errors import InputError, suggest
from edgeprune.starters.fill import LOADED, Starter, constants, downloaded, filled, finish, imports, indented, placed
from edgeprune.starters.models import EPOCHS, MEAN, STD, _identifier, _training, layout, library, own_weights
from edgeprune.tasks import box_folder, mask_folder

SIDES = {"ssdlite320": 320, "ssd300": 300}
"""Pixels that a detector's anchors are made for; others are scaled to SIDE."""
SIDE = 320
DETECTORS = ("ssd", "ssdlite", "retinanet", "fcos", "fasterrcnn")


def detection(name: str, images: Path, weights: str = "default", size: int | None = None) -> Starter:
    """A recipe for torchvision's detector ``name`` on the pictures with boxes in ``images``: COCO's or Pascal VOC's.

    ``weights``: "default" is a pretrained backbone under a new head. Raises :class:`InputError` for what is not there.
    """
    models = library("torchvision.models", "torchvision").detection
    known = [each for each in library("torchvision.models").list_models(module=models) if each.startswith(DETECTORS)]
    if name not in known:
        raise InputError(f"torchvision has no detector {name}", remedy=suggest(name, known, "detectors"))
    first = 0 if name.startswith(("retinanet", "fcos")) else 1
    data = box_folder(images, first=first)
    side = size or next((value for start, value in SIDES.items() if name.startswith(start)), SIDE)
    lines, own = _network(models, name, len(data.classes) + first, f"classes{' + 1' if first else ''}", weights)
    trains = own is None
    text = filled(
        "detection",
        title=f"{name} on the pictures in {images.expanduser().resolve().name}",
        imports=imports(
            [
                "import torch",
                "from torchvision.models import detection as models",
                "import edgeprune",
                "from edgeprune.tasks import box_folder, detection",
            ],
            trains,
        ),
        images=placed(images),
        layout=layout(images).replace("of a class ", ""),
        constants=constants(own),
        size=side,
        network=lines,
        first=first,
        batch=8,
        epochs=EPOCHS,
        finish=finish(trains),
    )
    return Starter(_identifier(name), text, (f"{len(data.classes)} classes: {', '.join(data.classes[:10])}", *_training(trains)))


def segmentation(name: str, images: Path, masks: Path, weights: str = "default", size: int | None = None) -> Starter:
    """A recipe for torchvision's network ``name`` on the pictures in ``images`` and their masks in ``masks``."""
    models = library("torchvision.models", "torchvision").segmentation
    known = library("torchvision.models").list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no network of segmentation {name}", remedy=suggest(name, known, "networks of segmentation"))
    side = size or 224
    data = mask_folder(images, masks, side)
    lines, own = _network(models, name, len(data.classes), "classes", weights)
    trains = own is None
    text = filled(
        "segmentation",
        title=f"{name} on the pictures in {images.expanduser().resolve().name}",
        imports=imports(
            [
                "import torch",
                "from torchvision.models import segmentation as models",
                "import edgeprune",
                "from edgeprune.tasks import mask_folder, segmentation",
            ],
            trains,
        ),
        images=placed(images),
        masks=placed(masks),
        constants=constants(own),
        size=side,
        mean=MEAN,
        std=STD,
        network=lines,
        batch=8,
        epochs=EPOCHS,
        finish=finish(trains),
    )
    return Starter(_identifier(name), text, (f"{len(data.classes)} classes: {', '.join(data.classes[:10])}", *_training(trains)))


def _network(models: Any, name: str, count: int, classes: str, weights: str) -> tuple[str, Path | None]:
    """The lines that make the network, and the file of its weights where there is one."""
    make = getattr(models, name)
    plain = {"weights": None, "weights_backbone": None, "num_classes": count}
    own = own_weights(weights, make(**plain)) if weights != "default" else None
    if weights == "default":
        downloaded(lambda: make(**(plain | {"weights_backbone": "DEFAULT"})), f"the backbone of {name}")
    backbone = '"DEFAULT"' if weights == "default" else "None"
    values = ("    weights=None,", f"    weights_backbone={backbone},", f"    num_classes={classes},", ")")
    if own is None:
        return indented(f"return models.{name}(", *values), own
    return indented(f"model = models.{name}(", *values, LOADED, "return model"), own
