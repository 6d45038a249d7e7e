"""A model for microcontrollers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from edgeprune.export import ExportOptions, export


@pytest.fixture(scope="session")
def int8_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small convolutional net with int8 inputs and outputs."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 3)]
    samples = [(torch.randn(1, 2, 8, 8),) for _ in range(16)]
    options = ExportOptions(integer_io=True, channels_last=True)
    folder = tmp_path_factory.mktemp("micro")
    return export(nn.Sequential(*layers), (torch.zeros(1, 2, 8, 8),), ["tflite-int8"], folder, calibration=samples, options=options)[
        "tflite-int8"
    ]
