"""What a file says about itself: its format, inputs and outputs, and what its user put in (labels, normalisation, how it was pruned).

One JSON object in each format's own place for such things: a TFLite metadata buffer, an extra file of a TorchScript or ``.pt2`` archive,
a property of an ONNX model.  Every runtime passes over it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgeprune.cost.counts import parameters_of
from edgeprune.decode import JsonObject, convert
from edgeprune.errors import ExportError
from edgeprune.export.formats import of_path
from edgeprune.files import parse_json
from edgeprune.task import Task

NAME = "edgeprune"
EXTRA_FILE = "edgeprune.json"


def encoded(format_name: str, source: Any, **more: Any) -> bytes:
    """The JSON for ``format_name``: the user's metadata, the inputs and outputs of ``source``, and ``more``."""
    content: JsonObject = {"format": format_name, **dict(source.options.metadata), "inputs": source.described_inputs, **more}
    if source.options.pixels is not None:
        content["pixels"] = source.options.pixels.to_json()
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def task_metadata(task: Task, pruned: nn.Module | None = None, how: Mapping[str, Any] | None = None) -> JsonObject:
    """What the user of a task's exported files has to know: its name, ``labels``, ``preprocessing``, and how much of it ``pruned`` has
    left (parameters of the pruned model, and of the original), and ``how`` it was pruned, such as its budget (None is left out)."""
    found: JsonObject = {"name": task.name}
    if task.labels:
        found["labels"] = list(task.labels)
    if task.preprocessing:
        found["preprocessing"] = dict(task.preprocessing)
    if pruned is not None:
        kept = {name: value for name, value in (how or {}).items() if value is not None}
        found["pruned"] = {"parameters": parameters_of(pruned), "of": parameters_of(task.model), **kept}
    return found


def read_metadata(path: str | Path) -> JsonObject:
    """The metadata of an exported file, by its suffix; empty when it holds none (``.pte`` files never do).

    Raises :class:`ExportError` when the file is missing, damaged, or of an unknown kind.
    """
    path = Path(path)
    entry = of_path(path)
    try:
        content = entry.metadata(path)
        found = parse_json(content) if content else {}
    except ExportError:
        raise
    except Exception as error:  # zipfile, zlib, protobuf and JSON each have their own
        raise ExportError(
            f"the metadata of {path} cannot be read: {error}",
            remedy="Give a file that edgeprune export wrote; export or copy a damaged one again.",
        ) from error
    return dict(found) if isinstance(found, Mapping) else {}


def notes_of(path: str | Path) -> list[str]:
    """What an exported file's own metadata note about it.  Raises as :func:`read_metadata`."""
    try:
        return convert(read_metadata(path), _Noted).notes
    except ValueError as error:
        raise ExportError(f"the notes in {path} cannot be read: {error}") from error


@dataclass(frozen=True)
class _Noted:
    notes: list[str] = field(default_factory=list)


def of_tflite(path: Path) -> bytes | None:
    """What a TFLite file says about itself."""
    from edgeprune.tflite import schema as flatbuffer

    return flatbuffer.metadata(flatbuffer.read(path.read_bytes()), NAME)


def of_archive(path: Path) -> bytes | None:
    """What a TorchScript or ``.pt2`` archive says about itself."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(f"/{EXTRA_FILE}"):
                return archive.read(name)
    return None


def of_onnx(path: Path) -> bytes | None:
    """What an ONNX model says about itself."""
    from edgeprune.export.extras import require

    properties = require("onnx", "onnx").load_model(path, load_external_data=False).metadata_props
    return next((item.value.encode() for item in properties if item.key == NAME), None)
