"""Trials of narrower groups, spread over workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from edgeprune.execute import Send
from edgeprune.graph import Analysis
from edgeprune.search.apart import Setup
from edgeprune.search.plan.rerun import Trial
from edgeprune.search.plan.sensitivity import Growths, growths_of
from edgeprune.search.work import Work, Workers
from edgeprune.task import Task


def growths_apart(setup: Setup, trials: Sequence[Trial], reconstructed: bool, send: Send) -> list[float]:
    """:func:`growths_of` in a worker.  Sends how many are done."""
    task, analysis, model = setup.open()
    return growths_of(replace(task, model=model), analysis, trials, reconstructed, lambda done, _: send(done))


def spread(workers: Workers, setup: Callable[[], Setup], task: Task, analysis: Analysis) -> Growths:
    """What tries trials on ``task.model``: here, or on the workers that have nothing to do where there are several; each takes whole
    groups, from the whole length of the graph."""

    def growths(trials: Sequence[Trial], reconstructed: bool, on_progress: Callable[[int, int], None] | None) -> list[float]:
        count = 0 if workers.alone else workers.free
        if count < 2:
            return growths_of(task, analysis, trials, reconstructed, on_progress)
        groups = {name: place for place, name in enumerate(dict.fromkeys(tuple(trial.plan.kept) for trial in trials))}
        numbers = [[n for n, trial in enumerate(trials) if groups[tuple(trial.plan.kept)] % count == part] for part in range(count)]
        parts, made, done = [part for part in numbers if part], setup(), [0] * count

        def received(part: int, tried: int) -> None:
            done[part] = tried
            if on_progress is not None:
                on_progress(sum(done), len(trials))

        works = [
            Work(f"sensitivity {part}", growths_apart, (made, [trials[n] for n in one], reconstructed), partial(received, part))
            for part, one in enumerate(parts)
        ]
        values = [0.0] * len(trials)
        for one, future in zip(parts, workers.each(works), strict=True):
            for number, value in zip(one, future.result(), strict=True):
                values[number] = value
        return values

    return growths
