"""Models compared: loaded side by side in their own processes and sampled in turns.

Two things make a comparison lie: the machine drifts, and a process is luckier than another with its memory layout (Kalibera & Jones,
"Rigorous benchmarking in reasonable time", 2013; Mytkowicz et al., "Producing wrong data without doing anything obviously wrong",
2009).  Against the first, short blocks alternate and a ratio is of neighbours; against the second, all processes are started again in
each round, and the interval is that of the rounds' ratios.  It is a 99 % interval of a trimmed mean, so that of a hundred models compared
with themselves about one is called different, and a burst of other work that disturbs one round neither decides nor hides the rest.

Where only a limit is to be decided (``stop_at``), the same interval is looked at after every round from the third on: of a hundred models
at the limit it is clear of it by chance at one of the at most six looks in six at most (each errs once in a hundred; Bonferroni).  That
is so on a quiet machine: where other programs computed meanwhile, few rounds may all be wrong in the same way, and all are measured.

Several devices may share the rounds (``only_round``): each is asked for one at a time, and whoever asks puts them together.
"""

from __future__ import annotations

import math
import time
from typing import Any, Dict, List, Optional

from . import stats
from .energy import NOTHING, has_meter
from .measure import Emit, LoadedModel, Options
from .others import Others
from .protocol import RunnerError
from .throttle_guard import ThrottleGuard

_BLOCKS_PER_ROUND = 10
_FIRST_LOOK, _CLEAR_WIDTH = 3, 0.1
_QUIET = 0.05  # the largest share of the processors' time that other programs take on a quiet machine


class ModelSeries:
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

    def warm_up(self, loaded: LoadedModel, options: Options) -> None:
        """Warm its new process up, and ask it once what it holds."""
        loaded.warm_up(options.warmup_s)
        self.warmup_s += loaded.warmup_s
        self.settled = self.settled and loaded.settled
        self.facts = self.facts or loaded.facts()


def _order(all_series: List[ModelSeries], number: int) -> List[ModelSeries]:
    """Another one first in each round, and the other way round in every second: no model always has the same neighbour."""
    start = number // 2 % len(all_series)
    turned = all_series[start:] + all_series[:start]
    return turned[::-1] if number % 2 else turned


def _round(all_series: List[ModelSeries], options: Options, number: int, guard: ThrottleGuard) -> bool:
    """Start every model again, then sample in turns; False when the round does not count.  Models that fail leave ``all_series``."""
    loaded_models: Dict[str, LoadedModel] = {}
    order = _order(all_series, number)
    begin = time.monotonic()
    try:
        for series in order:
            try:
                loaded = loaded_models[series.model["name"]] = LoadedModel(series.model, options)
                series.warm_up(loaded, options)
            except RunnerError as error:
                series.error = error.to_dict()
        all_series[:] = [series for series in all_series if not series.error or series is all_series[0]]
        running = [series for series in order if not series.error]
        if all_series[0].error:
            return False
        others = Others([*(loaded.pid for loaded in loaded_models.values()), *options.own])
        blocks = _turns(running, all_series[0], loaded_models, options, time.monotonic() - begin)
        share = others.share()
        counts = guard.passes(sum(map(len, blocks.values())))
    finally:
        for loaded in loaded_models.values():
            loaded.child.close()
    if counts and len(blocks) == len(running):
        _keep(running, all_series[0], blocks, share)
        return True
    return False


def _turns(
    turn: List[ModelSeries], baseline: ModelSeries, loaded_models: Dict[str, LoadedModel], options: Options, started_s: float
) -> Dict[str, List[List[int]]]:
    """Blocks of samples by model's name, as many of each, in turns; none of a model that failed, and then the others stop too.

    Ten blocks each, and more where the ratios of neighbours are noisy, for up to ``started_s``, which starting the processes took: a new
    start is not a better use of the time than to continue (Kalibera & Jones, 2013, section 6).
    """
    block_ns = int(options.min_time_s * 1e9 / options.rounds / _BLOCKS_PER_ROUND)
    blocks: Dict[str, List[List[int]]] = {series.model["name"]: [] for series in turn}
    begin = time.monotonic()
    count, elapsed = 0, 0.0
    while not _enough(count, elapsed, options.max_time_s / options.rounds * len(turn)) or (
        elapsed < started_s and not _calm(blocks, baseline, options)
    ):
        for series in turn if count % 2 else turn[::-1]:
            name = series.model["name"]
            try:
                blocks[name].append(loaded_models[name].block(block_ns, skip=1))
            except RunnerError as error:
                series.error = error.to_dict()
                del blocks[name]
                return blocks
        count, elapsed = count + 1, time.monotonic() - begin
    return blocks


def _enough(count: int, elapsed: float, limit_s: float) -> bool:
    """Whether there are the least blocks of a round: ten, or what a slow model has time for, and as many in either order."""
    return count > 0 and count % 2 == 0 and (count >= _BLOCKS_PER_ROUND or elapsed > limit_s)


