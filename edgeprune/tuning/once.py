"""Training a task's model once: the result is kept in a file beside the recipe."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from edgeprune.task import Task
from edgeprune.tuning.finetune import finetune

_LOG = logging.getLogger(__name__)


def train_once(task: Task, kept: str | Path, *, epochs: float | None = None) -> Task:
    """``task`` with its model trained in place for ``epochs`` (the task's unless given), as :func:`finetune` does, in evaluation mode.

    Every epoch is written to the file ``kept``: an interrupted training continues there, a finished one is only read. Remove the file to
    train again. Progress goes to the log. Raises what :func:`finetune` raises.
    """
    kept = Path(kept)
    shown = 0

    def progress(done: int, total: int, loss: float) -> None:
        nonlocal shown
        if (tenth := 10 * done // total) > shown:
            shown = tenth
            _LOG.warning("training once, kept in %s: %d %%, loss %.3f", kept.name, 10 * tenth, loss)

    finetune(task.model, replace(task, validation=None), epochs=epochs, on_progress=progress, checkpoint=kept)
    task.model.eval()
    return task
