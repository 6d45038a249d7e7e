"""Models compared: loaded side by side in their own processes and sampled in turns.

Two things make a comparison lie: the machine drifts, and a process is luckier than another with its memory layout (Kalibera & Jones,
"Rigorous benchmarking in reasonable time", 2013; Mytkowicz et al., "Producing wrong data without doing anything obviously wrong",
2009).  Against the first, short blocks alternate and a ratio is of neighbours; against the second, all processes are started anew in
each round, and the interval is that of the rounds' ratios.  It is a 99 % interval of a trimmed mean, so that of a hundred models compared
with themselves about one is called different, and a burst of other work that spoils one round neither decides nor hides the rest.
"""

from __future__ import annotations

import math
import time
from typing import Any, Dict, List, Optional

from . import stats
from .energy import NOTHING, has_meter
from .gates import Gate
from .measure import Emit, Options, Subject
from .others import Others
from .protocol import RunnerError

_BLOCKS_PER_ROUND = 10


class _Trail:
    """What was seen of one model so far."""

    def __init__(self, model: Dict[str, Any]) -> None:
        self.model = model
        self.facts: Dict[str, Any] = {}
        self.blocks: List[List[int]] = []
        self.log_ratios: List[float] = []
        self.warmup_s, self.settled = 0.0, True
        self.others: List[float] = []
        self.error: Any = None

    def ratio(self) -> Dict[str, Any]:
        """Latency over the baseline's with its 99 % interval, from the rounds' ratios in the logarithm; no ``high`` of a single round."""
        mean, low, high = stats.trimmed_interval(self.log_ratios)
        return {"ratio": math.exp(mean), "low": math.exp(low), "high": math.exp(high) if high < 700 else None}

    def warm_up(self, subject: Subject, options: Options) -> None:
        """Warm its new process up, and ask it once what it holds."""
        subject.warm_up(options.warmup_s)
        self.warmup_s += subject.warmup_s
        self.settled = self.settled and subject.settled
        self.facts = self.facts or subject.facts()


def _order(trails: List[_Trail], number: int) -> List[_Trail]:
    """Another one first in each round, and the other way round in every second: no model always has the same neighbour."""
    start = number // 2 % len(trails)
    turned = trails[start:] + trails[:start]
    return turned[::-1] if number % 2 else turned


def _round(trails: List[_Trail], options: Options, number: int, gate: Gate) -> bool:
    """Start every model anew, then sample in turns; False when the round does not count.  Models that fail leave ``trails``."""
    subjects: Dict[str, Subject] = {}
    order = _order(trails, number)
    begin = time.monotonic()
    try:
        for trail in order:
            try:
                subject = subjects[trail.model["name"]] = Subject(trail.model, options)
                trail.warm_up(subject, options)
            except RunnerError as error:
                trail.error = error.to_dict()
        trails[:] = [trail for trail in trails if not trail.error or trail is trails[0]]
        running = [trail for trail in order if not trail.error]
        if trails[0].error:
            return False
        others = Others([subject.pid for subject in subjects.values()])
        blocks = _turns(running, trails[0], subjects, options, time.monotonic() - begin)
        share = others.share()
        counts = gate.passes(sum(map(len, blocks.values())))
    finally:
        for subject in subjects.values():
            subject.child.close()
    if counts and len(blocks) == len(running):
        _keep(running, trails[0], blocks, share)
        return True
    return False


def _turns(
    turn: List[_Trail], baseline: _Trail, subjects: Dict[str, Subject], options: Options, started_s: float
) -> Dict[str, List[List[int]]]:
    """Blocks of samples by model's name, as many of each, in turns; none of a model that failed, and then the others stop too.

    Ten blocks each, and more where the ratios of neighbours are noisy, for up to ``started_s``, which starting the processes took: to start
    anew is no better use of the time than to go on (Kalibera & Jones, 2013, section 6).
    """
    block_ns = int(options.min_time_s * 1e9 / options.rounds / _BLOCKS_PER_ROUND)
    blocks: Dict[str, List[List[int]]] = {trail.model["name"]: [] for trail in turn}
    begin = time.monotonic()
    count, elapsed = 0, 0.0
    while not _enough(count, elapsed, options.max_time_s / options.rounds * len(turn)) or (
        elapsed < started_s and not _calm(blocks, baseline, options)
    ):
        for trail in turn if count % 2 else turn[::-1]:
            name = trail.model["name"]
            try:
                blocks[name].append(subjects[name].block(block_ns, skip=1))
            except RunnerError as error:
                trail.error = error.to_dict()
                del blocks[name]
                return blocks
        count, elapsed = count + 1, time.monotonic() - begin
    return blocks


