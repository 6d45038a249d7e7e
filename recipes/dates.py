"""Dates as people write them, into ISO 8601 ("3rd march 98" is 1998-03-03): a tiny encoder-decoder of two LSTMs, trained here in minutes.

Every date is made by this file: no data are needed. The network reads a whole text, and then writes a character at a time, each from the
one before: Sutskever, Vinyals & Le, "Sequence to Sequence Learning with Neural Networks", 2014. The metric is the share of dates all of
whose characters are right. It is computed with the right characters before each (all in one pass): a date is right so exactly when it is
right where each character follows from the network's own, since up to its first mistake both are the same.

A device runs :class:`Encoder` once a text and :class:`Step` once a character: :func:`translate` shows how. Export both of a pruned model.
"""

from __future__ import annotations

import datetime
import random

import torch
from _data import Batches
from _trained import trained_task
from torch import Tensor, nn
from torch.nn import functional as F

from edgeprune.task import Task

SOURCE = {character: place for place, character in enumerate(" abcdefghijklmnopqrstuvwxyz0123456789/.,-")}
WRITTEN = "0123456789-"
START, READ, WRITE = len(WRITTEN), 24, 10  # the symbol before the first character; characters of a text and of a date
EMBEDDED, STATE = 32, 128
FORMS = ("%d %B %Y", "%B %d, %Y", "%d.%m.%Y", "%m/%d/%Y", "%d %b %y", "%A, %d %b %Y", "%Y %B %d")


class Translator(nn.Module):
    """Texts (N, 24) and the characters before each one that is wanted (N, 10) in, scores (N, 10, 11) of characters out."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Embedding(len(SOURCE), EMBEDDED), nn.Embedding(len(WRITTEN) + 1, EMBEDDED)
        self.encoder, self.decoder = (nn.LSTM(EMBEDDED, STATE, batch_first=True) for _ in range(2))
        self.head = nn.Linear(STATE, len(WRITTEN))

    def forward(self, text: Tensor, before: Tensor) -> Tensor:
        _, state = self.encoder(self.read(text))
        return self.head(self.decoder(self.write(before), state)[0])


class Encoder(nn.Module):
    """A text (1, 24) in, the two states that it leaves, (1, 1, width) each, out, of a :class:`Translator`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.read, self.encoder = model.read, model.encoder

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(self.read(text))[1]


class Step(nn.Module):
    """The character before (1, 1) and the states in, scores (1, 11) of the next character and the next states out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.write, self.decoder, self.head = model.write, model.decoder, model.head

    def forward(self, before: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found, (hidden, cell) = self.decoder(self.write(before), (hidden, cell))
        return self.head(found[:, 0]), hidden, cell


def translate(encoder: nn.Module, step: nn.Module, text: str) -> str:
    """The date that the two parts make of ``text``, each character from the one before."""
    states, before, found = encoder(encoded(text)[None]), START, ""
    for _ in range(WRITE):
        scores, *states = step(torch.tensor([[before]], dtype=torch.int32), *states)
        before = int(scores.argmax())
        found += WRITTEN[before]
    return found


def encoded(text: str) -> Tensor:
    """The places of 24 characters, the last ones blank."""
    return torch.tensor([SOURCE[character] for character in text.lower().ljust(READ)[:READ]], dtype=torch.int32)


def dates(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` dates of 1950 to 2049: texts (N, 24), and what they mean (N, 10)."""
    drawn, first = random.Random(seed), datetime.date(1950, 1, 1)
    days = [first + datetime.timedelta(drawn.randrange(36_524)) for _ in range(count)]
    texts = [encoded(day.strftime(drawn.choice(FORMS))) for day in days]
    return torch.stack(texts), torch.tensor([[WRITTEN.index(character) for character in day.isoformat()] for day in days])


class Pairs(Batches):
    """:class:`Batches` of texts with the characters before each one that is wanted."""

    def __iter__(self):
        for text, wanted in super().__iter__():
            yield (text, F.pad(wanted[:, :-1], (1, 0), value=START).int()), wanted


def loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """The cross entropy of every character."""
    return F.cross_entropy(scores.flatten(0, 1), wanted.flatten())


def exact(scores: Tensor, wanted: Tensor) -> float:
    """The share of dates in percent all of whose characters are right."""
    return 100.0 * (scores.argmax(2) == wanted).all(1).double().mean().item()


def make_task(model: nn.Module) -> Task:
    """Translating dates, for any ``model`` as :class:`Translator` is; the same text may be in both parts, few are."""
    example = (encoded("")[None], torch.full((1, WRITE), START, dtype=torch.int32))
    data = {"train": Pairs(*dates(12_000, 0), 64, shuffle=True), "validation": Pairs(*dates(2_000, 1), 500)}
    preprocessing = {
        "input": "a text in small letters, padded with blanks to 24 characters",
        "characters": "".join(SOURCE),
        "written": WRITTEN,
    }
    scoring = {"loss": loss, "metric": exact, "metric_name": "exact match", "metric_unit": "%"}
    return Task(model, example, **data, **scoring, preprocessing=preprocessing)


LESSON = {"epochs": 7, "learning_rate": 0.005}
"""How the network is trained."""


def task() -> Task:
    return trained_task(__file__, Translator, make_task, LESSON, epochs=3, learning_rate=0.002, distillation=0.5)
