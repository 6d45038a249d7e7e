"""The scores of a run: each is made once, and kept with its standard error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import nn

from edgeprune.export.evaluate import score_file_with_error
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.records import Scored
from edgeprune.task import Task
from edgeprune.tuning import Score, score_with_error

DENSE = "score-dense"
"""The record of the dense model's score."""


class Scores:
    """Scores models of ``task``, each once in a run; None where the task cannot score."""

    def __init__(self, task: Task, run: RunDirectory) -> None:
        self.task, self.run = task, run

    def of_model(self, model: nn.Module, key: str) -> float | None:
        """The metric of a model, recorded under ``key``."""
        return self._once(key, lambda: score_with_error(model, self.task))

    def of_file(self, path: Path, engine: str, key: str) -> float | None:
        """The metric of an exported file, recorded under ``key``."""
        return self._once(key, lambda: score_file_with_error(path, self.task, engine))

    def recorded(self, key: str) -> Score | None:
        """What was scored under ``key``, with its error; None where nothing was."""
        known = self.run.recall_as(key, Scored)
        return None if known is None else Score.of(asdict(known))

    def _once(self, key: str, compute: Callable[[], Score]) -> float | None:
        if not self.task.scores:
            return None
        known = self.run.recall_as(key, Scored)
        if known is None:
            known = Scored(**compute().to_json())
            self.run.record(key, asdict(known))
        return known.metric
