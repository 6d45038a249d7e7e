"""Levels of a frontier whose models are tuned side by side, by workers."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from points_task import points_task
from safetensors.torch import load_file
from torch import Tensor

from edgeprune.budget import Budget
from edgeprune.errors import InputError, RecipeError, TrainingStoppedError
from edgeprune.execute import InProcess, Processes, Send, Shared, executor_of, ignore
from edgeprune.runs.events import EpochEnded, Event, read_events
from edgeprune.runs.sweep import Frontier
from edgeprune.search import Options, frontier, prune
from edgeprune.search.apart import SentCheckpoint
from edgeprune.search.request import RunRequest

OPTIONS = Options(engine="torchscript", formats=(), step=4, epochs=2)
TWO = replace(OPTIONS, workers=2)
LEVELS = ["70%", "45%", "30%"]
NAMES = [f"macs-{level.replace('%', 'pct')}" for level in LEVELS]


def swept(options: Options, listener: Callable[[Event], None] = lambda event: None, **where: Any) -> Frontier:
    return frontier(points_task(), profile="raspberry-pi-4", kind="macs", levels=LEVELS, options=options, listener=listener, **where)


def without_times(value: Any) -> Any:
    """A summary, or a part of one, without what says when it was made."""
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if name not in ("seconds", "created", "written_at")}
    return [without_times(part) for part in value] if isinstance(value, list) else value


class Kept:
    """Workers that outlive a command."""

    here, workers = True, 2

    def __init__(self) -> None:
        self.inner, self.keys = Processes(2), list[str]()

    def share(self, value: Any) -> Shared[Any]:
        return self.inner.share(value)

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any, receive: Send = ignore) -> Future[Any]:
        self.keys.append(key)
        return self.inner.submit(key, function, *arguments, receive=receive)

    def close(self) -> None:
        self.keys.clear()


@pytest.fixture(scope="module")
def processes() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.inner.close()


@pytest.fixture
def two(processes: Kept, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Used by runs with options :data:`TWO`."""
    honest = executor_of
    monkeypatch.setattr(
        "edgeprune.search.workers.executor_of", lambda workers, **named: processes if workers == 2 else honest(workers, **named)
    )
    return processes


def test_levels_tuned_by_workers_are_those_of_one_process(tmp_path: Path, two: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, stages = list[str](), set[str]()
    monkeypatch.setattr(two, "close", lambda: keys.extend(two.keys))
    apart = swept(TWO, lambda event: stages.add(event.stage) if isinstance(event, EpochEnded) else None, runs=tmp_path / "apart")
    assert [key.partition("/")[0] for key in keys if "tune-final-0" in key] == NAMES
    assert {"sensitivity 0", "sensitivity 1"} < set(keys)
    assert stages == {f"{name}: fine-tuning" for name in NAMES}
    alone = swept(OPTIONS, runs=tmp_path / "alone")
    for one, other in zip(apart.points, alone.points, strict=True):
        assert one.best == other.best
        assert one.summary is not None
        assert without_times(one.summary) == without_times(other.summary)
        ended = [(event.stage, event.epoch) for _, event in read_events(one.run) if isinstance(event, EpochEnded)]
        assert ended == [("fine-tuning", epoch) for epoch in (1, 2)]
        weights, same = (load_file(point.run / "model.safetensors") for point in (one, other))
        assert weights.keys() == same.keys()
        assert all(torch.equal(value, same[name]) for name, value in weights.items())


class Gated:
    """Batches whose third epoch waits, a minute at most, until there is a file ``gate``."""

    def __init__(self, batches: list[Any], gate: Path) -> None:
        self.batches, self.gate = batches, gate

    def set_epoch(self, epoch: int) -> None:
        limit = time.monotonic() + 60
        while epoch == 2 and not self.gate.exists() and time.monotonic() < limit:
            time.sleep(0.01)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def test_a_tuning_whose_worker_dies_goes_on_from_its_last_epoch(tmp_path: Path, two: Kept) -> None:
    task, epochs = points_task(), list[int]()
    assert isinstance(task.train, list)
    task.train = Gated(task.train, tmp_path / "gate")

    def kill(event: Event) -> None:
        if isinstance(event, EpochEnded):
            epochs.append(event.epoch)
        if epochs == [1, 2] and not (tmp_path / "gate").exists():
            for child in list(two.inner._processes.values()):
                child.kill()
            (tmp_path / "gate").touch()

    def run(options: Options, listener: Callable[[Event], None]) -> Any:
        budget = Budget(macs="50%")
        return prune(task, profile="raspberry-pi-4", budget=budget, options=options, runs=tmp_path / "runs", listener=listener).summary

    found = run(replace(TWO, epochs=3), kill)
    assert epochs == [1, 2, 3]
    assert without_times(found) == without_times(run(replace(OPTIONS, epochs=3), lambda event: None))


class Stuck(InProcess):
    """Tunings say that an epoch ended, and never end themselves; :class:`KeyboardInterrupt` comes while the last of ``count`` begins."""

    workers, here = 2, True

    def __init__(self, count: int) -> None:
        self.begun, self.count = list[Future[Any]](), count

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any, receive: Send = ignore) -> Future[Any]:
        if "tune-" not in key:
            return super().submit(key, function, *arguments, receive=receive)
        self.begun.append(Future())
        receive(SentCheckpoint("", f"after an epoch of {key}".encode()))
        if len(self.begun) == self.count:
            raise KeyboardInterrupt
        return self.begun[-1]


