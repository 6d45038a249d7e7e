"""Models compared: loaded side by side in their own processes and sampled in turns.

Two things make a comparison lie: the machine drifts, and a process is luckier than another with its memory layout (Kalibera & Jones,
"Rigorous benchmarking in reasonable time", 2013; Mytkowicz et al., "Producing wrong data without doing anything obviously wrong",
2009).  Against the first, short blocks alternate and a ratio is of neighbours; against the second, all processes are started anew in
each round, and the interval is that of the rounds' ratios.
"""

from __future__ import annotations

import math
import random
import time
from typing import Any, Dict, List

from . import stats
from .measure import Emit, Options, Subject
from .probes import conditions
from .protocol import RunnerError

_BLOCKS_PER_ROUND = 10


class _Trail:
    """What was seen of one model so far."""

    def __init__(self, model: Dict[str, Any]) -> None:
        self.model = model
        self.facts: Dict[str, Any] = {}
        self.blocks: List[List[int]] = []
        self.log_ratios: List[float] = []
        self.error: Any = None

    def ratio(self) -> Dict[str, Any]:
        """Latency over the baseline's with its 95 % interval: the rounds' mean in the logarithm, by Student's t."""
        mean, low, high = stats.mean_interval(self.log_ratios)
        return {"ratio": math.exp(mean), "low": math.exp(low), "high": math.exp(high) if high < 700 else math.inf}


def _round(trails: List[_Trail], options: Options, number: int) -> None:
    """Start every model anew, then sample in turns; the order is turned round each time."""
    subjects: Dict[str, Subject] = {}
    shuffled = list(trails)
    random.Random(number).shuffle(shuffled)
    try:
        for trail in shuffled:
            try:
                subject = Subject(trail.model, options)
                subjects[trail.model["name"]] = subject
                subject.warm_up(options.warmup_s)
                trail.facts = trail.facts or subject.facts()
            except RunnerError as error:
                trail.error = error.to_dict()
        trails[:] = [trail for trail in trails if not trail.error or trail is trails[0]]
        if not trails[0].error:
            _turns([trail for trail in shuffled if not trail.error], trails[0], subjects, options)
    finally:
        for subject in subjects.values():
            subject.child.close()


def _turns(turn: List[_Trail], baseline: _Trail, subjects: Dict[str, Subject], options: Options) -> None:
    block_ns = int(options.min_time_s * 1e9 / options.rounds / _BLOCKS_PER_ROUND)
    medians: Dict[str, List[float]] = {trail.model["name"]: [] for trail in turn}
    begin = time.monotonic()
    for index in range(_BLOCKS_PER_ROUND):
        for trail in turn if index % 2 else turn[::-1]:
            name = trail.model["name"]
            try:
                samples = subjects[name].block(block_ns, skip=1)
            except RunnerError as error:
                trail.error = error.to_dict()
                return
            trail.blocks.append(samples)
            medians[name].append(stats.median(samples))
        if index >= 1 and index % 2 and time.monotonic() - begin > options.max_time_s / options.rounds * len(turn):
            break
    base = medians[baseline.model["name"]]
    for trail in turn:
        own = medians[trail.model["name"]]
        trail.log_ratios.append(math.log(stats.median([own[index] / base[index] for index in range(len(base))])))


def compare(models: List[Dict[str, Any]], options: Options, emit: Emit) -> Dict[str, Any]:
    """Compare ``models[1:]`` with ``models[0]``; a candidate that fails has an ``error``, a baseline that fails raises."""
    before = conditions()
    everyone = [_Trail(model) for model in models]
    running = list(everyone)
    begin = time.monotonic()
    number = 0
    while True:
        _round(running, options, number)
        number += 1
        if everyone[0].error:
            error = everyone[0].error
            raise RunnerError(**dict(error, message=f"{models[0]['name']}: {error['message']}"))
        running = [trail for trail in running if not trail.error]
        emit("round", number=number, rounds=options.rounds)
        widths = [stats.relative_width(r["low"], r["high"], r["ratio"]) for r in (trail.ratio() for trail in running[1:])]
        precise = max(widths, default=0.0) <= options.relative_width
        elapsed = time.monotonic() - begin
        complete = min(len(trail.log_ratios) for trail in running)  # a round in which a model fails gives no ratio
        enough = complete >= options.rounds and (precise or elapsed >= options.max_time_s * len(running))
        if complete and (enough or len(running) == 1):
            break
    after = conditions()
    return {"models": [_report(trail, options, before, after, precise) for trail in everyone], "rounds": number}


def _report(trail: _Trail, options: Options, before: Any, after: Any, precise: bool) -> Dict[str, Any]:
    if trail.error:
        return {"name": trail.model["name"], "error": trail.error}
    samples = [value for block in trail.blocks for value in block]
    result = dict(trail.facts, **stats.summary(samples, trail.blocks), energy_mj=None, energy_method=None)
    result.update(name=trail.model["name"], threads=options.threads, before=before, after=after)
    width = stats.relative_width(result["low_ns"], result["high_ns"], result["median_ns"])
    result.update(stable=width <= options.relative_width, stop_reason="precise" if precise else "time limit")
    return dict(result, **trail.ratio())
