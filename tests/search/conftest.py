"""Models for what measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeprune.testing.models import dense_tflite


@pytest.fixture
def dense(tmp_path: Path, weights: np.ndarray) -> Path:
    path = tmp_path / "dense.tflite"
    path.write_bytes(dense_tflite(weights))
    return path


@pytest.fixture
def smaller(tmp_path: Path, weights: np.ndarray) -> Path:
    path = tmp_path / "smaller.tflite"
    path.write_bytes(dense_tflite(weights[:32]))
    return path
