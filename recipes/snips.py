"""What a spoken request wants (SNIPS): an embedding and convolutions over its words, trained here in under a minute.

The data folder holds ``snips/train_<Intent>.json`` and ``validate_<Intent>.json``: ``{"<Intent>": [{"data": [{"text": ...}, ...]}, ...]}``,
in UTF-8, or Latin-1 where that fails; or a clone of https://github.com/sonos/nlu-benchmark, whose ``train_<Intent>_full.json`` they are.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache

import torch
from _data import Batches, data_set, no_file
from _trained import trained_task
from torch import Tensor, nn

from edgeprune.task import Task

ORIGINAL = "nlu-benchmark/2017-06-custom-intent-engines"
LABELS = ("AddToPlaylist", "BookRestaurant", "GetWeather", "PlayMusic", "RateBook", "SearchCreativeWork", "SearchScreeningEvent")
WORDS = 24  # of a request: 99 in 100 are shorter
VOCABULARY = 4000  # the most frequent words; 0 stands for no word, 1 for any other


class Network(nn.Module):
    """Numbers of 24 words in, scores of 7 intents out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 64)
        self.layers = nn.Sequential(convolution(64, 128), convolution(128, 128), nn.AdaptiveMaxPool1d(1), nn.Flatten())
        self.linear = nn.Linear(128, len(LABELS))

    def forward(self, words: Tensor) -> Tensor:
        return self.linear(self.layers(self.embedding(words).transpose(1, 2)))


def convolution(width_in: int, width: int) -> nn.Sequential:
    """A convolution over three words with batch norm and ReLU."""
    return nn.Sequential(nn.Conv1d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm1d(width), nn.ReLU())


@cache
def requests(part: str) -> tuple[list[list[str]], Tensor]:
    """The words of all requests of ``part`` ("train" or "validate"), and their classes."""
    texts: list[list[str]] = []
    classes: list[int] = []
    for label, intent in enumerate(LABELS):
        path = data_set("snips", "snips", ORIGINAL) / f"{part}_{intent}.json"
        if path.parent.name != "snips":
            path = path.parent / intent / (path.name if part == "validate" else f"train_{intent}_full.json")
        if not path.is_file():
            raise no_file(path)
        content = path.read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        for request in json.loads(text)[intent]:
            texts.append(re.findall(r"[\w']+", "".join(piece["text"] for piece in request["data"]).lower()))
            classes.append(label)
    return texts, torch.tensor(classes)


@cache
def vocabulary() -> dict[str, int]:
    """The number of each known word."""
    counted = Counter(word for words in requests("train")[0] for word in words)
    known = sorted(counted, key=lambda word: (-counted[word], word))[: VOCABULARY - 2]
    return {word: number for number, word in enumerate(known, 2)}


def numbers(part: str) -> tuple[Tensor, Tensor]:
    """Word numbers as int32, (N, 24), and classes."""
    texts, classes = requests(part)
    known = vocabulary()
    rows = [([known.get(word, 1) for word in words] + [0] * WORDS)[:WORDS] for words in texts]
    return torch.tensor(rows, dtype=torch.int32), classes


def forgetful(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """One word in ten unknown."""
    return torch.where((torch.rand(inputs.shape, generator=generator) < 0.1) & (inputs > 0), torch.ones_like(inputs), inputs)


def make_task(model: nn.Module) -> Task:
    """Telling the intents apart, for any ``model`` of 24 word numbers."""
    train = Batches(*numbers("train"), 64, shuffle=True, change=forgetful)
    validation = Batches(*numbers("validate"), 350)
    example = numbers("validate")[0][:1]
    return Task(model, (example,), train, validation, labels=LABELS)


LESSON = {"epochs": 4, "learning_rate": 0.1}
"""How the network is trained."""


def task() -> Task:
    preprocessing = {
        "input": "numbers of a request's first 24 words: lower case, split at all but letters, digits and apostrophes; filled up with 0",
        "vocabulary": ["", "any other word", *vocabulary()],
    }
    return trained_task(__file__, Network, make_task, LESSON, epochs=3, learning_rate=0.05, distillation=0.5, preprocessing=preprocessing)
