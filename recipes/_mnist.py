"""MNIST: ``mnist/batch_<n>.png`` of 3,000 digits each (0 to 19 training, 20 test), rows of 28 x 28 grey pixels; ``labels.json``."""

from __future__ import annotations

import json

import numpy as np
import torch
from _data import data_folder, no_file
from PIL import Image
from torch.utils.data import TensorDataset

DIGITS = 3000
"""Of a file."""


def digits(files: range) -> TensorDataset:
    """Images (N, 1, 28, 28) from 0 to 1, and their labels."""
    folder = data_folder() / "mnist"
    if not folder.is_dir():
        raise no_file(folder)
    rows = np.concatenate([np.asarray(Image.open(folder / f"batch_{file}.png")) for file in files])
    labels = json.loads((folder / "labels.json").read_text())["labels"][DIGITS * files.start : DIGITS * files.stop]
    return TensorDataset(torch.from_numpy(rows.reshape(-1, 1, 28, 28)).float() / 255, torch.tensor(labels))
