"""Models under load for minutes: run in turns without a pause, so that what heat and battery do to the clocks is seen, and not avoided.

All of them are loaded side by side, in processes of their own.  A period is a short window of every model, each second one the other way
round; after it the device's state is read.  No window is thrown away, and nothing cools down.
"""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List

from . import stats
from .measure import Emit, LoadedModel, Options
from .probes import conditions
from .protocol import RunnerError
from .throttle_guard import State, reasons

_PERIODS = 120  # at most, of any duration
_SHORTEST_S = 0.5  # of a model's window


def period_s(duration_s: float, count: int) -> float:
    """How long one period of ``count`` models lasts."""
    return max(duration_s / _PERIODS, _SHORTEST_S * count)


def periods(
    run: Callable[[int, int], List[int]],
    count: int,
    duration_s: float,
    emit: Emit,
    probe: Callable[[], State] = conditions,
    clock: Any = time,
) -> Dict[str, Any]:
    """Windows of ``count`` models in turns for ``duration_s``: ``run(model, time_ns)`` gives a window's samples in ns.

    The answer has the ``states`` of the device, the first before any load, each with its ``time_s`` and what has throttled it since the
    first; and for every model its ``points``: the time, the median, the 90th percentile and the number of the samples of a window.
    """
    begin = clock.monotonic()
    first = probe()
    states: List[Dict[str, Any]] = [dict(first, time_s=0.0, reasons=reasons({}, first))]
    points: List[List[Dict[str, Any]]] = [[] for _ in range(count)]
    window_ns = int(period_s(duration_s, count) / count * 1e9)
    number = 0
    while clock.monotonic() - begin < duration_s:
        for index in range(count) if number % 2 == 0 else reversed(range(count)):
            samples = run(index, window_ns)
            figures = {"median_ns": stats.median(samples), "p90_ns": stats.quantile(samples, 0.9), "samples": len(samples)}
            points[index].append(dict(figures, time_s=clock.monotonic() - begin))
        now = probe()
        states.append(dict(now, time_s=clock.monotonic() - begin, reasons=reasons(first, now)))
        number += 1
        emit("period", number=int(clock.monotonic() - begin), rounds=int(duration_s))
    return {"states": states, "points": points}


def sustain(models: List[Dict[str, Any]], options: Options, duration_s: float, emit: Emit) -> Dict[str, Any]:
    """All of ``models`` under load for ``duration_s``.  Raises :class:`RunnerError` that names the model whose process fails."""
    loaded: List[LoadedModel] = []

    def run(index: int, time_ns: int) -> List[int]:
        try:
            return loaded[index].block(time_ns)
        except RunnerError as error:
            raise _named(models[index], error) from None

    try:
        for model in models:
            emit("measuring", name=model["name"])
            try:
                loaded.append(LoadedModel(model, options))
            except RunnerError as error:
                raise _named(model, error) from None
        found = periods(run, len(models), duration_s, emit)
    finally:
        for each in loaded:
            each.child.close()
    named = zip(models, loaded, found["points"])
    keys = ("runtime", "version")
    answers = [dict(name=model["name"], points=points, **{key: one.loaded[key] for key in keys}) for model, one, points in named]
    return {"models": answers, "states": found["states"], "threads": options.threads}


def _named(model: Dict[str, Any], error: RunnerError) -> RunnerError:
    told = error.to_dict()
    return RunnerError(**dict(told, message="{}: {}".format(model["name"], told["message"])))
