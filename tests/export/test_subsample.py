"""Strided slices of feature maps are exported as convolutions, compute the same, and others stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from edgeprune.export import export


class Sliced(nn.Module):
    """A convolution whose output is sliced as ``key`` says."""

    def __init__(self, *key: slice) -> None:
        super().__init__()
        self.key, self.convolution = (slice(None), slice(None), *key), nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convolution(x))[self.key]


class Table(nn.Module):
    """Rows of a table, which is not a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(1, 4, 6, 8)[:, :, ::2] + 1


class Overwritten(nn.Module):
    """A slice of what is changed in place after it: it is not a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        shortcut = y[:, :, ::2, ::2]
        return nn.functional.max_pool2d(torch.relu_(y), 2) + shortcut


def operators(path: Path) -> list[str]:
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in model.subgraphs[0].operators]


@pytest.mark.parametrize(
    ("model", "shape", "slices", "convolutions"),
    [
        (Sliced(slice(None, None, 2), slice(None, None, 2)), (1, 3, 8, 8), 0, 2),
        (Sliced(slice(None), slice(None, None, 3)), (1, 3, 7, 8), 0, 1),
        (Sliced(slice(1, None, 2)), (1, 3, 8, 8), 1, 0),
        (Sliced(slice(0, 5, 2)), (1, 3, 8, 8), 1, 0),
        (Table(), (1, 4, 48), 1, 0),
        (Overwritten(), (1, 3, 8, 8), 2, 0),
    ],
)
def test_the_exported_file_computes_the_same(
    model: nn.Module, shape: tuple[int, ...], slices: int, convolutions: int, tmp_path: Path
) -> None:
    path = export(model.eval(), (torch.randn(shape),), ("tflite",), tmp_path, "sliced")["tflite"]  # compares the outputs
    found = operators(path)
    assert found.count("STRIDED_SLICE") + found.count("SLICE") == slices
    assert found.count("DEPTHWISE_CONV_2D") == convolutions