def _neighbours(blocks: Dict[str, List[List[int]]], name: str, baseline: ModelSeries) -> List[float]:
    """Ratios of a model's blocks to the baseline's of the same turn."""
    base = [stats.median(block) for block in blocks[baseline.model["name"]]]
    return [stats.median(block) / base[index] for index, block in enumerate(blocks[name])]


def _calm(blocks: Dict[str, List[List[int]]], baseline: ModelSeries, options: Options) -> bool:
    """Whether this round knows the ratios well enough already."""
    for name in blocks:
        ratios = _neighbours(blocks, name, baseline)
        low, high = stats.median_interval(ratios)
        if stats.relative_width(low, high, stats.median(ratios)) > options.relative_width:
            return False
    return True


def _keep(running: List[ModelSeries], baseline: ModelSeries, blocks: Dict[str, List[List[int]]], others: Optional[float]) -> None:
    """Add a round's blocks, its ratio (the median of the ratios of neighbouring blocks), and what other programs took meanwhile."""
    for series in running:
        series.others += [] if others is None else [others]
        series.blocks += blocks[series.model["name"]]
        series.log_ratios.append(math.log(stats.median(_neighbours(blocks, series.model["name"], baseline))))


def compare(models: List[Dict[str, Any]], options: Options, emit: Emit) -> Dict[str, Any]:
    """Compare ``models[1:]`` with ``models[0]``; a candidate that fails has an ``error``, a baseline that fails raises."""
    guard = options.guard(emit)
    everyone = [ModelSeries(model) for model in models]
    running = list(everyone)
    begin = time.monotonic()
    number, complete = options.only_round or 0, 0
    while True:
        complete += _round(running, options, number, guard)
        number += 1
        if everyone[0].error:
            error = everyone[0].error
            raise RunnerError(**dict(error, message=f"{models[0]['name']}: {error['message']}"))
        running = [series for series in running if not series.error]
        ratios = [series.ratio() for series in running[1:]]
        known = ratios[0] if ratios and len(running[1].log_ratios) > 1 and ratios[0]["high"] is not None else {}
        emit("round", number=number, rounds=options.rounds, **known)
        over = time.monotonic() - begin - guard.cooldown_s >= options.max_time_s * len(running)
        quiet = max((share for series in running for share in series.others), default=0.0) <= _QUIET
        reason = _reason_to_stop(ratios, complete, over, quiet, options)
        if complete and (reason or len(running) == 1):
            break
    state = guard.report()
    if options.energy and has_meter(options.meter):
        for series in running:
            series.facts.update(_energy(series.model, options))
    return {"models": [_report(series, options, state, reason) for series in everyone], "rounds": number}


def _reason_to_stop(ratios: List[Dict[str, Any]], complete: int, over: bool, quiet: bool, options: Options) -> str:
    """Why these are enough rounds; "" while they are not."""
    if options.only_round is not None:
        return "one round" if complete else ""
    widths = [_width(ratio) for ratio in ratios]
    precise = max(widths, default=0.0) <= options.relative_width
    if options.stop_at is not None and quiet and _FIRST_LOOK <= complete < options.rounds:
        if all(width <= _CLEAR_WIDTH and not ratio["low"] <= options.stop_at <= ratio["high"] for ratio, width in zip(ratios, widths)):
            return "clear of the limit"
        return "precise" if precise else ""
    if complete < options.rounds:
        return ""
    return "precise" if precise else "time limit" if over else ""


def _width(ratio: Dict[str, Any]) -> float:
    """Of a ratio's interval, as a share of it."""
    return math.inf if ratio["high"] is None else stats.relative_width(ratio["low"], ratio["high"], ratio["ratio"])


def _energy(model: Dict[str, Any], options: Options) -> Dict[str, Any]:
    """Energy of one model, in a process of its own once more; what goes wrong is its ``energy_error``."""
    try:
        loaded = LoadedModel(model, options)
    except RunnerError as error:
        return dict(NOTHING, energy_error=str(error))
    try:
        loaded.warm_up(options.warmup_s)
        return loaded.energy(options)
    except RunnerError as error:
        return dict(NOTHING, energy_error=str(error))
    finally:
        loaded.child.close()


def _report(series: ModelSeries, options: Options, state: Dict[str, Any], reason: str) -> Dict[str, Any]:
    if series.error:
        return {"name": series.model["name"], "error": series.error}
    samples = [value for block in series.blocks for value in block]
    result = {**NOTHING, **series.facts, **stats.summary(samples, series.blocks), **state, "operators": None}
    result.update(name=series.model["name"], threads=options.threads, warmup_s=series.warmup_s, settled=series.settled)
    width = stats.relative_width(result["low_ns"], result["high_ns"], result["median_ns"])
    result.update(stable=width <= options.relative_width, stop_reason=reason or "precise")
    result.update(sampled_s=sum(samples) / 1e9, log_ratios=series.log_ratios, others=stats.median(series.others) if series.others else None)
    return dict(result, **series.ratio())
