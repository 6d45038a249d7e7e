"""The files of a run: where they lie, and how they come there."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from torch import nn

from edgeprune.export.formats import find
from edgeprune.files import write_atomically
from edgeprune.runs.directory import RunDirectory
from edgeprune.search.candidate import Candidate, ExportSettings, start_files
from edgeprune.search.events import EventStream
from edgeprune.task import Task


class Artifacts:
    """Exported files in ``run``, all with the same ``settings``.  ``seconds``: spent waiting for exports, by candidates too."""

    def __init__(self, run: RunDirectory, task: Task, settings: ExportSettings, events: EventStream) -> None:
        self._folder, self._task, self.settings, self._events = run.artifacts, task, settings, events
        self.seconds = 0.0

    def path(self, name: str, format_name: str) -> Path:
        """Where a file is, or will be."""
        return self._folder / f"{name}{find(format_name).suffix}"

    def store(self, name: str, made: Candidate) -> dict[str, Path]:
        """Write a candidate's files, each whole or not at all."""
        self.seconds += made.export_s
        paths = {format_name: self.path(name, format_name) for format_name in made.files}
        for format_name, path in paths.items():
            write_atomically(path, made.files[format_name])
        return paths

    def clear(self, name: str) -> None:
        """Remove a candidate's files: before the checkpoint that they belong to is replaced."""
        for path in self._folder.glob(f"{name}.*"):
            path.unlink()

    def dense(self, engine: str) -> Path:
        """The task's own model, exported unless it is there."""
        path = self.path("dense", engine)
        if not path.is_file():
            begun = time.monotonic()
            self.start(self._task.model, "dense", (engine,)).result()
            self.seconds += time.monotonic() - begun
        return path

    def start(self, model: nn.Module, name: str, formats: tuple[str, ...]) -> Future[dict[str, Path]]:
        """Begin to export; the files come from the future."""
        return start_files(self._task, model, self._folder, name, formats, self.settings, self._events)
