"""MNIST from the data folder, as torchvision fetches it or packed, 3,000 digits a file (0 to 19 training, 20 and on test).

As torchvision: ``MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte``, unpacked or with ``.gz``; ``torchvision.datasets.MNIST(folder,
download=True)`` fetches it. Packed: ``mnist/batch_<n>.png``, rows of 28 x 28 grey pixels, and ``mnist/labels.json``.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from _data import data_set, no_file
from _originals import idx
from PIL import Image
from torch.utils.data import TensorDataset

DIGITS = 3000
"""Of a file."""


def digits(files: range) -> TensorDataset:
    """Images (N, 1, 28, 28) from 0 to 1, and their labels."""
    folder = data_set("mnist", "mnist", "MNIST/raw", "mnist/MNIST/raw")
    wanted = slice(DIGITS * files.start, DIGITS * files.stop)
    if not (folder / "labels.json").is_file():
        raw = folder / "MNIST/raw" if (folder / "MNIST/raw").is_dir() else folder
        rows, labels = (np.concatenate([idx(raw / f"{part}-{kind}-ubyte") for part in ("train", "t10k")])[wanted] for kind in KINDS)
    else:
        try:
            rows = np.concatenate([np.asarray(Image.open(folder / f"batch_{file}.png")) for file in files])
        except FileNotFoundError as error:
            raise no_file(error.filename) from error
        labels = np.asarray(json.loads((folder / "labels.json").read_text())["labels"][wanted])
    return TensorDataset(torch.from_numpy(rows.reshape(-1, 1, 28, 28)).float() / 255, torch.from_numpy(labels).long())


KINDS = ("images-idx3", "labels-idx1")
