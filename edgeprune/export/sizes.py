"""What an exported file's bytes are spent on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from edgeprune.decode import convert
from edgeprune.errors import ExportError
from edgeprune.export.formats import Parts, of_path
from edgeprune.files import parse_json
from edgeprune.tflite import schema as flatbuffer

TOP = 10
"""Layers that are listed."""


class LayerSize(TypedDict):
    """Bytes of one layer's weights."""

    name: str
    bytes: int


class SizesDocument(TypedDict):
    """:class:`Sizes` in JSON's types."""

    total: int
    weights: int
    metadata: int
    layers: list[LayerSize]
    graph: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of a file: ``weights`` (constant data), ``metadata`` (what it says about itself), ``graph`` (all else); ``layers``: the names
    and bytes of the layers with most weights, largest first."""

    total: int
    weights: int
    metadata: int
    layers: tuple[tuple[str, int], ...]

    @property
    def graph(self) -> int:
        """The operators, their options and names, and the container's own bytes."""
        return self.total - self.weights - self.metadata

    def to_json(self) -> SizesDocument:
        """As plain JSON values."""
        layers: list[LayerSize] = [{"name": name, "bytes": size} for name, size in self.layers]
        return {"total": self.total, "weights": self.weights, "metadata": self.metadata, "layers": layers, "graph": self.graph}


def sizes(path: str | Path) -> Sizes | None:
    """The parts of an exported file, by its suffix; None where the format does not say (``.pte``).

    Raises :class:`ExportError` when the file is missing, damaged, or of an unknown kind.
    """
    path = Path(path)
    entry = of_path(path)
    try:
        parts = entry.parts(path)
        total = path.stat().st_size
    except ExportError:
        raise
    except Exception as error:  # zipfile, zlib, protobuf and JSON each have their own
        raise ExportError(f"{path} cannot be read: {error}", remedy="Export or copy it again.") from error
    if parts is None:
        return None
    layers, metadata = parts
    top = sorted(layers.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    return Sizes(total, sum(layers.values()), metadata, tuple(top))


def of_tflite(path: Path) -> Parts:
    """Of a TFLite file."""
    model = flatbuffer.read(path.read_bytes())
    left = {index: len(buffer.data) for index, buffer in enumerate(model.buffers) if buffer.data is not None}
    metadata = sum(left.pop(entry.buffer, 0) for entry in model.metadata or ())
    layers: dict[str, int] = {}
    for _, _, operator, graph in flatbuffer.operators(model):
        name = flatbuffer.text(graph.tensors[operator.outputs[0]].name) if len(operator.outputs) else ""
        for index in operator.inputs:
            size = left.pop(graph.tensors[index].buffer, 0) if index >= 0 else 0  # shared data are the first reader's
            if size:
                layers[name] = layers.get(name, 0) + size
    return layers, metadata


def of_archive(path: Path) -> Parts:
    """Of a TorchScript or ``.pt2`` archive."""
    layers: dict[str, int] = {}
    metadata = 0
    with zipfile.ZipFile(path) as archive:
        names = _weight_names(archive)
        for entry in archive.infolist():
            folder, _, name = entry.filename.partition("/")[2].rpartition("/")
            if folder == "extra":
                metadata += entry.file_size
            elif folder in ("constants", "data/weights", "data/constants", "data") and not name.endswith((".json", ".pkl", ".pt")):
                layer = names.get(name, name).rpartition(".")[0] or names.get(name, name)
                layers[layer] = layers.get(layer, 0) + entry.file_size
    return layers, metadata


@dataclass(frozen=True)
class _Weight:
    path_name: str


@dataclass(frozen=True)
class _Weights:
    """Of a ``.pt2`` archive: which file holds each weight."""

    config: dict[str, _Weight]


def _weight_names(archive: zipfile.ZipFile) -> dict[str, str]:
    """Of a ``.pt2`` archive, the weights' names by their files'; a TorchScript archive has none."""
    names: dict[str, str] = {}
    for entry in archive.namelist():
        if entry.endswith(("model_weights_config.json", "model_constants_config.json")):
            names |= {item.path_name: name for name, item in convert(parse_json(archive.read(entry)), _Weights).config.items()}
    return names


def of_onnx(path: Path) -> Parts:
    """Of an ONNX model."""
    from edgeprune.export.extras import require

    onnx = require("onnx", "onnx")
    model = onnx.load_model(path, load_external_data=False)
    layers: dict[str, int] = {}
    for tensor in model.graph.initializer:
        layer = tensor.name.rpartition(".")[0] or tensor.name
        layers[layer] = layers.get(layer, 0) + len(onnx.numpy_helper.to_array(tensor).tobytes())
    return layers, sum(len(item.value) for item in model.metadata_props)
