"""Images as a camera gives them, pixels of 8 bits, with the normalisation that was done in training inside the exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from edgeprune.decode import JsonObject
from edgeprune.errors import ExportError
from edgeprune.tflite.file import TfliteFile

_SHARE = 0.01
"""Of a calibration's values that may lie outside of what pixels become."""


@dataclass(frozen=True)
class Normalisation:
    """``(pixel / scale - mean) / std``, where ``mean`` and ``std`` are one number, or one for each channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0

    def __post_init__(self) -> None:
        if len({1, len(self.mean), len(self.std)}) > 2 or not self.mean or not self.std:
            raise ExportError(
                f"mean {list(self.mean)} and std {list(self.std)} have different numbers of channels",
                remedy="Give one number for all channels, or one for each.",
            )
        if not all(value > 0 for value in (*self.std, self.scale)):
            raise ExportError(
                f"std {list(self.std)} and scale {self.scale:g} must be greater than zero",
                remedy="Give the standard deviations that the training data were normalised with.",
            )

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Normalisation | None:
        """From a task's preprocessing: ``mean`` and ``std``, numbers or lists of them, and ``scale`` (255); None where it has neither."""
        if "mean" not in preprocessing and "std" not in preprocessing:
            return None
        try:
            mean, std = (tuple(map(float, np.atleast_1d(preprocessing.get(key, other)))) for key, other in (("mean", 0.0), ("std", 1.0)))
            return cls(mean, std, float(preprocessing.get("scale", 255.0)))
        except (TypeError, ValueError) as error:
            raise ExportError(
                f"mean, std or scale of the task's preprocessing are not numbers: {error}", remedy="Correct the preprocessing of the task."
            ) from error

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        return asdict(self)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """What pixels are multiplied by, and what is added then."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return 1.0 / (std * self.scale), -mean / std

    def pixels(self, values: Tensor) -> Tensor:
        """The pixels, uint8, that become the normalised ``values`` (N, C, H, W)."""
        times, plus = (part.view(1, -1, 1, 1) for part in self._factors())
        return ((values.float() - plus) / times).round().clamp(0, 255).to(torch.uint8)

    def require_pixels(self, values: Tensor) -> None:
        """Raise :class:`ExportError` when normalised values (N, C, H, W) are not what pixels become."""
        times, plus = (part.view(1, -1, 1, 1) for part in self._factors())
        found = (values.float() - plus) / times
        if float(((found < -1.0) | (found > 256.0)).float().mean()) > _SHARE:
            raise ExportError(
                f"the calibration data are not pixels with the mean {list(self.mean)} and std {list(self.std)}: "
                f"they would lie from {float(found.min()):.0f} to {float(found.max()):.0f}, not from 0 to 255",
                remedy="Give the mean and std that the training data were normalised with.",
            )

    def of_channels(self, channels: int) -> tuple[Tensor, Tensor]:
        """Factors and addends for so many channels.  Raises :class:`ExportError` when they are of another number."""
        if not all(len(values) in (1, channels) for values in (self.mean, self.std)):
            raise ExportError(
                f"mean and std have {max(len(self.mean), len(self.std))} channels, and the image has {channels}",
                remedy="Give one number for all channels, or one for each.",
            )
        times, plus = self._factors()
        return times.expand(channels).contiguous(), plus.expand(channels).contiguous()


class FromPixels(nn.Module):
    """A model whose inputs at ``places`` are pixels (N, C, H, W) of type uint8: one 1 x 1 depthwise convolution normalises each."""

    def __init__(self, module: nn.Module, places: Mapping[int, int], normalisation: Normalisation) -> None:
        """``places``: the number of channels by the input's place."""
        super().__init__()
        self.module = module
        layers = {}
        for place, channels in places.items():
            layer = nn.Conv2d(channels, channels, 1, groups=channels)
            times, plus = normalisation.of_channels(channels)
            layer.weight.data, assert_bias = times.view(-1, 1, 1, 1), plus
            layer.bias = nn.Parameter(assert_bias)
            layers[str(place)] = layer
        self.normalise = nn.ModuleDict(layers)
        self.requires_grad_(False)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        values = [*inputs]
        for place, layer in self.normalise.items():
            values[int(place)] = layer(values[int(place)].float())
        return self.module(*values)


def image_places(inputs: Sequence[Tensor]) -> dict[int, int]:
    """Places of the images (N, C, H, W) of real numbers among a model's inputs, with their channels.  Raises :class:`ExportError`."""
    found = {place: int(value.shape[1]) for place, value in enumerate(inputs) if value.dim() == 4 and value.is_floating_point()}
    if not found:
        raise ExportError("input type uint8 is for images (N, C, H, W), and the model has no image input", remedy="Leave it out.")
    return found


def pixel_tensors(content: bytes) -> list[str]:
    """Names of the tensors of a float TFLite file that hold its uint8 inputs as real numbers, from 0 to 255."""
    file = TfliteFile(content)
    return [file.name(int(operator.outputs[0])) for operator in _casts(file)]


def with_pixel_inputs(content: bytes) -> bytes:
    """The int8 TFLite file whose uint8 inputs are moved to int8 by one QUANTIZE each, without a detour over real numbers."""
    file = TfliteFile(content)
    changed = False
    for cast in _casts(file):
        source, real = int(cast.inputs[0]), int(cast.outputs[0])
        readers = [operator for operator in file.operators if real in list(operator.inputs)]
        if not readers or any(file.operation(operator) != "QUANTIZE" for operator in readers) or real in list(file.graph.outputs):
            continue
        file.operators.remove(cast)
        for reader in readers:
            reader.inputs = np.array([source], np.int32)
        scale = schema.QuantizationParametersT()
        scale.scale, scale.zeroPoint = np.array([1.0], np.float32), np.array([0], np.int64)
        file.graph.tensors[source].quantization = scale
        changed = True
    return file.pack() if changed else content


def _casts(file: TfliteFile) -> list[Any]:
    inputs = {int(tensor) for tensor in file.graph.inputs if file.graph.tensors[tensor].type == schema.TensorType.UINT8}
    return [entry for entry in file.operators if file.operation(entry) == "CAST" and int(entry.inputs[0]) in inputs]
