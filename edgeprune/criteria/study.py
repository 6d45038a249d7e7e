"""How well criteria predict what a removal really changes, on the host only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np

from edgeprune.criteria.correlation import Estimate, mean_ratio, rank_correlation
from edgeprune.criteria.removals import Removal, Removals, measure_apart
from edgeprune.errors import InputError
from edgeprune.execute import Executor
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
    executor: Executor | None = None,
) -> Comparison:
    """Judge criteria by removals that are measured.

    ``names``: all that apply unless given. ``shares``: how much of every group goes to see what following a criterion costs.
    ``samples``: how many channels are removed one at a time, spread evenly over at most ``GROUPS`` groups; half as many random
    subsets are; ``EACH`` in each group at least. ``images``: training samples that each is measured on. Raises :class:`InputError`
    for unknown criteria, missing data, and shares that are not between 0 and 1. ``executor``: measures removals side by side; without, they
    are measured here. ``on_progress`` may be called from other threads then.
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
        removals, random = Removals.of(task, analysis, images), np.random.default_rng(seed)
        drawn = [_Drawn.of(group, 1, random, analysis) for group in groups for _ in range(each)]
        drawn += [_Drawn.of(group, _goes(group, max(shares)), random, analysis) for group in groups for _ in range(half)]
        followed = [
            (f"following {name}", _following(analysis, scored[name], share, some))
            for name in scored
            for share, some in [*((max(shares), [group]) for group in groups), *((share, analysis.groups) for share in shares)]
        ]
        effects = iter(_measured(removals, [*((one.text, one.plan) for one in drawn), *followed], steps, executor))
    removed = [one.removal(next(effects), scored) for one in drawn]
    channels, subsets = removed[: each * len(groups)], removed[each * len(groups) :]
    judged = []
    for name in scored:
        alone, along = [next(effects) for _ in groups], [Followed(share, next(effects)) for share in shares]
        judged.append(_judgement(name, groups, channels, subsets, alone, along, seconds[name]))
    judged.sort(key=lambda one: one.alone.value)
    return Comparison(removals.dense, removals.images, judged, channels, subsets, skipped)


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
class _Drawn:
    """A random removal that is not measured yet.  ``places``: (rows, channels) of ``group`` that go."""

    group: Group
    places: np.ndarray
    plan: Plan

    @classmethod
    def of(cls, group: Group, count: int, random: np.random.Generator, analysis: Analysis) -> _Drawn:
        """``count`` channels of every row."""
        places = np.stack([np.sort(random.choice(group.size, count, replace=False)) for _ in group.rows])
        kept = tuple(tuple(np.setdiff1d(np.arange(group.size), row).tolist()) for row in places)
        return cls(group, places, Plan(analysis.fingerprint, {group.name: kept}))

    @property
    def text(self) -> str:
        """What is done."""
        return f"removing {self.places.shape[1]} at random from {self.group.name}"

    def removal(self, effect: Removal, scored: Mapping[str, Saliency]) -> RandomRemoval:
        """With what was measured of it, and what was predicted."""
        predicted = {name: float(np.take_along_axis(saliency[self.group.name], self.places, 1).sum()) for name, saliency in scored.items()}
        return RandomRemoval(self.group.name, self.places.tolist(), effect, predicted)


def _following(analysis: Analysis, saliency: Saliency, share: float, groups: Sequence[Group]) -> Plan:
    """Without what a criterion ranks lowest."""
    return plan_from_saliency(analysis, saliency, {group.name: group.size - _goes(group, share) for group in groups})


def _measured(removals: Removals, asked: Sequence[tuple[str, Plan]], steps: _Steps, executor: Executor | None) -> list[Removal]:
    """The effects of named plans, in order."""
    if executor is None or executor.workers == 1:
        effects = []
        for text, plan in asked:
            effects.append(removals.measure(plan))
            steps.done(text)
        return effects
    names: dict[str, list[str]] = {}
    plans: dict[str, Plan] = {}
    for text, plan in asked:  # criteria often agree
        names.setdefault(plan.to_json(), []).append(text)
        plans[plan.to_json()] = plan
    given, lock = executor.share((removals.task, removals.samples)), Lock()

    def done(keys: Sequence[str], number: int) -> None:
        with lock:
            steps.done(names[keys[number]][0], len(names[keys[number]]))

    parts = [part for start in range(executor.workers) if (part := list(plans)[start :: executor.workers])]
    futures = [
        executor.submit(f"removals {number}", measure_apart, given, [plans[key] for key in part], receive=partial(done, part))
        for number, part in enumerate(parts)
    ]
    found = {key: effect for part, future in zip(parts, futures, strict=True) for key, effect in zip(part, future.result(), strict=True)}
    return [found[plan.to_json()] for _, plan in asked]


def _judgement(
    name: str,
    groups: Sequence[Group],
    channels: Sequence[RandomRemoval],
    subsets: Sequence[RandomRemoval],
    alone: Sequence[Removal],
    followed: list[Followed],
    seconds: float,
) -> Judgement:
    def within(removals: Sequence[RandomRemoval], key: Callable[[RandomRemoval], str], plain: bool = False) -> Estimate:
        strata = dict[str, tuple[list[float], list[float]]]()
        for removal in removals:
            predicted, changes = strata.setdefault(key(removal), ([], []))
            predicted.append(removal.predicted[name])
            changes.append((removal.effect.plain if plain else removal.effect.recalibrated).divergence)
        return rank_correlation(list(strata.values()))

    chance = [
        float(np.mean([removal.effect.recalibrated.divergence for removal in subsets if removal.group == group.name])) for group in groups
    ]
    return Judgement(
        name,
        within(channels, lambda removal: removal.group),
        within(channels, lambda removal: removal.group, plain=True),
        within(channels, lambda removal: ""),
        within(subsets, lambda removal: removal.group),
        mean_ratio([effect.recalibrated.divergence for effect in alone], chance),
        followed,
        seconds,
    )
