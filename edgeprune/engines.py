"""The engines that run model files on devices, and which files each runs: nothing else lists them."""

from __future__ import annotations

from pathlib import PurePath

ENGINE_OF_SUFFIX = {
    ".tflite": "tflite",
    ".pt": "torchscript",
    ".pts": "torchscript",
    ".torchscript": "torchscript",
    ".onnx": "onnx",
    ".pte": "executorch",
}
ENGINES = (*dict.fromkeys(ENGINE_OF_SUFFIX.values()), "native")
"""By name; ``native`` runs a .tflite file by the device's ``benchmark_model``."""


def engine_of(name: str) -> str | None:
    """What runs a file of this name on a device; None when nothing does."""
    return ENGINE_OF_SUFFIX.get(PurePath(name).suffix)