@pytest.mark.parametrize("count", [2, 3])
def test_an_interrupt_marks_every_level_that_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    stuck = Stuck(count)
    monkeypatch.setattr("edgeprune.search.workers.executor_of", lambda workers, **named: stuck)
    monkeypatch.setattr("edgeprune.search.work.InProcess", type(None))  # it is not one of these
    with pytest.raises(KeyboardInterrupt) as stopped:
        swept(TWO, runs=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert stopped.value.__notes__[0].endswith(f"frontier(..., resume={str(folder)!r})")
    assert all(future.cancelled() for future in stuck.begun[:-1])
    for name in NAMES[:count]:
        assert json.loads((folder / name / "run.json").read_text())["state"] == "interrupted"
        (kept,) = (folder / name).glob("tune-final-0-*.safetensors")
        assert kept.read_text() == f"after an epoch of {name}/{kept.stem}"
    assert not (folder / "macs-30pct" / "run.json").exists() or count == 3


def failing(outputs: Tensor, targets: Tensor) -> Tensor:
    warnings.warn("the third batch is short", stacklevel=1)
    raise LookupError("the third batch is lost")


@pytest.mark.filterwarnings("ignore:the third batch")
def test_what_a_worker_raises_reaches_the_user_as_in_one_process(tmp_path: Path, two: Kept) -> None:
    found = []
    for options in (TWO, OPTIONS):
        task = points_task()
        task.evaluate = lambda model: 1.0
        task.fit = lambda model: failing(model, model)
        with pytest.raises(TrainingStoppedError) as raised:
            prune(task, profile="raspberry-pi-4", budget=Budget(macs="50%"), options=options, runs=tmp_path, listener=lambda event: None)
        found.append((raised.value.message, raised.value.remedy))
        (run,) = tmp_path.glob("points-*[!d]")
        assert json.loads((run / "run.json").read_text())["state"] == "failed"
        assert f"Continue with: edgeprune.prune(..., resume={str(run)!r})" in raised.value.__notes__[-1]
        assert ("warning: the third batch is short" in (run / "log.txt").read_text()) == (options is TWO)
        run.rename(tmp_path / f"done-{options.workers}")
    assert found[0] == found[1]
    assert "LookupError: the third batch is lost" in found[0][0]


def test_where_a_run_computes_is_not_what_it_is_asked() -> None:
    where = replace(OPTIONS, workers="4", gpus_per_candidate=0.5, device="cpu")
    one, other = (RunRequest(points_task(), Budget(macs="50%"), profile="raspberry-pi-4", options=options) for options in (OPTIONS, where))
    assert one.fingerprint == other.fingerprint


def test_a_task_that_cannot_be_sent_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    task, lock = points_task(), threading.Lock()
    task.loss = lambda outputs, targets: failing(outputs, targets) if lock.locked() else outputs.sum()
    with pytest.raises(RecipeError, match=r"task\.loss cannot be sent to other processes"):
        frontier(task, profile="raspberry-pi-4", levels=LEVELS, options=TWO, runs=tmp_path / "runs", listener=lambda event: None)
    assert not list(tmp_path.iterdir())


def test_workers_that_cannot_be_are_refused() -> None:
    for wrong in ({"workers": "many"}, {"workers": 0}, {"gpus_per_candidate": 0.0}):
        with pytest.raises(InputError):
            Options(**wrong)  # type: ignore[arg-type]