def _enough(count: int, elapsed: float, limit_s: float) -> bool:
    """Whether there are the least blocks of a round: ten, or what a slow model has time for, and as many in either order."""
    return count > 0 and count % 2 == 0 and (count >= _BLOCKS_PER_ROUND or elapsed > limit_s)


def _neighbours(blocks: Dict[str, List[List[int]]], name: str, baseline: _Trail) -> List[float]:
    """Ratios of a model's blocks to the baseline's of the same turn."""
    base = [stats.median(block) for block in blocks[baseline.model["name"]]]
    return [stats.median(block) / base[index] for index, block in enumerate(blocks[name])]


def _calm(blocks: Dict[str, List[List[int]]], baseline: _Trail, options: Options) -> bool:
    """Whether this round knows the ratios well enough already."""
    for name in blocks:
        ratios = _neighbours(blocks, name, baseline)
        low, high = stats.median_interval(ratios)
        if stats.relative_width(low, high, stats.median(ratios)) > options.relative_width:
            return False
    return True


def _keep(running: List[_Trail], baseline: _Trail, blocks: Dict[str, List[List[int]]], others: Optional[float]) -> None:
    """Add a round's blocks, its ratio (the median of the ratios of neighbouring blocks), and what other programs took meanwhile."""
    for trail in running:
        trail.others += [] if others is None else [others]
        trail.blocks += blocks[trail.model["name"]]
        trail.log_ratios.append(math.log(stats.median(_neighbours(blocks, trail.model["name"], baseline))))


def compare(models: List[Dict[str, Any]], options: Options, emit: Emit) -> Dict[str, Any]:
    """Compare ``models[1:]`` with ``models[0]``; a candidate that fails has an ``error``, a baseline that fails raises."""
    gate = options.gate(emit)
    everyone = [_Trail(model) for model in models]
    running = list(everyone)
    begin = time.monotonic()
    number = complete = 0
    while True:
        complete += _round(running, options, number, gate)
        number += 1
        if everyone[0].error:
            error = everyone[0].error
            raise RunnerError(**dict(error, message=f"{models[0]['name']}: {error['message']}"))
        running = [trail for trail in running if not trail.error]
        emit("round", number=number, rounds=options.rounds)
        widths = [_width(trail.ratio()) for trail in running[1:]]
        precise = max(widths, default=0.0) <= options.relative_width
        over = time.monotonic() - begin - gate.cooldown_s >= options.max_time_s * len(running)
        if complete and ((complete >= options.rounds and (precise or over)) or len(running) == 1):
            break
    state = gate.report()
    if options.energy and has_meter(options.meter):
        for trail in running:
            trail.facts.update(_energy(trail.model, options))
    return {"models": [_report(trail, options, state, precise) for trail in everyone], "rounds": number}


def _width(ratio: Dict[str, Any]) -> float:
    """Of a ratio's interval, as a share of it."""
    return math.inf if ratio["high"] is None else stats.relative_width(ratio["low"], ratio["high"], ratio["ratio"])


def _energy(model: Dict[str, Any], options: Options) -> Dict[str, Any]:
    """Energy of one model, in a process of its own once more; what goes wrong is its ``energy_error``."""
    try:
        subject = Subject(model, options)
    except RunnerError as error:
        return dict(NOTHING, energy_error=str(error))
    try:
        subject.warm_up(options.warmup_s)
        return subject.energy(options)
    except RunnerError as error:
        return dict(NOTHING, energy_error=str(error))
    finally:
        subject.child.close()


def _report(trail: _Trail, options: Options, state: Dict[str, Any], precise: bool) -> Dict[str, Any]:
    if trail.error:
        return {"name": trail.model["name"], "error": trail.error}
    samples = [value for block in trail.blocks for value in block]
    result = {**NOTHING, **trail.facts, **stats.summary(samples, trail.blocks), **state, "operators": None}
    result.update(name=trail.model["name"], threads=options.threads, warmup_s=trail.warmup_s, settled=trail.settled)
    width = stats.relative_width(result["low_ns"], result["high_ns"], result["median_ns"])
    result.update(stable=width <= options.relative_width, stop_reason="precise" if precise else "time limit")
    result.update(sampled_s=sum(samples) / 1e9, log_ratios=trail.log_ratios, others=stats.median(trail.others) if trail.others else None)
    return dict(result, **trail.ratio())
