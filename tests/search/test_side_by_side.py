"""Levels of a frontier whose models are tuned side by side, by workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from points_task import points_task
from spawned import Spawned

from edgeprune.runs.events import EpochEnded, Event
from edgeprune.search import Options, frontier

OPTIONS = Options(engine="torchscript", formats=(), step=4, epochs=2)
LEVELS = ["70%", "45%", "30%"]
PROFILE = "raspberry-pi-4"


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spawned]:
    executor = Spawned(2)
    monkeypatch.setattr("edgeprune.search.workers.executor_of", lambda options: executor)
    yield executor
    executor.close()


def without_times(value: Any) -> Any:
    """A summary, or a part of one, without what says when it was made."""
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if name not in ("seconds", "created", "written_at")}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def swept(folder: Path, listener: Any = lambda event: None) -> list[Any]:
    found = frontier(points_task(), profile=PROFILE, kind="macs", levels=LEVELS, options=OPTIONS, runs=folder, listener=listener)
    return [without_times(point.summary) for point in found.points if point.summary is not None]


def test_levels_tuned_by_workers_are_those_of_one_process(tmp_path: Path, spawned: Spawned, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []
    apart = swept(tmp_path / "apart", heard.append)
    monkeypatch.undo()
    together = swept(tmp_path / "one")
    assert apart == together
    assert [key.partition(" ")[0] for key in spawned.submitted[:5]] == ["sensitivity"] * 4 + ["judge"]
    assert sum("tune-final-0" in key for key in spawned.submitted) == 3
    epochs = {event.stage for event in heard if isinstance(event, EpochEnded)}
    assert epochs == {f"macs-{level.replace('%', 'pct')}: fine-tuning" for level in LEVELS}
