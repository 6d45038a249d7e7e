"""Cell nuclei under microscopes: pictures of 160 x 160 with a mask each, 0 background and 1 nucleus.

The data folder holds ``stage1_train/`` of https://bbbc.broadinstitute.org/BBBC038, or ``nuclei/images.tar`` (``000.jpg``, ...) and
``nuclei/masks.npz``: ``instance`` (N, 160, 160), the number of each pixel's nucleus or 0, and ``split`` 0 training, 1 validation, 2 test.
The last two are scored on.
"""

from __future__ import annotations

import tarfile

import numpy as np
import torch
from _data import data_set, no_file
from _originals import cells
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

MEAN, STD, SIDE = 0.25, 0.25, 160
PREPROCESSING = {
    "input": "RGB microscope picture of 160 x 160 pixels, 0 to 255: 3 x 160 x 160",
    "scale": 255,
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
}
LABELS = ("background", "nucleus")


def pictures(*parts: int) -> TensorDataset:
    """Pictures (N, 3, 160, 160), about -1 to 3, and their masks (N, 160, 160)."""
    folder = data_set("nuclei", "nuclei", "stage1_train")
    if not (folder / "masks.npz").is_file() and any(folder.glob("*/masks")):
        found = [(picture, mask) for picture, mask, part in cells(folder, SIDE) if part in parts]
        images, masks = np.stack([picture for picture, _ in found]), torch.from_numpy(np.stack([mask for _, mask in found])).long()
        return normalised(images, masks)
    for name in ("images.tar", "masks.npz"):
        if not (folder / name).is_file():
            raise no_file(folder / name)
    with np.load(folder / "masks.npz") as data:
        wanted = np.flatnonzero(np.isin(data["split"], parts))
        masks = torch.from_numpy(data["instance"][wanted] > 0).long()
    with tarfile.open(folder / "images.tar") as files:
        images = np.stack([np.asarray(Image.open(files.extractfile(f"{number:03}.jpg")).convert("RGB")) for number in wanted])
    return normalised(images, masks)


def normalised(images: np.ndarray, masks: Tensor) -> TensorDataset:
    """Pictures as the network takes them, of uint8 (N, 160, 160, 3), with their masks."""
    return TensorDataset(((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - MEAN) / STD).contiguous(), masks)


class Turned(Dataset[tuple[Tensor, Tensor]]):
    """The pairs of ``data`` in one of their eight orientations, drawn each time."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture, mask = self.data[index]
        turns, mirrored = int(torch.randint(4, ())), bool(torch.randint(2, ()))
        picture, mask = picture.rot90(turns, (1, 2)), mask.rot90(turns, (0, 1))
        return (picture.flip(2), mask.flip(1)) if mirrored else (picture, mask)
