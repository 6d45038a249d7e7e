"""Criteria by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeprune.errors import InputError
from edgeprune.graph import Analysis
from edgeprune.task import Task

Saliency = dict[str, np.ndarray]
"""For every group an (R, K) array, as its ``rows``: how much is lost when that channel goes; zero or more."""

Criterion = Callable[[Task, Analysis], Saliency]

CRITERIA: dict[str, Criterion] = {}


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Register a criterion.  A second one of the same name is an error."""

    def add(function: Criterion) -> Criterion:
        if name in CRITERIA:
            raise ValueError(f"criterion {name} is registered already")
        CRITERIA[name] = function
        return function

    return add


def score(task: Task, analysis: Analysis, name: str) -> Saliency:
    """The saliency of every channel by criterion ``name``.  Raises :class:`InputError` for an unknown name."""
    if name not in CRITERIA:
        raise InputError(f"unknown criterion {name!r}", remedy=f"Known criteria: {', '.join(sorted(CRITERIA))}.")
    return CRITERIA[name](task, analysis)
