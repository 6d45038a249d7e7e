"""How well criteria predict what a removal really changes, on the host only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeprune.criteria.correlation import Estimate, mean_ratio, rank_correlation
from edgeprune.criteria.removals import Removal, Removals
from edgeprune.errors import InputError
from edgeprune.graph import Analysis, Group
from edgeprune.importance import CRITERIA, Saliency, score
from edgeprune.importance.registry import find, known
from edgeprune.surgery import Plan, plan_from_saliency
from edgeprune.task import Task
from edgeprune.tuning.context import seeded

GROUPS, EACH = 16, 4
"""Groups sampled at most, and removals in each at least."""

Progress = Callable[[int, int, str], None]
"""Steps done, steps in all, and what is being done."""


@dataclass(frozen=True)
class RandomRemoval:
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
    """How well one criterion predicts the divergence after recalibration.

    Rank correlations: ``channel``: of channels removed one at a time, within groups; ``channel_plain``: the same without recalibration;
    ``across``: of the channels of all groups together; ``subset``: of random subsets of a group as large as the largest share, within
    groups. ``alone``: the divergence when that share goes from one group as the criterion says, over that of random subsets, the geometric
    mean over groups: 1 is chance. ``followed``: one for every share, from every group at once. ``seconds``: what computing the criterion
    took.
    """

    name: str
    channel: Estimate
    channel_plain: Estimate
    across: Estimate
    subset: Estimate
    alone: Estimate
    followed: list[Followed]
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """``dense``: the model as it is. ``images``: how many samples every removal was measured on. ``criteria``: the one that loses least
    ``alone`` comes first. ``channels``, ``subsets``: all that was removed at random. ``skipped``: criteria that do not apply, and why."""

    dense: Removal
    images: int
    criteria: list[Judgement]
    channels: list[RandomRemoval]
    subsets: list[RandomRemoval]
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
    ``samples``: how many channels are removed one at a time, spread evenly over at most ``GROUPS`` groups; half as many random
    subsets are; ``EACH`` in each group at least. ``images``: training samples that each is measured on. Raises :class:`InputError`
    for unknown criteria, missing data, and shares that are not between 0 and 1.
    """
    check_asked(names, shares)
    if task.train is None:
        raise InputError(f"task {task.name} has no training data to measure removals on", remedy="Give the task `train` batches.")
    if images < 1:
        raise InputError(f"images {images} must be at least 1", remedy="Leave it out: the default does.")
    names = names or None
    groups = [analysis.groups[place] for place in _evenly(len(analysis.groups), GROUPS)]
    wanted, each = list(dict.fromkeys(names or CRITERIA)), max(EACH, samples // len(groups))
    half = max(EACH, each // 2)
    each_criterion = len(shares) + len(groups)
    steps = _Steps((each + half) * len(groups) + len(wanted) * (1 + each_criterion), on_progress)
    with seeded(seed):
        scored, seconds, skipped = _scores(task, analysis, wanted, names is None, steps)
        steps.total -= len(skipped) * each_criterion
        study = _Study(Removals(task, analysis, images), groups, scored, np.random.default_rng(seed), steps)
        channels = study.remove(each, lambda group: 1)
        subsets = study.remove(half, lambda group: _goes(group, max(shares)))
        judged = [_judgement(name, study, channels, subsets, shares, seconds[name]) for name in scored]
    judged.sort(key=lambda one: one.alone.value)
    return Comparison(study.removals.dense, study.removals.images, judged, channels, subsets, skipped)


def check_asked(names: Sequence[str] | None, shares: Sequence[float]) -> None:
    """Refuse unknown criteria and shares that are none, before anything is loaded.  Raises :class:`InputError`."""
    for name in names or ():
        known(name)
    if not shares or not all(0 < share < 1 for share in shares):
        raise InputError(f"shares {', '.join(map(str, shares))} are not all between 0 and 1", remedy="Give them as 0.25,0.5.")


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
    return scored, seconds, skipped


def _evenly(count: int, most: int) -> list[int]:
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _goes(group: Group, share: float) -> int:
    """How many of every row's channels make up ``share``: at least one goes, and one stays."""
    return min(max(round(share * group.size), 1), group.size - 1)


@dataclass(frozen=True)
class _Study:
    """What removals are drawn from, and where they are measured."""

    removals: Removals
    groups: list[Group]
    scored: Mapping[str, Saliency]
    random: np.random.Generator
    steps: _Steps

    def remove(self, each: int, count: Callable[[Group], int]) -> list[RandomRemoval]:
        """``each`` random removals of ``count`` channels a row from every group."""
        return [self._remove(group, count(group)) for group in self.groups for _ in range(each)]

    def _remove(self, group: Group, count: int) -> RandomRemoval:
        places = np.stack([np.sort(self.random.choice(group.size, count, replace=False)) for _ in group.rows])
        kept = tuple(tuple(np.setdiff1d(np.arange(group.size), row).tolist()) for row in places)
        effect = self.removals.measure(Plan(self.removals.analysis.fingerprint, {group.name: kept}))
        predicted = {name: float(np.take_along_axis(saliency[group.name], places, 1).sum()) for name, saliency in self.scored.items()}
        self.steps.done(f"removing {count} at random from {group.name}")
        return RandomRemoval(group.name, places.tolist(), effect, predicted)

    def followed(self, name: str, share: float, groups: Sequence[Group]) -> Removal:
        """The effect of removing what the criterion ranks lowest."""
        widths = {group.name: group.size - _goes(group, share) for group in groups}
        effect = self.removals.measure(plan_from_saliency(self.removals.analysis, self.scored[name], widths))
        self.steps.done(f"following {name}")
        return effect


def _judgement(
    name: str, study: _Study, channels: Sequence[RandomRemoval], subsets: Sequence[RandomRemoval], shares: Sequence[float], seconds: float
) -> Judgement:
    def within(removals: Sequence[RandomRemoval], key: Callable[[RandomRemoval], str], plain: bool = False) -> Estimate:
        strata = dict[str, tuple[list[float], list[float]]]()
        for removal in removals:
            predicted, changes = strata.setdefault(key(removal), ([], []))
            predicted.append(removal.predicted[name])
            changes.append((removal.effect.plain if plain else removal.effect.recalibrated).divergence)
        return rank_correlation(list(strata.values()))

    chance = [
        float(np.mean([removal.effect.recalibrated.divergence for removal in subsets if removal.group == group.name]))
        for group in study.groups
    ]
    alone = [study.followed(name, max(shares), [group]).recalibrated.divergence for group in study.groups]
    return Judgement(
        name,
        within(channels, lambda removal: removal.group),
        within(channels, lambda removal: removal.group, plain=True),
        within(channels, lambda removal: ""),
        within(subsets, lambda removal: removal.group),
        mean_ratio(alone, chance),
        [Followed(share, study.followed(name, share, study.removals.analysis.groups)) for share in shares],
        seconds,
    )
