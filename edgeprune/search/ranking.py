"""How well criteria predict what a removal really changes, on the host only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.errors import InputError
from edgeprune.graph import Analysis, Group
from edgeprune.importance import CRITERIA, Saliency, score
from edgeprune.importance.registry import find
from edgeprune.search.correlation import Correlation, rank_correlation
from edgeprune.search.removals import Effect, Removal, Removals
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning.context import seeded

GROUPS, EACH = 16, 4
"""Groups sampled at most, and removals in each at least."""

Progress = Callable[[int, int, str], None]
"""Steps done, steps in all, and what is being done."""


@dataclass(frozen=True)
class Cut:
    """A random removal.  ``removed``: for every row of ``group`` the places that go. ``predicted``: each criterion's sum over them."""

    group: str
    removed: list[list[int]]
    effect: Removal
    predicted: dict[str, float]


@dataclass(frozen=True)
class Followed:
    """What comes of removing the least salient ``share`` of every group."""

    share: float
    effect: Removal


@dataclass(frozen=True)
class Judgement:
    """How well one criterion predicts the divergence after recalibration, as rank correlations.

    ``channel``: of channels removed one at a time, within groups; ``channel_plain``: the same without recalibration; ``across``: of the
    channels of all groups together; ``subset``: of random subsets of a group as large as the largest share, within groups. ``followed``:
    one for every share. ``seconds``: what computing the criterion took.
    """

    name: str
    channel: Correlation
    channel_plain: Correlation
    across: Correlation
    subset: Correlation
    followed: list[Followed]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """``dense``: the model as it is. ``images``: how many samples every removal was measured on. ``criteria``: the one whose largest share
    costs least comes first. ``channels``, ``subsets``: all that was removed at random. ``skipped``: criteria that do not apply, and why."""

    dense: Removal
    images: int
    criteria: list[Judgement]
    channels: list[Cut]
    subsets: list[Cut]
    skipped: dict[str, str]


def compare_criteria(
    task: Task,
    analysis: Analysis,
    names: Sequence[str] | None = None,
    shares: Sequence[float] = (0.25, 0.5),
    samples: int = 96,
    images: int = 256,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Comparison:
    """Judge criteria by removals that are measured.

    ``names``: all that apply unless given. ``shares``: how much of every group goes to see what following a criterion costs.
    ``samples``: how many channels are removed one at a time, and how many random subsets, spread evenly over at most ``GROUPS``
    groups, ``EACH`` in each at least. ``images``: training samples that each is measured on. Raises :class:`InputError` for unknown
    criteria, missing data, and shares that are none.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise InputError(f"shares {', '.join(map(str, shares))} are not all between 0 and 1", remedy="Give them as 0.25,0.5.")
    if task.train is None:
        raise InputError(f"task {task.name} has no training data to measure removals on", remedy="Give the task `train` batches.")
    groups = [analysis.groups[place] for place in _evenly(len(analysis.groups), GROUPS)]
    each, random = max(EACH, samples // len(groups)), np.random.default_rng(seed)
    wanted = list(dict.fromkeys(names or CRITERIA))
    steps = _Steps(len(wanted) * (1 + len(shares)) + 2 * each * len(groups), on_progress)
    with seeded(seed):
        scored, seconds, skipped = _scores(task, analysis, wanted, names is None, steps)
        removals = Removals(task, analysis, images)
        channels, subsets = list[Cut](), list[Cut]()
        for group in groups:
            for cuts, count in ((channels, 1), (subsets, _goes(group, max(shares)))):
                for _ in range(each):
                    cuts.append(_cut(removals, group, _drawn(random, group, count), scored))
                    steps.done(f"removing at random from {group.name}")
        judged = []
        for name, saliency in scored.items():
            followed = []
            for share in shares:
                widths = {group.name: group.size - _goes(group, share) for group in analysis.groups}
                followed.append(Followed(share, removals.measure(plan_from_saliency(analysis, saliency, widths))))
                steps.done(f"following {name}")
            judged.append(_judgement(name, channels, subsets, followed, seconds[name]))
    judged.sort(key=lambda one: max(one.followed, key=lambda followed: followed.share).effect.recalibrated.divergence)
    return Comparison(removals.dense, removals.images, judged, channels, subsets, skipped)


class _Steps:
    def __init__(self, total: int, listener: Progress | None) -> None:
        self.total, self.listener, self.count = total, listener, 0

    def done(self, what: str, count: int = 1) -> None:
        self.count += count
        if self.listener is not None:
            self.listener(self.count, self.total, what)


def _scores(
    task: Task, analysis: Analysis, names: Sequence[str], lenient: bool, steps: _Steps
) -> tuple[dict[str, Saliency], dict[str, float], dict[str, str]]:
    """Saliency and seconds of every criterion; why not, for those that do not apply where ``lenient``."""
    scored, seconds, skipped = dict[str, Saliency](), dict[str, float](), dict[str, str]()
    for name in names:
        find(name, task)
    for name in names:
        began = time.perf_counter()
        try:
            scored[name] = score(task, analysis, name)
        except InputError as error:
            if not lenient:
                raise
            skipped[name] = error.message
        seconds[name] = time.perf_counter() - began
        steps.done(f"scoring by {name}")
    steps.total -= len(skipped)
    return scored, seconds, skipped


def _evenly(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _goes(group: Group, share: float) -> int:
    """How many of every row's channels make up ``share``: at least one goes, and one stays."""
    return min(max(round(share * group.size), 1), group.size - 1)


def _drawn(random: np.random.Generator, group: Group, count: int) -> np.ndarray:
    """``count`` places of every row, (R, count)."""
    return np.stack([np.sort(random.choice(group.size, count, replace=False)) for _ in group.rows])


def _cut(removals: Removals, group: Group, places: np.ndarray, scored: Mapping[str, Saliency]) -> Cut:
    kept = tuple(tuple(np.setdiff1d(np.arange(group.size), row).tolist()) for row in places)
    effect = removals.measure(Plan(removals.analysis.fingerprint, {group.name: kept}))
    predicted = {name: float(np.take_along_axis(saliency[group.name], places, 1).sum()) for name, saliency in scored.items()}
    return Cut(group.name, places.tolist(), effect, predicted)


def _judgement(name: str, channels: list[Cut], subsets: list[Cut], followed: list[Followed], seconds: float) -> Judgement:
    def within(cuts: list[Cut], true: Callable[[Removal], Effect], key: Callable[[Cut], str]) -> Correlation:
        strata = dict[str, tuple[list[float], list[float]]]()
        for cut in cuts:
            predicted, changes = strata.setdefault(key(cut), ([], []))
            predicted.append(cut.predicted[name])
            changes.append(true(cut.effect).divergence)
        return rank_correlation(list(strata.values()))

    return Judgement(
        name,
        within(channels, lambda effect: effect.recalibrated, lambda cut: cut.group),
        within(channels, lambda effect: effect.plain, lambda cut: cut.group),
        within(channels, lambda effect: effect.recalibrated, lambda cut: ""),
        within(subsets, lambda effect: effect.recalibrated, lambda cut: cut.group),
        followed,
        seconds,
    )
