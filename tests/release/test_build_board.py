"""The health checks that are made here hold on another processor: a virtual aarch64 board."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from board.machine import Board

from edgeprune.bench import Artifact, open_device
from edgeprune.release.build.health import health_of, tolerance_of
from edgeprune.runs.finished import Exported


@pytest.mark.device
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("kws_ref_model_float32.tflite", "tflite"),
        ("kws_ref_model.tflite", "tflite-int8"),
        pytest.param("pretrainedResnet_quant.tflite", "tflite-int8", marks=pytest.mark.soak),
    ],
)
def test_a_health_check_holds_on_aarch64(
    ready: Board, models_folder: Path, name: str, format_name: str, seed: int, record_property
) -> None:
    path = models_folder / name
    content, worst = path.read_bytes(), 0.0
    exported = Exported(format_name, path, content, hashlib.sha256(content).hexdigest(), "2026-01-01T00:00:00Z")
    with open_device("ssh://board") as device:
        inputs, outputs = ([np.load(io.BytesIO(item)) for item in side] for side in health_of(exported, [], seed))
        for found, wanted in zip(device.outputs(Artifact(path), inputs), outputs, strict=True):
            difference = np.abs(found.astype(float) - wanted.astype(float)).max()
            worst = max(worst, difference / np.abs(wanted.astype(float)).max())
    record_property("worst", float(worst))
    assert worst <= tolerance_of(format_name)
