"""Candidates made in a worker: what is sent there, what it does, and what comes back.  A worker opens no device and no run directory."""

from __future__ import annotations

import copy
import io
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from edgeprune.errors import EdgepruneError
from edgeprune.execute import Send, Shared
from edgeprune.graph import Analysis, analyze
from edgeprune.runs.directory import RunDirectory
from edgeprune.runs.events import Event, Progress
from edgeprune.search.candidate import Candidate, CandidateSettings, make_candidate
from edgeprune.search.events import EventStream
from edgeprune.search.options import Options
from edgeprune.search.work import Workers
from edgeprune.surgery import Plan, Pruned, apply
from edgeprune.surgery.apply import Mode
from edgeprune.task import Task
from edgeprune.tuning import TuneResult
from edgeprune.tuning.frozen import changed, unfreeze

SHOWN_S = 0.2
"""Progress is sent at most that often."""


@dataclass(frozen=True)
class Setup:
    """What the work of one run starts from.  ``state``: the weights of the model that is cut, in the dense shapes; None: the task's own."""

    task: Shared[Task]
    options: Options
    state: bytes | None = None

    @classmethod
    def of(cls, workers: Workers, task: Task, options: Options, model: nn.Module) -> Setup:
        """``task``: as the user gave it."""
        return cls(workers.share(task), options, None if model is task.model else packed(model))

    def open(self) -> tuple[Task, Analysis, nn.Module]:
        """The task as it is trained, the analysis of its model, and the model that is cut."""
        given = self.task.get()
        task, model = self.options.applied(given), given.model
        if self.state is not None:
            model = copy.deepcopy(model)
            unpack(self.state, model)
        return task, _analysis_of(given), model


_analysed: list[tuple[Task, Analysis]] = []


def _analysis_of(task: Task) -> Analysis:
    """Made once in a worker."""
    for known, analysis in _analysed:
        if known is task:
            return analysis
    analysis = analyze(task.model, task.example_inputs, tuple(task.protect), task.attention)
    _analysed[:] = [(task, analysis)]
    return analysis


def packed(model: nn.Module) -> bytes:
    """Its parameters and buffers."""
    data = io.BytesIO()
    torch.save({name: value.detach().cpu() for name, value in model.state_dict().items() if isinstance(value, Tensor)}, data)
    return data.getvalue()


def unpack(state: bytes, model: nn.Module) -> None:
    """Give ``model`` these parameters and buffers."""
    given = torch.load(io.BytesIO(state), weights_only=True)
    missing = {name for name, value in model.state_dict().items() if isinstance(value, Tensor)} ^ given.keys()
    assert not missing, f"another model's weights: {', '.join(sorted(missing)[:5])}"
    model.load_state_dict(given, strict=False)


class KeptCheckpoint:
    """A tuning's checkpoint, file ``name`` of ``run``.  Workers get a :class:`SentCheckpoint` with what the file holds when that is sent:
    work that is begun again gets the latest."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        self.run, self.name = run, name

    def __reduce__(self) -> tuple[type[SentCheckpoint], tuple[str, bytes | None]]:
        path = self.run.path / self.name
        return SentCheckpoint, (str(path), path.read_bytes() if path.exists() else None)

    def keep(self, message: Any) -> bool:
        """Write what a worker sent, if it is a checkpoint.  Raises :class:`RunError` when it cannot be written."""
        if isinstance(message, SentCheckpoint) and message.data is not None:
            self.run.write(self.name, message.data)
            return True
        return False


@dataclass(frozen=True)
class SentCheckpoint:
    """A tuning's checkpoint on its way.  ``path``: of the driver's file."""

    path: str
    data: bytes | None


@dataclass(frozen=True)
class MadeApart:
    """A candidate on its way back: ``pruned`` without its model, whose weights are ``state``."""

    state: bytes
    mode: Mode
    error: float
    inactive: tuple[str, ...]
    tuned: TuneResult | None
    files: dict[str, bytes]
    export_s: float

    def candidate(self, task: Task, analysis: Analysis, model: nn.Module, plan: Plan, key: str) -> Candidate:
        """As it was in the worker."""
        pruned = apply(model, analysis, plan, self.mode)
        if task.unfreeze:
            unfreeze(pruned.model, changed(analysis, pruned))
        unpack(self.state, pruned.model)
        whole = Pruned(pruned.model, plan, self.mode, self.error, self.inactive)
        return Candidate(whole, self.tuned, key, self.files, self.export_s)


def tune_apart(setup: Setup, plan: Plan, settings: CandidateSettings, checkpoint: SentCheckpoint, send: Send) -> MadeApart:
    """:func:`make_candidate` in a worker.  Sends events, and the checkpoint whenever it has changed."""
    task, analysis, model = setup.open()
    with TemporaryDirectory(prefix="edgeprune-tuning-") as folder:
        path = Path(folder) / Path(checkpoint.path).name
        if checkpoint.data is not None:
            path.write_bytes(checkpoint.data)
        events = EventStream(_Sender(send, path, checkpoint.path))
        with _called(path, checkpoint.path), _warnings_to(events):
            made = make_candidate(task, plan, settings, model=model, analysis=analysis, checkpoint=path, events=events)
    pruned = made.pruned
    return MadeApart(packed(pruned.model), pruned.mode, pruned.error, pruned.inactive, made.tuned, made.files, made.export_s)


class _Sender:
    """A listener that sends events, and before them the checkpoint at ``path`` where it has changed; it is ``called`` so."""

    def __init__(self, send: Send, path: Path, called: str) -> None:
        self.send, self.path, self.called = send, path, called
        self._sent, self._shown = self._version(), 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            if event.done < event.total and time.monotonic() < self._shown + SHOWN_S:
                return
            self._shown = time.monotonic()
        elif (version := self._version()) != self._sent:
            self._sent = version
            self.send(SentCheckpoint(self.called, self.path.read_bytes()))
        self.send(event)

    def _version(self) -> tuple[int, int] | None:
        return (self.path.stat().st_ino, self.path.stat().st_mtime_ns) if self.path.exists() else None


@contextmanager
def _warnings_to(events: EventStream) -> Iterator[None]:
    """What Python warns the user of inside is an event."""
    with warnings.catch_warnings():
        shown = warnings.showwarning
        warnings.showwarning = lambda message, category, *place, **more: (
            events.warn(str(message)) if category is UserWarning else shown(message, category, *place, **more)
        )
        yield


@contextmanager
def _called(path: Path, name: str) -> Iterator[None]:
    """Errors name the driver's file, not the worker's."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, EdgepruneError):
            error.message = error.message.replace(str(path), name)
            error.args = (error.message,)
        if hasattr(error, "__notes__"):
            error.__notes__ = [note.replace(str(path), name) for note in error.__notes__]
        raise
