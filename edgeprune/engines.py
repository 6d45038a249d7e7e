"""The engines that run model files on devices, and the formats that models are exported to: nothing else lists names or suffixes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

TFLITE: Final = "tflite"
TORCHSCRIPT: Final = "torchscript"
ONNX: Final = "onnx"
EXECUTORCH: Final = "executorch"
NATIVE: Final = "native"
SPARSE: Final = "tflite-sparse"
INT8: Final = "tflite-int8"

CPU: Final = "cpu"
"""The accelerator that every device has: its processor.  Others: ``gpu``, ``npu``, a runtime's provider, the path of a delegate."""


@dataclass(frozen=True)
class Engine:
    """What runs models on a device.

    ``suffixes``: of the files that it takes unless another is named. ``holds``: what such a file is. ``obtained``: how to get one.
    ``by_hand``: how it gets onto a device, where no wheel brings it. ``int64``: whether its inputs hold 64-bit integers.
    """

    name: str
    suffixes: tuple[str, ...]
    holds: str
    obtained: str
    by_hand: str = ""
    int64: bool = True


@dataclass(frozen=True)
class FileFormat:
    """A format that models are exported to.  ``suffix``: of its files, with all dots. ``precision``: of the numbers that it stores."""

    name: str
    suffix: str
    precision: str = "fp32"

    @property
    def engine(self) -> str | None:
        """What runs it on a device; None when nothing does."""
        return engine_of(f"model{self.suffix}")


_TFLITE_FILE: Final = ("a TFLite file", "Export it with edgeprune export, or convert it, to a TFLite file.")

ENGINES: Final = {
    engine.name: engine
    for engine in (
        Engine(TFLITE, (".tflite",), *_TFLITE_FILE, int64=False),
        Engine(
            TORCHSCRIPT,
            (".pt", ".pts", ".torchscript"),
            "a TorchScript module",
            "Save torch.jit.trace(model.eval(), example), or run edgeprune export --format torchscript.",
        ),
        Engine(ONNX, (".onnx",), "an ONNX model", "Export it with torch.onnx.export, or edgeprune export --format onnx."),
        Engine(
            EXECUTORCH,
            (".pte",),
            "an ExecuTorch program",
            "Export it with edgeprune export --format executorch.",
            "On the device: pip install executorch, into the Python that the target names.",
        ),
        Engine(
            NATIVE,
            (),
            *_TFLITE_FILE,
            "Put TensorFlow's benchmark_model for the device on its PATH, or name it (--native PATH).",
        ),
    )
}
"""By name; ``native`` runs a TFLite file by the device's ``benchmark_model``."""

ENGINE_OF_SUFFIX: Final = {suffix: engine.name for engine in ENGINES.values() for suffix in engine.suffixes}

FORMATS: Final = {
    entry.name: entry
    for entry in (
        FileFormat(TFLITE, ".tflite"),
        FileFormat("tflite-fp16", ".fp16.tflite", "fp16"),
        FileFormat("tflite-dynamic", ".dynamic.tflite", "dynamic"),
        FileFormat(INT8, ".int8.tflite", "int8"),
        FileFormat(SPARSE, ".sparse.tflite"),
        FileFormat(TORCHSCRIPT, ".pt"),
        FileFormat("pt2", ".pt2"),
        FileFormat(ONNX, ".onnx"),
        FileFormat(EXECUTORCH, ".pte"),
    )
}
"""By name; how each is written and read is registered in :mod:`edgeprune.export.formats`."""

DEFAULT_FORMATS: Final = (TFLITE, TORCHSCRIPT, "pt2")
"""What a run exports at its end unless others are asked for."""


def engine_of(name: str) -> str | None:
    """What runs a file of this name on a device; None when nothing does."""
    return ENGINE_OF_SUFFIX.get(PurePath(name).suffix)
