"""Learning without labels: the original's own answers are the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

NOISE = 0.05
"""Of the targets while training, as a share of their root mean square."""


def kinds_of(answers: list[Tensor]) -> list[str]:
    """What each output is: "scores" of classes, "shares" of them (which add up to 1), or plain "values".

    A matrix of at least two columns holds scores; so does a tensor of three dimensions whose last one adds up to 1.
    """
    found = []
    for answer in answers:
        if answer.dim() in (2, 3) and answer.shape[-1] > 1 and _adds_up(answer):
            found.append("shares")
        else:
            found.append("scores" if answer.dim() == 2 and answer.shape[1] > 1 and answer.is_floating_point() else "values")
    return found


def _adds_up(answer: Tensor) -> bool:
    return bool(((answer.sum(-1) - 1).abs() < 1e-3).all()) and bool((answer >= 0).all())


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class AnswerLoss:
    """How far outputs are from the original's; the mean over its outputs, which are of ``kinds``.

    Class scores: the cross-entropy with the mean of the original's distribution and its decision. Values: the mean squared error as a share
    of the targets' mean square, with a little noise on the targets, as of a normal distribution around them: without it (and without the
    decision) the gradient is zero at the original, and says nothing of which channels matter.
    """

    kinds: tuple[str, ...]

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """One number."""
        parts = [
            _of_scores(one, wanted, kind == "shares") if kind != "values" else _of_values(one, wanted)
            for one, wanted, kind in zip(_tensors(outputs), _tensors(targets), self.kinds, strict=True)
            if one.is_floating_point()
        ]
        return torch.stack(parts).mean()


def _of_scores(one: Tensor, wanted: Tensor, shares: bool) -> Tensor:
    logs = one.clamp(min=1e-7).log() if shares else functional.log_softmax(one, -1)
    answer = wanted if shares else functional.softmax(wanted, -1)
    decided = functional.one_hot(wanted.argmax(-1), wanted.shape[-1]).to(answer.dtype)
    return -(0.5 * (answer + decided) * logs).sum(-1).mean()


def _of_values(one: Tensor, wanted: Tensor) -> Tensor:
    size = wanted.square().mean().clamp(min=1e-12)
    if one.requires_grad and torch.is_grad_enabled():
        wanted = wanted + NOISE * size.sqrt() * torch.randn_like(wanted)
    return (one - wanted).square().mean() / size


@dataclass(frozen=True)
class Agreement:
    """In percent, how often the decisions of the first output of class scores are the original's."""

    place: int

    def __call__(self, outputs: Any, targets: Any) -> float:
        """For one batch."""
        one, wanted = (_tensors(value)[self.place] for value in (outputs, targets))
        return 100.0 * (one.argmax(-1) == wanted.argmax(-1)).float().mean().item()


def relative_error(outputs: Any, targets: Any) -> float:
    """In percent, the root mean square of the difference from the original, as a share of its own; the mean over the outputs."""
    found = []
    for one, wanted in zip(_tensors(outputs), _tensors(targets), strict=True):
        size = wanted.double().square().mean().sqrt().clamp(min=1e-12)
        found.append(float((one.double() - wanted.double()).square().mean().sqrt() / size))
    return 100.0 * math.fsum(found) / len(found)


class Answered:
    """Batches of samples with the answers to them, in another order each time if ``shuffled``.

    ``inputs``, ``answers``: (S, ...) each. ``joined``: a batch is some samples; else each sample is a whole batch, as the model takes it.
    """

    def __init__(self, inputs: list[Tensor], answers: list[Tensor], size: int, *, joined: bool, shuffled: bool) -> None:
        self.inputs, self.answers, self.joined, self.shuffled = inputs, answers, joined, shuffled
        self.size = size if joined else 1

    def __len__(self) -> int:
        return -(-len(self.inputs[0]) // self.size)

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor | tuple[Tensor, ...]]]:
        count = len(self.inputs[0])
        order = torch.randperm(count) if self.shuffled else torch.arange(count)
        for places in torch.split(order, self.size):
            taken = places if self.joined else places[0]
            answers = tuple(one[taken] for one in self.answers)
            yield tuple(one[taken] for one in self.inputs), answers[0] if len(answers) == 1 else answers


def answer(model: nn.Module, inputs: list[Tensor], size: int, joined: bool) -> list[Tensor]:
    """What ``model`` answers to the samples in ``inputs``, each (S, ...)."""
    found: list[list[Tensor]] = []
    with torch.no_grad():
        for places in torch.split(torch.arange(len(inputs[0])), size if joined else 1):
            taken = places if joined else places[0]
            found.append(_tensors(model(*(one[taken] for one in inputs))))
    together = torch.cat if joined else torch.stack
    return [together(list(parts)) for parts in zip(*found, strict=True)]
