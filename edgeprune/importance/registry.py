"""Criteria by name, and what makes their scores compare."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from edgeprune.errors import InputError, suggest
from edgeprune.graph import Analysis
from edgeprune.task import Task

Saliency = dict[str, np.ndarray]
"""For every group an (R, K) array, as its ``rows``: how much is lost when that channel goes; zero or more."""

Score = Callable[[Task, Analysis], Saliency]


@dataclass(frozen=True)
class Criterion:
    """``function``: what computes it. ``comparable``: its values compare between groups as they are; those of any other criterion are
    divided by their group's mean. ``needs_data``: it looks at training batches."""

    name: str
    function: Score
    comparable: bool
    needs_data: bool


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, *, comparable: bool = False, needs_data: bool = False) -> Callable[[Score], Score]:
    """Register a criterion; for what it declares see :class:`Criterion`.  A second one of the same name is an error."""

    def add(function: Score) -> Score:
        if name in CRITERIA:
            raise ValueError(f"criterion {name} is already registered")
        CRITERIA[name] = Criterion(name, function, comparable, needs_data)
        return function

    return add


def known(name: str) -> Criterion:
    """Criterion ``name``.  Raises :class:`InputError` that lists the known ones."""
    if name not in CRITERIA:
        raise InputError(f"unknown criterion {name!r}", remedy=suggest(name, sorted(CRITERIA), "criteria"))
    return CRITERIA[name]


def find(name: str, task: Task) -> Criterion:
    """Criterion ``name``, if ``task`` has what it needs.  Raises :class:`InputError` for an unknown name and for missing data."""
    found = known(name)
    if found.needs_data and task.train is None:
        without = ", ".join(sorted(other.name for other in CRITERIA.values() if not other.needs_data))
        raise InputError(
            f"criterion {name} needs training data (task.train), and task {task.name} has none",
            remedy=f"Give the task data, or use one of {without}.",
        )
    return found


def score(task: Task, analysis: Analysis, name: str) -> Saliency:
    """The saliency of every channel by criterion ``name``: finite, zero or more, and comparable between groups.  What needs data runs on
    the task's device.

    Losses (taylor, fisher) and shares (lamp) compare as they are. All others are divided by their group's mean, so that 1 is an ordinary
    channel of any group. The same each time: random numbers, those of a shuffling loader too, are seeded. Raises :class:`InputError` for an
    unknown name, missing data, or scores that are not numbers.
    """
    criterion = find(name, task)
    with torch.random.fork_rng(devices=[]), task.on_device(task.model) if criterion.needs_data else nullcontext():
        torch.default_generator.manual_seed(0)
        found = criterion.function(task, analysis)
    result = {group.name: _checked(name, group.name, found.get(group.name), group.rows.shape) for group in analysis.groups}
    return result if criterion.comparable else {group: values / max(float(values.mean()), 1e-30) for group, values in result.items()}


def _checked(criterion: str, group: str, values: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if values is None or values.shape != shape:
        got = "nothing" if values is None else f"shape {values.shape}"
        raise ValueError(f"criterion {criterion} gave {got} for group {group}, not shape {shape}")
    if not np.isfinite(values).all() or values.min() < 0:
        raise InputError(
            f"criterion {criterion} gave group {group} a score that is negative or not a number",
            remedy="Check the model's weights, and its loss on the training data, for NaN and infinite values.",
        )
    return values.astype(np.float64)
