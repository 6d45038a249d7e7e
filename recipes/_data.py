"""Where data are, and batches of data held in memory, augmented as tensors: no worker processes, a few milliseconds a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeprune.errors import RecipeError


class Source(NamedTuple):
    """A data set: its ``title``, and what to ``fetch`` and how to lay it into the data folder."""

    title: str
    fetch: str


SOURCES = {
    "cifar10": Source(
        "CIFAR-10", "fetch https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz and unpack it there, to cifar-10-batches-py/"
    ),
    "weights": Source(
        "pretrained CIFAR-10 ResNets",
        "fetch resnet20-12fca82f.th and resnet56-4bfd9763.th from "
        "https://github.com/akamaster/pytorch_resnet_cifar10/tree/master/pretrained_models into weights/",
    ),
    "mnist": Source("MNIST", "let torchvision.datasets.MNIST(FOLDER, download=True) fetch it, to MNIST/raw/*-ubyte"),
    "speech_commands": Source(
        "Speech Commands",
        "unpack http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz there to speech_commands/, a folder of wav files a word",
    ),
    "fsdd": Source(
        "the Free Spoken Digit Dataset", "git clone https://github.com/Jakobovski/free-spoken-digit-dataset there, for its recordings/*.wav"
    ),
    "snips": Source(
        "SNIPS's requests",
        "git clone https://github.com/sonos/nlu-benchmark there, for its 2017-06-custom-intent-engines/<Intent>/*.json",
    ),
    "banking77": Source(
        "BANKING77",
        "fetch train.csv and test.csv from https://github.com/PolyAI-LDN/task-specific-datasets/tree/master/banking_data into banking77/",
    ),
    "har": Source(
        "STMicroelectronics' human activities at 26 Hz",
        "fetch the folders stationary, walking and running of csv files from "
        "https://github.com/UniSalento-IDALab-IoTCourse-2023-2024/wot-MotionAI-Machine_Learning-MigliettaDurante (dataset/) into har/",
    ),
    "ecg": Source(
        "MIT-BIH heart beats",
        "fetch https://physionet.org/content/mitdb/1.0.0/ and save its beats in ecg/ecg_nsv.npz: xtr, xte of 128 samples at 180 Hz, "
        "int16, and ytr, yte with 0 normal, 1 supraventricular, 2 ventricular",
    ),
    "esc10": Source("ESC-10", "unpack https://github.com/karolpiczak/ESC-50/archive/master.zip there, to ESC-50-master/"),
    "nab": Source("Numenta's anomaly benchmark", "git clone https://github.com/numenta/NAB there"),
    "nuclei": Source(
        "nuclei of the Data Science Bowl 2018", "unpack stage1_train.zip of https://bbbc.broadinstitute.org/BBBC038 there, to stage1_train/"
    ),
    "pneumoniamnist": Source(
        "PneumoniaMNIST", "fetch https://zenodo.org/records/10519652/files/pneumoniamnist.npz of MedMNIST into pneumoniamnist/"
    ),
    "fastestdet": Source(
        "FastestDet trained on COCO",
        "fetch weights/weight_AP05:0.253207_280-epoch.pth of https://github.com/dog-qiuqiu/FastestDet as weights/fastestdet_coco_352.pth",
    ),
    "cards": Source(
        "playing cards",
        "fetch https://github.com/EdjeElectronics/TensorFlow-Object-Detection-API-Tutorial-Train-Multiple-Objects-Windows-10, "
        "and pack its images/ as boxes.json and images.tar into cards/",
    ),
    "bccd": Source("blood cells (BCCD)", "git clone https://github.com/Shenggan/BCCD_Dataset there"),
    "grocery": Source("the Grocery Store Dataset", "git clone https://github.com/marcusklasson/GroceryStoreDataset there"),
}
"""By the name of their folder."""


def data_folder(name: str = "") -> Path:
    """The folder that the environment variable ``EDGEPRUNE_DATA`` names, ``../shared/data`` beside the project unless set.

    ``name``: the data set of ``SOURCES`` that is wanted from there. Raises :class:`RecipeError` that says what to fetch, from where, when
    there is no such folder.
    """
    wanted = os.environ.get("EDGEPRUNE_DATA")
    folder = Path(wanted) if wanted else Path(__file__).resolve().parent / "../../shared/data"
    if not folder.is_dir():
        what = f"the data folder {folder} does not exist" if wanted else "EDGEPRUNE_DATA is not set"
        raise RecipeError(f"{what}, where {SOURCES[name].title if name in SOURCES else 'the data'} would be", remedy=_remedy(name))
    return folder


def data_set(name: str, *layouts: str) -> Path:
    """The first folder of ``layouts``, paths in the data folder, that is there: how the data set ``name`` may lie in it; else the first."""
    folder = data_folder(name)
    return next((folder / layout for layout in layouts if (folder / layout).is_dir()), folder / layouts[0])


def no_file(path: str | Path) -> RecipeError:
    """The error that says that ``path`` is missing from the data, and where its data set is from."""
    name = next((part for part in Path(path).parts[::-1] if part in SOURCES), "")
    return RecipeError(f"{path} does not exist", remedy=_remedy(name))


def _remedy(name: str) -> str:
    if name not in SOURCES:
        return "Set EDGEPRUNE_DATA to the folder that has it; edgeprune recipes show NAME says what is in it."
    return f"Set EDGEPRUNE_DATA to a folder (export EDGEPRUNE_DATA=FOLDER) and {SOURCES[name].fetch}."


class Batches:
    """Batches of ``(inputs, targets)`` from tensors of the same length in memory, to be iterated again and again.

    With ``shuffle``, each epoch (see :meth:`set_epoch`) has its own order, the last, incomplete batch is left out, and the inputs are
    ``change(inputs, generator)``; without, all of them come in order and as they are.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        batch: int,
        *,
        shuffle: bool = False,
        change: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    ) -> None:
        self.inputs, self.labels, self.batch, self.shuffle, self.change = inputs, labels, batch, shuffle, change
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the changes of the next iterations."""
        self.epoch = epoch

    def __len__(self) -> int:
        count = len(self.inputs)
        return count // self.batch if self.shuffle else -(-count // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.epoch)
        order = torch.randperm(len(self.inputs), generator=generator) if self.shuffle else torch.arange(len(self.inputs))
        for index in range(len(self)):
            chosen = order[index * self.batch : (index + 1) * self.batch]
            yield self.made(self.inputs[chosen], generator), self.labels[chosen]

    def made(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """A batch as the model takes it, from what is in memory."""
        return self.change(inputs, generator) if self.shuffle and self.change is not None else inputs


class ImageBatches(Batches):
    """:class:`Batches` of images.

    ``images``: uint8 of shape (N, height, width, channels); ``labels``: (N,) class indices. Inputs are float32 of shape
    (batch, channels, height, width), scaled to 0..1, less ``mean``, over ``std`` (one value a channel). With ``augment``,
    images are shuffled, shifted by up to ``crop`` pixels (what comes in is black), mirrored (``flip``), and lose a square of side
    ``cutout``; each epoch (see :meth:`set_epoch`) has its own order and its own changes, the same ones each time it is iterated.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        augment: bool = False,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
    ) -> None:
        super().__init__(images, labels, batch, shuffle=augment)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        self.crop, self.flip, self.cutout = crop, flip, cutout

    def made(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Normalised, augmented images, channels first."""
        images = self._moved(inputs, generator) if self.shuffle else inputs
        made = ((images / 255.0 - self.mean) / self.std).permute(0, 3, 1, 2)
        if self.shuffle and self.cutout:
            made = made * self._window(len(images), images.shape[1], images.shape[2], generator)
        return made

    def _moved(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each image shifted, and mirrored or not: (batch, height, width, channels) as before."""
        count, height, width, _ = images.shape
        shifts = torch.randint(0, 2 * self.crop + 1, (2, count, 1), generator=generator)
        rows = torch.arange(height) + shifts[0]
        columns = torch.arange(width) + shifts[1]
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images, (0, 0, self.crop, self.crop, self.crop, self.crop))
        return padded[torch.arange(count).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)]

    def _window(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Zero in a square with its centre anywhere in the image, one elsewhere: (batch, 1, height, width)."""
        row = torch.randint(0, height, (count, 1), generator=generator) - self.cutout // 2
        column = torch.randint(0, width, (count, 1), generator=generator) - self.cutout // 2
        rows, columns = torch.arange(height) - row, torch.arange(width) - column
        inside = ((rows >= 0) & (rows < self.cutout)).unsqueeze(2) & ((columns >= 0) & (columns < self.cutout)).unsqueeze(1)
        return (~inside).float().unsqueeze(1)
